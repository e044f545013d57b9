# One worker, no request ids, no dynamic statistics, no log. @FILTERS@ holds the wasm filter or nothing.
static_resources:
  listeners:
  - name: front
    address: { socket_address: { address: 127.0.0.1, port_value: @PORT@ } }
    tcp_backlog_size: 8192
    filter_chains:
    - @SOCKET@filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: front
          use_remote_address: true
          generate_request_id: false
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: { prefix: "/" }
                route: { cluster: up, timeout: 0s }
          http_filters: [ @FILTERS@ { name: envoy.filters.http.router, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router, suppress_envoy_headers: true, dynamic_stats: false } } ]
  clusters:
  - name: up
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: { thresholds: [ { max_connections: 65536, max_pending_requests: 65536, max_requests: 65536 } ] }
    load_assignment:
      cluster_name: up
      endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: @UP_HOST@, port_value: @UP_PORT@ } } } } ] } ]
overload_manager:
  resource_monitors:
  - name: envoy.resource_monitors.global_downstream_max_connections
    typed_config: { "@type": type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, max_active_downstream_connections: 60000 }
