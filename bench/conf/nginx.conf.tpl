# One worker, kept upstream connections, no log: nginx at its cheapest for this work.
worker_processes 1;
daemon off;
master_process @MASTER@;
pid @DIR@/nginx.pid;
error_log @DIR@/nginx.err warn;
worker_rlimit_nofile @NOFILE@;
events { worker_connections 16384; use epoll; multi_accept on; }
http {
  access_log off;
  tcp_nodelay on;
  keepalive_requests 1000000000;
  keepalive_timeout 3600s;
  client_body_temp_path @DIR@/body;
  proxy_temp_path @DIR@/proxy;
  fastcgi_temp_path @DIR@/fastcgi;
  uwsgi_temp_path @DIR@/uwsgi;
  scgi_temp_path @DIR@/scgi;
  upstream up { server @UP@; keepalive 1024; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:@PORT@ @LISTEN@ reuseport backlog=8192;
    @TLS@
    location / {
      proxy_pass http://up;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      # Large enough that no answer of the bench touches the disk or a second buffer.
      proxy_buffers 8 32k;
      proxy_buffer_size 32k;
      proxy_busy_buffers_size 64k;
    }
  }
}
