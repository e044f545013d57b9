//! Who may open a WebSocket through a real gateway, and what becomes of attempts that are none, or are refused: by either
//! version of HTTP, to upstreams of either. What is said once one is open is `websocket.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use http::{Method, Request};
use std::time::{Duration, Instant};
use wharf_artifacts::path;
use wharf_e2e::far::{Asked, Far, Says, accept, converse};
use wharf_e2e::frames::{Frame, TEXT};
use wharf_e2e::pipes::{By, Came, Head, KEY, Opened, Pipe, open, open_raw, open_two, run};
use wharf_harness::two::{self, END, Two};
use wharf_harness::{Setup, Wharf};

/// What an upstream that knows WebSocket says.
fn judged(asked: &Asked, by: By) -> Says {
    let no = |status, name, value: &str, body| Says::Answer { status, fields: vec![(name, value.to_owned())], body };
    let Some(protocol) = &asked.protocol else { return no(200, "x-was", "plain", "no switch") };
    if !protocol.split(',').any(|one| one.trim().eq_ignore_ascii_case("websocket")) {
        return no(400, "x-was", protocol, "no such protocol");
    }
    if asked.field("sec-websocket-version") != "13" {
        return no(426, "sec-websocket-version", "13, 8", "which version?");
    }
    if by == By::One && asked.field("sec-websocket-key").len() != 24 {
        return no(400, "x-was", "keyless", "no key");
    }
    match asked.target.split('?').next().unwrap_or_default() {
        "/401" => no(401, "www-authenticate", "Basic realm=\"w\"", "who are you?"),
        "/403" => no(403, "x-was", "refused", "not you"),
        "/302" => no(302, "location", "/elsewhere", ""),
        "/500" => no(500, "x-was", "broken", "sorry"),
        "/nothing" => Says::Nothing,
        "/goes" => Says::Goes,
        _ => {
            let mut fields = Vec::new();
            let offered = asked.field("sec-websocket-protocol");
            if offered.split(',').any(|one| one.trim() == "superchat") {
                fields.push(("sec-websocket-protocol", "superchat".to_owned()));
            }
            if asked.field("sec-websocket-extensions").contains("permessage-deflate") {
                fields.push(("sec-websocket-extensions", "permessage-deflate; server_no_context_takeover".to_owned()));
            }
            Says::Switch { fields, early: Vec::new(), then: Box::new(converse) }
        }
    }
}

fn config(one: &Far, two: &Far, rest: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
  one: {{ endpoints: ["{}"], protocol: http1, timeouts: {{ head: 1s }} }}
  two: {{ endpoints: ["{}"], protocol: http2, timeouts: {{ head: 1s }} }}
  nowhere: {{ endpoints: ["127.0.0.1:1"] }}
{rest}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, to: one, strip_prefix: true }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, to: two, strip_prefix: true }}
  - {{ name: nowhere, match: {{ path: {{ prefix: /nowhere }} }}, to: nowhere }}
  - {{ name: fixed, match: {{ path: {{ prefix: /fixed }} }}, to: {{ answer: {{ status: 200, body: fixed }} }} }}
  - {{ name: refused, match: {{ path: {{ prefix: /refused }} }}, to: {{ answer: {{ status: 403, body: refused }} }} }}
  - {{ name: posted, match: {{ path: {{ prefix: /posted }}, methods: [POST] }}, to: one }}
"#,
        one.address(),
        two.address()
    )
}

/// What must become of an attempt.
#[derive(Clone, Debug)]
enum Wanted {
    /// Protocols are switched; the upstream saw these lines (`!`: did not).
    Switched(&'static [&'static str]),
    /// The upstream is asked without a switch, and its 200 passed on.
    Plain,
    /// The upstream is asked, and this answer of it passed on, with this line.
    Said(u16, &'static str),
    /// The upstream is not asked; the client is answered this, or, for 0, anything from 400 on, or cut off.
    Refused(u16),
}
use Wanted::{Plain, Refused, Said, Switched};

fn lines(fields: &[(String, String)]) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

/// What is wrong with what became of an attempt.
async fn wrong(wanted: &Wanted, opened: Opened, asked: &[Asked]) -> Option<String> {
    let seen: Vec<String> =
        asked.iter().map(|asked| format!("{} {} {:?}\n{}", asked.method, asked.target, asked.protocol, lines(&asked.fields))).collect();
    let (head, pipe): (Head, Option<Pipe>) = match opened {
        Opened::Switched(head, pipe) => (head, Some(pipe)),
        Opened::Answered(head, _) => (head, None),
        Opened::Broken => (Head::default(), None),
    };
    let told = format!("answered {} {:?}; the upstream saw {seen:?}", head.status, lines(&head.fields));
    let is_so = match wanted {
        Switched(wanted) => {
            let Some(mut pipe) = pipe else { return Some(format!("not switched: {told}")) };
            // The answer is proof only if something goes through.
            pipe.into.send(&Frame::new(TEXT, "hello").masked().bytes()).await.ok();
            let heard = pipe.from.next().await;
            if heard != Came::Some(Frame::new(TEXT, "hello").bytes().into()) {
                return Some(format!("{heard:?} through it: {told}"));
            }
            let [saw] = &seen[..] else { return Some(told) };
            wanted.iter().all(|line| match line.strip_prefix('!') {
                Some(without) => !saw.contains(without),
                None => saw.contains(line) || lines(&head.fields).contains(line),
            })
        }
        Plain => pipe.is_none() && head.status == 200 && head.field("x-was") == "plain" && asked.len() == 1 && asked[0].protocol.is_none(),
        // On a kept connection that ends just then it is tried once more.
        Said(status, line) => {
            pipe.is_none() && head.status == *status && lines(&head.fields).contains(line) && matches!(asked.len(), 1 | 2)
        }
        Refused(0) => pipe.is_none() && asked.is_empty() && !(200..400).contains(&head.status),
        Refused(status) => pipe.is_none() && asked.is_empty() && head.status == *status,
    };
    (!is_so).then_some(told)
}

struct Raw {
    name: &'static str,
    /// `GET @/PATH HTTP/1.1` and fields; `@` is the route of the upstream, `KEY` a valid key.
    head: &'static str,
    to_one: Wanted,
    to_two: Wanted,
}

const GOOD: &str = "connection: upgrade\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13";

fn raws() -> Vec<Raw> {
    let mut raws = Vec::new();
    let mut raw = |name, head, to_one: Wanted, to_two: Wanted| raws.push(Raw { name, head, to_one, to_two });
    let mut same = |name, head, wanted: Wanted| raw(name, head, wanted.clone(), wanted);
    same("as it should be", "GET @/ws HTTP/1.1\nGOOD", Switched(&["sec-websocket-version: 13"]));
    same(
        "in other cases",
        "GET @/ws HTTP/1.1\nConnection: UPGRADE\nUpgrade: WebSocket\nSec-WebSocket-Key: KEY\nSec-WebSocket-Version: 13",
        Switched(&[]),
    );
    same(
        "among other options",
        "GET @/ws HTTP/1.1\nconnection: keep-alive, Upgrade\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Switched(&["!keep-alive"]),
    );
    same(
        "options on two lines",
        "GET @/ws HTTP/1.1\nconnection: keep-alive\nconnection: upgrade\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Switched(&[]),
    );
    same("path and query", "GET @/a/b?c=d&e HTTP/1.1\nGOOD", Switched(&["/a/b?c=d&e"]));
    same(
        "subprotocols, one of which is taken",
        "GET @/ws HTTP/1.1\nGOOD\nsec-websocket-protocol: chat, superchat",
        Switched(&["sec-websocket-protocol: chat, superchat", "sec-websocket-protocol: superchat"]),
    );
    same(
        "subprotocols, none of which is taken",
        "GET @/ws HTTP/1.1\nGOOD\nsec-websocket-protocol: chat",
        Switched(&["sec-websocket-protocol: chat"]),
    );
    same(
        "extensions",
        "GET @/ws HTTP/1.1\nGOOD\nsec-websocket-extensions: permessage-deflate; client_max_window_bits",
        Switched(&["sec-websocket-extensions: permessage-deflate; client_max_window_bits", "server_no_context_takeover"]),
    );
    same(
        "origin, cookie, authorization",
        "GET @/ws HTTP/1.1\nGOOD\norigin: https://a.example\ncookie: a=b\nauthorization: Bearer x",
        Switched(&["origin: https://a.example", "cookie: a=b", "authorization: Bearer x"]),
    );
    same(
        "a field of this connection only",
        "GET @/ws HTTP/1.1\nconnection: upgrade, x-mine\nx-mine: 1\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Switched(&["!x-mine"]),
    );
    same(
        "somebody else's address",
        "GET @/ws HTTP/1.1\nGOOD\nx-forwarded-for: 1.2.3.4",
        Switched(&["!1.2.3.4", "x-forwarded-for: 127.0.0.1"]),
    );
    same(
        "beside HTTP/2, which is not taken",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: h2c, websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Switched(&["!h2c"]),
    );
    // None of these asks for a switch.
    same("without the option", "GET @/ws HTTP/1.1\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13", Plain);
    same("without the protocol", "GET @/ws HTTP/1.1\nconnection: upgrade\nsec-websocket-key: KEY\nsec-websocket-version: 13", Plain);
    same("by HTTP/1.0", "GET @/ws HTTP/1.0\nGOOD", Plain);
    same("by POST", "POST @/ws HTTP/1.1\nGOOD\ncontent-length: 0", Plain);
    same("by HEAD", "HEAD @/ws HTTP/1.1\nGOOD", Plain);
    same(
        "to HTTP/2",
        "GET @/ws HTTP/1.1\nconnection: upgrade, http2-settings\nupgrade: h2c\nhttp2-settings: AAMAAABkAARAAAAAAAIAAAAA",
        Plain,
    );
    same("to TLS", "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: TLS/1.2", Plain);
    same("to nothing", "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade:", Plain);
    same(
        "to one of two",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: foo, websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Plain,
    );
    same("to what is no name", "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: web socket", Plain);
    same(
        "on two lines",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: websocket\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 13",
        Plain,
    );
    // The upstream's to judge, if it is one that can.
    same(
        "another version",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: websocket\nsec-websocket-key: KEY\nsec-websocket-version: 8",
        Said(426, "sec-websocket-version: 13, 8"),
    );
    same(
        "no version",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: websocket\nsec-websocket-key: KEY",
        Said(426, "sec-websocket-version: 13, 8"),
    );
    same("refused by the upstream: 401", "GET @/401 HTTP/1.1\nGOOD", Said(401, "www-authenticate: Basic realm=\"w\""));
    same("refused by the upstream: 403", "GET @/403 HTTP/1.1\nGOOD", Said(403, "x-was: refused"));
    same("sent elsewhere by the upstream", "GET @/302 HTTP/1.1\nGOOD", Said(302, "location: /elsewhere"));
    same("an upstream that is broken", "GET @/500 HTTP/1.1\nGOOD", Said(500, "x-was: broken"));
    same("an upstream that says nothing", "GET @/nothing HTTP/1.1\nGOOD", Said(504, ""));
    same("an upstream that goes", "GET @/goes HTTP/1.1\nGOOD", Said(502, ""));
    // Never one.
    same("a blank behind the version", "GET @/ws HTTP/1.1 \nGOOD", Refused(400));
    same("a space before the colon", "GET @/ws HTTP/1.1\nGOOD\nx : y", Refused(400));
    same("a route to nothing", "GET /elsewhere HTTP/1.1\nGOOD", Refused(404));
    same("a route that is an answer", "GET /fixed HTTP/1.1\nGOOD", Refused(200));
    same("a route that refuses", "GET /refused HTTP/1.1\nGOOD", Refused(403));
    same("a route for another method", "GET /posted HTTP/1.1\nGOOD", Refused(405));
    same("nobody behind the route", "GET /nowhere HTTP/1.1\nGOOD", Refused(503));
    same("a length and chunks", "GET @/ws HTTP/1.1\nGOOD\ncontent-length: 3\ntransfer-encoding: chunked", Refused(400));
    // By HTTP/2 there is no key: what the client wants to be proved, the gateway proves.
    raw(
        "no key",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13",
        Said(400, "x-was: keyless"),
        Refused(400),
    );
    raw(
        "half a key",
        "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: websocket\nsec-websocket-version: 13\nsec-websocket-key: abc",
        Said(400, "x-was: keyless"),
        Refused(400),
    );
    raw("two keys", "GET @/ws HTTP/1.1\nGOOD\nsec-websocket-key: KEY", Said(400, "x-was: keyless"), Refused(400));
    raw("another protocol", "GET @/ws HTTP/1.1\nconnection: upgrade\nupgrade: foo", Said(400, "x-was: foo"), Plain);
    raws
}

#[test]
fn by_http_1_only_what_asks_for_a_switch_gets_one() {
    let one = Far::start(By::One, |asked| judged(asked, By::One));
    let two = Far::start(By::Two, |asked| judged(asked, By::Two));
    let wharf = Wharf::start(config(&one, &two, "")).unwrap();
    let raws = raws();
    let mut faults = Vec::new();
    run(async {
        for raw in &raws {
            for (far, route, wanted) in [(&one, "/one", &raw.to_one), (&two, "/two", &raw.to_two)] {
                let head =
                    raw.head.replace("GOOD", GOOD).replace('@', route).replace("KEY", KEY).replacen('\n', "\r\nhost: a.example\r\n", 1);
                let head = head.replace("\r\n", "\n").replace('\n', "\r\n") + "\r\n\r\n";
                let opened = open_raw(wharf.listener("main"), head.as_bytes()).await;
                if let Opened::Switched(head, _) = &opened
                    && head.field("sec-websocket-accept") != accept(KEY)
                {
                    faults.push(format!("{} to {route}: no proof: {head:?}", raw.name));
                }
                let asked = far.asked();
                if let Some(what) = wrong(wanted, opened, &asked).await {
                    faults.push(format!("{} to {route}: wanted {wanted:?}: {what}", raw.name));
                }
            }
        }
    });
    println!("websocket: {} attempts by HTTP/1.1, each to 2 upstreams: {} cases, {} faults", raws.len(), 2 * raws.len(), faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn by_http_2_an_extended_connect_gets_what_an_upgrade_gets() {
    let one = Far::start(By::One, |asked| judged(asked, By::One));
    let two = Far::start(By::Two, |asked| judged(asked, By::Two));
    let wharf = Wharf::start(config(&one, &two, "")).unwrap();
    let fields: &[(&str, &str, Wanted)] = &[
        ("/ws", "", Switched(&["sec-websocket-version: 13"])),
        ("/a/b?c=d&e", "", Switched(&["/a/b?c=d&e"])),
        ("/ws", "sec-websocket-protocol: chat, superchat", Switched(&["sec-websocket-protocol: superchat"])),
        ("/ws", "sec-websocket-protocol: chat", Switched(&["sec-websocket-protocol: chat"])),
        ("/ws", "sec-websocket-extensions: permessage-deflate", Switched(&["sec-websocket-extensions: permessage-deflate"])),
        ("/ws", "origin: https://a.example", Switched(&["origin: https://a.example"])),
        ("/ws", "cookie: a=b", Switched(&["cookie: a=b"])),
        ("/ws", "x-forwarded-for: 1.2.3.4", Switched(&["!1.2.3.4", "x-forwarded-for: 127.0.0.1"])),
        // What belongs to HTTP/1.1 is the gateway's to say there.
        ("/ws", "sec-websocket-key: c3R1cGlkIHN0dXBpZCEhIQ==", Switched(&["!c3R1cGlkIHN0dXBpZCEhIQ"])),
        ("/401", "", Said(401, "www-authenticate: Basic realm=\"w\"")),
        ("/403", "", Said(403, "x-was: refused")),
        ("/302", "", Said(302, "location: /elsewhere")),
        ("/500", "", Said(500, "x-was: broken")),
        ("/nothing", "", Said(504, "")),
        ("/goes", "", Said(502, "")),
        ("//elsewhere", "", Refused(404)),
        ("//refused", "", Refused(403)),
        ("//posted", "", Refused(405)),
        ("//nowhere", "", Refused(503)),
        // A 200 would say that the protocol is switched.
        ("//fixed", "", Refused(502)),
    ];
    let mut faults = Vec::new();
    run(async {
        for (target, field, wanted) in fields {
            for (far, route) in [(&one, "/one"), (&two, "/two")] {
                let target = target.strip_prefix("//").map_or(format!("{route}{target}"), |whole| format!("/{whole}"));
                let fields: Vec<(&str, &str)> = field.split_once(": ").into_iter().collect();
                let opened = open(wharf.listener("main"), By::Two, &target, &fields, b"").await;
                if let Opened::Switched(head, _) = &opened
                    && !head.field("sec-websocket-accept").is_empty()
                {
                    faults.push(format!("{target}: an accept, which HTTP/2 has not: {head:?}"));
                }
                let asked = far.asked();
                if let Some(what) = wrong(wanted, opened, &asked).await {
                    faults.push(format!("{target} {field:?}: wanted {wanted:?}: {what}"));
                }
            }
        }
        let another = |protocol: &'static str| {
            let request = Request::builder().method(Method::CONNECT).uri("http://a.example/one/ws");
            request.extension(h2::ext::Protocol::from_static(protocol)).body(()).unwrap()
        };
        for protocol in ["foo", "connect-udp", "websocket/13"] {
            let opened = open_two(wharf.listener("main"), another(protocol), b"").await;
            if let Some(what) = wrong(&Refused(501), opened, &one.asked()).await {
                faults.push(format!("protocol {protocol}: {what}"));
            }
        }
    });
    println!("websocket: {} attempts by HTTP/2: {} cases, {} faults", fields.len() + 3, 2 * fields.len() + 3, faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn by_http_2_what_is_no_extended_connect_reaches_nobody() {
    let one = Far::start(By::One, |asked| judged(asked, By::One));
    let two = Far::start(By::Two, |asked| judged(asked, By::Two));
    let wharf = Wharf::start(config(&one, &two, "")).unwrap();
    type Fields<'a> = Vec<(&'a [u8], &'a [u8])>;
    let all: Fields<'_> = vec![
        (b":method", b"CONNECT"),
        (b":protocol", b"websocket"),
        (b":scheme", b"http"),
        (b":authority", b"a.example"),
        (b":path", b"/one/ws"),
    ];
    let without = |name: &[u8]| all.iter().copied().filter(|(have, _)| *have != name).collect::<Fields<'_>>();
    let with = |at: usize, field| {
        let mut fields = all.clone();
        fields[at] = field;
        fields
    };
    let more = |field| all.iter().copied().chain([field]).collect::<Fields<'_>>();
    let cases: Vec<(&str, Fields<'_>)> = vec![
        ("no scheme", without(b":scheme")),
        ("no path", without(b":path")),
        ("no authority", without(b":authority")),
        ("no protocol, which makes it a proxy's", without(b":protocol")),
        ("the protocol of a GET", with(0, (b":method", b"GET"))),
        ("the protocol of a POST", with(0, (b":method", b"POST"))),
        ("an empty protocol", with(1, (b":protocol", b""))),
        ("a protocol with a line in it", with(1, (b":protocol", b"websocket\r\nevil: 1"))),
        ("an empty path", with(4, (b":path", b""))),
        ("a path without a slash", with(4, (b":path", b"one/ws"))),
        ("a path around the routes", with(4, (b":path", b"/one%2fws"))),
        ("user information", with(3, (b":authority", b"u@a.example"))),
        ("two protocols", more((b":protocol", b"websocket"))),
        ("an upgrade besides", more((b"upgrade", b"websocket"))),
        ("a connection besides", more((b"connection", b"upgrade"))),
        ("another host besides", more((b"host", b"b.example"))),
        ("chunks besides", more((b"transfer-encoding", b"chunked"))),
        ("a key with a line in it", more((b"sec-websocket-key", b"a\r\nevil: 1"))),
    ];
    let mut faults = Vec::new();
    for (name, fields) in &cases {
        let mut connection = Two::open(wharf.listener("main"), &[]).unwrap();
        connection.send(&two::headers(1, false, fields)).unwrap();
        let ended = connection.ended(1, Duration::from_secs(10));
        let told = matches!(ended, two::Ended::Answered(400.., _) | two::Ended::Reset(_) | two::Ended::GoAway(_) | two::Ended::Closed);
        let asked = one.asked();
        if !told || !asked.is_empty() {
            faults.push(format!("{name}: ended {ended:?}, the upstream saw {asked:?}"));
        }
    }
    // A client that has said with its head that nothing more comes has a tunnel of which its half has ended.
    let mut connection = Two::open(wharf.listener("main"), &[]).unwrap();
    connection.send(&two::headers(1, true, &all)).unwrap();
    let ended = connection.ended(1, Duration::from_secs(10));
    if ended != two::Ended::Answered(200, Vec::new()) {
        faults.push(format!("a half that has ended: {ended:?}"));
    }
    connection.send(&two::frame(two::PING, 0, 0, b"still on")).unwrap();
    let pong = connection.next(Instant::now() + Duration::from_secs(10)).unwrap();
    assert_eq!((pong.kind, pong.flags & END), (two::PING, END), "the connection goes on");
    println!("websocket: {} heads that are no extended CONNECT, {} faults", cases.len() + 1, faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Answers to an upgrade that are none; `ACCEPT` is the right proof.
const HOSTILE: &[(&str, &str)] = &[
    ("no protocol", "HTTP/1.1 101 x\r\nconnection: upgrade\r\nsec-websocket-accept: ACCEPT\r\n\r\n"),
    ("no option", "HTTP/1.1 101 x\r\nupgrade: websocket\r\nsec-websocket-accept: ACCEPT\r\n\r\n"),
    ("another protocol", "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: foo\r\nsec-websocket-accept: ACCEPT\r\n\r\n"),
    (
        "two protocols",
        "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nupgrade: foo\r\nsec-websocket-accept: ACCEPT\r\n\r\n",
    ),
    (
        "a body",
        "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 5\r\nsec-websocket-accept: ACCEPT\r\n\r\nhello",
    ),
    (
        "chunks",
        "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\ntransfer-encoding: chunked\r\nsec-websocket-accept: ACCEPT\r\n\r\n0\r\n\r\n",
    ),
    ("HTTP/1.0", "HTTP/1.0 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: ACCEPT\r\n\r\n"),
    (
        "a line that is none",
        "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nx y: z\r\nsec-websocket-accept: ACCEPT\r\n\r\n",
    ),
    ("no HTTP", "RFB 003.008\n"),
    ("half a head", "HTTP/1.1 101 x\r\nconnection: upgrade\r\n"),
];

#[test]
fn an_upstream_that_does_not_switch_properly_switches_nothing() {
    let says = |asked: &Asked| {
        let at = asked.target.trim_start_matches('/').parse::<usize>().unwrap();
        let proof = accept(&asked.field("sec-websocket-key"));
        match HOSTILE.get(at) {
            Some((_, bytes)) => Says::Bytes(bytes.replace("ACCEPT", &proof)),
            None if at == 97 => Says::Bytes(format!(
                "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 x\r\nlink: </a>\r\n\r\nHTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {proof}\r\n\r\nhello"
            )),
            None if at == 98 => Says::Bytes(
                "HTTP/1.1 101 x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: bm90IGEgcHJvb2Y=\r\n\r\nhello".into(),
            ),
            None => Says::Bytes("HTTP/1.1 200 fine\r\ncontent-length: 5\r\n\r\nplain".into()),
        }
    };
    let one = Far::start(By::One, says);
    let two = Far::start(By::Two, |_| Says::Answer { status: 204, fields: Vec::new(), body: "" });
    let wharf = Wharf::start(config(&one, &two, "")).unwrap();
    let address = wharf.listener("main");
    let mut faults = Vec::new();
    run(async {
        for front in [By::One, By::Two] {
            for (at, (name, _)) in HOSTILE.iter().enumerate() {
                match open(address, front, &format!("/one/{at}"), &[], b"").await {
                    Opened::Answered(Head { status: 502, .. }, _) => {}
                    Opened::Answered(head, _) | Opened::Switched(head, _) => faults.push(format!("{name} by {front:?}: {head:?}")),
                    Opened::Broken => faults.push(format!("{name} by {front:?}: broken off")),
                }
            }
            // Interim answers may stand before it.
            let mut pipe = open(address, front, "/one/97", &[], b"").await.pipe();
            assert_eq!(pipe.from.rest().await.0, b"hello");
            // A wrong proof is for the client to see; one that speaks HTTP/2 cannot.
            match (front, open(address, front, "/one/98", &[], b"").await) {
                (By::One, Opened::Switched(head, _)) if head.field("sec-websocket-accept") == "bm90IGEgcHJvb2Y=" => {}
                (By::Two, Opened::Answered(Head { status: 502, .. }, _)) => {}
                _ => faults.push(format!("a wrong proof by {front:?}")),
            }
            // An answer without a switch is one by HTTP/1.1, and would be a switch by HTTP/2.
            match (front, open(address, front, "/one/99", &[], b"").await) {
                (By::One, Opened::Answered(Head { status: 200, .. }, body)) if body == b"plain" => {}
                (By::Two, Opened::Answered(Head { status: 502, .. }, _)) => {}
                (_, Opened::Answered(head, _) | Opened::Switched(head, _)) => faults.push(format!("no switch by {front:?}: {head:?}")),
                _ => faults.push(format!("no switch by {front:?}: broken off")),
            }
        }
    });
    let cases = 2 * (HOSTILE.len() + 3);
    println!("websocket: {cases} answers that are no proper switch, {} faults", faults.len());
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn an_upstream_by_http_2_that_takes_no_websocket_is_told_from_one_that_is_slow() {
    let one = Far::start(By::One, |asked| judged(asked, By::One));
    let two = Far::start_without_connect(|asked| judged(asked, By::Two));
    let wharf = Wharf::start(config(&one, &two, "")).unwrap();
    run(async {
        for front in [By::One, By::Two] {
            let begun = Instant::now();
            match open(wharf.listener("main"), front, "/two/ws", &[], b"").await {
                Opened::Answered(head, _) => assert_eq!(head.status, 502, "{head:?}"),
                _ => panic!("not answered by {front:?}"),
            }
            assert!(begun.elapsed() < Duration::from_secs(5));
        }
    });
    assert!(two.asked().is_empty(), "nothing of it was sent");
}

#[test]
fn rules_are_asked_before_a_websocket_is_opened() {
    let one = Far::start(By::One, |asked| judged(asked, By::One));
    let two = Far::start(By::Two, |asked| judged(asked, By::Two));
    // The hash of `key`.
    let key = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683";
    let config = config(&one, &two, "plugins: { auth: { file: \"@DIR@/auth.wasm\", grants: { kv: {} } } }");
    let mut routes = String::new();
    for to in ["one", "two"] {
        routes += &format!(
            "  - {{ name: key-{to}, match: {{ path: {{ prefix: /key-{to} }} }}, to: {to}, strip_prefix: true, plugins: [{{ plugin: auth, role: auth, config: {{ methods: [{{ api_key: {{ header: x-api-key, keys: [{{ sha256: {key}, consumer: acme }}], remove: true }} }}] }} }}] }}\n  - {{ name: rare-{to}, match: {{ path: {{ prefix: /rare-{to} }} }}, to: {to}, strip_prefix: true, rate_limits: [{{ rate: 1/h, burst: 1 }}] }}\n  - {{ name: away-{to}, match: {{ path: {{ prefix: /away-{to} }} }}, to: {to}, strip_prefix: true, access: {{ sources: {{ deny: [127.0.0.1] }} }} }}\n"
        );
    }
    let auth = std::fs::read(path("auth")).unwrap();
    let wharf = Setup::new(config + &routes).file("auth.wasm", auth).start().unwrap();
    let address = wharf.listener("main");
    let asked = |opened: Opened| match opened {
        Opened::Switched(..) => 101,
        Opened::Answered(head, _) => head.status,
        Opened::Broken => 0,
    };
    run(async {
        for front in [By::One, By::Two] {
            for (far, to) in [(&one, "one"), (&two, "two")] {
                let key = format!("/key-{to}/ws");
                assert_eq!(asked(open(address, front, &key, &[], b"").await), 401, "{front:?} to {to}");
                assert_eq!(asked(open(address, front, &key, &[("x-api-key", "wrong")], b"").await), 401, "{front:?} to {to}");
                assert_eq!(asked(open(address, front, &format!("/away-{to}/ws"), &[], b"").await), 403, "{front:?} to {to}");
                assert!(far.asked().is_empty(), "who is refused reaches nobody");
                let mut pipe = open(address, front, &key, &[("x-api-key", "key")], b"").await.pipe();
                pipe.into.send(&Frame::new(TEXT, "hello").masked().bytes()).await.unwrap();
                assert_eq!(pipe.from.next().await, Came::Some(Frame::new(TEXT, "hello").bytes().into()));
                let seen = far.asked();
                assert!(seen.len() == 1 && seen[0].field("x-api-key").is_empty(), "the key is not passed on: {seen:?}");
            }
        }
        for to in ["one", "two"] {
            let rare = format!("/rare-{to}/ws");
            assert_eq!(asked(open(address, By::One, &rare, &[], b"").await), 101);
            assert_eq!(asked(open(address, By::One, &rare, &[], b"").await), 429);
            assert_eq!(asked(open(address, By::Two, &rare, &[], b"").await), 429);
        }
    });
    println!("websocket: 22 attempts that rules decide about");
}
