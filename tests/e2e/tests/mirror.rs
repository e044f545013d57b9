//! Mirrors through a real gateway: copies are sent, and whatever becomes of them the requests do not feel it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use std::time::Duration;
use wharf_harness::{Connection, Load, Upstream, Wharf, until};

fn gateway(up: &Upstream, copies: std::net::SocketAddr, mirror: &str) -> Wharf {
    Wharf::start(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: off }}
workers: 1
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
  up: {{ endpoints: ["{}"] }}
  copies: {{ endpoints: ["{copies}"], timeouts: {{ head: 30s }} }}
routes: [{{name: a, to: up, rewrite: {{prefix: /v2}}, mirror: {{service: copies{mirror}}}}}]
"#,
        up.address()
    ))
    .unwrap()
}

fn counts(wharf: &Wharf) -> (f64, f64) {
    let metrics = wharf.admin().metrics();
    let labels = [("route", "a"), ("service", "copies")];
    (metrics.get("wharf_mirror_sent_total", &labels), metrics.get("wharf_mirror_dropped_total", &labels))
}

#[test]
fn a_copy_is_the_request_as_it_was_sent_and_says_that_it_is_a_copy() {
    let (up, copies) = (Upstream::echo(), Upstream::named("thrown away"));
    let wharf = gateway(&up, copies.address(), "");
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(b"POST /a?q=1 HTTP/1.1\r\nHost: a.example\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let reply = connection.reply("POST").unwrap();
    assert!(reply.text().contains("POST /v2/a?q=1") && !reply.text().to_ascii_lowercase().contains("x-wharf-mirror"), "{}", reply.text());
    // In pieces: it can only be copied once all of it has passed.
    connection.send(b"PUT /b HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n").unwrap();
    connection.send(b"3\r\ndef\r\n0\r\n\r\n").unwrap();
    assert!(connection.reply("PUT").unwrap().text().contains("PUT /v2/b"));
    until("both copies came", Duration::from_secs(10), || (copies.served() == 2).then_some(()));
    let seen = copies.requests();
    let copy = |target: &str| seen.iter().find(|request| request.target() == target).unwrap_or_else(|| panic!("no copy of {target}"));
    let (first, second) = (copy("/v2/a?q=1"), copy("/v2/b"));
    assert_eq!((first.method().as_str(), first.text().as_str(), first.field("x-a").as_deref()), ("POST", "hello", Some("1")));
    assert_eq!(first.field("x-wharf-mirror").as_deref(), Some("1"));
    assert_eq!((second.method().as_str(), second.text().as_str()), ("PUT", "abcdef"));
    assert_eq!(counts(&wharf), (2.0, 0.0));
}

#[test]
fn no_client_can_pass_its_request_off_as_a_copy() {
    let (up, copies) = (Upstream::echo(), Upstream::named("thrown away"));
    let wharf = gateway(&up, copies.address(), "");
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(b"GET /a HTTP/1.1\r\nHost: a.example\r\nX-Wharf-Mirror: 1\r\nX_Wharf_Mirror: 2\r\nX-A: 1\r\n\r\n").unwrap();
    let seen = connection.reply("GET").unwrap().text().to_ascii_lowercase();
    assert!(seen.contains("x-a: 1") && !seen.contains("mirror"), "{seen}");
    // Nor does it keep its request from being copied.
    until("the copy came", Duration::from_secs(10), || (copies.served() == 1).then_some(()));
    assert_eq!(copies.last().all("x-wharf-mirror"), ["1"]);
}

#[test]
fn a_mirror_that_never_answers_delays_and_fails_nothing() {
    let (up, silent) = (Upstream::named("up"), Upstream::silent());
    let wharf = gateway(&up, silent.address(), ", in_flight_max: 4, timeout: 20s");
    let report = Load::get(wharf.listener("main"), "a.example", "/").connections(4).count(2000).run();
    report.expect_clean();
    // Four hang; for all others there is no room, and nobody waits for one.
    assert_eq!(counts(&wharf), (4.0, 1996.0));
    assert!(report.percentile(0.99) < Duration::from_millis(500), "{:?}", report.percentile(0.99));
}

#[test]
fn a_mirror_that_is_not_there_fails_nothing() {
    let up = Upstream::named("up");
    let nobody = wharf_harness::upstream::Refusing::new();
    let wharf = gateway(&up, nobody.address(), "");
    Load::get(wharf.listener("main"), "a.example", "/").connections(2).count(200).run().expect_clean();
    assert_eq!(up.served(), 200);
}

#[test]
fn a_share_of_the_requests_is_copied_and_none_with_a_large_body() {
    let (up, copies) = (Upstream::named("up"), Upstream::named("copies"));
    let wharf = gateway(&up, copies.address(), ", share: 20%, body_bytes_max: 8B, in_flight_max: 1000");
    Load::get(wharf.listener("main"), "a.example", "/").connections(1).count(1000).run().expect_clean();
    let (sent, dropped) = counts(&wharf);
    assert!((140.0..260.0).contains(&sent) && dropped == 0.0, "{sent} sent, {dropped} dropped");
    let large = |_| b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\n123456789".to_vec();
    Load::new(wharf.listener("main"), large).count(500).run().expect_clean();
    let (still, dropped) = counts(&wharf);
    assert_eq!(still, sent);
    assert!((60.0..140.0).contains(&dropped), "{dropped} dropped");
}
