//! Who is left out for what its calls came to, and for how long. Pure: `now` is an argument.
//!
//! The first time is short, each time again twice as long; an endpoint that has served as long as it was out the last time is
//! forgiven one time. How many may be out at once is judged over all endpoints of the service.

use crate::config::EjectionPolicy;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// What is remembered of one endpoint.
#[derive(Clone, Debug, Default)]
pub struct Ejection {
    times: u32,
    last: Duration,
    until: Option<Instant>,
    /// When it last came back, or was forgiven.
    since: Option<Instant>,
}

impl Ejection {
    /// Is it out?
    pub fn is_out(&self) -> bool {
        self.until.is_some()
    }

    /// When it comes back, while it is out.
    pub fn until(&self) -> Option<Instant> {
        self.until
    }

    /// Lets it out from now on. Says for how long.
    pub fn eject(&mut self, policy: &EjectionPolicy, now: Instant) -> Duration {
        self.forgive(now);
        let doubled = 2u32.checked_pow(self.times).and_then(|times| policy.base.checked_mul(times));
        self.last = doubled.unwrap_or(policy.max).min(policy.max);
        self.times = self.times.saturating_add(1).min(31);
        self.until = now.checked_add(self.last);
        self.since = None;
        self.last
    }

    /// `true`: its time is over, and it is back from now on.
    pub fn comes_back(&mut self, now: Instant) -> bool {
        let back = self.until.is_some_and(|until| until <= now);
        if back {
            (self.until, self.since) = (None, Some(now));
        }
        back
    }

    /// An operator, or another configuration, lets it back in at once.
    pub fn pardon(&mut self) {
        *self = Ejection::default();
    }

    fn forgive(&mut self, now: Instant) {
        let Some(since) = self.since else { return };
        let each = self.last.max(Duration::from_millis(1));
        let served = now.saturating_duration_since(since).as_nanos() / each.as_nanos();
        self.times = self.times.saturating_sub(u32::try_from(served).unwrap_or(u32::MAX));
    }
}

/// May one more be left out, with so many of all out already? A part that allows none at all allows one where there are
/// others: with two endpoints, the one that fails.
pub fn may_eject(policy: &EjectionPolicy, all: usize, out: usize) -> bool {
    let most = if policy.share_max > 0.0 { ((all as f64 * policy.share_max) as usize).max(1) } else { 0 };
    out < most.min(all.saturating_sub(1))
}

/// Tries and failures of the last seconds, from counters that only grow.
#[derive(Clone, Debug, Default)]
pub struct Recent {
    /// (good, bad) once a second, the oldest first.
    samples: VecDeque<(u64, u64)>,
}

/// Samples kept: the longest window, and its beginning.
const SAMPLES_MAX: usize = 61;

impl Recent {
    /// The counters, once a second.
    pub fn sample(&mut self, good: u64, bad: u64) {
        // A core that is gone takes its counts along: what is left is no continuation.
        if self.samples.back().is_some_and(|last| good < last.0 || bad < last.1) {
            self.samples.clear();
        }
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back((good, bad));
    }

    /// Forgets what was.
    pub fn clear(&mut self) {
        self.samples.clear();
    }

    /// Did too many fail?
    pub fn is_bad(&self, policy: &EjectionPolicy) -> bool {
        let Some(rate) = policy.rate else { return false };
        let back = usize::try_from(policy.window.as_secs()).unwrap_or(SAMPLES_MAX).clamp(1, SAMPLES_MAX - 1);
        let first = self.samples.len().saturating_sub(back + 1);
        let (Some(first), Some(last)) = (self.samples.get(first), self.samples.back()) else { return false };
        let (good, bad) = (last.0 - first.0, last.1 - first.1);
        let all = good + bad;
        all >= u64::from(policy.rate_calls_min.max(1)) && bad as f64 >= rate * all as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_time_is_twice_as_long_up_to_the_longest() {
        let policy = EjectionPolicy { base: 5 * SECOND, max: 60 * SECOND, ..EjectionPolicy::default() };
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        for expected in [5, 10, 20, 40, 60, 60, 60] {
            assert_eq!(ejection.eject(&policy, now), expected * SECOND);
            assert!(ejection.is_out() && !ejection.comes_back(now));
            assert_eq!(ejection.until(), Some(now + expected * SECOND));
            now += expected * SECOND;
            assert!(ejection.comes_back(now) && !ejection.is_out());
        }
        for _ in 0..100 {
            ejection.eject(&EjectionPolicy { max: Duration::MAX, ..policy }, now);
        }
        ejection.pardon();
        assert_eq!(ejection.eject(&policy, now), 5 * SECOND);
    }

    #[test]
    fn who_has_served_well_since_is_forgiven() {
        let policy = EjectionPolicy { base: 5 * SECOND, ..EjectionPolicy::default() };
        let mut ejection = Ejection::default();
        let mut now = Instant::now();
        for _ in 0..3 {
            now += ejection.eject(&policy, now);
            ejection.comes_back(now);
        }
        // It was out for 20 s: 40 s of service are two times forgiven of three.
        assert_eq!(ejection.clone().eject(&policy, now + 40 * SECOND), 10 * SECOND);
        assert_eq!(ejection.clone().eject(&policy, now + 3_600 * SECOND), 5 * SECOND);
        assert_eq!(ejection.eject(&policy, now + SECOND), 40 * SECOND);
    }

    #[test]
    fn never_more_than_the_share_and_never_the_last() {
        let policy = EjectionPolicy::default();
        for (all, most) in [(0, 0), (1, 0), (2, 1), (3, 1), (4, 2), (10, 5), (11, 5)] {
            let out = (0..20).take_while(|&out| may_eject(&policy, all, out)).count();
            assert_eq!(out, most, "of {all}");
        }
        let whole = EjectionPolicy { share_max: 1.0, ..policy };
        assert!(may_eject(&whole, 3, 1) && !may_eject(&whole, 3, 2));
        assert!(!may_eject(&EjectionPolicy { share_max: 0.0, ..policy }, 10, 0));
        assert!(may_eject(&EjectionPolicy { share_max: 0.01, ..policy }, 10, 0));
    }

    #[test]
    fn a_rate_is_one_of_the_window_and_of_enough_calls() {
        let policy = EjectionPolicy { rate: Some(0.5), rate_calls_min: 20, window: 5 * SECOND, ..EjectionPolicy::default() };
        let mut recent = Recent::default();
        recent.sample(0, 0);
        recent.sample(0, 19);
        assert!(!recent.is_bad(&policy), "19 calls say nothing");
        recent.sample(0, 20);
        assert!(recent.is_bad(&policy));
        assert!(!recent.is_bad(&EjectionPolicy { rate: None, ..policy }));
        for good in 1..=5 {
            recent.sample(good * 30, 20);
        }
        assert!(!recent.is_bad(&policy), "the failures were before the window");
        recent.sample(0, 0);
        recent.sample(0, 5);
        assert!(!recent.is_bad(&policy), "counts that went back begin anew");
    }
}
