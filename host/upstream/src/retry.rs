//! What may be tried again. Pure but for [`Budget`], one shared number.
//!
//! A call is repeated only if it cannot have a second effect, if all of it is still there, if somebody else can be asked
//! (or the one connection broke that had grown old), while there is time, and while retries are a small share of all
//! calls: a service in trouble must not be given more work by everybody at once.

use crate::balance::random::Random;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::Duration;
use wharf_core::body::Body;
use wharf_core::exchange::Answer;
use wharf_core::fault::{Blame, Fault, FaultKind, Phase, Retry};

/// Most tries of one call, whatever the configuration says: it is the size of the list of those already tried.
pub const TRIES_MAX: usize = 8;

/// What is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one call, the first included; 1: never again. At most [`TRIES_MAX`].
    pub tries_max: u32,
    /// Retries for each hundred calls, over all cores, beyond a reserve of [`RESERVE`] for services that are seldom called.
    pub budget_percent: u32,
    /// What of that which is safe to try again is tried again.
    pub causes: Causes,
    /// Answers that are tried again, too, where the method is idempotent and the body is still there.
    pub statuses: Statuses,
    /// One try takes no longer than this, from its beginning, or from the last byte of a body that was passed on while it
    /// came, to the head of its answer. `None`: the protocol's bounds alone.
    pub per_try: Option<Duration>,
    /// The wait before a second try. `None`: at once, since it goes to another endpoint.
    pub backoff: Option<Backoff>,
}

impl Default for RetryPolicy {
    fn default() -> RetryPolicy {
        let (causes, statuses) = (Causes::default(), Statuses::default());
        RetryPolicy { tries_max: 3, budget_percent: 20, causes, statuses, per_try: None, backoff: None }
    }
}

/// Reasons to try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Causes {
    /// Nothing of the call was sent: no connection, none left, or a stream that was refused.
    pub connect: bool,
    /// The connection ended before the head of the answer.
    pub reset: bool,
    /// The head of the answer did not come in time.
    pub timeout: bool,
}

impl Default for Causes {
    fn default() -> Causes {
        Causes { connect: true, reset: true, timeout: true }
    }
}

/// A set of statuses from 100 to 599.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses([u64; 8]);

impl Statuses {
    /// These; what is no status is left out.
    pub fn of(statuses: impl IntoIterator<Item = u16>) -> Statuses {
        let mut set = Statuses::default();
        for status in statuses {
            if let Some((word, bit)) = set.place(status)
                && let Some(word) = set.0.get_mut(word)
            {
                *word |= bit;
            }
        }
        set
    }

    /// None at all?
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|&word| word == 0)
    }

    /// Is this one of them?
    pub fn has(&self, status: u16) -> bool {
        self.place(status).and_then(|(word, bit)| Some(self.0.get(word)? & bit != 0)).unwrap_or(false)
    }

    fn place(&self, status: u16) -> Option<(usize, u64)> {
        let at = usize::from(status.checked_sub(100).filter(|at| *at < 500)?);
        Some((at / 64, 1 << (at % 64)))
    }
}

/// Waits before second tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// Before the second try; twice as long before each later one.
    pub base: Duration,
    /// But never longer.
    pub max: Duration,
}

impl Backoff {
    /// The wait after so many tries: at least half of what is due, so that callers who failed together do not come together
    /// again. `None`: there is no time left for it.
    pub fn wait(&self, tries: u32, time_left: Duration, random: &mut Random) -> Option<Duration> {
        let doubled = 2u32.checked_pow(tries.saturating_sub(1)).and_then(|times| self.base.checked_mul(times));
        let due = doubled.unwrap_or(self.max).min(self.max);
        let wait = due.mul_f64(0.5 + 0.5 * random.unit());
        (wait < time_left).then_some(wait)
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
        Retry::Safe => policy.causes.connect,
        Retry::IfIdempotent => {
            failed.idempotent
                && match failed.fault.kind {
                    FaultKind::Timeout(_) => policy.causes.timeout,
                    FaultKind::Reset => policy.causes.reset,
                    _ => true,
                }
        }
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

/// Does this fault speak against the endpoint? A limit of ours does not, nor does a kept connection that had grown old, nor
/// a deadline that may have been short from the beginning. What is the caller's fault never does.
pub fn is_failure(fault: &Fault) -> bool {
    match fault.kind {
        _ if fault.blame == Blame::Caller => false,
        FaultKind::Connect | FaultKind::BadAnswer | FaultKind::Timeout(Phase::Connect | Phase::Head) => true,
        FaultKind::Reset => fault.retry != Retry::Safe,
        _ => false,
    }
}

/// The status by which an answer is judged: that of HTTP, and of a gRPC call that failed without a message the one that its
/// own status comes to. Such a call has all it says in its head (a "trailers-only" answer), and is 200 to HTTP whatever
/// became of it. One that fails after a message is not seen here: its status ends the body.
#[inline(always)]
pub fn judged_status(answer: &Answer) -> u16 {
    // Others have a body, and pay no more than this look.
    match answer.body {
        Body::Empty => grpc_status(answer),
        _ => answer.head.status,
    }
}

#[cold]
fn grpc_status(answer: &Answer) -> u16 {
    let status = answer.head.status;
    match answer.head.fields.get(b"grpc-status") {
        Some(code) if status == 200 => match code {
            // As Envoy maps them, so that what is left out there is left out here. Not found, denied, unimplemented and
            // the like are about the call; those below about who was called.
            b"4" => 504,
            b"8" => 429,
            b"2" | b"13" | b"15" => 500,
            b"14" => 503,
            _ => status,
        },
        _ => status,
    }
}

/// Does this status? 500 and most others are about one request; these say that the service behind is not there.
pub fn is_failing_status(status: u16) -> bool {
    matches!(status, 502..=504)
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
    use bytes::Bytes;
    use wharf_core::head::ResponseHead;

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
        assert!(!may_repeat(&RetryPolicy { tries_max: 1, ..RetryPolicy::default() }, &usual(&safe)));
        assert!(!may_repeat(&RetryPolicy { tries_max: 1000, ..RetryPolicy::default() }, &Failed { tries: 8, ..usual(&safe) }));
    }

    #[test]
    fn only_what_is_wanted_is_repeated() {
        let cases = [
            (fault(FaultKind::Connect, Retry::Safe), Causes { connect: false, ..Causes::default() }),
            (fault(FaultKind::Reset, Retry::IfIdempotent), Causes { reset: false, ..Causes::default() }),
            (fault(FaultKind::Timeout(Phase::Head), Retry::IfIdempotent), Causes { timeout: false, ..Causes::default() }),
        ];
        for (fault, causes) in &cases {
            let failed = Failed { fault, tries: 1, idempotent: true, body_whole: true, others: true, time_left: true };
            assert!(may_repeat(&RetryPolicy::default(), &failed));
            assert!(!may_repeat(&RetryPolicy { causes: *causes, ..RetryPolicy::default() }, &failed), "{causes:?}");
        }
    }

    #[test]
    fn a_call_of_grpc_is_judged_by_its_own_status() {
        let judged = |status, code: &str, body: Body| {
            let mut head = ResponseHead::new(status);
            head.fields.add(b"grpc-status", code.as_bytes());
            judged_status(&Answer { head: head.into(), body, tunnel: None })
        };
        let cases =
            [("0", 200), ("1", 200), ("2", 500), ("3", 200), ("4", 504), ("5", 200), ("7", 200), ("8", 429), ("12", 200), ("13", 500)];
        for (code, status) in cases.into_iter().chain([("14", 503), ("15", 500), ("16", 200), ("", 200), ("014", 200)]) {
            assert_eq!(judged(200, code, Body::Empty), status, "grpc-status {code}");
        }
        assert_eq!(judged(404, "14", Body::Empty), 404, "HTTP's own word goes first");
        assert_eq!(judged(200, "14", Bytes::from("x").into()), 200, "a field of somebody's own");
        assert_eq!(judged_status(&Answer::full(ResponseHead::new(503), Bytes::new())), 503);
    }

    #[test]
    fn a_set_of_statuses_holds_what_was_put_in() {
        let set = Statuses::of([100, 502, 599, 503, 99, 600, 65_535, 0]);
        let has: Vec<u16> = (0..=65_535).filter(|&status| set.has(status)).collect();
        assert_eq!(has, [100, 502, 503, 599]);
        assert!(Statuses::of([]).is_empty() && !set.is_empty());
    }

    #[test]
    fn waits_grow_are_spread_and_end_before_the_deadline() {
        const MS: Duration = Duration::from_millis(1);
        let backoff = Backoff { base: 20 * MS, max: 100 * MS };
        let mut random = Random::new(5);
        for (tries, due) in [(1, 20), (2, 40), (3, 80), (4, 100), (60, 100)] {
            let waits: Vec<Duration> = (0..200).map(|_| backoff.wait(tries, Duration::MAX, &mut random).unwrap()).collect();
            assert!(waits.iter().all(|wait| *wait >= due / 2 * MS && *wait <= due * MS), "{tries}");
            assert!(waits.iter().max() > waits.iter().min());
        }
        assert_eq!(backoff.wait(1, 10 * MS, &mut random), None);
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
