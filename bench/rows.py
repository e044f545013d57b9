"""The inventory of the bench: every row of its tables, how it is started and with which configuration.

`@X@` in commands and templates is replaced when a row starts. A row whose program is missing is left out of the tables
and named below them: a comparison never silently loses a peer.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
from dataclasses import dataclass, field

SECRET = "bench-secret-of-at-least-thirty-two-bytes"


def token():
    """A JWT that never expires within a bench, signed as an identity provider would."""
    part = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=")
    claims = {"sub": "user-7", "aud": "bench", "iat": 1_700_000_000, "exp": 4_000_000_000}
    signed = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims, separators=(",", ":")).encode())
    return (signed + b"." + part(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest())).decode()


# What every request of the plugin tables carries: a JWT for Wharf, and a token for Envoy's filter, which looks it up
# in a table (less work than checking a signature).
CREDENTIALS = [f"Authorization: Bearer {token()}", "X-Token: tok-0007"]


@dataclass
class Row:
    name: str
    command: list
    files: dict = field(default_factory=dict)      # file in the row's folder -> template
    values: dict = field(default_factory=dict)
    ready: str = "port"                            # "port": it accepts; "line": it prints READY
    needs: list = field(default_factory=list)      # programs and files without which there is no such row
    callgrind: dict = field(default_factory=dict)  # values that differ under callgrind
    what: str = ""


def wasm_filter(configuration):
    return (
        '{ name: envoy.filters.http.wasm, typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm, '
        'config: { name: f, root_id: f, configuration: { "@type": type.googleapis.com/google.protobuf.StringValue, '
        f'value: "{configuration}" }}, vm_config: {{ vm_id: v, runtime: envoy.wasm.runtime.v8, '
        'code: { local: { filename: "@FILTER@" } } } } } },'
    )


def inventory(env):
    """All rows. `env` has the paths: TOOLS, WHARF, LADDER, COMPONENTS, ENVOY, FILTER."""
    envoy_command = [env["ENVOY"], "-c", "@DIR@/envoy.yaml", "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    wharf_command = [env["WHARF"], "run", "--config", "@DIR@/wharf.yaml"]
    native_command = [env["LADDER"], "run", "--config", "@DIR@/wharf.yaml"]
    components = [f"{env['COMPONENTS']}/wharf_plugin_{name}.wasm" for name in ("auth", "route", "headers")]
    plain, plugged, elsewhere = ({"wharf.yaml": f"wharf-{name}.yaml.tpl"} for name in ("plain", "plugins", "elsewhere"))
    rows = [
        Row("floor", [f"{env['TOOLS']}/forwarder", "127.0.0.1:@PORT@", "@UP@"], ready="line", what="an empty forwarder: no limits, no log"),
        Row("wharf", wharf_command, plain, ready="line", needs=[env["WHARF"]], what="our road, as it ships"),
        Row("wharf+elsewhere", wharf_command, elsewhere, ready="line", needs=[env["WHARF"], *components],
            what="the plain route of a gateway whose plugins are on another route"),
        Row("wharf+native", native_command, plugged, {"CACHE": 0}, "line", [env["LADDER"]], what="the same rules linked in, no wasm"),
        Row("wharf+plugins", wharf_command, plugged, {"CACHE": 0}, "line", [env["WHARF"], *components],
            what="auth (HS256 checked each time), route, headers as components"),
        Row("wharf+plugins+memory", wharf_command, plugged, {"CACHE": 1024}, "line", [env["WHARF"], *components],
            what="the same, auth remembers verified tokens (its default)"),
        Row("nginx", ["nginx", "-c", "@DIR@/nginx.conf", "-p", "@DIR@"], {"nginx.conf": "nginx.conf.tpl"}, {"MASTER": "on"},
            needs=["nginx"], callgrind={"MASTER": "off"}),
        Row("haproxy", ["haproxy", "-db", "-f", "@DIR@/haproxy.cfg"], {"haproxy.cfg": "haproxy.cfg.tpl"}, needs=["haproxy"]),
        Row("envoy", envoy_command, {"envoy.yaml": "envoy.yaml.tpl"}, {"FILTERS": ""}, needs=[env["ENVOY"]]),
        Row("envoy+empty-wasm", envoy_command, {"envoy.yaml": "envoy.yaml.tpl"}, {"FILTERS": wasm_filter("empty")},
            needs=[env["ENVOY"], env["FILTER"]], what="one wasm filter that does nothing"),
        Row("envoy+wasm", envoy_command, {"envoy.yaml": "envoy.yaml.tpl"}, {"FILTERS": wasm_filter("check")},
            needs=[env["ENVOY"], env["FILTER"]], what="one wasm filter: token table, one header"),
    ]
    # Another build of the gateway, to see in one run what has moved since; only where it is named.
    if env.get("EARLIER"):
        rows.append(Row("earlier", [env["EARLIER"], *wharf_command[1:]], plain, ready="line", needs=[env["EARLIER"]], what="the build in BENCH_EARLIER"))
    return {row.name: row for row in rows}


# How clients come: by HTTP/1.1 in clear, by HTTP/2 in clear with prior knowledge, by HTTP/2 within TLS 1.3, and by HTTP/1.1 within it.
# For each program what its template says then, and what h2load is told. All rows show the same certificate (P-256), agree on
# the same cipher, and speak HTTP/1.1 to the upstream.
CLEAR, CLEAR2, TLS2, TLS1 = "clear", "http2", "http2-tls", "tls"
ENVOY_TLS = (
    'transport_socket: { name: envoy.transport_sockets.tls, typed_config: { "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext, '
    'common_tls_context: { tls_params: { tls_minimum_protocol_version: TLSv1_3 }, alpn_protocols: [%s], '
    'tls_certificates: [ { certificate_chain: { filename: "@CHAIN@" }, private_key: { filename: "@KEY@" } } ] } } }\n      '
)
NGINX_TLS = "ssl_certificate @CHAIN@; ssl_certificate_key @KEY@; ssl_protocols TLSv1.3;"
WHARF_TLS = 'tls: { certificates: [ { chain: "@CHAIN@", key: "@KEY@", default: true } ] }'
WAYS = {
    CLEAR: {},
    CLEAR2: {"nginx": {"LISTEN": "http2"}, "haproxy": {"BIND": "proto h2"}},
    TLS2: {"nginx": {"LISTEN": "ssl http2", "TLS": NGINX_TLS}, "haproxy": {"BIND": "ssl crt @BOTH@ ssl-min-ver TLSv1.3 alpn h2"},
           "envoy": {"SOCKET": ENVOY_TLS % "h2"}, "wharf": {"TLS": WHARF_TLS}},
    TLS1: {"nginx": {"LISTEN": "ssl", "TLS": NGINX_TLS}, "haproxy": {"BIND": "ssl crt @BOTH@ ssl-min-ver TLSv1.3 alpn http/1.1"},
           "envoy": {"SOCKET": ENVOY_TLS % "http/1.1"}, "wharf": {"TLS": WHARF_TLS}},
}
CLIENT = {CLEAR: ["--h1"], CLEAR2: ["-m10"], TLS2: ["-m10", "--tls13-ciphers=TLS_AES_128_GCM_SHA256"],
          TLS1: ["--h1", "--tls13-ciphers=TLS_AES_128_GCM_SHA256"]}


def coming(row, way):
    """What the row's template says about how its clients come."""
    return {"LISTEN": "", "TLS": "", "BIND": "", "SOCKET": "", **WAYS[way].get(row.name, {})}


def missing(row):
    return [need for need in row.needs if not (os.path.exists(need) if "/" in need else shutil.which(need))]
