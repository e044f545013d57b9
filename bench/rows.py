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
    return {row.name: row for row in rows}


def missing(row):
    return [need for need in row.needs if not (os.path.exists(need) if "/" in need else shutil.which(need))]
