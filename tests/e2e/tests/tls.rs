//! TLS at the front door and to upstreams, from the street.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use wharf_e2e::far::{Far, Says};
use wharf_e2e::pipes::By;
use wharf_e2e::tls::{Authority, Client, Pair, der};
use wharf_harness::{Connection, Setup, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(20);

/// A gateway with these certificates, the last one as default if `default`, and what else a listener and routes may say.
fn start(pairs: &[&Pair], default: bool, tls: &str, services: &str, routes: &str, files: &[(&str, String)]) -> Wharf {
    let mut certificates = String::new();
    for (at, _) in pairs.iter().enumerate() {
        let last = default && at + 1 == pairs.len();
        certificates.push_str(&format!("{{chain: c{at}.pem, key: c{at}.key, default: {last}}}, "));
    }
    let config = format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners:
  main: {{ bind: "127.0.0.1:0", tls: {{ certificates: [{certificates}], {tls} }} }}
  clear: {{ bind: "127.0.0.1:0" }}
services:
{services}
routes:
{routes}
"#
    );
    let mut setup = Setup::new(config);
    for (at, pair) in pairs.iter().enumerate() {
        setup = setup.file(&format!("c{at}.pem"), pair.chain.clone()).file(&format!("c{at}.key"), pair.key.clone());
    }
    for (name, text) in files {
        setup = setup.file(name, text.clone());
    }
    setup.start().unwrap()
}

fn refused(wharf: &Wharf, reason: &str) -> f64 {
    wharf.admin().metrics().get("wharf_http_refused_total", &[("reason", reason)])
}

/// Waits: a client is told of its refusal before that is counted.
fn counts_refused(wharf: &Wharf, reason: &str, wanted: f64) {
    until(&format!("{wanted} refusals for {reason}"), WAIT, || (refused(wharf, reason) == wanted).then_some(()));
}

const HELLO: &str = "  - { name: all, to: { answer: { status: 200, body: hello } } }\n";

#[test]
fn a_client_is_shown_the_certificate_of_the_host_that_it_asks_for() {
    let authority = Authority::new();
    let exact = authority.pair("exact", &["a.example"]);
    let wild = authority.pair("wild", &["*.b.example"]);
    let other = authority.pair("other", &["c.example"]);
    let client = Client::credulous();
    let wharf = start(&[&exact, &wild, &other], true, "", "", HELLO, &[]);
    let address = wharf.listener("main");
    for (name, wanted) in [("a.example", &exact), ("x.b.example", &wild), ("unknown.example", &other), ("127.0.0.1", &other)] {
        let mut connection = client.connect(address, name).unwrap();
        assert!(connection.shown() == der(wanted), "{name}");
        assert_eq!(connection.get(name, "/").unwrap().message.text(), "hello");
    }
    let strict = start(&[&exact], false, "", "", HELLO, &[]);
    assert!(client.connect(strict.listener("main"), "unknown.example").is_err(), "without a default an unknown host is refused");
    assert!(client.connect(strict.listener("main"), "a.example").is_ok());
    counts_refused(&strict, "tls", 1.0);
}

#[test]
fn who_speaks_the_other_protocol_at_a_port_is_told_so_at_once() {
    let authority = Authority::new();
    let wharf = start(&[&authority.pair("a", &["a.example"])], true, "", "", HELLO, &[]);
    let begun = Instant::now();
    let reply = Connection::open(wharf.listener("main")).unwrap().get("a.example", "/").unwrap();
    assert!(reply.status == 400 && reply.text().contains("HTTPS port") && reply.closes(), "{}: {}", reply.status, reply.text());
    // Many at once, and in pieces: whoever sends one letter has said enough.
    let mut slow = Connection::open(wharf.listener("main")).unwrap();
    slow.send(b"G").unwrap();
    assert_eq!(slow.reply("GET").unwrap().status, 400);
    counts_refused(&wharf, "plain_http", 2.0);
    assert_eq!(refused(&wharf, "tls"), 0.0);

    let error = Client::credulous().connect(wharf.listener("clear"), "a.example").map(drop).unwrap_err();
    assert!(!matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "the handshake was left hanging: {error}");
    counts_refused(&wharf, "tls_hello", 1.0);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    // Whoever speaks TLS there, and in the clear here, is served.
    assert!(Client::credulous().connect(wharf.listener("main"), "a.example").unwrap().get("a.example", "/").is_ok());
    assert_eq!(Connection::open(wharf.listener("clear")).unwrap().get("a.example", "/").unwrap().status, 200);
}

#[test]
fn the_protocol_is_agreed_on_and_sessions_are_resumed() {
    let authority = Authority::new();
    let pair = authority.pair("a", &["a.example"]);
    let wharf = start(&[&pair], false, "", "", HELLO, &[]);
    let address = wharf.listener("main");
    let agreed =
        |offered: &[&str]| Client::new(&authority, None, offered).connect(address, "a.example").map(|connection| connection.protocol());
    assert_eq!(agreed(&["h2", "http/1.1"]).unwrap().as_deref(), Some("h2"));
    assert_eq!(agreed(&["http/1.1"]).unwrap().as_deref(), Some("http/1.1"));
    assert_eq!(agreed(&[]).unwrap(), None);
    assert!(agreed(&["spdy/3"]).is_err(), "no protocol that both know");
    // Any core takes the ticket of another: they are many connections.
    let client = Client::new(&authority, None, &["http/1.1"]);
    for round in 0..8 {
        let mut connection = client.connect(address, "a.example").unwrap();
        assert_eq!(connection.is_resumed(), round > 0, "{round}");
        assert_eq!(connection.get("a.example", "/").unwrap().message.text(), "hello");
    }
}

#[test]
fn a_request_for_a_host_with_other_routes_is_misdirected() {
    let authority = Authority::new();
    let pair = authority.pair("both", &["open.example", "guarded.example", "x.wide.example", "y.wide.example"]);
    let routes = r#"
  - { name: open, match: { hosts: [open.example] }, to: { answer: { status: 200, body: open } } }
  - { name: guarded, match: { hosts: [guarded.example] }, to: { answer: { status: 200, body: guarded } } }
  - { name: wide, match: { hosts: ["*.wide.example"] }, to: { answer: { status: 200, body: wide } } }
"#;
    let wharf = start(&[&pair], false, "", "", routes, &[]);
    let client = Client::new(&authority, None, &["http/1.1"]);
    let mut connection = client.connect(wharf.listener("main"), "open.example").unwrap();
    assert_eq!(connection.get("open.example", "/").unwrap().message.text(), "open");
    assert_eq!(connection.get("guarded.example", "/").unwrap().status, 421);
    let mut connection = client.connect(wharf.listener("main"), "x.wide.example").unwrap();
    assert_eq!(connection.get("y.wide.example", "/").unwrap().message.text(), "wide", "the same routes hold there");
}

#[test]
fn clients_must_show_a_certificate_where_it_is_asked_for() {
    let (authority, believed) = (Authority::new(), Authority::new());
    let pair = authority.pair("a", &["a.example"]);
    let files = [("clients.pem", believed.pem())];
    let wharf = start(&[&pair], false, "clients: { ca: clients.pem }", "", HELLO, &files);
    let ask = |shown: Option<&Pair>| {
        let client = Client::new(&authority, shown, &["http/1.1"]);
        // In TLS 1.3 a client learns with the first answer whether it was believed.
        client.connect(wharf.listener("main"), "a.example").and_then(|mut connection| connection.get("a.example", "/"))
    };
    assert_eq!(ask(Some(&believed.pair("client", &["client.example"]))).unwrap().status, 200);
    assert!(ask(None).is_err(), "none");
    assert!(ask(Some(&authority.pair("stranger", &["client.example"]))).is_err(), "one of somebody else");
}

#[test]
fn upstreams_prove_who_they_are_whatever_version_they_speak() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.pair("upstream", &["up.example"]);
    let behind = start(&[&pair], true, "", "", HELLO, &[]);
    let at = behind.listener("main");
    let services = format!(
        r#"
  auto: {{ endpoints: ["{at}"], tls: {{ ca: "@DIR@/ca.pem", server_name: up.example }} }}
  one: {{ endpoints: ["{at}"], protocol: http1, tls: {{ ca: "@DIR@/ca.pem", server_name: up.example }} }}
  two: {{ endpoints: ["{at}"], protocol: http2, tls: {{ ca: "@DIR@/ca.pem", server_name: up.example }} }}
  clear: {{ endpoints: ["{}"], protocol: http2 }}
  misnamed: {{ endpoints: ["{at}"], tls: {{ ca: "@DIR@/ca.pem", server_name: other.example }} }}
  unbelieved: {{ endpoints: ["{at}"], tls: {{ ca: "@DIR@/other.pem", server_name: up.example }} }}
"#,
        behind.listener("clear")
    );
    let names = ["auto", "one", "two", "clear", "misnamed", "unbelieved"];
    let routes: String =
        names.iter().map(|name| format!("  - {{ name: {name}, match: {{ path: {{ exact: /{name} }} }}, to: {name} }}\n")).collect();
    let files = [("ca.pem", authority.pem()), ("other.pem", other.pem())];
    let wharf = start(&[&pair], true, "", &services, &routes, &files);
    let mut connection = Connection::open(wharf.listener("clear")).unwrap();
    for _ in 0..3 {
        for good in ["auto", "one", "two", "clear"] {
            let reply = connection.get("a.example", &format!("/{good}")).unwrap();
            assert_eq!((reply.status, reply.message.text().as_str()), (200, "hello"), "{good}");
        }
    }
    for bad in ["misnamed", "unbelieved"] {
        assert_eq!(connection.get("a.example", &format!("/{bad}")).unwrap().status, 503, "{bad}");
    }
    until("the other gateway's log", WAIT, || {
        let log = std::fs::read_to_string(behind.dir().join("access.log")).unwrap_or_default();
        (log.matches("\"HTTP/2\"").count() == 9 && log.matches("\"HTTP/1.1\"").count() == 3).then_some(())
    });
}

#[test]
fn bodies_that_find_no_connection_leave_none_behind() {
    let authority = Authority::new();
    let pair = authority.pair("upstream", &["up.example"]);
    let up = Upstream::named("up");
    // A listener by TLS that does not offer HTTP/2: who calls it learns that from each handshake.
    let no_two = "}, http2: off, timeouts: { body: 1m ";
    let to_up = "  - { name: up, to: up }\n";
    let behind = start(&[&pair], true, no_two, &format!("  up: {{ endpoints: [\"{}\"] }}\n", up.address()), to_up, &[]);
    let services = format!(
        "  up: {{ endpoints: [\"{}\"], connections_max: 20, tls: {{ ca: \"@DIR@/ca.pem\", server_name: up.example }} }}\n",
        behind.listener("main")
    );
    let wharf = start(&[&pair], true, no_two, &services, to_up, &[("ca.pem", authority.pem())]);
    let upload = || {
        let mut client = Connection::open(wharf.listener("clear")).unwrap();
        client.send(b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\nhello").unwrap();
        client
    };
    let slow: Vec<Connection> = (0..18).map(|_| upload()).collect();
    until("all of them to be sent", WAIT, || (up.open() == 18).then_some(()));
    for _ in 0..3 {
        assert_eq!(upload().reply("POST").unwrap().status, 503);
    }
    drop(slow);
    // As many are counted as there are: those that were made for the three may be kept.
    until("the counts to be one", WAIT, || {
        let counted = wharf.admin().metrics().get("wharf_upstream_connections", &[("service", "up")]);
        let there = behind.admin().metrics().get("wharf_connections_open", &[("listener", "main")]);
        (counted == there && there <= 2.0 && up.open() <= 2).then_some(())
    });
}

#[test]
fn checks_go_over_what_calls_go_over() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.pair("upstream", &["up.example"]);
    let shown = authority.pair("gateway", &["gateway.example"]);
    let health = Far::start(By::Two, |_| Says::Switch {
        fields: vec![("content-type", "application/grpc".to_owned())],
        early: b"\0\0\0\0\x02\x08\x01".to_vec(),
        then: Box::new(|mut pipe| Box::pin(async move { pipe.into.trailers(&[("grpc-status", "0")]) })),
    });
    let routes = HELLO.to_owned() + "  - { name: grpc, match: { path: { prefix: /grpc.health.v1.Health } }, to: health }\n";
    let of_health = format!("  health: {{ endpoints: [\"{}\"], protocol: http2 }}\n", health.address());
    let files = [("clients.pem", authority.pem())];
    let behind = start(&[&pair], true, "clients: { ca: clients.pem }", &of_health, &routes, &files);
    let (at, clear) = (behind.listener("main"), behind.listener("clear"));
    let tls = "ca: \"@DIR@/ca.pem\", server_name: up.example, chain: \"@DIR@/shown.pem\", key: \"@DIR@/shown.key\"";
    let http = "http: {path: /well, body: hello}, interval: 100ms";
    let services = format!(
        r#"
  auto: {{ endpoints: ["{at}"], tls: {{ {tls} }}, health: {{ {http} }} }}
  one: {{ endpoints: ["{at}"], protocol: http1, tls: {{ {tls} }}, health: {{ {http} }} }}
  two: {{ endpoints: ["{at}"], protocol: http2, tls: {{ {tls} }}, health: {{ {http} }} }}
  grpc: {{ endpoints: ["{at}"], tls: {{ {tls} }}, health: {{ grpc: "", interval: 100ms }} }}
  known: {{ endpoints: ["{clear}"], protocol: http2, health: {{ {http} }} }}
  otherwise: {{ endpoints: ["{clear}"], tls: {{ {tls} }}, health: {{ {http}, tls: false }} }}
  misnamed: {{ endpoints: ["{at}"], tls: {{ {tls_misnamed} }}, health: {{ {http} }} }}
  unbelieved: {{ endpoints: ["{at}"], tls: {{ {tls_unbelieved} }}, health: {{ {http} }} }}
  nobody: {{ endpoints: ["{at}"], tls: {{ ca: "@DIR@/ca.pem", server_name: up.example }}, health: {{ {http} }} }}
  secret: {{ endpoints: ["{at}"], health: {{ {http} }} }}
"#,
        tls_misnamed = tls.replace("up.example", "other.example"),
        tls_unbelieved = tls.replace("ca.pem", "other.pem"),
    );
    let files = [("ca.pem", authority.pem()), ("other.pem", other.pem()), ("shown.pem", shown.chain), ("shown.key", shown.key)];
    let wharf = start(&[&pair], true, "", &services, HELLO, &files);
    let checks = |service: &str, outcome: &str| {
        wharf.admin().metrics().get("wharf_upstream_checks_total", &[("service", service), ("outcome", outcome)])
    };
    for (service, good) in [
        ("auto", true),
        ("one", true),
        ("two", true),
        ("grpc", true),
        ("known", true),
        ("otherwise", true),
        ("misnamed", false),
        ("unbelieved", false),
        ("nobody", false),
        ("secret", false),
    ] {
        let (wanted, unwanted) = if good { ("good", "bad") } else { ("bad", "good") };
        until(&format!("checks of {service}"), WAIT, || (checks(service, wanted) >= 2.0).then_some(()));
        assert_eq!(checks(service, unwanted), 0.0, "{service}");
    }
    until("the other gateway's log", WAIT, || {
        let log = std::fs::read_to_string(behind.dir().join("access.log")).unwrap_or_default();
        let has = |path: &str, protocol: &str| log.lines().any(|line| line.contains(path) && line.contains(&format!("\"{protocol}\"")));
        (has("/well", "HTTP/1.1") && has("/well", "HTTP/2") && has("/grpc.health.v1.Health/Check", "HTTP/2")).then_some(())
    });
}

#[test]
fn an_operator_is_told_of_handshakes_that_fail_and_not_of_each() {
    let (authority, other) = (Authority::new(), Authority::new());
    let pair = authority.pair("upstream", &["up.example"]);
    let behind = start(&[&pair], true, "", "", HELLO, &[]);
    let services = format!(
        "  up: {{ endpoints: [\"{}\"], tls: {{ ca: \"@DIR@/other.pem\", server_name: up.example }}, ejection: {{ failures: 0 }} }}\n",
        behind.listener("main")
    );
    let wharf = start(&[&pair], true, "", &services, "  - { name: up, to: up }\n", &[("other.pem", other.pem())]);
    let mut connection = Connection::open(wharf.listener("clear")).unwrap();
    let said = || wharf.log().lines().filter(|line| line.contains("TLS handshake")).count();
    assert_eq!(connection.get("a.example", "/").unwrap().status, 503);
    until("the first to be told", WAIT, || (said() > 0).then_some(()));
    for _ in 0..5 {
        assert_eq!(connection.get("a.example", "/").unwrap().status, 503);
    }
    assert_eq!(said(), 1);
}

#[test]
fn a_balancer_says_whose_connection_it_is_and_only_a_named_one_may() {
    let upstream = Upstream::echo();
    let config = |from: &str| {
        format!(
            r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
listeners: {{ main: {{ bind: "127.0.0.1:0", proxy_protocol_from: ["{from}"], timeouts: {{ first: 500ms }} }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
routes: [{{ name: all, to: up }}]
"#,
            upstream.address()
        )
    };
    let ask = |wharf: &Wharf, bytes: &[u8]| {
        let mut stream = TcpStream::connect(wharf.listener("main")).unwrap();
        stream.set_read_timeout(Some(WAIT)).unwrap();
        stream.write_all(bytes).unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        String::from_utf8_lossy(&said).into_owned()
    };
    const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n";
    let named = Wharf::start(config("127.0.0.0/8")).unwrap();
    let first = [b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 80\r\n", GET].concat();
    assert!(ask(&named, &first).contains("x-forwarded-for: 192.0.2.7\r\n"));
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    second.extend([192, 0, 2, 8, 198, 51, 100, 1, 0x12, 0x67, 0, 80]);
    assert!(ask(&named, &[&second, GET].concat()).contains("x-forwarded-for: 192.0.2.8\r\n"));
    assert_eq!(ask(&named, GET), "", "a named one must say it");
    assert_eq!(ask(&named, b"PROXY TCP4 192.0.2.7"), "", "and in time");
    counts_refused(&named, "proxy_protocol", 2.0);
    let others = Wharf::start(config("192.0.2.0/24")).unwrap();
    assert!(ask(&others, &first).starts_with("HTTP/1.1 400 "), "from anybody else it is no request");
    assert!(ask(&others, GET).contains("x-forwarded-for: 127.0.0.1\r\n"));
}

#[test]
fn the_gateway_chooses_the_cipher_whatever_a_client_would_rather_have() {
    let authority = Authority::new();
    let pair = authority.pair("a", &["a.example"]);
    let wharf = start(&[&pair], true, "", "", HELLO, &[]);
    for client in [Client::new(&authority, None, &[]), Client::contrary(&authority)] {
        let connection = client.connect(wharf.listener("main"), "a.example").unwrap();
        assert_eq!(connection.suite(), "TLS13_AES_128_GCM_SHA256");
    }
}

/// Replaces a file as tools for certificates do.
fn replace(wharf: &Wharf, name: &str, text: &str) {
    let draft = wharf.dir().join(format!(".{name}.new"));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, wharf.dir().join(name)).unwrap();
}

fn quarantined(wharf: &Wharf) -> usize {
    wharf.admin().get("/v1/config").expect()["quarantined"].as_array().unwrap().len()
}

#[test]
fn a_certificate_whose_key_comes_later_is_shown_once_both_are_there() {
    let authority = Authority::new();
    let (old, new) = (authority.pair("old", &["a.example"]), authority.pair("new", &["a.example"]));
    let wharf = start(&[&old], false, "", "", HELLO, &[]);
    let shown = || Client::credulous().connect(wharf.listener("main"), "a.example").unwrap().shown();
    replace(&wharf, "c0.pem", &new.chain);
    until("the half to be found", WAIT, || (quarantined(&wharf) == 1).then_some(()));
    assert!(shown() == der(&old), "what served serves on");
    replace(&wharf, "c0.key", &new.key);
    until("the new certificate", WAIT, || (shown() == der(&new)).then_some(()));
    until("nothing to be wrong", WAIT, || (quarantined(&wharf) == 0).then_some(()));
}

#[test]
fn a_certificate_that_has_expired_replaces_none_and_is_better_than_none_after_a_restart() {
    let authority = Authority::new();
    let (good, expired) = (authority.pair("good", &["a.example"]), authority.expired("expired", &["a.example"]));
    let wharf = start(&[&good], false, "", "", HELLO, &[]);
    let shown = |wharf: &Wharf| Client::credulous().connect(wharf.listener("main"), "a.example").unwrap().shown();
    replace(&wharf, "c0.key", &expired.key);
    replace(&wharf, "c0.pem", &expired.chain);
    until("the mistake to be found", WAIT, || wharf.log().contains("has expired").then_some(()));
    assert!(shown(&wharf) == der(&good));
    let wharf = wharf.kill_and_start().unwrap();
    assert!(shown(&wharf) == der(&expired));
    assert_eq!(quarantined(&wharf), 1, "an operator is told");
    let ends =
        || wharf.admin().metrics().get("wharf_tls_certificate_expires_seconds", &[("listener", "main"), ("certificate", "a.example")]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    until("the end of the certificate", WAIT, || (ends() > 0.0).then_some(()));
    assert!(ends() < now, "{}", ends());
    wharf.until_said("a certificate has expired, and clients refuse it", WAIT);
    replace(&wharf, "c0.key", &good.key);
    replace(&wharf, "c0.pem", &good.chain);
    until("the renewed certificate", WAIT, || (shown(&wharf) == der(&good)).then_some(()));
    until("its end", WAIT, || (ends() > now).then_some(()));
}

#[test]
fn who_comes_in_the_clear_is_sent_to_the_same_place_by_tls() {
    let authority = Authority::new();
    let pair = authority.pair("a", &["a.example"]);
    let routes = "  - { name: clear, match: { scheme: http }, to: { redirect: { scheme: https, status: 301 } } }\n".to_owned() + HELLO;
    let wharf = start(&[&pair], false, "", "", &routes, &[]);
    let reply = Connection::open(wharf.listener("clear")).unwrap().get("a.example", "/x?y=1").unwrap();
    assert_eq!((reply.status, reply.field("location").as_deref()), (301, Some("https://a.example/x?y=1")));
    let client = Client::new(&authority, None, &["http/1.1"]);
    let mut connection = client.connect(wharf.listener("main"), "a.example").unwrap();
    assert_eq!(connection.get("a.example", "/x?y=1").unwrap().message.text(), "hello");
}
