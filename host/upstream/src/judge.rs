//! What may be held against whom is asked, and how long it took: what waits for a client counts against nobody behind us.
//! Pure.
//!
//! A body that is passed on while it comes lets its call last for as long as its client likes, and fail in the middle. So the
//! time of such a call begins when the last byte has gone out, and what goes wrong before that is looked at closely. Bodies
//! that are all here go out at once: their calls never ask here.

use std::time::{Duration, Instant};
use wharf_core::exchange::{Answer, Upload};
use wharf_core::fault::{Blame, Fault, FaultKind, Phase};

/// Who refuses a body that is still on its way, or breaks under it, does so at once. Who does it later may have lost patience
/// with a client that sends slowly.
const AT_ONCE: Duration = Duration::from_secs(1);

/// How long whoever was asked took; `None`: nobody knows, since the client had not sent everything.
pub(crate) fn took(started: Instant, upload: Option<&Upload>, now: Instant) -> Option<Duration> {
    let since = match upload {
        None => started,
        Some(upload) => upload.over()?.max(started),
    };
    Some(now.saturating_duration_since(since))
}

/// May a failure be held against whoever was asked?
pub(crate) fn counts(said: &Result<Answer, Fault>, started: Instant, upload: Option<&Upload>, now: Instant) -> bool {
    let said_so = match said {
        Err(fault) if fault.blame == Blame::Caller => return false,
        // Before a byte of the body was asked for, or for want of anybody to ask.
        Err(fault) => !matches!(fault.kind, FaultKind::Reset | FaultKind::BadAnswer | FaultKind::Timeout(Phase::Head)),
        Ok(_) => false,
    };
    said_so || upload.is_none_or(|upload| upload.over().is_some()) || now.saturating_duration_since(started) < AT_ONCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_core::fault::Retry;
    use wharf_core::head::ResponseHead;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn time_begins_with_the_last_byte_of_the_body() {
        let (started, upload) = (Instant::now(), Upload::default());
        let after = |ms: u32| started + ms * MS;
        assert_eq!(took(started, None, after(50)), Some(50 * MS));
        assert_eq!(took(started, Some(&upload), after(50)), None);
        upload.ends(after(60_000));
        assert_eq!(took(started, Some(&upload), after(60_020)), Some(20 * MS));
        // A try that began after the body had gone out: there was none left to send.
        assert_eq!(took(after(60_010), Some(&upload), after(60_020)), Some(10 * MS));
    }

    #[test]
    fn who_loses_patience_with_a_client_has_not_failed() {
        let (started, sending, sent) = (Instant::now(), Upload::default(), Upload::default());
        sent.ends(started);
        let fault = |kind| Err(Fault::upstream(kind, Retry::Never, "x"));
        let answer = || Ok(Answer::full(ResponseHead::new(503), bytes::Bytes::new()));
        // Whether it counts: at once, and after a while, while the body comes; after it.
        let cases: [(Result<Answer, Fault>, [bool; 3]); 6] = [
            (answer(), [true, false, true]),
            (fault(FaultKind::Reset), [true, false, true]),
            (fault(FaultKind::BadAnswer), [true, false, true]),
            (fault(FaultKind::Connect), [true, true, true]),
            (fault(FaultKind::Timeout(Phase::Connect)), [true, true, true]),
            (Err(Fault::caller(FaultKind::ClientGone, "x")), [false, false, false]),
        ];
        for (said, expected) in cases {
            let looks = [(&sending, 20 * MS), (&sending, 30_000 * MS), (&sent, 30_000 * MS)];
            let counted = looks.map(|(upload, after)| counts(&said, started, Some(upload), started + after));
            assert_eq!(counted, expected, "{:?}", said.err());
        }
        assert!(counts(&answer(), started, None, started + 30_000 * MS), "a body that was all here is no excuse");
    }
}
