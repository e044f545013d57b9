//! What all cores know of one endpoint, in atomics: failures in a row, and how long it takes.
//!
//! Cores write it down, control judges (`care`). The counters that metrics are made of are looked into, so that counting
//! tries costs a call nothing more.

use crate::balance::latency::{Estimate, Weighing};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use wharf_core::metrics::Count;

/// See the head of the file.
#[derive(Debug)]
pub(crate) struct Standing {
    /// Failures since the last good answer.
    failing: AtomicU32,
    /// An [`Estimate`], as bits. Two cores at once may lose one sample.
    latency: AtomicU64,
    latency_at: AtomicU64,
    /// What moments are told by.
    born: Instant,
    tallies: Mutex<Vec<(Outcome, Weak<Count>)>>,
}

/// What a counter counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Bad,
}

impl Standing {
    pub(crate) fn new() -> Standing {
        let (failing, latency, latency_at) = Default::default();
        Standing { failing, latency, latency_at, born: Instant::now(), tallies: Mutex::default() }
    }

    /// Counts a failure; says how many there are in a row.
    pub(crate) fn failed(&self) -> u32 {
        self.failing.fetch_add(1, Relaxed).saturating_add(1)
    }

    /// Ends a row of failures.
    pub(crate) fn good(&self) {
        // Mostly only read, so that cores do not take the line from each other.
        if self.failing.load(Relaxed) != 0 {
            self.failing.store(0, Relaxed);
        }
    }

    pub(crate) fn failing(&self) -> u32 {
        self.failing.load(Relaxed)
    }

    /// What a call there is expected to cost.
    pub(crate) fn cost(&self, weighing: &Weighing, now: Instant, in_flight: u32) -> f64 {
        weighing.cost(self.estimate(), self.us(now), in_flight)
    }

    /// Takes a try into the estimate.
    pub(crate) fn took(&self, weighing: &Weighing, now: Instant, took: Duration, failed: bool) {
        let (before, at) = (self.estimate(), self.us(now));
        let after = if failed { weighing.failed(before, at, took) } else { weighing.answered(before, at, took) };
        self.latency.store(after.us.to_bits(), Relaxed);
        self.latency_at.store(after.at_us, Relaxed);
    }

    /// What is left of the estimate; `None`: there is none.
    pub(crate) fn latency(&self, weighing: &Weighing, now: Instant) -> Option<Duration> {
        let estimate = self.estimate();
        (estimate.us > 0.0).then(|| Duration::from_secs_f64(weighing.faded(estimate, self.us(now)).clamp(0.0, 1e15) / 1e6))
    }

    /// A counter of a core, to be summed with the others as long as that core holds it.
    pub(crate) fn count_in(&self, outcome: Outcome, count: Weak<Count>) {
        let mut tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        // The registry holds each, too: one that nobody else holds is one of a core that makes its counts anew.
        tallies.retain(|(_, count)| count.strong_count() > 1);
        tallies.push((outcome, count));
    }

    /// Good and bad tries, over all cores.
    pub(crate) fn tallies(&self) -> (u64, u64) {
        let tallies = self.tallies.lock().unwrap_or_else(PoisonError::into_inner);
        let of =
            |wanted| tallies.iter().filter(|(outcome, _)| *outcome == wanted).filter_map(|(_, count)| Some(count.upgrade()?.get())).sum();
        (of(Outcome::Good), of(Outcome::Bad))
    }

    fn estimate(&self) -> Estimate {
        Estimate { us: f64::from_bits(self.latency.load(Relaxed)), at_us: self.latency_at.load(Relaxed) }
    }

    fn us(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_micros()).unwrap_or(u64::MAX)
    }
}
