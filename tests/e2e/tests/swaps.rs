//! A plugin is changed again and again while requests flow: nobody notices.
//!
//! `WHARF_PROVE=1` runs the full length: 100 swaps in 100 s.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests stop at the first surprise, and print their figures"
)]

use serde_json::{Value, json};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};
use wharf_e2e::swaps::{BAD, Sightings, greeting, half_capacity, median, proves};
use wharf_harness::{Load, Setup, Upstream, Wharf, until};

const CONNECTIONS: usize = 8;
/// A swap that takes longer than this is a test that hangs.
const SWAP_MAX: Duration = Duration::from_secs(60);

fn start(upstream: &Upstream) -> Wharf {
    Setup::new(format!(
        r#"
node: {{ state_dir: "@DIR@/state" }}
admin: {{ bind: "127.0.0.1:0" }}
access_log: {{ to: "@DIR@/access.log" }}
listeners: {{ main: {{ bind: "127.0.0.1:0" }} }}
services: {{ up: {{ endpoints: ["{}"] }} }}
plugins: {{ greeting: {{}} }}
routes:
  - {{ name: all, to: up, plugins: [{{ plugin: greeting, role: filter }}] }}
"#,
        upstream.address()
    ))
    .start()
    .unwrap()
}

/// Under the load that runs; the middle of a few looks, because the allocator breathes.
fn pss_kib(wharf: &Wharf) -> f64 {
    let looks: Vec<f64> = (0..9)
        .map(|_| {
            thread::sleep(Duration::from_millis(60)); // look again
            wharf.pss_kib() as f64
        })
        .collect();
    median(&looks)
}

fn serving(wharf: &Wharf) -> Value {
    let versions = wharf.admin().get("/v1/plugins/greeting/versions").expect();
    versions["versions"].as_array().unwrap().iter().find(|row| row["state"] == "serving").unwrap()["version"].clone()
}

fn longest(times: &[Duration]) -> Duration {
    times.iter().copied().max().unwrap()
}

#[test]
fn a_swap_never_drops_a_request() {
    let (swaps, mark) = if proves() { (100u64, 20) } else { (20, 10) };
    let upstream = Upstream::echo();
    let wharf = start(&upstream);
    wharf.admin().put_bytes("/v1/plugins/greeting", &greeting(0)).expect();
    let rate = half_capacity(wharf.listener("main"), "swaps.example", "/", CONNECTIONS);

    let sightings = Arc::new(Sightings::new(swaps as usize + 1));
    let judge = sightings.clone();
    let load = Load::get(wharf.listener("main"), "swaps.example", "/")
        .connections(CONNECTIONS)
        .rate(rate)
        .judge(move |_, reply| judge.judge(reply))
        .start();
    let calm = Instant::now();
    until("the load runs", SWAP_MAX, || (load.done() as f64 > rate).then_some(()));

    let began = Instant::now();
    let (mut uploads, mut good, mut pss) = (Vec::new(), vec![0u64], Vec::new());
    for number in 1..=swaps {
        // One a second; one that took longer makes the next one come at once.
        let due = began + Duration::from_secs(number);
        thread::sleep(due.saturating_duration_since(Instant::now())); // look again: a pace, not a wait for something
        if number % 10 == 0 {
            let bad = BAD[(number / 10) as usize % BAD.len()];
            let before = serving(&wharf);
            let error = wharf.admin().put_bytes("/v1/plugins/greeting", &bad.bytes(number)).expect_refusal(422);
            assert!(error["message"].as_str().unwrap().contains(bad.says), "{}: {error}", bad.what);
            assert!(error["hint"].is_string(), "{}: {error}", bad.what);
            assert_eq!(serving(&wharf), before, "{}: the old version serves on", bad.what);
        } else {
            let bytes = greeting(number);
            let start = Instant::now();
            let pushed = wharf.admin().put_bytes("/v1/plugins/greeting", &bytes).expect();
            assert_eq!((&pushed["known"], &pushed["activated"]), (&json!(false), &json!(true)), "{pushed}");
            let first = until("a request is answered by the new version", SWAP_MAX, || sightings.first(number));
            uploads.push(first.saturating_duration_since(start));
            good.push(number);
        }
        if number == mark || number == swaps {
            pss.push(pss_kib(&wharf));
        }
    }
    let swapped = Instant::now();

    let rollbacks: Vec<Duration> = good
        .windows(2)
        .rev()
        .take(8)
        .map(|pair| {
            sightings.forget(pair[0]);
            let start = Instant::now();
            wharf.admin().post("/v1/plugins/greeting/rollback", &Value::Null).expect();
            let first = until("a request is answered by the version before", SWAP_MAX, || sightings.first(pair[0]));
            first.saturating_duration_since(start)
        })
        .collect();

    let report = load.stop();
    let growth = pss[1] / pss[0] - 1.0;
    println!(
        "swaps: {} good and {} bad uploads in {:.1} s at half capacity ({rate:.0}/s); {} requests, {} failed; \
         p99 before {:?}, during {:?}; upload to first answer median {:?}, longest {:?}; \
         rollback to first answer median {:?}, longest {:?}; PSS after swap {mark} {:.1} MiB, after swap {swaps} {:.1} MiB ({:+.1} %)",
        uploads.len(),
        swaps as usize - uploads.len(),
        (swapped - began).as_secs_f64(),
        report.done,
        report.failed,
        report.percentile_between(calm, began, 0.99),
        report.percentile_between(began, swapped, 0.99),
        median(&uploads),
        longest(&uploads),
        median(&rollbacks),
        longest(&rollbacks),
        pss[0] / 1024.0,
        pss[1] / 1024.0,
        100.0 * growth,
    );
    report.expect_clean();
    for (what, times, strict, busy) in
        [("upload to first answer", &uploads, 1_000, 60_000), ("rollback to first answer", &rollbacks, 100, 60_000)]
    {
        // The figure is one of an idle machine; elsewhere a version's record alone may wait half a minute for the disk, and
        // only a hang is told from work.
        let limit = Duration::from_millis(if proves() { strict } else { busy });
        assert!(longest(times) < limit, "{what}: {times:?}");
    }
    // Ten swaps after ten are still near the start, and the allocator breathes; a version that stays weighs megabytes.
    let growth_max = if proves() { 0.05 } else { 0.25 };
    assert!(growth < growth_max, "PSS grew by {:.1} %, at most {:.0} % is allowed", 100.0 * growth, 100.0 * growth_max);
}
