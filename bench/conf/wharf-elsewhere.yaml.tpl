# The plain road beside plugins: auth, route and headers are loaded and attached, but to another route than the one asked.
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
    to: up
    timeouts: { whole: 60s }
  - name: guarded
    match: { path: { prefix: /guarded } }
    to:
      plugin: route
      config: { table: { guarded: { service: up } } }
    timeouts: { whole: 60s }
    plugins:
      - plugin: auth
        config: { methods: [ { jwt: { keys: [ { alg: HS256, secret: "@SECRET@" } ], audiences: [ bench ] } } ] }
      - plugin: headers
        config: { consumer_header: x-consumer }
