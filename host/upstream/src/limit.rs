//! How many calls of a service may be in flight, found out by how long they take.
//!
//! While answers take as long as they do in calm times the limit grows; when they take longer, a queue has formed behind the
//! gateway, and the limit shrinks by as much. Who comes when it is reached is refused at once, rather than served late with
//! everybody else. Cores add their calls to one window; the one that ends it decides ([`decide`], pure).

use crate::metrics::LimiterLevels;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};
use wharf_core::metrics::Registry;

/// Between which bounds the limit is looked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LimiterPolicy {
    /// Never less; 1 at least.
    pub min: u32,
    /// Never more.
    pub max: u32,
    /// Answers may take this many times as long as in calm times before the limit shrinks; 1 and more.
    pub tolerance: f64,
}

impl Default for LimiterPolicy {
    fn default() -> LimiterPolicy {
        LimiterPolicy { min: 8, max: 1_000, tolerance: 1.5 }
    }
}

/// Shortest window.
const WINDOW: Duration = Duration::from_millis(250);
/// Fewest calls that end one.
const CALLS_MIN: u64 = 10;
/// How far a new limit moves to where it should be.
const SMOOTH: f64 = 0.3;

/// How far a calm window moves what is known of calm times.
const CALM_SHARE: f64 = 0.05;

/// What is known at the end of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// The limit, finer than it is used.
    pub limit: f64,
    /// How long answers take in calm times, microseconds; 0: not known.
    pub calm_us: f64,
}

/// A window that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// The mean of its calls, microseconds.
    pub mean_us: f64,
    /// The most in flight at once.
    pub in_flight: u32,
    /// The part, 0 to 1, of its calls that failed for being late or refused.
    pub failed: f64,
}

/// Calls for each that the limit may ever allow, with those that wait for their clients: enough that slow ones lock nobody out,
/// and few enough that all of them at once are no flood.
const OPEN_SHARE: u32 = 8;

/// What is known after it.
pub fn decide(policy: &LimiterPolicy, known: Known, window: Window) -> Known {
    let (min, max) = (f64::from(policy.min.max(1)), f64::from(policy.max.max(policy.min).max(1)));
    if window.failed > 0.1 {
        return Known { limit: (known.limit * 0.9).clamp(min, max), ..known };
    }
    let reached = f64::from(window.in_flight) >= known.limit * 0.5;
    let calm_us = match known.calm_us {
        // Quicker than calm is the new calm.
        calm if calm <= 0.0 || window.mean_us < calm => window.mean_us,
        // Slower is, too, little by little, where no queue of ours can be the reason: few are in flight, or as few as may be.
        // Elsewhere a queue that stays would be calm one day.
        calm if !reached || known.limit <= min * 1.25 => calm + (window.mean_us - calm) * CALM_SHARE,
        calm => calm,
    };
    // Nobody knows what a limit would do that is not reached.
    if !reached {
        return Known { limit: known.limit.clamp(min, max), calm_us };
    }
    let gradient = (policy.tolerance.max(1.0) * calm_us / window.mean_us.max(1.0)).clamp(0.5, 1.0);
    let wanted = known.limit * gradient + known.limit.sqrt();
    Known { limit: (known.limit + (wanted - known.limit) * SMOOTH).clamp(min, max), calm_us }
}

/// See the head of the file. One for each service that has one, shared by all cores.
pub struct Limiter {
    name: Arc<str>,
    policy: LimiterPolicy,
    born: Instant,
    in_flight: AtomicU32,
    /// With those that wait for their clients, which may come back at any moment, all at once.
    open: AtomicU32,
    limit: AtomicU32,
    fine: AtomicU64,
    calm: AtomicU64,
    /// The present window: when it ends (ms), calls, their sum (us), failed ones, the most in flight.
    ends: AtomicU64,
    calls: AtomicU64,
    sum: AtomicU64,
    failed: AtomicU64,
    most: AtomicU32,
    levels: LimiterLevels,
}

impl Limiter {
    pub(crate) fn new(name: &str, policy: LimiterPolicy, registry: &Registry) -> Limiter {
        let levels = LimiterLevels::new(registry, name);
        // Not from the least: a start under load is no time to refuse nearly everybody.
        let start = (policy.min.max(1) * 4).min(policy.max.max(policy.min).max(1));
        levels.limit.set(i64::from(start));
        let (in_flight, open, ends, calls, sum, failed, most, calm) = Default::default();
        let (limit, fine) = (AtomicU32::new(start), AtomicU64::new(f64::from(start).to_bits()));
        Limiter {
            name: name.into(),
            policy,
            born: Instant::now(),
            in_flight,
            open,
            limit,
            fine,
            calm,
            ends,
            calls,
            sum,
            failed,
            most,
            levels,
        }
    }

    /// Of which service.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its bounds.
    pub fn policy(&self) -> &LimiterPolicy {
        &self.policy
    }

    /// The limit now.
    pub fn limit(&self) -> u32 {
        self.limit.load(Relaxed)
    }

    /// Takes a place, which [`Limiter::left`] gives back, and opens a call, which [`Limiter::closed`] ends. `Err`: the limit
    /// that is reached.
    pub(crate) fn enter(&self) -> Result<(), u32> {
        let limit = self.limit();
        let open_max = self.policy.max.max(limit).saturating_mul(OPEN_SHARE);
        if self.open.fetch_add(1, Relaxed) >= open_max {
            self.closed();
            self.levels.refused.add_shared(1);
            return Err(open_max);
        }
        let flying = self.in_flight.fetch_add(1, Relaxed) + 1;
        if flying > limit {
            self.left();
            self.closed();
            // That it was reached counts, too.
            self.most.fetch_max(limit, Relaxed);
            self.levels.refused.add_shared(1);
            return Err(limit);
        }
        self.most.fetch_max(flying, Relaxed);
        Ok(())
    }

    pub(crate) fn left(&self) {
        self.in_flight.fetch_sub(1, Relaxed);
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
    }

    /// Takes a place again that was given back while a client was waited for. It is not refused: half of its work is done.
    pub(crate) fn comes_back(&self) {
        let flying = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(flying.min(self.limit()), Relaxed);
    }

    /// A call has its answer, or none. `late`: it failed in a way that speaks of too much work. `took`: `None`, if only its
    /// client knows; then it has taken what the others took.
    pub(crate) fn took(&self, now: Instant, took: Option<Duration>, late: bool) {
        let took = match took {
            Some(took) => u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            None if late => self.sum.load(Relaxed) / self.calls.load(Relaxed).max(1),
            None => return,
        };
        self.sum.fetch_add(took, Relaxed);
        self.failed.fetch_add(u64::from(late), Relaxed);
        let calls = self.calls.fetch_add(1, Relaxed) + 1;
        let now_ms = u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX);
        let ends = self.ends.load(Relaxed);
        // One core ends it; the others go on into the next.
        let next = now_ms + WINDOW.as_millis() as u64;
        if now_ms < ends || calls < CALLS_MIN || self.ends.compare_exchange(ends, next, Relaxed, Relaxed).is_err() {
            return;
        }
        let (calls, sum, failed) = (self.calls.swap(0, Relaxed).max(1), self.sum.swap(0, Relaxed), self.failed.swap(0, Relaxed));
        let in_flight = self.most.swap(self.in_flight.load(Relaxed), Relaxed);
        let known = Known { limit: f64::from_bits(self.fine.load(Relaxed)), calm_us: f64::from_bits(self.calm.load(Relaxed)) };
        let window = Window { mean_us: sum as f64 / calls as f64, in_flight, failed: failed as f64 / calls as f64 };
        let after = decide(&self.policy, known, window);
        self.fine.store(after.limit.to_bits(), Relaxed);
        self.calm.store(after.calm_us.to_bits(), Relaxed);
        self.limit.store(after.limit as u32, Relaxed);
        self.levels.limit.set(after.limit as i64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that works on `hands` calls at once, 10 ms each, asked by as many as the limit lets in of `callers`.
    fn settles(policy: &LimiterPolicy, hands: f64, callers: f64, windows: usize, mut known: Known) -> Known {
        for _ in 0..windows {
            let in_flight = callers.min(known.limit.floor());
            // In a closed queue what is beyond the hands waits its turn.
            let mean_us = 10_000.0 * (in_flight / hands).max(1.0);
            known = decide(policy, known, Window { mean_us, in_flight: in_flight as u32, failed: 0.0 });
        }
        known
    }

    /// Its first calls were few.
    const START: Known = Known { limit: 32.0, calm_us: 10_000.0 };

    #[test]
    fn the_limit_settles_a_little_above_what_the_service_can_do() {
        let policy = LimiterPolicy::default();
        for hands in [20.0, 50.0, 200.0] {
            let known = settles(&policy, hands, 2_000.0, 400, START);
            assert!(known.limit > hands && known.limit < hands * 2.2, "{hands} hands: {known:?}");
        }
    }

    #[test]
    fn it_follows_a_service_that_becomes_slower() {
        let policy = LimiterPolicy::default();
        let known = settles(&policy, 200.0, 2_000.0, 400, START);
        let after = settles(&policy, 20.0, 2_000.0, 200, known);
        assert!(after.limit < 60.0, "{after:?}");
    }

    #[test]
    fn a_service_that_takes_longer_from_now_on_is_not_throttled_for_ever() {
        let policy = LimiterPolicy::default();
        let mut known = Known { limit: 200.0, calm_us: 10_000.0 };
        let mut least = known.limit;
        for _ in 0..400 {
            known = decide(&policy, known, Window { mean_us: 50_000.0, in_flight: known.limit as u32, failed: 0.0 });
            least = least.min(known.limit);
        }
        assert!(least < 12.0 && known.limit > 60.0, "down to {least}, then {known:?}");
    }

    #[test]
    fn it_does_not_grow_where_nobody_asks_for_more_and_keeps_its_bounds() {
        let policy = LimiterPolicy { max: 100, ..LimiterPolicy::default() };
        assert_eq!(settles(&policy, 1_000.0, 5.0, 100, START).limit, 32.0);
        assert_eq!(settles(&policy, 10_000.0, 10_000.0, 500, START).limit, 100.0);
        let mut known = START;
        for _ in 0..100 {
            known = decide(&policy, known, Window { mean_us: 1e9, in_flight: 100, failed: 1.0 });
        }
        assert_eq!(known.limit, 8.0);
    }

    #[test]
    fn a_place_is_given_back_and_no_more_than_the_limit_are_taken() {
        let limiter = Limiter::new("s", LimiterPolicy { min: 2, max: 8, tolerance: 1.5 }, &Registry::default());
        assert_eq!(limiter.limit(), 8);
        (0..8).for_each(|_| limiter.enter().unwrap());
        assert_eq!(limiter.enter(), Err(8));
        limiter.left();
        limiter.enter().unwrap();
        // Calls that wait for their clients are bounded as well.
        let all = limiter.policy.max * OPEN_SHARE;
        (9..all).for_each(|_| {
            limiter.left();
            limiter.enter().unwrap();
        });
        limiter.left();
        assert_eq!(limiter.enter(), Err(all));
        (0..all).for_each(|_| limiter.closed());
        let now = limiter.born + Duration::from_secs(1);
        (0..10).for_each(|_| limiter.took(now, Some(Duration::from_secs(5)), true));
        assert_eq!(limiter.limit(), 7, "late answers shrink it");
    }
}
