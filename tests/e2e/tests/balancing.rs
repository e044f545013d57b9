//! One slow and one failing endpoint of ten: what callers feel of it under each balance, how soon a failing one is left out
//! and back, and that second tries keep their budget and repeat nothing unsafe.
//!
//! `WHARF_PROVE=1` runs the full length.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wharf_e2e::swaps::proves;
use wharf_harness::two::{self, Two};
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Load, Report, Setup, Upstream, Wharf, until};

const MS: Duration = Duration::from_millis(1);
/// A good answer, and the slow one's.
const GOOD: Duration = Duration::from_millis(10);
const SLOW: Duration = Duration::from_millis(300);
/// What takes longer is a test that hangs.
const HANGS: Duration = Duration::from_secs(60);

fn after(wait: Duration) -> impl Fn(&wharf_harness::upstream::Seen) -> Vec<Act> + Send + Sync {
    move |_| vec![Act::Pause(wait), Act::Send(ok(b"x"))]
}

fn failing() -> Vec<Act> {
    vec![Act::Send(b"HTTP/1.1 503 no\r\nContent-Length: 0\r\n\r\n".to_vec())]
}

fn start(services: &str, routes: &str) -> Wharf {
    Setup::new(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "off" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services:
{services}
routes:
{routes}
"#
    ))
    .start()
    .unwrap()
}

fn endpoints<'u>(upstreams: impl IntoIterator<Item = &'u Upstream>) -> String {
    let all: Vec<String> = upstreams.into_iter().map(|upstream| format!("\"{}\"", upstream.address())).collect();
    format!("[{}]", all.join(", "))
}

/// A rate that leaves this machine, which may be busy with other things, in peace.
fn rate() -> f64 {
    if proves() { 400.0 } else { 150.0 }
}

/// What callers felt: p99 of good answers after the first second, and the part of requests that failed.
fn felt(report: &Report) -> (Duration, f64) {
    let from = report.began + Duration::from_secs(1);
    let p99 = report.percentile_between(from, report.began + report.lasted, 0.99);
    (p99, report.failed as f64 / (report.failed + report.done) as f64)
}

#[test]
fn two_choices_by_latency_spare_callers_the_slow_and_the_failing() {
    let mut upstreams = vec![Upstream::start(after(SLOW)), Upstream::start(|_| failing())];
    upstreams.extend((0..8).map(|_| Upstream::start(after(GOOD))));
    let all = endpoints(&upstreams);
    let balances = ["round_robin", "least_request", "p2c_ewma"];
    // Nobody is left out and nothing is tried again: it is the choice alone that is measured.
    let services: String = balances
        .iter()
        .map(|balance| {
            format!("  {balance}: {{ endpoints: {all}, balance: {balance}, ejection: {{ failures: 0 }}, retries: {{ max: 0 }} }}\n")
        })
        .collect();
    // As it is meant to be run: the same choice, and all that stands beside it.
    let services = services + &format!("  all: {{ endpoints: {all}, balance: p2c_ewma, retries: {{ statuses: [503] }} }}\n");
    let routes: String = balances
        .iter()
        .chain(&["all"])
        .map(|name| format!("  - {{ name: {name}, match: {{ path: {{ prefix: /{name} }} }}, to: {name} }}\n"))
        .collect();
    let wharf = start(&services, &routes);
    let count = (rate() * if proves() { 60.0 } else { 6.0 }) as u64;
    let mut figures = HashMap::new();
    for name in balances.iter().chain(&["all"]) {
        let path = format!("/{name}");
        let report = Load::get(wharf.listener("main"), "x", &path).connections(64).rate(rate()).count(count).run();
        let (p99, failed) = felt(&report);
        println!("balancing {name}: p99 {p99:?}, {:.2} % failed, of {count} requests at {}/s", 100.0 * failed, rate());
        figures.insert(*name, (p99, failed));
    }
    let (turns, least, p2c, whole) = (figures["round_robin"], figures["least_request"], figures["p2c_ewma"], figures["all"]);
    assert!((0.08..0.12).contains(&turns.1) && turns.0 >= SLOW, "{figures:?}");
    assert!(p2c.1 < turns.1 / 3.0 && p2c.1 < least.1 / 3.0, "{figures:?}");
    assert!(p2c.0 < SLOW && p2c.0 < turns.0 && p2c.0 < least.0, "{figures:?}");
    assert_eq!(whole.1, 0.0, "{figures:?}");
    if proves() {
        assert!(p2c.0 < SLOW / 4 && p2c.1 < 0.01, "{figures:?}");
    }
}

/// The state of an endpoint, as an operator sees it.
fn state(wharf: &Wharf, service: &str, upstream: &Upstream) -> String {
    let shown = wharf.admin().get("/v1/services").expect();
    let service = shown["services"].as_array().unwrap().iter().find(|row| row["name"] == service).unwrap().clone();
    let address = upstream.address().to_string();
    let row = service["endpoints"].as_array().unwrap().iter().find(|row| row["address"] == address.as_str()).unwrap();
    row["state"].as_str().unwrap().to_owned()
}

#[test]
fn a_failing_endpoint_is_left_out_and_back_within_its_windows() {
    let base = Duration::from_millis(if proves() { 5_000 } else { 1_000 });
    let broken = Arc::new(AtomicBool::new(false));
    let script = broken.clone();
    let bad = Upstream::start(move |_| if script.load(Relaxed) { failing() } else { vec![Act::Send(ok(b"x"))] });
    let mut good: Vec<Upstream> = (0..3).map(|_| Upstream::named("good")).collect();
    let all = endpoints(good.iter().chain([&bad]));
    let services =
        format!("  s: {{ endpoints: {all}, ejection: {{ failures: 5, base: {}ms }}, retries: {{ statuses: [503] }} }}", base.as_millis());
    let wharf = start(&services, "  - { name: all, to: s }");
    let load = Load::get(wharf.listener("main"), "x", "/").connections(8).rate(200.0).start();
    until("calls reach it", HANGS, || (bad.served() > 5).then_some(()));

    let (mut outs, mut backs) = (Vec::new(), Vec::new());
    broken.store(true, Relaxed);
    for round in 0..3u32 {
        let began = Instant::now();
        until("it is left out", HANGS, || (state(&wharf, "s", &bad) == "ejected").then_some(()));
        outs.push(began.elapsed());
        let (left, served) = (Instant::now(), bad.served());
        if round == 2 {
            broken.store(false, Relaxed);
        }
        until("it is let back in", HANGS, || (state(&wharf, "s", &bad) != "ejected").then_some(()));
        backs.push(left.elapsed());
        // Calls that were under way when it was left out, and the first after it came back.
        assert!(bad.served() - served < 20, "{} calls while it was out", bad.served() - served);
    }
    let before = bad.served();
    until("it serves again", HANGS, || (bad.served() > before + 10).then_some(()));
    println!("ejection: left out after {outs:?} of failures at 50/s, back after {backs:?} (5 in a row; {base:?}, doubled each time)");
    let slack = if proves() { 500 * MS } else { 5_000 * MS };
    for (round, (out, back)) in outs.iter().zip(&backs).enumerate() {
        let due = base * 2u32.pow(round as u32);
        assert!(*out < 100 * MS + slack, "left out after {out:?}");
        assert!(*back + 300 * MS > due && *back < due + slack, "round {round}: back after {back:?}, due after {due:?}");
    }
    let report = load.stop();
    // Each failure was tried again elsewhere: nobody has felt any of it.
    report.expect_clean();
    good.clear();
}

#[test]
fn a_check_that_is_not_answered_takes_an_endpoint_out_before_callers_feel_it() {
    let ill = Arc::new(AtomicBool::new(false));
    let script = ill.clone();
    let bad = Upstream::start(move |seen| match seen.request.target().as_str() {
        "/healthz" if script.load(Relaxed) => vec![Act::Hang],
        _ => vec![Act::Send(ok(b"all is well"))],
    });
    let good = Upstream::named("all is well, too");
    let health = "health: { http: { path: /healthz, body: is well }, interval: 200ms, timeout: 100ms, healthy: 2, unhealthy: 2 }";
    let wharf = start(&format!("  s: {{ endpoints: {}, {health} }}", endpoints([&bad, &good])), "  - { name: all, to: s }");
    until("both are well", HANGS, || (state(&wharf, "s", &bad) == "used" && state(&wharf, "s", &good) == "used").then_some(()));
    ill.store(true, Relaxed);
    until("it is ill", HANGS, || (state(&wharf, "s", &bad) == "ill").then_some(()));
    let calls = |upstream: &Upstream| upstream.requests().iter().filter(|request| request.target() == "/call").count();
    Load::get(wharf.listener("main"), "x", "/call").count(50).run().expect_clean();
    assert_eq!((calls(&bad), calls(&good)), (0, 50));
    ill.store(false, Relaxed);
    until("it is well", HANGS, || (state(&wharf, "s", &bad) == "used").then_some(()));
    Load::get(wharf.listener("main"), "x", "/call").count(50).run().expect_clean();
    assert!(calls(&bad) >= 20, "{}", calls(&bad));
    // By hand, and back.
    let path = format!("/v1/services/s/endpoints/{}", bad.address());
    wharf.admin().post(&format!("{path}/drain"), &Value::Null).expect();
    assert_eq!(state(&wharf, "s", &bad), "drained");
    let before = calls(&bad);
    Load::get(wharf.listener("main"), "x", "/call").count(50).run().expect_clean();
    assert_eq!(calls(&bad), before);
    wharf.admin().post(&format!("{path}/undrain"), &Value::Null).expect();
    assert_eq!(state(&wharf, "s", &bad), "used");
}

#[test]
fn second_tries_keep_their_budget_and_repeat_nothing_unsafe() {
    let count: u64 = if proves() { 20_000 } else { 2_000 };
    // Some answer 503 and some hang up, always: what is tried again fails again.
    let mut upstreams: Vec<Upstream> = (0..2).map(|_| Upstream::start(|_| failing())).collect();
    upstreams.extend((0..2).map(|_| Upstream::start(|_| vec![Act::Close])));
    let all = endpoints(&upstreams);
    let wharf = start(
        &format!(
            "  s: {{ endpoints: {all}, ejection: {{ failures: 0 }}, retries: {{ max: 3, budget: 20%, statuses: [503], backoff: 1ms }} }}"
        ),
        "  - { name: all, to: s }",
    );
    let load = Load::new(wharf.listener("main"), |number| {
        let method = ["GET", "POST", "PUT", "PATCH"][number as usize % 4];
        let body = if method == "GET" { "" } else { "Content-Length: 2\r\n" };
        let rest = if method == "GET" { "" } else { "hi" };
        format!("{method} /{number} HTTP/1.1\r\nHost: x\r\n{body}\r\n{rest}").into_bytes()
    });
    let judged = |_: u64, reply: &wharf_harness::Reply| match reply.status {
        502 | 503 => Ok(()),
        other => Err(format!("status {other}")),
    };
    load.connections(16).count(count).judge(judged).run().expect_clean();
    let mut arrived: BTreeMap<String, u32> = BTreeMap::new();
    for request in upstreams.iter().flat_map(Upstream::requests) {
        *arrived.entry(request.target().to_owned()).or_default() += 1;
    }
    let tries: u64 = upstreams.iter().map(Upstream::served).sum();
    let unsafe_ones = arrived.iter().filter(|(path, _)| path[1..].parse::<u64>().unwrap() % 2 == 1);
    let worst = unsafe_ones.map(|(_, tries)| *tries).max().unwrap();
    println!(
        "retries: {tries} tries of {count} calls, all of which failed ({:.1} % more); an unsafe one arrived {worst} time",
        100.0 * (tries as f64 / count as f64 - 1.0)
    );
    assert_eq!(worst, 1, "a POST or PATCH that has arrived is not sent again");
    assert!(tries >= count && tries as f64 <= count as f64 * 1.2 + 10.0, "{tries} tries of {count} calls");
    assert!(tries as f64 > count as f64 * 1.15, "the budget is there to be used: {tries} tries of {count} calls");
}

#[test]
fn an_open_breaker_says_when_to_come_back() {
    let upstream = Upstream::start(|_| vec![Act::Send(b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n".to_vec())]);
    let services = format!("  s: {{ endpoints: {} }}", endpoints([&upstream]));
    let routes = "  - { name: guarded, match: { path: { prefix: /guarded } }, to: s, breaker: { calls_min: 10, open: 30s } }\n  - { name: open, to: s }";
    let wharf = start(&services, routes);
    let mut connection = wharf_harness::Connection::open(wharf.listener("main")).unwrap();
    for _ in 0..10 {
        assert_eq!(connection.get("x", "/guarded").unwrap().status, 500);
    }
    let refused = connection.get("x", "/guarded").unwrap();
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert_eq!(refused.status, 503);
    assert!((25..=30).contains(&wait), "{wait}");
    assert_eq!(upstream.served(), 10);
    assert_eq!(connection.get("x", "/open").unwrap().status, 500, "another route to the same service is asked on");
}

/// Ten uploads that stall, break off, are malformed or too long, and one that ends well after a while: before a service whose
/// breaker opens at the first slow call or failure, and whose endpoints are left out for one.
fn slow_uploads_count_against_nobody(upstreams: &[Upstream], all: &str, more: &str) {
    let wharf = Setup::new(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "off" }}
listeners:
  patient: {{ bind: "127.0.0.1:0", timeouts: {{ body: 20s }} }}
  strict: {{ bind: "127.0.0.1:0", timeouts: {{ body: 1s }} }}
services:
  s:
    endpoints: {all}
    balance: p2c_ewma
    {more}
    timeouts: {{ head: 700ms }}
    retries: {{ per_try: 500ms }}
    ejection: {{ failures: 1, base: 60s }}
    breaker: {{ errors: 1%, slow: 1%, slow_after: 500ms, calls_min: 1, open: 60s }}
    adaptive_concurrency: {{}}
routes:
  - {{ name: short, match: {{ path: {{ prefix: /short }} }}, to: s, timeouts: {{ whole: 2s }} }}
  - {{ name: small, match: {{ path: {{ prefix: /small }} }}, to: s, body_bytes_max: 10 }}
  - {{ name: all, to: s }}
"#
    ))
    .start()
    .unwrap();
    let (patient, strict) = (wharf.listener("patient"), wharf.listener("strict"));
    let begin = |address, path: &str| {
        let mut client = Connection::open(address).unwrap();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nhello").as_bytes()).unwrap();
        client
    };
    let chunked = |path: &str| {
        let mut client = Connection::open(patient).unwrap();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").as_bytes()).unwrap();
        client
    };
    let mut shorts: Vec<Connection> = (0..2).map(|_| begin(patient, "/short")).collect();
    let mut stalled: Vec<Connection> = (0..2).map(|_| begin(strict, "/")).collect();
    let (leaving, mut whole) = ((0..2).map(|_| begin(patient, "/")).collect::<Vec<_>>(), begin(patient, "/"));
    let (mut malformed, mut long) = (chunked("/"), chunked("/small"));
    let mut streams = Two::open(patient, &[]).unwrap();
    for stream in [1, 3] {
        let fields: [(&[u8], &[u8]); 4] = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"x"), (b":path", b"/")];
        streams.send(&two::headers(stream, false, &fields)).unwrap();
        streams.send(&two::frame(two::DATA, 0, stream, b"hello")).unwrap();
    }
    let begun =
        || upstreams.iter().flat_map(Upstream::heard).filter(|bytes| bytes.ends_with(b"hello") || bytes.ends_with(b"hello\r\n")).count();
    until("half of each to be with an endpoint", HANGS, || (begun() == 11).then_some(()));

    // Those whose time runs out are told so, and make the others late.
    for client in shorts.iter_mut().chain(&mut stalled) {
        assert_eq!(client.reply("POST").unwrap().status, 408);
    }
    malformed.send(b"no size\r\n").unwrap();
    assert_eq!(malformed.reply("POST").unwrap().status, 400);
    long.send(b"6\r\nworld!\r\n").unwrap();
    assert_eq!(long.reply("POST").unwrap().status, 413);
    drop(leaving);
    for stream in [1, 3] {
        streams.send(&two::frame(two::RST_STREAM, 0, stream, &8u32.to_be_bytes())).unwrap();
    }
    // Whoever has got half of a request does not wait for the other half.
    until("only the good one to be left with an endpoint", HANGS, || {
        (upstreams.iter().map(Upstream::open).sum::<u64>() == 1).then_some(())
    });
    whole.send(&[b'x'; 995]).unwrap();
    assert_eq!(whole.reply("POST").unwrap().status, 200);

    let shown = wharf.admin().get("/v1/services").expect();
    assert_eq!(shown["services"][0]["breaker"], "closed", "{shown}");
    for row in shown["services"][0]["endpoints"].as_array().unwrap() {
        assert_eq!(row["state"], "used", "{shown}");
        assert!(row["latency_ms"].as_f64().unwrap_or(0.0) < 500.0, "{shown}");
    }
    let metrics = wharf.admin().metrics();
    assert_eq!(metrics.get("wharf_upstream_ejections_total", &[("service", "s")]), 0.0);
    assert_eq!(metrics.get("wharf_breaker_opened_total", &[("guards", "service"), ("name", "s")]), 0.0);
    Load::get(patient, "x", "/").count(20).run().expect_clean();
}

#[test]
fn clients_that_send_slowly_or_not_at_all_count_against_nobody() {
    let upstreams: Vec<Upstream> = (0..2).map(|_| Upstream::named("x")).collect();
    slow_uploads_count_against_nobody(&upstreams, &endpoints(&upstreams), "");
}

#[test]
fn the_same_over_http2() {
    let upstreams: Vec<Upstream> = (0..2).map(|_| Upstream::named("x")).collect();
    let behind: Vec<Wharf> =
        upstreams.iter().map(|up| start(&format!("  s: {{ endpoints: {} }}", endpoints([up])), "  - { name: all, to: s }")).collect();
    let all: Vec<String> = behind.iter().map(|wharf| format!("\"{}\"", wharf.listener("main"))).collect();
    slow_uploads_count_against_nobody(&upstreams, &format!("[{}]", all.join(", ")), "protocol: http2");
}
