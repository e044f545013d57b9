# auth (HS256), route and headers on every request. @CACHE@ says how many verified tokens auth may remember.
node: { state_dir: "@DIR@/state" }
access_log: { to: "@DIR@/access.log" }
admin: { bind: "127.0.0.1:0" }
listeners:
  main:
    bind: "127.0.0.1:@PORT@"
    timeouts: { head: 10s, body: 5s, keep_alive: 60s, quiet: 5m }
services:
  up:
    endpoints: [ "@UP@" ]
    timeouts: { connect: 2s, head: 5s, body: 5s, idle: 30s }
plugins:
  auth: { file: "@COMPONENTS@/wharf_plugin_auth.wasm", grants: { kv: {} } }
  route: { file: "@COMPONENTS@/wharf_plugin_route.wasm" }
  headers: { file: "@COMPONENTS@/wharf_plugin_headers.wasm" }
routes:
  - name: all
    to:
      plugin: route
      config: { table: { b: { service: up } } }
    timeouts: { whole: 60s }
    plugins:
      - plugin: auth
        config: { methods: [ { jwt: { keys: [ { alg: HS256, secret: "@SECRET@" } ], audiences: [ bench ], cache: { entries: @CACHE@ } } } ] }
      - plugin: headers
        config: { consumer_header: x-consumer }
