# The gateway as it ships: access log to a file, every deadline written out, no plugin.
node: { state_dir: "@DIR@/state" }
access_log: { to: "@DIR@/access.log" }
admin: { bind: "127.0.0.1:0" }
listeners:
  main:
    bind: "127.0.0.1:@PORT@"
    timeouts: { head: 10s, body: 5s, keep_alive: 60s, quiet: 5m }
    @TLS@
services:
  up:
    endpoints: [ "@UP@" ]
    timeouts: { connect: 2s, head: 5s, body: 5s, idle: 30s }
routes:
  - name: all
    to: up
    timeouts: { whole: 60s }
