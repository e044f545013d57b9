//! What is malformed, ambiguous or hostile, from clients and from upstreams, against the gateway as it is shipped.
//!
//! The cases are text, see `src/strictness.rs` and `data/strictness`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "this is test code: a panic is how a test tells, and its figures are printed")]

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Instant;
use wharf_e2e::strictness::{Failure, Kind, Rig, Wrong, cases, count};

/// Gateways side by side. Most of the time is spent waiting for deadlines.
const RIGS: usize = 6;

#[test]
fn nothing_ambiguous_passes_and_nothing_valid_is_refused() {
    let began = Instant::now();
    let cases = cases();
    let next = AtomicUsize::new(0);
    let work = || {
        let rig = Rig::start();
        let mut failures = Vec::new();
        while let Some(case) = cases.get(next.fetch_add(1, Relaxed)) {
            failures.extend(rig.run(case));
        }
        failures
    };
    let failures: Vec<Failure> = thread::scope(|scope| {
        let running: Vec<_> = (0..RIGS).map(|_| scope.spawn(work)).collect();
        running.into_iter().flat_map(|rig| rig.join().unwrap()).collect()
    });
    let of = |wrong| failures.iter().filter(|failure| failure.wrong == wrong).count();
    let repaired = cases.iter().filter(|case| case.repaired).count();
    for failure in &failures {
        println!("{failure}");
    }
    println!(
        "strictness: {} malformed requests, {} about fields, {} path tricks, {} hostile answers, {} valid requests, in {:.1} s",
        count(&cases, Kind::Malformed),
        count(&cases, Kind::Fields),
        count(&cases, Kind::Path),
        count(&cases, Kind::Answer),
        count(&cases, Kind::Valid),
        began.elapsed().as_secs_f64()
    );
    println!(
        "strictness: {} cases, {} forwarded ambiguously, {} leaks, {} bypasses, {} hung, {} valid refused, {repaired} repaired, {} answered otherwise",
        cases.len(),
        of(Wrong::Forwarded),
        of(Wrong::Leak),
        of(Wrong::Bypass),
        of(Wrong::Hung),
        of(Wrong::ValidRefused),
        of(Wrong::Other),
    );
    assert!(failures.is_empty(), "{} deviations, printed above", failures.len());
    // Enough of each, or the figures say nothing.
    assert!(count(&cases, Kind::Malformed) + count(&cases, Kind::Fields) + count(&cases, Kind::Answer) >= 150);
    assert!(count(&cases, Kind::Path) >= 40 && count(&cases, Kind::Valid) >= 40 && repaired <= 3);
}
