//! Versions that can be told apart, uploads that are bad on purpose, and what a load saw of them.
//!
//! A version is the `hello` filter with another word in it: it sets `x-hello: v0042`, an upstream that sends back what it
//! received shows it to the client, and the load's judge writes down when. So no clock is compared with another process's.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    reason = "test code: a panic is how a test tells, and nothing of it is shipped"
)]

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wharf_artifacts::{component, with_build_number};
use wharf_harness::{Load, Reply};

/// Is the full length of the proof asked for (`WHARF_PROVE=1`)? Else the same code runs for a shorter time, with bounds
/// that a busy machine can keep.
pub fn proves() -> bool {
    std::env::var_os("WHARF_PROVE").is_some_and(|value| value == "1")
}

/// What `hello` sets its field to, and what stands before it in the component's data.
const WORD: &[u8] = b"x-helloworld";

/// A version of the greeting that says `vNNNN`, with a digest never seen before.
///
/// # Panics
/// The component is not what it was: its text is not there exactly once.
pub fn greeting(number: u64) -> Vec<u8> {
    let mut bytes = with_build_number(component("hello"), number);
    let places: Vec<usize> = (0..bytes.len().saturating_sub(WORD.len())).filter(|&at| bytes[at..].starts_with(WORD)).collect();
    let [at] = places[..] else { panic!("the text of `hello` stands at {places:?}, not once") };
    let end = at + WORD.len();
    bytes[end - 5..end].copy_from_slice(format!("v{number:04}").as_bytes());
    bytes
}

/// Which greeting an answer shows; the upstream sends back what it received.
pub fn greeted(reply: &Reply) -> Option<u64> {
    let text = reply.text();
    let (_, rest) = text.split_once("x-hello: v")?;
    rest.get(..4)?.parse().ok()
}

/// A kind of upload that must be refused.
#[derive(Clone, Copy, Debug)]
pub struct Bad {
    /// For people.
    pub what: &'static str,
    component: &'static str,
    /// What its refusal says.
    pub says: &'static str,
}

/// Uploads for a place that asks for a filter without grants.
pub const BAD: [Bad; 4] = [
    Bad { what: "trap at start", component: "trap-at-start", says: "trapped" },
    Bad { what: "wrong role", component: "route", says: "answers only route" },
    Bad { what: "endless loop", component: "loop-at-start", says: "did not finish" },
    Bad { what: "missing grant", component: "wants-http", says: "does not grant" },
];

impl Bad {
    /// Its bytes, with a digest never seen before.
    pub fn bytes(&self, number: u64) -> Vec<u8> {
        with_build_number(component(self.component), number)
    }
}

/// When versions were seen, microseconds since the beginning plus one; 0: not yet.
pub struct Sightings {
    began: Instant,
    seen: Vec<AtomicU64>,
}

impl Sightings {
    /// For greetings below `numbers`.
    pub fn new(numbers: usize) -> Sightings {
        Sightings { began: Instant::now(), seen: (0..numbers).map(|_| AtomicU64::new(0)).collect() }
    }

    /// For a load's judge: the answer is a 200 with a greeting, and that is written down.
    ///
    /// # Errors
    /// It is something else: the request has failed.
    pub fn judge(&self, reply: &Reply) -> Result<(), String> {
        let greeting = if reply.status == 200 { greeted(reply) } else { None };
        let seen = greeting.and_then(|number| self.seen.get(usize::try_from(number).ok()?));
        let Some(seen) = seen else { return Err(format!("status {} without a greeting: {}", reply.status, reply.text())) };
        if seen.load(Relaxed) == 0 {
            let now = self.began.elapsed().as_micros() as u64 + 1;
            // Another connection may have been faster.
            let _ = seen.compare_exchange(0, now, Relaxed, Relaxed);
        }
        Ok(())
    }

    /// Forgets that this one was seen, before it is asked to come back.
    pub fn forget(&self, number: u64) {
        self.seen[number as usize].store(0, Relaxed);
    }

    /// When it was seen first.
    pub fn first(&self, number: u64) -> Option<Instant> {
        let at = self.seen[number as usize].load(Relaxed);
        (at > 0).then(|| self.began + Duration::from_micros(at - 1))
    }
}

/// The rate, requests a second, at which this machine is half busy: half of what gateway, load and upstream together can
/// do here. Half of what a closed loop reaches would be more: a request that comes alone costs more than one of many.
pub fn half_capacity(address: SocketAddr, host: &str, path: &str, connections: usize) -> f64 {
    let time = Duration::from_millis(if proves() { 3_000 } else { 800 });
    let load = || Load::get(address, host, path).connections(connections);
    // The first warms up, too: connections, instances, code.
    let all = load().run_for(time / 2);
    all.expect_clean();
    let rate = all.rate() / 4.0;
    let before = Machine::now();
    load().rate(rate).run_for(time).expect_clean();
    let after = Machine::now();
    let busy = 1.0 - (after.idle - before.idle) as f64 / (after.all - before.all).max(1) as f64;
    (rate * 0.5 / busy.max(0.1)).min(all.rate() / 2.0)
}

/// Ticks of processor time since boot.
struct Machine {
    all: u64,
    idle: u64,
    /// Taken by other machines on the same hardware.
    stolen: u64,
}

impl Machine {
    fn now() -> Machine {
        let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<u64> = stat.lines().next().unwrap_or_default().split_ascii_whitespace().skip(1).flat_map(str::parse).collect();
        let at = |place: usize| ticks.get(place).copied().unwrap_or(0);
        Machine { all: ticks.iter().take(8).sum(), idle: at(3) + at(4), stolen: at(7) }
    }
}

/// What a piece of work gave, and which share of the machine's time was stolen meanwhile.
pub fn with_steal<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let before = Machine::now();
    let done = work();
    let after = Machine::now();
    (done, (after.stolen - before.stolen) as f64 / (after.all - before.all).max(1) as f64)
}

/// The middle of some values.
///
/// # Panics
/// There are none.
pub fn median<T: PartialOrd + Copy>(values: &[T]) -> T {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    sorted[sorted.len() / 2]
}
