//! Rate limits through a real gateway: exact over all cores, apart for each caller, and kept over a reload.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests stop at the first surprise")]

use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use wharf_harness::upstream::ok;
use wharf_harness::{Act, Connection, Load, Reply, Upstream, Wharf, until};

fn config(up: &Upstream, settings: &str) -> String {
    format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
workers: 4
listeners: {{ main: {{ bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
{settings}
"#,
        up.address()
    )
}

fn get(wharf: &Wharf, target: &str, fields: &str) -> Reply {
    let mut connection = Connection::open(wharf.listener("main")).unwrap();
    connection.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n{fields}\r\n").as_bytes()).unwrap();
    connection.reply("GET").unwrap()
}

fn passed(wharf: &Wharf, times: usize, target: &str, fields: &str) -> usize {
    (0..times).filter(|_| get(wharf, target, fields).status == 200).count()
}

#[test]
fn of_a_thousand_requests_over_all_cores_exactly_the_allowed_number_pass() {
    let up = Upstream::named("up");
    // An hour's worth takes 36 s for the next one: none is earned back within the test.
    let settings = "routes: [{name: a, to: up, rate_limits: [{rate: 100/h, burst: 10}]}]";
    let wharf = Wharf::start(config(&up, settings)).unwrap();
    let allowed = Arc::new(AtomicU64::new(0));
    let counting = allowed.clone();
    let report = Load::get(wharf.listener("main"), "a.example", "/")
        .connections(8)
        .count(1000)
        .judge(move |_, reply| match reply.status {
            200 => {
                counting.fetch_add(1, Relaxed);
                Ok(())
            }
            429 => Ok(()),
            other => Err(format!("status {other}")),
        })
        .run();
    assert_eq!((report.done, report.failed), (1000, 0), "{:?}", report.failures);
    assert_eq!((allowed.load(Relaxed), up.served()), (10, 10));
    let refused = wharf.admin().metrics().get("wharf_rate_limited_total", &[("route", "a"), ("limit", "routes.a.rate_limits[0]")]);
    assert_eq!(refused, 990.0);
    let reply = get(&wharf, "/", "");
    let wait: u64 = reply.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=36).contains(&wait), "{wait} s");
    assert_eq!(reply.field("ratelimit-limit").as_deref(), Some("100"));
    assert_eq!(reply.field("ratelimit-remaining").as_deref(), Some("0"));
    assert_eq!(reply.json()["code"], "limited");
}

#[test]
fn each_caller_has_a_count_of_its_own_and_a_named_limit_is_one_for_all_routes() {
    let up = Upstream::named("up");
    let settings = "
rate_limits: {shared: {rate: 5/h, by: client}}
routes:
  - {name: key, match: {path: {prefix: /key}}, to: up, rate_limits: [{rate: 3/h, by: {header: x-key}}]}
  - {name: one, match: {path: {prefix: /one}}, to: up, rate_limits: [shared]}
  - {name: two, match: {path: {prefix: /two}}, to: up, rate_limits: [shared, {rate: 2/h}]}
";
    let wharf = Wharf::start(config(&up, settings)).unwrap();
    assert_eq!(passed(&wharf, 6, "/key", "X-Key: a\r\n"), 3);
    assert_eq!(passed(&wharf, 6, "/key", "X-Key: b\r\n"), 3);
    assert_eq!(passed(&wharf, 2, "/one", "X-Forwarded-For: 10.0.0.1\r\n"), 2);
    assert_eq!(passed(&wharf, 6, "/two", "X-Forwarded-For: 10.0.0.1\r\n"), 2, "the route's own is the narrower");
    assert_eq!(
        passed(&wharf, 6, "/one", "X-Forwarded-For: 10.0.0.1\r\n"),
        0,
        "all of the shared one is used, by those refused elsewhere, too"
    );
    assert_eq!(passed(&wharf, 6, "/one", "X-Forwarded-For: 10.0.0.2\r\n"), 5);
}

#[test]
fn what_is_used_of_a_limit_stays_used_over_a_reload() {
    let up = Upstream::named("up");
    let settings = |rate: &str, more: &str| format!("routes: [{{name: a, to: up, rate_limits: [{{rate: {rate}, by: client}}]}}{more}]");
    let wharf = Wharf::start(config(&up, &settings("5/h", ""))).unwrap();
    assert_eq!(passed(&wharf, 9, "/", ""), 5);
    let other = ", {name: b, match: {path: {prefix: /b}}, to: up}";
    wharf.write_config(&config(&up, &settings("5/h", other)));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    assert_eq!(get(&wharf, "/b", "").status, 200, "the new file serves");
    assert_eq!(passed(&wharf, 3, "/", ""), 0);
    wharf.write_config(&config(&up, &settings("6/h", other)));
    wharf.admin().post("/v1/config/reload", &Value::Null).expect();
    assert_eq!(passed(&wharf, 9, "/", ""), 6, "another limit begins anew");
}

#[test]
fn a_limit_of_a_service_is_one_over_all_routes_that_lead_to_it_and_counts_a_request_once() {
    // Every second try fails, so that each request is tried twice.
    let up = Upstream::start(|seen| match seen.number % 2 {
        0 => vec![Act::Close],
        _ => vec![Act::Send(ok(b"up"))],
    });
    let copies = Upstream::named("copies");
    let config = format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
workers: 2
listeners: {{ main: {{ bind: "127.0.0.1:0", trusted_proxies: [127.0.0.1] }} }}
rate_limits: {{ shared: {{ rate: 100/h, burst: 4, by: client }} }}
services:
  up:
    endpoints: ["{up}"]
    rate_limits: [shared, {{ rate: 100/h, burst: 6 }}]
    ejection: {{ failures: 0 }}
    retries: {{ budget: 100% }}
  copies: {{ endpoints: ["{copies}"], rate_limits: [{{ rate: 1/h }}] }}
routes:
  - {{ name: one, match: {{ path: {{ prefix: /one }} }}, to: up }}
  - {{ name: two, match: {{ path: {{ prefix: /two }} }}, to: {{ split: [{{ service: up, weight: 1 }}] }} }}
  - {{ name: to-copies, match: {{ path: {{ prefix: /to-copies }} }}, to: copies, mirror: {{ service: copies }} }}
"#,
        up = up.address(),
        copies = copies.address()
    );
    let wharf = Wharf::start(config).unwrap();
    let from = |client: &str| format!("X-Forwarded-For: {client}\r\n");
    assert_eq!(passed(&wharf, 3, "/one", &from("10.0.0.1")), 3);
    assert_eq!(passed(&wharf, 3, "/two", &from("10.0.0.1")), 1, "the fourth of this client");
    assert_eq!(up.served(), 8, "each that passed was tried twice, the others not at all");
    // Those that the first of both refused have not been counted by the second.
    assert_eq!(passed(&wharf, 4, "/two", &from("10.0.0.2")), 2, "the sixth of all");
    let reply = get(&wharf, "/one", &from("10.0.0.3"));
    assert_eq!((reply.status, reply.json()["code"].as_str()), (429, Some("limited")));
    assert!(reply.field("retry-after").is_some() && reply.field("ratelimit-limit").as_deref() == Some("100"));
    let metrics = wharf.admin().metrics();
    let refused = |limit: &str| metrics.get("wharf_rate_limited_total", &[("service", "up"), ("limit", limit)]);
    assert_eq!((refused("shared"), refused("services.up.rate_limits[1]")), (2.0, 3.0));
    // A copy is not counted: it must not cost a caller its request.
    assert_eq!(get(&wharf, "/to-copies", "").status, 200);
    until("the copy", Duration::from_secs(20), || (copies.served() == 2).then_some(()));
    assert_eq!(get(&wharf, "/to-copies", "").status, 429);
    let told = wharf.cli(&["explain", "http://a.example/one", "--json", "--config", "wharf.yaml"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("rate_limits[0]") && told.contains("rate_limits[1]"), "{told}");
}
