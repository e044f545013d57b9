//! How long an endpoint takes, as one number that follows what happens: the cost that two endpoints are compared by. Pure.
//!
//! A sample above the estimate takes it over at once (a stall must be felt by the next call, not by the hundredth), one
//! below it moves it by the time that has passed, so that one quick answer does not make up for a slow minute. Without
//! samples the estimate fades: who was slow is asked again some day. A failure counts as a slow answer, however quickly it
//! came: otherwise the endpoint that fails at once would look like the best of all.

use std::time::Duration;

/// What the estimate is made by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighing {
    /// After this time about a third of an old estimate is left. 1 ms at least.
    pub decay: Duration,
    /// What a failure counts as.
    pub failure_penalty: Duration,
}

impl Default for Weighing {
    fn default() -> Weighing {
        Weighing { decay: Duration::from_secs(10), failure_penalty: Duration::from_secs(1) }
    }
}

/// An estimate: microseconds, and when it was made, in microseconds since any fixed moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimate {
    /// 0: nothing is known.
    pub us: f64,
    /// When.
    pub at_us: u64,
}

/// How far a failure moves the estimate towards the penalty. One failure of a good endpoint makes it a second choice for a
/// while; one that goes on failing is soon as dear as the penalty.
const FAILURE_SHARE: f64 = 0.1;

impl Weighing {
    /// The estimate after an answer that took `took`.
    pub fn answered(&self, before: Estimate, at_us: u64, took: Duration) -> Estimate {
        let (sample, faded) = (us(took), self.faded(before, at_us));
        if sample >= before.us || before.us == 0.0 {
            return Estimate { us: sample.max(1.0), at_us };
        }
        let kept = self.kept(before, at_us);
        // What has faded by itself is not taken for slowness again.
        Estimate { us: (faded + sample * (1.0 - kept)).max(1.0), at_us }
    }

    /// The estimate after a failure that took `took`.
    pub fn failed(&self, before: Estimate, at_us: u64, took: Duration) -> Estimate {
        let now = self.faded(before, at_us).max(us(took));
        let penalty = us(self.failure_penalty);
        Estimate { us: (now + (penalty - now).max(0.0) * FAILURE_SHARE).max(1.0), at_us }
    }

    /// What a call there is expected to cost: the estimate of now, once for each call that would be in flight.
    /// Of whom nothing is known one call is cheap, and more are dear until it is answered: a slow one must not take all the
    /// calls of the time that its first answer needs.
    pub fn cost(&self, estimate: Estimate, now_us: u64, in_flight: u32) -> f64 {
        let one = match estimate.us {
            0.0 if in_flight > 0 => us(self.failure_penalty),
            _ => self.faded(estimate, now_us),
        };
        (one + 1.0) * (f64::from(in_flight) + 1.0)
    }

    /// What is left of an estimate at a later time.
    pub fn faded(&self, estimate: Estimate, now_us: u64) -> f64 {
        estimate.us * self.kept(estimate, now_us)
    }

    fn kept(&self, estimate: Estimate, now_us: u64) -> f64 {
        let passed = now_us.saturating_sub(estimate.at_us) as f64;
        (-passed / us(self.decay).max(1_000.0)).exp()
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_stall_is_felt_at_once_and_forgotten_slowly() {
        let weighing = Weighing::default();
        let mut estimate = weighing.answered(Estimate::default(), 0, 5 * MS);
        assert_eq!(estimate.us, 5_000.0);
        estimate = weighing.answered(estimate, 1_000, 500 * MS);
        assert_eq!(estimate.us, 500_000.0);
        estimate = weighing.answered(estimate, 2_000, 5 * MS);
        assert!(estimate.us > 499_000.0, "one quick answer makes up for nothing: {estimate:?}");
        // Quick answers for half a minute do.
        for step in 1..=300 {
            estimate = weighing.answered(estimate, 2_000 + step * 100_000, 5 * MS);
        }
        assert!(estimate.us < 35_000.0, "{estimate:?}");
    }

    #[test]
    fn an_endpoint_that_answers_evenly_is_known_evenly() {
        let weighing = Weighing::default();
        let mut estimate = Estimate::default();
        for step in 0..100_000 {
            estimate = weighing.answered(estimate, step * 1_000, 5 * MS);
            assert!((4_999.0..=5_000.5).contains(&estimate.us), "{estimate:?} at step {step}");
        }
    }

    #[test]
    fn who_fails_at_once_is_dearer_than_who_answers_slowly() {
        let weighing = Weighing::default();
        let slow = weighing.answered(Estimate::default(), 0, 50 * MS);
        let failing = weighing.failed(Estimate::default(), 0, Duration::from_micros(200));
        assert!(weighing.cost(failing, 0, 0) > weighing.cost(slow, 0, 0));
        let mut known = weighing.answered(Estimate::default(), 0, MS);
        for step in 0..100 {
            known = weighing.failed(known, step * 1_000, MS);
        }
        assert!(known.us > 900_000.0 && known.us <= 1_000_000.0, "{known:?}");
        // It is asked again when time has passed.
        assert!(weighing.faded(known, 100_000_000) < 100.0);
    }

    #[test]
    fn what_is_in_flight_makes_an_endpoint_dearer() {
        let weighing = Weighing::default();
        let estimate = Estimate { us: 1_000.0, at_us: 0 };
        let costs: Vec<f64> = (0..4).map(|calls| weighing.cost(estimate, 0, calls)).collect();
        assert!(costs.windows(2).all(|two| two[0] < two[1]));
        assert!(weighing.cost(Estimate::default(), 0, 0) < costs[0], "who is unknown is tried");
        assert!(weighing.cost(Estimate::default(), 0, 1) > costs[3], "once");
        // A clock that goes back, and times without end, are numbers all the same.
        assert!(weighing.cost(Estimate { us: 1.0, at_us: u64::MAX }, 0, u32::MAX).is_finite());
        assert!(weighing.failed(estimate, 1, Duration::MAX).us.is_finite());
    }
}
