//! What one warm call costs: `cargo bench -p wharf-wasm --bench call`. Cases are interleaved, eight calls each in turn,
//! so that a change of the machine's mood strikes all of them; p10 is the undisturbed machine.
//!
//! The figures are of the whole door, `Authenticate::check` and its like: boxes, facts, limits, metrics, two clock
//! reads and the call itself.

#[path = "../tests/common/mod.rs"]
mod common;

use std::rc::Rc;
use std::time::Instant;
use wharf_core::exchange::Facts;
use wharf_core::rules::{Authenticate, Decision, Filter, Route};
use wharf_wasm::rules;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ROUNDS: usize = 20_000;
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
    common::on_a_core(async {
        let house = common::House::new(64);
        let core = house.core();
        let mut made = Vec::new();
        for version in 1..=3 {
            made.push(house.try_ready("quick", version, "{}", common::patient()).await.unwrap());
        }
        let rules = Rules {
            auth: rules::auth(&core, &made[0], None).unwrap(),
            route: rules::route(&core, &made[1], None).unwrap(),
            filter: rules::filter(&core, &made[2], None).unwrap(),
        };
        let mut facts = request();
        assert!(matches!(rules.auth.check(&mut facts).await, Ok(Decision::Next(edits)) if edits.len() == 1));
        assert!(rules.route.pick(&mut facts).await.unwrap().is_some());
        let mut cases: [(&str, Vec<u64>); 4] =
            [("filter, one header set", vec![]), ("route table", vec![]), ("auth, one HS256 check", vec![]), ("all three", vec![])];
        for _ in 0..ROUNDS / EACH {
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
                    times.push(began.elapsed().as_nanos() as u64);
                }
            }
        }
        println!("{:24} {:>8} {:>8} {:>8}   ns, {ROUNDS} calls", "warm call", "p10", "p50", "p99");
        for (name, times) in &mut cases {
            times.sort_unstable();
            let at = |share: usize| times[times.len() * share / 100];
            println!("{name:24} {:8} {:8} {:8}", at(10), at(50), at(99));
        }
        println!("late ticks: {}", house.metric("wharf_wasm_ticks_late_total"));
    });
}
