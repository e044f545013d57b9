//! Requests that are carried over as messages: on the embedded bus within one gateway, and over a real Kafka between several.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use std::net::SocketAddr;
use std::time::Duration;
use wharf_harness::servers::kafka::Kafka;
use wharf_harness::{Connection, Load, Reply, Upstream, Wharf, until};

/// Longest wait for anything.
const SOON: Duration = Duration::from_secs(60);

const HEAD: &str = r#"
node: { state_dir: "@DIR@/state", name: NAME }
admin: { bind: "127.0.0.1:0" }
access_log: { to: off }
workers: 1
"#;

const NEAR: &str = r#"
listeners: { web: { bind: "127.0.0.1:0" } }
routes:
  - { name: near, match: { listeners: [web] }, to: { ferry: orders } }
"#;

/// Near and far side in one process.
fn alone(up: &Upstream) -> Wharf {
    let head = HEAD.replace("NAME", "alone");
    let config = format!(
        r#"{head}
listeners: {{ web: {{ bind: "127.0.0.1:0" }} }}
buses: {{ main: {{ embedded: {{}} }} }}
ferry:
  worker: 1
  near: {{ orders: {{ bus: main, order_by: {{ header: x-order }} }} }}
  far: {{ orders-in: {{ bus: main }} }}
services: {{ backend: {{ endpoints: ["{}"] }} }}
routes:
  - {{ name: answers, match: {{ listeners: [web], path: {{ prefix: /ferry/messages }} }}, to: {{ ferry_answers: orders }} }}
  - {{ name: near, match: {{ listeners: [web] }}, to: {{ ferry: orders }} }}
  - {{ name: far, match: {{ listeners: [orders-in] }}, to: backend }}
"#,
        up.address()
    );
    Wharf::start(config).unwrap()
}

fn near(kafka: &Kafka) -> Wharf {
    let head = HEAD.replace("NAME", "near-1");
    Wharf::start(format!(
        "{head}{NEAR}buses: {{ main: {{ kafka: {{ brokers: [\"{}\"] }} }} }}\nferry: {{ worker: 1, near: {{ orders: {{ bus: main }} }} }}\n",
        kafka.address()
    ))
    .unwrap()
}

fn far(kafka: &Kafka, name: &str, ups: &[SocketAddr]) -> Wharf {
    let head = HEAD.replace("NAME", name);
    let endpoints: Vec<String> = ups.iter().map(|up| format!("\"{up}\"")).collect();
    let config = format!(
        r#"{head}
listeners: {{ web: {{ bind: "127.0.0.1:0" }} }}
buses: {{ main: {{ kafka: {{ brokers: ["{}"] }} }} }}
ferry: {{ far: {{ orders-in: {{ bus: main, dead_after: 6s }} }} }}
services: {{ backend: {{ endpoints: [{}] }} }}
routes:
  - {{ name: far, match: {{ listeners: [orders-in] }}, to: backend }}
"#,
        kafka.address(),
        endpoints.join(", ")
    );
    Wharf::start(config).unwrap()
}

/// Waits until requests are carried over.
fn ready(wharf: &Wharf) {
    until("the ferry carries over", SOON, || {
        let reply = Connection::open(wharf.listener("web")).unwrap().get("a.example", "/ready").ok()?;
        (reply.status == 200).then_some(())
    });
}

fn ask(wharf: &Wharf, request: &str) -> Reply {
    let method = request.split(' ').next().unwrap().to_owned();
    let mut connection = Connection::open(wharf.listener("web")).unwrap();
    connection.send(request.as_bytes()).unwrap();
    connection.reply(&method).unwrap()
}

/// Each answer is that of its own request, by what the echo says.
fn numbered(address: SocketAddr) -> Load {
    let make = |number| {
        let body = format!("{{\"number\":{number}}}");
        format!(
            "POST /orders/{number}?a=1 HTTP/1.1\r\nHost: a.example\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let judge = |number: u64, reply: &Reply| {
        let text = reply.text();
        let own = text.starts_with(&format!("POST /orders/{number}?a=1 ")) && text.ends_with(&format!("{{\"number\":{number}}}"));
        if reply.status == 200 && own { Ok(()) } else { Err(format!("{number}: {} {text}", reply.status)) }
    };
    Load::new(address, make).judge(judge)
}

#[test]
fn a_request_crosses_the_embedded_bus_and_its_answer_comes_back() {
    let up = Upstream::echo();
    let wharf = alone(&up);
    ready(&wharf);
    let reply = ask(
        &wharf,
        "POST /a/b?c=d HTTP/1.1\r\nHost: a.example\r\nX-A: 1\r\nX-Order: 7\r\nConnection: close, x-b\r\nX-B: 2\r\nContent-Length: 5\r\n\r\nhello",
    );
    let text = reply.text().to_ascii_lowercase();
    assert_eq!(reply.status, 200);
    assert!(
        text.starts_with("post /a/b?c=d http/1.1") && text.ends_with("hello") && text.contains("x-a: 1") && !text.contains("x-b"),
        "{text}"
    );
    assert!(text.contains("host: a.example") && text.contains("x-forwarded-for: 127.0.0.1"), "{text}");
    // A thousand, each its own.
    let before = up.served();
    numbered(wharf.listener("web")).connections(32).count(1000).run().expect_clean();
    assert_eq!(up.served() - before, 1000);
}

#[test]
fn errors_of_a_ferry_have_their_codes() {
    let up = Upstream::silent();
    let head = HEAD.replace("NAME", "alone");
    let config = format!(
        r#"{head}
listeners: {{ web: {{ bind: "127.0.0.1:0" }} }}
buses: {{ main: {{ embedded: {{}} }} }}
ferry:
  worker: 1
  near: {{ orders: {{ bus: main }}, old: {{ bus: main, statuses: {{ message_timeout: 200, system_error: 200 }} }} }}
  far: {{ orders-in: {{ bus: main }} }}
services:
  silent: {{ endpoints: ["{}"], timeouts: {{ head: 300ms }} }}
  patient: {{ endpoints: ["{0}"] }}
  nobody: {{ endpoints: ["127.0.0.1:1"] }}
routes:
  - {{ name: near, match: {{ listeners: [web] }}, to: {{ ferry: orders }}, timeouts: {{ whole: 3s }} }}
  - {{ name: old, match: {{ listeners: [web], headers: {{ x-old: present }} }}, to: {{ ferry: old }}, timeouts: {{ whole: 1s }} }}
  - {{ name: far, match: {{ listeners: [orders-in], path: {{ prefix: /silent }} }}, to: silent }}
  - {{ name: patient, match: {{ listeners: [orders-in], path: {{ prefix: /patient }} }}, to: patient }}
  - {{ name: nobody, match: {{ listeners: [orders-in], path: {{ prefix: /nobody }} }}, to: nobody }}
  - {{ name: ready, match: {{ listeners: [orders-in], path: {{ exact: /ready }} }}, to: {{ answer: {{ status: 200 }} }} }}
"#,
        up.address()
    );
    let wharf = Wharf::start(config).unwrap();
    ready(&wharf);
    let told = |path: &str, field: &str| {
        let reply = ask(&wharf, &format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n{field}\r\n"));
        let json = reply.json();
        assert_eq!(reply.field("x-ferry-error-code").unwrap_or_default(), json["errCode"].as_str().unwrap_or_default(), "{}", reply.text());
        (reply.status, json["errCode"].as_str().unwrap_or_default().to_owned(), json["errMsg"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(told("/silent", ""), (504, "5001".into(), "network timeout".into()));
    assert_eq!(told("/nobody", ""), (500, "5000".into(), "system error".into()));
    assert_eq!(told("/nobody", "x-old: 1\r\n"), (200, "5000".into(), "system error".into()));
    // The service may take its time, the caller does not.
    assert_eq!(told("/patient", "x-old: 1\r\n"), (200, "2001".into(), "Kafka message timeout".into()));
    // What the other side refuses, it refuses in its own words.
    assert_eq!(ask(&wharf, "GET /unknown HTTP/1.1\r\nHost: a.example\r\n\r\n").status, 404);
}

#[test]
fn what_nobody_waits_for_is_taken_and_done() {
    let up = Upstream::echo();
    let wharf = alone(&up);
    ready(&wharf);
    let before = up.served();
    let reply = ask(&wharf, "POST /later HTTP/1.1\r\nHost: a.example\r\nPrefer: respond-async\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(reply.status, 202);
    let location = reply.field("location").unwrap();
    assert!(location.starts_with("/ferry/messages/"), "{}", reply.text());
    until("it is done", SOON, || (up.served() == before + 1).then_some(()));
    assert_eq!((up.last().target(), up.last().text()), ("/later".into(), "hi".into()));
    // And what came of it is found by its id, again and again, also once the node was started anew.
    let answer = |wharf: &Wharf| {
        until("its answer is there", SOON, || {
            let reply = Connection::open(wharf.listener("web")).unwrap().get("a.example", &location).unwrap();
            (reply.status != 202).then_some(reply)
        })
    };
    let first = answer(&wharf);
    assert!(first.status == 200 && first.text().starts_with("POST /later "), "{}", first.text());
    let wharf = wharf.kill_and_start().unwrap();
    assert_eq!(answer(&wharf).text(), first.text());
    let get = |path: &str| Connection::open(wharf.listener("web")).unwrap().get("a.example", path).unwrap().status;
    assert_eq!((get("/ferry/messages/x"), get("/ferry/messages/9000000000000000000")), (404, 404));
}

#[test]
fn requests_cross_a_real_kafka_and_survive_the_death_of_a_far_node() {
    let kafka = Kafka::start();
    let ups = [Upstream::echo(), Upstream::echo()];
    let addresses = [ups[0].address(), ups[1].address()];
    let near = near(&kafka);
    let one = far(&kafka, "far-1", &addresses);
    ready(&near);
    numbered(near.listener("web")).connections(64).count(2000).run().expect_clean();
    // Another node takes its part, and is killed in the middle; the one that is left does what it had not begun.
    let two = far(&kafka, "far-2", &addresses);
    let load = Load::new(near.listener("web"), |number| {
        format!("POST /k/{number} HTTP/1.1\r\nHost: a.example\r\nIdempotency-Key: {number}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    })
    .judge(|_, reply| match (reply.status, reply.field("x-ferry-error-code").as_deref()) {
        (200, None) | (_, Some("2001" | "2002" | "5000")) => Ok(()),
        _ => Err(format!("{} {}", reply.status, reply.text())),
    })
    .connections(32)
    .rate(300.0)
    .start();
    until("both work", SOON, || (load.done() > 600).then_some(()));
    drop(two);
    let before = load.done();
    until("it goes on without the one that was killed", SOON, || (load.done() > before + 1500).then_some(()));
    load.stop().expect_clean();
    drop(one);
}
