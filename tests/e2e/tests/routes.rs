//! Routes through a real gateway: what a request must look like, and what happens to it natively.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use std::time::Duration;
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Reply, Upstream, Wharf};

/// A gateway with these settings below `services: {up: ..., other: ...}`.
fn gateway(up: &Upstream, other: &Upstream, settings: &str) -> Wharf {
    let (up, other) = (up.address(), other.address());
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
workers: 2
listeners: {{ main: {{ bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }} }}
services:
  up: {{ endpoints: ["{up}"] }}
  other: {{ endpoints: ["{other}"] }}
  gone: {{ endpoints: ["127.0.0.1:1"], retries: {{ max: 0 }} }}
{settings}
"#
    ))
    .unwrap()
}

fn ask(wharf: &Wharf, method: &str, target: &str, fields: &[&str], body: &str) -> Reply {
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    let fields: String = fields.iter().map(|field| format!("{field}\r\n")).collect();
    let length = if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    connection.send(format!("{method} {target} HTTP/1.1\r\nHost: a.example\r\n{fields}{length}\r\n{body}").as_bytes()).unwrap();
    connection.reply(method).unwrap()
}

fn get(wharf: &Wharf, target: &str, fields: &[&str]) -> Reply {
    ask(wharf, "GET", target, fields, "")
}

/// The first line of what an echoing upstream was asked.
fn asked(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.text().lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_request_takes_the_route_that_fits_it_best_and_explain_says_the_same() {
    let up = Upstream::echo();
    let answer = |name: &str| format!("to: {{answer: {{status: 200, body: {name}}}}}");
    let wharf = gateway(
        &up,
        &up,
        &format!(
            r#"
routes:
  - {{name: all, {}}}
  - {{name: user, match: {{path: {{template: "/users/{{id}}"}}}}, {}}}
  - {{name: me, match: {{path: {{exact: /users/me}}}}, {}}}
  - {{name: orders, match: {{path: {{template: "/users/{{id}}/orders"}}}}, {}}}
  - {{name: css, match: {{path: {{regex: '/users/[0-9]+/.*\.css'}}}}, {}}}
  - {{name: debug, match: {{query: {{debug: present}}}}, {}}}
  - {{name: gray, match: {{cookies: {{lane: {{exact: gray}}}}}}, priority: 1, {}}}
  - {{name: inside, match: {{path: {{prefix: /inside}}, sources: [10.0.0.0/8]}}, {}}}
  - {{name: numbers, match: {{path: {{prefix: /n}}, headers: {{x-n: {{regex: "[0-9]+"}}, x-not: absent}}}}, {}}}
"#,
            answer("all"),
            answer("user"),
            answer("me"),
            answer("orders"),
            answer("css"),
            answer("debug"),
            answer("gray"),
            answer("inside"),
            answer("numbers"),
        ),
    );
    for (target, fields, expected) in [
        ("/x", &[][..], "all"),
        ("/users/7", &[], "user"),
        ("/users/me", &[], "me"),
        ("/users/me;x", &[], "me"),
        ("/users/7/orders", &[], "orders"),
        ("/users/7%3F/orders", &[], "user"),
        ("/users/7/a.css", &[], "css"),
        ("/users/7/a.css%3F", &[], "css"),
        ("/users/7/secret%3F.css", &[], "all"),
        ("/x?a=1&debug", &[], "debug"),
        ("/users/me", &["Cookie: a=1; lane=gray"], "gray"),
        ("/inside", &[], "all"),
        ("/inside", &["X-Forwarded-For: 10.1.2.3"], "inside"),
        ("/n", &["X-N: 12"], "numbers"),
        ("/n", &["X-N: 12", "X-Not: 1"], "all"),
        ("/n", &["X-N: a12"], "all"),
    ] {
        let reply = get(&wharf, target, fields);
        assert_eq!(reply.text(), expected, "{target} {fields:?}");
        let url = format!("http://a.example{target}");
        let mut args = vec!["explain", &url, "--json", "--config", "wharf.yaml"];
        for field in fields.iter().filter(|field| !field.starts_with("X-Forwarded-For")) {
            args.extend(["-H", *field]);
        }
        if fields.iter().any(|field| field.starts_with("X-Forwarded-For")) {
            args.extend(["--source", "10.1.2.3"]);
        }
        let output = wharf.cli(&args);
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
        assert_eq!(said["route"], expected, "{target}: {said}");
    }
}

#[test]
fn who_is_not_on_the_list_is_answered_with_403() {
    let up = Upstream::named("up");
    let wharf = gateway(
        &up,
        &up,
        r#"
routes:
  - name: inside
    to: up
    access:
      sources: {allow: [127.0.0.0/8, 10.0.0.0/8], deny: [10.6.6.6]}
      headers: {deny: {user-agent: {regex: "(?i).*bot.*"}}}
"#,
    );
    for (fields, status) in [
        (&[][..], 200),
        (&["X-Forwarded-For: 10.1.1.1"], 200),
        (&["X-Forwarded-For: 10.6.6.6"], 403),
        (&["X-Forwarded-For: 8.8.8.8"], 403),
        (&["User-Agent: SomeBot/1.0"], 403),
    ] {
        let reply = get(&wharf, "/", fields);
        assert_eq!(reply.status, status, "{fields:?}");
        if status == 403 {
            assert_eq!(reply.json()["code"], "denied");
            // Which list it was is for the log.
            assert!(!reply.text().contains("list of those"), "{}", reply.text());
        }
    }
    assert_eq!(up.served(), 2);
}

#[test]
fn paths_and_headers_are_rewritten_on_their_way() {
    let up = Upstream::echo();
    let wharf = gateway(
        &up,
        &up,
        r#"
routes:
  - {name: prefix, match: {path: {prefix: /old}}, to: up, rewrite: {prefix: /new}}
  - {name: strip, match: {path: {prefix: /strip}}, to: up, strip_prefix: true}
  - {name: template, match: {path: {template: "/users/{id}/{rest*}"}}, to: up, rewrite: {template: "/v2/{path.rest}/of/{path.id}"}}
  - {name: regex, match: {path: {prefix: /r}}, to: up, rewrite: {regex: {pattern: '/r/([a-z]+)/(?P<n>[0-9]+)', to: "/x/{n}/{1}"}}}
  - name: headers
    match: {path: {template: "/h/{id}"}}
    to: up
    headers:
      request: {set: {x-client: "{client}", x-user: "u-{path.id}", x-real-ip: "{client}"}, add: {x-more: "{{plain}}"}, remove: [x-secret, accept-encoding]}
      response: {set: {x-route: "{route} {id}"}, remove: [content-type]}
"#,
    );
    for (target, expected) in [
        ("/old/a?q=1", "GET /new/a?q=1 HTTP/1.1"),
        ("/old", "GET /new HTTP/1.1"),
        ("/strip", "GET / HTTP/1.1"),
        ("/strip;v=1/a", "GET /a HTTP/1.1"),
        ("/users/7/a/b", "GET /v2/a/b/of/7 HTTP/1.1"),
        ("/r/abc/12", "GET /x/12/abc HTTP/1.1"),
        ("/r/abc/x", "GET /r/abc/x HTTP/1.1"),
    ] {
        assert_eq!(asked(&get(&wharf, target, &[])), expected, "{target}");
    }
    // What would lead elsewhere for a careless upstream is not sent.
    for target in ["/users/7/secret%3F", "/users/7", "/users/%3F/x"] {
        let reply = get(&wharf, target, &[]);
        assert!(matches!(reply.status, 400 | 404), "{target}: {}", reply.text());
    }
    let reply =
        get(&wharf, "/h/9", &["X-Secret: s", "X_Secret: t", "X-Forwarded-For: 10.0.0.9", "X-Real-IP: 6.6.6.6", "Accept-Encoding: gzip"]);
    let echoed = reply.text().to_ascii_lowercase();
    for line in ["x-client: 10.0.0.9", "x-real-ip: 10.0.0.9", "x-user: u-9", "x-more: {plain}"] {
        assert!(echoed.contains(line), "{line} is not in {echoed}");
    }
    assert!(!echoed.contains("secret") && !echoed.contains("accept-encoding") && !echoed.contains("6.6.6.6"), "{echoed}");
    assert_eq!(reply.field("content-type"), None);
    assert!(reply.field("x-route").unwrap().starts_with("headers 0"), "{:?}", reply.fields());
}

#[test]
fn a_service_is_called_by_the_name_that_it_has() {
    let up = Upstream::echo();
    let (address, port) = (up.address(), up.address().port());
    let more = format!(
        r#"
  named: {{ endpoints: ["{address}"], host: API.example.com }}
  found: {{ dns: "localhost:{port}" }}
routes:
  - {{name: named, match: {{path: {{prefix: /named}}}}, to: named}}
  - {{name: found, match: {{path: {{prefix: /found}}}}, to: found, preserve_host: false}}
  - {{name: bare, match: {{path: {{prefix: /bare}}}}, to: up, preserve_host: false}}
  - {{name: all, to: found}}
"#
    );
    let wharf = gateway(&up, &up, &more);
    for (path, host) in [
        ("/named", "api.example.com".to_owned()),
        ("/found", format!("localhost:{port}")),
        ("/bare", address.to_string()),
        ("/", "a.example".to_owned()),
    ] {
        let reply = get(&wharf, path, &[]);
        let sent = reply.text();
        assert!(sent.contains(&format!("\r\nhost: {host}\r\n")) && sent.contains("\r\nx-forwarded-host: a.example\r\n"), "{path}: {sent}");
    }
}

#[test]
fn a_route_of_one_listener_is_not_there_for_others() {
    let wharf = Wharf::start(
        r#"
node: { state_dir: "@DIR@/state" }
admin: { bind: "127.0.0.1:0" }
access_log: { to: off }
listeners: { public: { bind: "127.0.0.1:0" }, internal: { bind: "127.0.0.1:0" } }
routes:
  - { name: all, match: { path: { prefix: /all } }, to: { answer: { status: 200, body: all } } }
  - { name: inner, match: { listeners: [internal] }, to: { answer: { status: 200, body: inner } }, cors: { origins: ["https://a.example"] } }
"#,
    )
    .unwrap();
    let get = |listener: &str, path: &str| {
        let reply = Connection::open(wharf.listener(listener)).unwrap().get("a.example", path).unwrap();
        (reply.status, reply.text())
    };
    assert_eq!(get("internal", "/x"), (200, "inner".to_owned()));
    assert_eq!(get("public", "/x").0, 404);
    assert_eq!((get("internal", "/all").1, get("public", "/all").1), ("all".to_owned(), "all".to_owned()));
    // A preflight takes the way of what it asks about.
    for (listener, status) in [("internal", 204), ("public", 404)] {
        let mut connection = Connection::open(wharf.listener(listener)).unwrap();
        let asked = b"OPTIONS /x HTTP/1.1\r\nHost: a\r\nOrigin: https://a.example\r\nAccess-Control-Request-Method: GET\r\n\r\n";
        connection.send(asked).unwrap();
        assert_eq!(connection.reply("OPTIONS").unwrap().status, status, "{listener}");
    }
}

#[test]
fn a_redirect_says_where_to_ask_instead() {
    let up = Upstream::echo();
    let wharf = gateway(
        &up,
        &up,
        r#"
routes:
  - {name: tls, to: {redirect: {scheme: https}}}
  - {name: moved, match: {path: {prefix: /old}}, to: {redirect: {status: 301, host: "www.{host}", path: {prefix: /new}, keep_query: false}}}
  - {name: named, match: {path: {template: "/u/{id}"}}, to: {redirect: {status: 302, path: {template: "/users/{path.id}"}}}}
"#,
    );
    for (target, status, location) in [
        ("/a/b?q=1", 308, "https://a.example/a/b?q=1"),
        ("/old/x?q=1", 301, "http://www.a.example/new/x"),
        ("/u/7", 302, "http://a.example/users/7"),
    ] {
        let reply = get(&wharf, target, &[]);
        assert_eq!((reply.status, reply.field("location").as_deref()), (status, Some(location)), "{target}");
    }
    assert_eq!(up.served(), 0);
}

#[test]
fn a_preflight_is_answered_by_the_gateway_and_answers_are_marked_for_their_origin() {
    let up =
        Upstream::start(|_| vec![Act::Send(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nContent-Length: 2\r\n\r\nup".to_vec())]);
    let wharf = gateway(
        &up,
        &up,
        r#"
defaults: {cors: {origins: ["https://app.example"], credentials: true}}
routes:
  - {name: write, match: {path: {prefix: /api}, methods: [PUT]}, to: up}
  - {name: rest, match: {path: {prefix: /}}, to: up, cors: off}
  - {name: gone, match: {path: {prefix: /gone}}, to: gone}
"#,
    );
    let preflight = |origin: &str, target: &str, method: &str| {
        let fields = [format!("Origin: {origin}"), format!("Access-Control-Request-Method: {method}")];
        ask(&wharf, "OPTIONS", target, &[&fields[0], &fields[1]], "")
    };
    // The route is that of the method that is asked about, though it takes no OPTIONS.
    let good = preflight("https://app.example", "/api", "PUT");
    assert_eq!((good.status, good.field("access-control-allow-origin").as_deref()), (204, Some("https://app.example")));
    assert_eq!(good.field("access-control-allow-methods").as_deref(), Some("PUT"));
    assert_eq!(preflight("https://evil.example", "/api", "PUT").status, 403);
    assert_eq!(up.served(), 0);
    let asks = ["-H", "origin: https://app.example", "-H", "access-control-request-method: PUT"];
    let output = wharf.cli(&[&["explain", "OPTIONS", "http://a.example/api", "--json", "--config", "wharf.yaml"], &asks[..]].concat());
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(said["route"], "write", "{said}");
    // Where there is no policy the upstream is asked.
    assert_eq!(preflight("https://evil.example", "/other", "PUT").text(), "up");
    let marked = ask(&wharf, "PUT", "/api", &["Origin: https://app.example"], "x");
    assert_eq!(marked.all("access-control-allow-origin"), ["https://app.example"]);
    assert_eq!(marked.field("vary").as_deref(), Some("origin"));
    let other = ask(&wharf, "PUT", "/api", &["Origin: https://evil.example"], "x");
    assert_eq!((other.status, other.field("access-control-allow-origin")), (200, None));
    // A page may read why it failed.
    let fault = get(&wharf, "/gone", &["Origin: https://app.example"]);
    assert_eq!((fault.status, fault.field("access-control-allow-credentials").as_deref()), (503, Some("true")));
}

#[test]
fn traffic_is_split_by_weight_and_by_what_a_request_says() {
    let (up, other) = (Upstream::named("up"), Upstream::named("other"));
    let wharf = gateway(
        &up,
        &other,
        r#"
routes:
  - {name: weights, to: {split: [{service: up, weight: 80}, {service: other, weight: 20}]}}
  - {name: lanes, match: {path: {prefix: /lanes}}, to: {split: [up, {service: other, cookies: {lane: {exact: gray}}}]}}
  - {name: sticky, match: {path: {prefix: /sticky}}, to: {split: [up, other], sticky: {header: x-user}}}
"#,
    );
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    let to_other = (0..1000).filter(|_| connection.get("a.example", "/").unwrap().text() == "other").count();
    assert!((140..260).contains(&to_other), "{to_other} of 1000 at 20 %");
    assert_eq!(get(&wharf, "/lanes", &[]).text(), "up");
    assert_eq!(get(&wharf, "/lanes", &["Cookie: lane=gray"]).text(), "other");
    for user in 0..20 {
        let field = format!("X-User: {user}");
        let first = get(&wharf, "/sticky", &[&field]).text();
        assert!((0..5).all(|_| get(&wharf, "/sticky", &[&field]).text() == first), "user {user}");
    }
}

#[test]
fn arguments_are_refused_with_what_was_expected_and_never_reach_the_service() {
    let up = Upstream::echo();
    let wharf = gateway(
        &up,
        &up,
        r#"
routes:
  - name: orders
    match: {path: {template: "/users/{id}/orders"}}
    to: up
    checks:
      types: [application/json]
      path: {properties: {id: {type: integer}}}
      query: {properties: {limit: {type: integer, maximum: 100}}, additionalProperties: false}
      body:
        type: object
        properties: {sku: {type: string, pattern: "^[A-Z]{3}$"}, count: {type: integer, minimum: 1}}
        required: [sku]
      body_bytes_max: 1KiB
"#,
    );
    let post = |target: &str, kind: &str, body: &str| ask(&wharf, "POST", target, &[&format!("Content-Type: {kind}")], body);
    let json = "application/json";
    let good = post("/users/7/orders?limit=10", json, r#"{"sku":"ABC","count":2}"#);
    assert_eq!(good.status, 200, "{}", good.text());
    assert!(good.text().ends_with(r#"{"sku":"ABC","count":2}"#), "the body is sent on: {}", good.text());
    for (target, kind, body, status, says) in [
        ("/users/x/orders", json, r#"{"sku":"ABC"}"#, 400, "path segment `id`"),
        ("/users/7/orders?limit=1000", json, r#"{"sku":"ABC"}"#, 400, "query argument `limit`: 1000 is greater than the maximum of 100"),
        ("/users/7/orders?l%69mit=1000", json, r#"{"sku":"ABC"}"#, 400, "query argument `limit`"),
        ("/users/7/orders?debug=1", json, r#"{"sku":"ABC"}"#, 400, "debug"),
        ("/users/7/orders", json, r#"{"sku":"abc"}"#, 400, "body `sku`"),
        (
            "/users/7/orders",
            json,
            r#"{"count":0}"#,
            400,
            "body: \"sku\" is a required property; body `count`: 0 is less than the minimum of 1",
        ),
        ("/users/7/orders", json, r#"{"sku":"ABC","sku":"x"}"#, 400, "stands there twice"),
        ("/users/7/orders", json, "{", 400, "not JSON"),
        ("/users/7/orders", "text/plain", r#"{"sku":"ABC"}"#, 415, "text/plain"),
        ("/users/7/orders", json, &format!(r#"{{"sku":"ABC","x":"{}"}}"#, "x".repeat(1024)), 413, "1024"),
    ] {
        let reply = post(target, kind, body);
        let text = reply.text();
        assert_eq!(reply.status, status, "{target} {body}: {text}");
        assert!(reply.json()["message"].as_str().unwrap().contains(says), "{says:?} is not in {text}");
    }
    assert_eq!(up.served(), 1);
}

#[test]
fn errors_come_in_an_envelope_where_that_is_wanted() {
    let up = Upstream::start(|seen| match seen.request.target().as_str() {
        "/bad" => vec![Act::Send(b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\nContent-Length: 6\r\n\r\n<html>".to_vec())],
        _ => vec![Act::Send(ok(b"fine"))],
    });
    let wharf = gateway(
        &up,
        &up,
        r#"
defaults: {envelope: {codes: {"500": 50001}}}
routes:
  - {name: up, match: {path: {prefix: /up}}, to: up, strip_prefix: true}
  - {name: gone, match: {path: {prefix: /gone}}, to: gone}
  - {name: plain, match: {path: {prefix: /plain}}, to: gone, envelope: off}
  - name: instead
    match: {path: {prefix: /instead}}
    to: gone
    default_answers: [{faults: true, answer: {status: 200, headers: {content-type: application/json}, body: '{"items":[]}'}}]
"#,
    );
    assert_eq!(get(&wharf, "/up", &[]).text(), "fine");
    for (target, code) in [("/up/bad", 50001), ("/gone", 50301), ("/nowhere", 40401)] {
        let reply = get(&wharf, target, &[]);
        let body = reply.json();
        assert_eq!(
            (reply.status, &body["code"], &body["isSuccess"], &body["data"]),
            (200, &code.into(), &false.into(), &().into()),
            "{target}"
        );
        assert!(body["timestamp"].as_u64().unwrap() > 1_600_000_000_000 && !body["message"].as_str().unwrap().is_empty(), "{body}");
    }
    assert_eq!(get(&wharf, "/plain", &[]).status, 503);
    let instead = get(&wharf, "/instead", &[]);
    assert_eq!((instead.status, instead.text().as_str()), (200, r#"{"items":[]}"#));
}

#[test]
fn an_answer_that_is_not_what_the_route_passes_is_the_services_fault() {
    let up = Upstream::start(|seen| match seen.request.target().as_str() {
        "/html" => vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 1\r\n\r\nx".to_vec())],
        "/large" => vec![Act::Send(ok(&[b'x'; 2000]))],
        "/endless" => {
            let mut acts = vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())];
            acts.extend((0..100).map(|_| Act::Send(format!("64\r\n{}\r\n", "x".repeat(100)).into_bytes())));
            acts.push(Act::Send(b"0\r\n\r\n".to_vec()));
            acts
        }
        _ => vec![Act::Send(ok(b"fine"))],
    });
    let wharf = gateway(&up, &up, "routes: [{name: a, to: up, checks: {answer: {types: [text/plain], body_bytes_max: 1KiB}}}]");
    assert_eq!(get(&wharf, "/", &[]).text(), "fine");
    assert_eq!((get(&wharf, "/html", &[]).status, get(&wharf, "/large", &[]).status), (502, 502));
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(b"GET /endless HTTP/1.1\r\nHost: a.example\r\n\r\n").unwrap();
    // It has begun, so it can only be cut, and must not look whole.
    let heard = connection.rest(Duration::from_secs(10));
    assert!(heard.bytes.len() < 2000 && !heard.bytes.ends_with(b"0\r\n\r\n"), "{} bytes", heard.bytes.len());
}
