//! What one warm call costs: `cargo bench -p wharf-wasm --bench call`. Cases are interleaved, eight calls each in turn,
//! so that a change of the machine's mood strikes all of them; p10 is the undisturbed machine.
//!
//! The figures are of the whole door, `Authenticate::check` and its like: boxes, facts, limits, metrics, two clock
//! reads and the call itself.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::print_stdout, reason = "a bench prints, and stops at the first surprise")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::rc::Rc;
use std::time::Instant;
use wharf_core::exchange::Facts;
use wharf_core::rules::{Authenticate, Decision, Filter, Route};
use wharf_wasm::rules;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EACH: usize = 8;

fn request() -> Facts {
    let mut facts = common::facts("/orders/1234");
    for n in 0..8 {
        facts.request.fields.add(format!("x-filler-{n}").as_bytes(), b"something that a browser would send along with it, sixty bytes");
    }
    let signed = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJjdXN0b21lci00NzExIiwiZXhwIjoxOTAwMDAwMDAwLCJhdWQiOiJzaG9wIn0";
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"a secret of thirty-two bytes ...");
    let tag: String = aws_lc_rs::hmac::sign(&key, signed.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    facts.request.fields.add(b"authorization", format!("Bearer {signed}.{tag}").as_bytes());
    facts.attrs.set("consumer", "customer-4711");
    facts
}

struct Rules {
    auth: Rc<dyn Authenticate>,
    route: Rc<dyn Route>,
    filter: Rc<dyn Filter>,
}

fn main() {
    // A number on the command line: so many calls, for a profiler.
    let rounds = std::env::args().find_map(|arg| arg.parse::<usize>().ok()).unwrap_or(20_000);
    let began = Instant::now();
    drop(wharf_wasm::Engine::start(&wharf_wasm::EngineLimits::default()).unwrap());
    println!(
        "engine of {} instances made and unmade in {} us",
        wharf_wasm::EngineLimits::default().instances_max,
        began.elapsed().as_micros()
    );
    common::on_a_core(async {
        let house = common::House::new(64);
        let core = house.core();
        let mut made = Vec::new();
        for (version, config) in [(1, "\"auth\""), (2, "\"route\""), (3, "\"filter\"")] {
            made.push(house.try_ready("quick", version, config, common::patient()).await.unwrap());
        }
        let fresh = wharf_wasm::Quotas { fresh_per_call: true, ..common::patient() };
        let fresh = house.try_ready("quick", 4, "\"filter\"", fresh).await.unwrap();
        let fresh = rules::filter(&core, &fresh, None).unwrap();
        let rules = Rules {
            auth: rules::auth(&core, &made[0], None).unwrap(),
            route: rules::route(&core, &made[1], None).unwrap(),
            filter: rules::filter(&core, &made[2], None).unwrap(),
        };
        let mut facts = request();
        assert!(matches!(rules.auth.check(&mut facts).await, Ok(Decision::Next(edits)) if edits.len() == 1));
        assert!(rules.route.pick(&mut facts).await.unwrap().is_some());
        let names = ["filter, one header set", "route table", "auth, one HS256 check", "all three", "filter, fresh instance"];
        let mut cases = names.map(|name| (name, Vec::<u64>::new()));
        for _ in 0..rounds / EACH {
            for (at, (_, times)) in cases.iter_mut().enumerate() {
                for _ in 0..EACH {
                    let began = Instant::now();
                    if at == 2 || at == 3 {
                        std::hint::black_box(rules.auth.check(&mut facts).await.unwrap());
                    }
                    if at == 0 || at == 3 {
                        std::hint::black_box(rules.filter.on_request(&mut facts).await.unwrap());
                    }
                    if at == 1 || at == 3 {
                        std::hint::black_box(rules.route.pick(&mut facts).await.unwrap());
                    }
                    if at == 4 {
                        std::hint::black_box(fresh.on_request(&mut facts).await.unwrap());
                    }
                    times.push(began.elapsed().as_nanos() as u64);
                }
            }
        }
        println!("{:24} {:>8} {:>8} {:>8}   ns, {rounds} calls", "warm call", "p10", "p50", "p99");
        for (name, times) in &mut cases {
            times.sort_unstable();
            let at = |share: usize| times[times.len() * share / 100];
            println!("{name:24} {:8} {:8} {:8}", at(10), at(50), at(99));
        }
        let moved: u64 =
            (1..=3).map(|version| house.metric(&format!("wharf_plugin_moved_total{{plugin=\"quick\",version=\"{version}\"}}"))).sum();
        let banished: u64 =
            (1..=3).map(|version| house.metric(&format!("wharf_plugin_banished_total{{plugin=\"quick\",version=\"{version}\"}}"))).sum();
        println!("late ticks {}, moved {moved}, banished {banished}", house.metric("wharf_wasm_ticks_late_total"));
    });
}
