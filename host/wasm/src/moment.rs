//! The clock of this room: nanoseconds since it was first read, in one number.
//!
//! A call reads the clock twice and compares what it read a dozen times: whether a version is banished, whether somebody
//! looked lately, whether an instance is worn, how long it took. With one number each is an instruction or two; `Instant`
//! and `Duration` normalise seconds and nanoseconds each time.
//!
//! Timers are tokio's and take its `Instant`: see [`Moment::instant`].

use std::sync::LazyLock;
use std::time::{Duration, Instant};
use wharf_core::metrics::nanos;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A point in time. Comparable within one process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Moment(u64);

impl Moment {
    pub(crate) fn now() -> Moment {
        Moment(nanos(Instant::now().saturating_duration_since(*ORIGIN)))
    }

    /// Nanoseconds from `earlier` to here; 0 if it was later.
    pub(crate) fn since(self, earlier: Moment) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// So many nanoseconds later.
    pub(crate) fn after(self, ns: u64) -> Moment {
        Moment(self.0.saturating_add(ns))
    }

    /// The same point for a timer.
    pub(crate) fn instant(self) -> Instant {
        *ORIGIN + Duration::from_nanos(self.0)
    }

    /// For atomics that are shared between threads.
    pub(crate) fn as_ns(self) -> u64 {
        self.0
    }

    /// Out of such an atomic.
    pub(crate) fn from_ns(ns: u64) -> Moment {
        Moment(ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_the_clock_of_timers() {
        let before = Instant::now();
        let now = Moment::now();
        let later = now.after(nanos(Duration::from_secs(5))).instant();
        assert!(later >= before + Duration::from_secs(5), "a timer would end early");
        assert!(later <= Instant::now() + Duration::from_secs(5));
        assert_eq!((now.since(now.after(1)), now.after(7).since(now)), (0, 7));
        assert!((before..=Instant::now()).contains(&now.instant()));
    }
}
