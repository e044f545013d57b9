# One thread, upstream connections shared by all clients, no log.
global
  nbthread 1
  # Two files for each connection have to fit below the limit of open files.
  maxconn @MAXCONN@
  tune.maxrewrite 1024
defaults
  mode http
  no log
  option http-keep-alive
  http-reuse always
  timeout connect 5s
  timeout client 3600s
  timeout server 3600s
  timeout http-keep-alive 3600s
frontend front
  bind 127.0.0.1:@PORT@ backlog 8192 @BIND@
  option forwardfor
  default_backend back
backend back
  server up @UP@ pool-max-conn 1024 pool-purge-delay 60s
