//! What may be tried again. Pure but for [`Budget`], one shared number.
//!
//! A call is repeated only if it cannot have a second effect, if all of it is still there, if somebody else can be asked
//! (or the one connection broke that had grown old), while there is time, and while retries are a small share of all
//! calls: a service in trouble must not be given more work by everybody at once.

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use wharf_core::fault::{Fault, FaultKind, Phase, Retry};

/// Most tries of one call, whatever the configuration says: it is the size of the list of those already tried.
pub const TRIES_MAX: usize = 8;

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one call, the first included; 1: never again. At most [`TRIES_MAX`].
    pub tries_max: u32,
    /// Retries for each hundred calls, over all cores, beyond a reserve of [`RESERVE`] for services that are seldom called.
    pub budget_percent: u32,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        RetryPolicy { tries_max: 3, budget_percent: 20 }
    }
}

/// A call whose last try failed.
#[derive(Debug)]
pub struct Failed<'a> {
    /// How.
    pub fault: &'a Fault,
    /// Tries made.
    pub tries: u32,
    /// Method without a second effect, and no upgrade.
    pub idempotent: bool,
    /// All of the request's body is still there.
    pub body_whole: bool,
    /// There is an endpoint that was not tried yet.
    pub others: bool,
    /// The exchange's deadline has not passed.
    pub time_left: bool,
}

/// May the call be made again, budget aside?
pub fn may_repeat(policy: &RetryPolicy, failed: &Failed<'_>) -> bool {
    let harmless = match failed.fault.retry {
        Retry::Never => false,
        Retry::Safe => true,
        Retry::IfIdempotent => failed.idempotent,
    };
    // Alone, only a kept connection that broke is worth another: who refused or was full a moment ago still is.
    let somewhere = failed.others || matches!(failed.fault.kind, FaultKind::Reset);
    let tries_max = policy.tries_max.min(TRIES_MAX as u32);
    harmless && somewhere && failed.body_whole && failed.time_left && failed.tries < tries_max
}

/// Does this fault say that the endpoint cannot be reached at all?
pub fn is_unreachable(fault: &Fault) -> bool {
    matches!(fault.kind, FaultKind::Connect | FaultKind::Timeout(Phase::Connect))
}

/// Retries that a service has before its first call, in whole retries.
pub const RESERVE: i64 = 10;
/// Retries that a service can save up.
const SAVED_MAX: i64 = 100;

/// What retries are paid from, over all cores: calls pay in a share, a retry takes one out.
#[derive(Debug)]
pub struct Budget {
    hundredths: AtomicI64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { hundredths: AtomicI64::new(RESERVE * 100) }
    }
}

impl Budget {
    /// Pays in. Cores save up a few calls' worth first, so that calls do not share a cache line.
    pub fn pay_in(&self, hundredths: u32) {
        if self.hundredths.load(Relaxed) < SAVED_MAX * 100 {
            self.hundredths.fetch_add(i64::from(hundredths), Relaxed);
        }
    }

    /// Takes one retry out. `false`: there is none left.
    pub fn take(&self) -> bool {
        self.hundredths.try_update(Relaxed, Relaxed, |have| (have >= 100).then_some(have - 100)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(kind: FaultKind, retry: Retry) -> Fault {
        Fault::upstream(kind, retry, "x")
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        let safe = fault(FaultKind::Connect, Retry::Safe);
        let maybe = fault(FaultKind::Reset, Retry::IfIdempotent);
        let never = fault(FaultKind::BadAnswer, Retry::Never);
        let head = fault(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent);
        let usual = |fault| Failed { fault, tries: 1, idempotent: true, body_whole: true, others: true, time_left: true };
        let cases = [
            (usual(&safe), true),
            (usual(&maybe), true),
            (usual(&head), true),
            (usual(&never), false),
            (Failed { idempotent: false, ..usual(&safe) }, true),
            (Failed { idempotent: false, ..usual(&maybe) }, false),
            (Failed { body_whole: false, ..usual(&safe) }, false),
            (Failed { time_left: false, ..usual(&safe) }, false),
            (Failed { tries: 3, ..usual(&safe) }, false),
            (Failed { others: false, ..usual(&safe) }, false),
            (Failed { others: false, ..usual(&maybe) }, true),
            (Failed { others: false, ..usual(&head) }, false),
        ];
        for (failed, expected) in cases {
            assert_eq!(may_repeat(&RetryPolicy::default(), &failed), expected, "{failed:?}");
        }
        assert!(!may_repeat(&RetryPolicy { tries_max: 1, budget_percent: 20 }, &usual(&safe)));
        assert!(!may_repeat(&RetryPolicy { tries_max: 1000, budget_percent: 20 }, &Failed { tries: 8, ..usual(&safe) }));
    }

    #[test]
    fn a_budget_never_pays_out_more_than_was_paid_in() {
        let budget = Budget::default();
        let mut taken = 0;
        for calls in 1..=10_000u64 {
            budget.pay_in(20);
            while budget.take() {
                taken += 1;
            }
            assert!(taken <= RESERVE as u64 + calls / 5);
        }
        assert_eq!(taken, RESERVE as u64 + 2_000);
        for _ in 0..1_000_000 {
            budget.pay_in(20);
        }
        assert_eq!((0..10_000).filter(|_| budget.take()).count(), SAVED_MAX as usize);
    }
}
