//! What the shipped plugins cost: `dev/components && cargo bench -p wharf-wasm --bench call`. Cases are interleaved, eight
//! calls each in turn, so that a change of the machine's mood strikes all of them; p10 is the undisturbed machine.
//!
//! The figures are of the whole door, `Authenticate::check` and its like: boxes, facts, limits, metrics, two clock
//! reads and the call itself. `call CASE N` makes N calls of one case and nothing else, for a profiler.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a bench prints, and stops at the first surprise"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::rc::Rc;
use std::time::Instant;
use wharf_core::exchange::Facts;
use wharf_core::rules::{Authenticate, Decision, Filter, Route};
use wharf_wasm::rules;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const EACH: usize = 8;

/// Signed with [`SECRET`], valid for long.
const TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJ1c2VyLTciLCJhdWQiOiJiZW5jaCIsImlhdCI6MTcwMDAwMDAwMCwiZXhwIjo0MDAwMDAwMDAwfQ.CBhbW-fXXaH_z0YJJPRKemghqJUEQRJq5mAlncpMBLo";
const SECRET: &str = "bench-secret-of-at-least-thirty-two-bytes";

fn request() -> Facts {
    let mut facts = common::facts("/b/1234");
    for n in 0..8 {
        facts.request.fields.add(format!("x-filler-{n}").as_bytes(), b"something that a browser would send along with it, sixty bytes");
    }
    facts.request.fields.add(b"authorization", format!("Bearer {TOKEN}").as_bytes());
    facts.attrs.set("consumer", "customer-4711");
    facts
}

struct Rules {
    auth: Rc<dyn Authenticate>,
    remembering: Rc<dyn Authenticate>,
    route: Rc<dyn Route>,
    filter: Rc<dyn Filter>,
    fresh: Rc<dyn Filter>,
}

impl Rules {
    async fn made(house: &common::House) -> Rules {
        let core = house.core();
        let auth = |cache: u32| {
            let key = format!(r#"{{"alg":"HS256","secret":"{SECRET}"}}"#);
            format!(r#"{{"methods":[{{"jwt":{{"keys":[{key}],"audiences":["bench"],"cache":{{"entries":{cache}}}}}}}]}}"#)
        };
        let fresh = wharf_wasm::Quotas { fresh_per_call: true, ..common::patient() };
        let headers = r#"{"consumer_header":"x-consumer"}"#;
        let make = async |name: &'static str, version, config: &str, quotas| {
            let path = std::env::var_os("BENCH_COMPONENTS").map_or_else(|| "../../target/components".into(), std::path::PathBuf::from);
            let file = path.join(format!("wharf_plugin_{name}.wasm"));
            let wasm = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}; run `dev/components` first", file.display()));
            house.shipped(name, &wasm, version, config, quotas).await
        };
        let of = async |name, version, config: &str| make(name, version, config, common::patient()).await;
        Rules {
            auth: rules::auth(&core, &of("auth", 1, &auth(0)).await, None).unwrap(),
            remembering: rules::auth(&core, &of("auth", 2, &auth(1024)).await, None).unwrap(),
            route: rules::route(&core, &of("route", 3, r#"{"table":{"b":{"service":"up"}}}"#).await, None).unwrap(),
            filter: rules::filter(&core, &of("headers", 4, headers).await, None).unwrap(),
            fresh: rules::filter(&core, &make("headers", 5, headers, fresh).await, None).unwrap(),
        }
    }

    async fn ask(&self, case: usize, facts: &mut Facts) {
        if case == 0 || case == 4 {
            black_box(self.auth.check(facts).await.unwrap());
        }
        if case == 1 {
            black_box(self.remembering.check(facts).await.unwrap());
        }
        if case == 2 || case == 4 {
            black_box(self.route.pick(facts).await.unwrap());
        }
        if case == 3 || case == 4 {
            black_box(self.filter.on_request(facts).await.unwrap());
        }
        if case == 5 {
            black_box(self.fresh.on_request(facts).await.unwrap());
        }
    }
}

const CASES: [&str; 6] = [
    "auth, HS256 checked",
    "auth, token remembered",
    "route, table",
    "headers, one set",
    "auth, route and headers",
    "headers, fresh instance",
];

fn main() {
    let numbers: Vec<usize> = std::env::args().filter_map(|arg| arg.parse().ok()).collect();
    common::on_a_core(async {
        // Few instances when a profiler watches: each reserves 4 GiB of address space, and some profilers have little of it.
        let house = common::House::new(if numbers.len() == 2 { 8 } else { 64 });
        let rules = Rules::made(&house).await;
        let mut facts = request();
        assert!(matches!(rules.auth.check(&mut facts).await, Ok(Decision::Next(edits)) if !edits.is_empty()));
        assert!(rules.route.pick(&mut facts).await.unwrap().is_some());
        assert!(matches!(rules.filter.on_request(&mut facts).await, Ok(Decision::Next(edits)) if edits.len() == 1));
        if let [case, calls] = numbers[..] {
            for _ in 0..calls {
                rules.ask(case, &mut facts).await;
            }
            return;
        }
        let rounds = numbers.first().copied().unwrap_or(20_000);
        let mut cases = CASES.map(|name| (name, Vec::<u64>::new()));
        for _ in 0..rounds / EACH {
            for (at, (_, times)) in cases.iter_mut().enumerate() {
                for _ in 0..EACH {
                    let began = Instant::now();
                    rules.ask(at, &mut facts).await;
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
        let sum = |name: &str| -> u64 {
            let plugins = [("auth", 1), ("auth", 2), ("route", 3), ("headers", 4), ("headers", 5)];
            plugins
                .iter()
                .map(|(plugin, version)| house.metric(&format!("wharf_plugin_{name}_total{{plugin=\"{plugin}\",version=\"{version}\"}}")))
                .sum()
        };
        println!("late ticks {}, moved {}, banished {}", house.metric("wharf_wasm_ticks_late_total"), sum("moved"), sum("banished"));
    });
}
