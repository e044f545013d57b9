//! Which hostile guest hurts its neighbour most? For whoever mends the test `hostile_guests`: each guest runs riot alone,
//! and the neighbour's latencies are printed, the worst last. `cargo run --release -p wharf-e2e --example riot [GUEST]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a tool stops at the first surprise, and prints")]

use std::time::Duration;
use wharf_e2e::guests::{self, ALL};
use wharf_e2e::swaps::half_capacity;
use wharf_harness::upstream::{Act, ok};
use wharf_harness::{Load, Upstream, Wharf};

fn main() {
    let upstream = Upstream::start(|seen| match seen.request.target().as_str() {
        "/slow" => vec![Act::Hang],
        _ => vec![Act::Send(ok(&seen.request.message.raw))],
    });
    let wharf = Wharf::start(guests::config(upstream.address())).unwrap();
    let main = wharf.listener("main");
    let rate = half_capacity(main, "guests.example", "/near", 16);
    let only = std::env::args().nth(1);
    let mut told = Vec::new();
    for guest in ALL.iter().filter(|guest| only.as_ref().is_none_or(|only| only == guest.name)) {
        let request = format!("GET {} HTTP/1.1\r\nHost: guests.example\r\n\r\n", guest.path()).into_bytes();
        let riot = Load::new(main, move |_| request.clone()).connections(2).rate(40.0).judge(|_, _| Ok(())).start();
        let near = Load::get(main, "guests.example", "/near").connections(16).rate(rate).run_for(Duration::from_millis(1_500));
        told.push((near.percentile(0.99), near.percentile(0.5), guest.name, riot.stop().done));
    }
    told.sort();
    for (p99, p50, name, calls) in told {
        println!("{name:24} {calls:6} calls, neighbour's p50 {p50:?} p99 {p99:?}");
    }
}
