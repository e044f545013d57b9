//! Connections to endpoints: those that stand ready before anybody calls, those that have become too old, and those that belong
//! to one request only.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use serde_json::Value;
use std::net::SocketAddr;
use std::time::Duration;
use wharf_harness::two::{self, Two};
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Setup, Upstream, Wharf, until};

const WAIT: Duration = Duration::from_secs(20);

fn config(services: &str, routes: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
workers: 2
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
{services}
routes:
{routes}
"#
    )
}

fn start(services: &str) -> Wharf {
    Setup::new(config(services, "  - { name: all, to: up }")).start().unwrap()
}

fn reload(wharf: &Wharf, config: &str) {
    wharf.write_config(config);
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
}

fn warm(name: &str, address: SocketAddr, more: &str) -> String {
    format!("  {name}: {{ endpoints: [\"{address}\"], connections_warm: 4, {more} }}\n")
}

fn until_open(upstream: &Upstream, count: u64) {
    until(&format!("{count} open connections"), WAIT, || (upstream.open() == count).then_some(()));
}

/// Connections that an upstream has ever had.
fn made(upstream: &Upstream) -> usize {
    upstream.streams().len()
}

fn get(wharf: &Wharf, path: &str) -> u16 {
    Connection::open(wharf.listener("main")).unwrap().get("a.example", path).unwrap().status
}

#[test]
fn connections_stand_ready_before_the_first_call_and_calls_use_them() {
    let up = Upstream::named("up");
    let wharf = start(&warm("up", up.address(), ""));
    until_open(&up, 4);
    assert_eq!(up.served(), 0);
    for _ in 0..8 {
        assert_eq!(get(&wharf, "/"), 200);
    }
    assert_eq!(made(&up), 4, "no call had to wait for a connection");
    assert_eq!(wharf.admin().metrics().get("wharf_upstream_warmed_total", &[("service", "up"), ("outcome", "good")]), 4.0);
}

#[test]
fn an_endpoint_that_is_away_is_no_failure_of_anybody_and_is_connected_to_when_it_is_back() {
    let up = Upstream::named("up");
    let (address, wharf) = (up.address(), start(&warm("up", up.address(), "")));
    until_open(&up, 4);
    drop(up);
    let failed = |wharf: &Wharf| wharf.admin().metrics().get("wharf_upstream_warmed_total", &[("service", "up"), ("outcome", "bad")]);
    until("dials to fail on both cores", WAIT, || (failed(&wharf) >= 4.0).then_some(()));
    let metrics = wharf.admin().metrics();
    let of_endpoint = [("service", "up"), ("endpoint", &*address.to_string())];
    assert_eq!(metrics.get("wharf_upstream_endpoint_fit", &of_endpoint), 1.0);
    assert_eq!(metrics.get("wharf_upstream_ejections_total", &[("service", "up")]), 0.0);
    let back = until("the port to be free", WAIT, || Upstream::start_at(address, |_| vec![Act::Send(ok(b"x"))]).ok());
    until_open(&back, 4);
    assert_eq!(back.served(), 0);
}

#[test]
fn a_new_configuration_warms_nothing_anew_and_keeps_nothing_of_what_is_gone() {
    let (up, other) = (Upstream::named("up"), Upstream::named("other"));
    let both = warm("up", up.address(), "") + &warm("other", other.address(), "");
    let wharf = start(&warm("up", up.address(), ""));
    until_open(&up, 4);
    reload(&wharf, &config(&both, "  - { name: all, to: up }"));
    until_open(&other, 4);
    assert_eq!((made(&up), up.open()), (4, 4));
    reload(&wharf, &config(&warm("other", other.address(), ""), "  - { name: all, to: other }"));
    until_open(&up, 0);
    assert_eq!((made(&other), other.open()), (4, 4));
}

#[test]
fn who_gets_no_calls_gets_no_connections() {
    let (well, ill, idle) = (Upstream::named("well"), Upstream::named("ill"), Upstream::named("idle"));
    ill.script(|_| vec![Act::Send(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n".to_vec()), Act::Close]);
    let services = format!(
        "  up: {{ endpoints: [\"{}\", \"{}\", {{ address: \"{}\", weight: 0 }}], connections_warm: 2, panic_below: 0%,
         timeouts: {{ idle: 1s }}, health: {{ http: /healthz, interval: 100ms }} }}\n",
        well.address(),
        ill.address(),
        idle.address()
    );
    let wharf = start(&services);
    let standing = |wharf: &Wharf, upstream: &Upstream| {
        wharf.admin().metrics().get("wharf_upstream_connections", &[("service", "up"), ("endpoint", &*upstream.address().to_string())])
    };
    // Until the first check has answered nobody knows, and all get calls.
    until("those to the ill one to end", WAIT, || (standing(&wharf, &well) == 2.0 && standing(&wharf, &ill) == 0.0).then_some(()));
    let made = || wharf.admin().metrics().get("wharf_upstream_warmed_total", &[("service", "up"), ("outcome", "good")]);
    let before = made();
    until("those to the well one to be replaced, twice", WAIT, || (made() >= before + 4.0).then_some(()));
    assert_eq!((standing(&wharf, &ill), standing(&wharf, &idle)), (0.0, 0.0));
    ill.script(|_| vec![Act::Send(ok(b"x"))]);
    until("connections to the one that is well again", WAIT, || (standing(&wharf, &ill) == 2.0).then_some(()));
    assert_eq!(standing(&wharf, &idle), 0.0);
}

#[test]
fn no_more_than_half_of_the_connections_are_taken_ahead_of_calls() {
    let up = Upstream::named("up");
    // Each of both cores would have one.
    let services = format!("  up: {{ endpoints: [\"{}\"], connections_max: 2, connections_warm: 1 }}\n", up.address());
    let wharf = start(&services);
    until_open(&up, 1);
    // On whichever core it comes in, there is one left for it.
    for _ in 0..6 {
        assert_eq!(get(&wharf, "/"), 200);
    }
    assert!(up.open() <= 2);
}

/// A gateway that speaks HTTP/2 in the clear, as an upstream.
fn behind(up: &Upstream) -> Wharf {
    start(&format!("  up: {{ endpoints: [\"{}\"] }}\n", up.address()))
}

fn connections(wharf: &Wharf, which: &str) -> f64 {
    wharf.admin().metrics().get(&format!("wharf_connections_{which}"), &[("listener", "main")])
}

#[test]
fn one_connection_of_http2_stands_ready_on_each_core() {
    let up = Upstream::named("up");
    let behind = behind(&up);
    let wharf = start(&warm("up", behind.listener("main"), "protocol: http2"));
    until("a connection for each core", WAIT, || (connections(&behind, "open") == 2.0).then_some(()));
    for _ in 0..8 {
        assert_eq!(get(&wharf, "/"), 200);
    }
    assert_eq!(connections(&behind, "accepted_total"), 2.0);
}

#[test]
fn a_connection_that_is_too_old_takes_no_more_calls() {
    let up = Upstream::named("up");
    let wharf = start(&format!("  up: {{ endpoints: [\"{}\"], timeouts: {{ lifetime: 1s }} }}\n", up.address()));
    let mut client = Connection::open(wharf.listener("main")).unwrap();
    until("a third connection", WAIT, || {
        assert_eq!(client.get("a.example", "/").unwrap().status, 200);
        (made(&up) >= 3).then_some(())
    });
    assert!(up.served() > 20, "each has taken many: {}", up.served());
    until_open(&up, 0);
}

#[test]
fn a_connection_of_http2_that_is_too_old_ends_with_its_last_stream() {
    let up = Upstream::start(|seen| match &*seen.request.target() {
        "/slow" => vec![Act::Pause(Duration::from_secs(4)), Act::Send(ok(b"slow"))],
        _ => vec![Act::Send(ok(b"x"))],
    });
    let behind = behind(&up);
    let services =
        format!("  up: {{ endpoints: [\"{}\"], protocol: http2, timeouts: {{ lifetime: 1s, head: 10s }} }}\n", behind.listener("main"));
    let wharf = start(&services);
    let address = wharf.listener("main");
    let slow = std::thread::spawn(move || Connection::open(address).unwrap().get("a.example", "/slow").unwrap().status);
    let mut client = Connection::open(address).unwrap();
    until("connections to be replaced", WAIT, || {
        assert_eq!(client.get("a.example", "/").unwrap().status, 200);
        (connections(&behind, "accepted_total") >= 4.0).then_some(())
    });
    assert_eq!(slow.join().unwrap(), 200);
    until("the old ones to be closed", WAIT, || (connections(&behind, "open") == 0.0).then_some(()));
}

#[test]
fn answers_of_one_endpoint_that_nobody_reads_leave_room_for_all_others() {
    const LARGE: usize = 1 << 20;
    const UNREAD: u32 = 300;
    let up = Upstream::start(|seen| match &*seen.request.target() {
        "/large" => vec![Act::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n").into()), Act::Fill(LARGE)],
        _ => vec![Act::Send(ok(&[b'x'; 10_000]))],
    });
    let many = |services: &str| config(services, "  - { name: all, to: up }").replace("main: { ", "main: { http2: { streams_max: 1000 }, ");
    let behind = Setup::new(many(&format!("  up: {{ endpoints: [\"{}\"] }}\n", up.address()))).start().unwrap();
    let wharf = Setup::new(many(&format!("  up: {{ endpoints: [\"{}\"], protocol: http2 }}\n", behind.listener("main")))).start().unwrap();
    // Its client gives no room for a single byte.
    let mut unread = Two::open(wharf.listener("main"), &[(4, 0)]).unwrap();
    unread.polite = false;
    for number in 0..UNREAD {
        unread.send(&two::get(2 * number + 1, "a.example", "/large")).unwrap();
    }
    let mut heads = 0;
    while heads < UNREAD {
        let frame = unread.next(std::time::Instant::now() + WAIT).expect("all heads come");
        heads += u32::from(frame.kind == two::HEADERS);
    }
    // On either core.
    for _ in 0..20 {
        let began = std::time::Instant::now();
        let reply = Connection::open(wharf.listener("main")).unwrap().get("a.example", "/").unwrap();
        assert_eq!((reply.status, reply.body.len()), (200, 10_000));
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    }
    let made = connections(&behind, "accepted_total");
    assert!(made <= 5.0, "{made} connections for some three hundred streams on two cores");
}

#[test]
fn bodies_that_do_not_come_leave_connections_to_requests_that_are_here() {
    let up = Upstream::named("up");
    let wharf = start(&format!("  up: {{ endpoints: [\"{}\"], connections_max: 20 }}\n", up.address()));
    let upload = |sent: &str| {
        let mut client = Connection::open(wharf.listener("main")).unwrap();
        client.send(format!("POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 10\r\n\r\n{sent}").as_bytes()).unwrap();
        client
    };
    // Two are left, one for each core.
    let mut slow: Vec<Connection> = (0..18).map(|_| upload("hello")).collect();
    until_open(&up, 18);
    assert_eq!(upload("hello").reply("POST").unwrap().status, 503);
    for _ in 0..8 {
        assert_eq!(get(&wharf, "/"), 200);
        assert_eq!(upload("helloworld").reply("POST").unwrap().status, 200, "it came with its head");
    }
    slow[0].send(b"world").unwrap();
    assert_eq!(slow[0].reply("POST").unwrap().status, 200);
    let mut next = upload("hello");
    next.send(b"world").unwrap();
    assert_eq!(next.reply("POST").unwrap().status, 200, "a place is given back with its body");
    drop(slow);
    until("the connections of the others to be closed", WAIT, || (up.open() <= 3).then_some(()));
}

#[test]
fn a_request_to_switch_protocols_has_a_connection_of_its_own_and_is_sent_once() {
    const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    // Two connections at most: the kept one makes room.
    let up = Upstream::start(|seen| match &*seen.request.target() {
        "/ws" => vec![Act::Close],
        _ => vec![Act::Send(ok(seen.connection.to_string().as_bytes()))],
    });
    let wharf = start(&format!("  up: {{ endpoints: [\"{}\"], connections_max: 1 }}\n", up.address()));
    let mut client = Connection::open(wharf.listener("main")).unwrap();
    assert_eq!(client.get("a.example", "/").unwrap().message.text(), "0");
    client.send(UPGRADE.as_bytes()).unwrap();
    assert_eq!(client.reply("GET").unwrap().status, 502);
    assert_eq!((up.served(), made(&up)), (2, 2), "not on the kept connection, and not again");
}
