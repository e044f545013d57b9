//! How long a client may keep us waiting in the middle of a body or an answer. Pure: ticks of the core's clock go in, waits
//! come out.
//!
//! A pause is bounded, the whole may be, and so is the pace between: a client that moves a byte a second makes no pause, and
//! would hold a connection for as long as it likes. Only time in which we waited for the client counts, not what an
//! upstream took.

use crate::deadlines::TICK;
use std::time::Duration;

/// Waiting that is free, whatever the pace: a slow beginning is none of the client's fault.
const FREE: Duration = Duration::from_secs(5);

/// What one client has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// The tick at its begin.
    begun: u32,
    /// The tick since which it is waited for.
    since: Option<u32>,
    /// Ticks it has been waited for before.
    waited: u32,
    moved: u64,
}

/// What bounds it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// A pause.
    pub(crate) quiet: Duration,
    /// The whole, from its begin.
    pub(crate) whole: Duration,
    /// Bytes a second; 0: any.
    pub(crate) rate_min: u64,
}

/// Which bound is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Late {
    Quiet,
    Whole,
    Slow,
}

impl Pace {
    pub(crate) fn begin(tick: u32) -> Pace {
        Pace { begun: tick, since: None, waited: 0, moved: 0 }
    }

    /// Something moved.
    pub(crate) fn moved(&mut self, bytes: u64, tick: u32) {
        self.moved += bytes;
        if let Some(since) = self.since.take() {
            self.waited += tick.wrapping_sub(since);
        }
    }

    /// Nothing moves, from now on. How long may it be so?
    pub(crate) fn wait(&mut self, tick: u32, bounds: &Bounds) -> (Duration, Late) {
        let since = *self.since.get_or_insert(tick);
        let waited = TICK * (self.waited + tick.wrapping_sub(since));
        let mut first = (bounds.quiet, Late::Quiet);
        let whole = bounds.whole.saturating_sub(TICK * tick.wrapping_sub(self.begun));
        if whole < first.0 {
            first = (whole, Late::Whole);
        }
        if let Some(earned) = (self.moved.saturating_mul(1000)).checked_div(bounds.rate_min) {
            let slow = (FREE + Duration::from_millis(earned)).saturating_sub(waited);
            if slow < first.0 {
                first = (slow, Late::Slow);
            }
        }
        first
    }
}

impl Late {
    /// What to tell about it: which limit it was, by its name.
    pub(crate) fn words(self, bounds: &Bounds) -> String {
        match self {
            Late::Quiet => format!("nothing moved for {:?} (`timeouts.body` of the listener)", bounds.quiet),
            Late::Whole => format!("it took longer than {:?} (`timeouts.upload` of the listener)", bounds.whole),
            Late::Slow => format!("it is slower than {} bytes a second (`limits.body_rate_min` of the listener)", bounds.rate_min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { quiet: Duration::from_secs(5), whole: Duration::from_secs(600), rate_min: 240 };

    fn ticks(time: Duration) -> u32 {
        (time.as_nanos() / TICK.as_nanos()) as u32
    }

    /// How long somebody lasts who moves so many bytes after each such pause.
    fn lasts(bytes: u64, pause: Duration, bounds: &Bounds) -> (Duration, Late) {
        let mut pace = Pace::begin(0);
        let mut now = Duration::ZERO;
        loop {
            let (wait, late) = pace.wait(ticks(now), bounds);
            if wait < pause {
                return (now + wait, late);
            }
            now += pause;
            pace.moved(bytes, ticks(now));
            assert!(now < Duration::from_secs(3600), "nothing ends it");
        }
    }

    #[test]
    fn a_byte_a_second_is_ended_after_the_free_seconds() {
        let (lasted, late) = lasts(1, Duration::from_secs(1), &BOUNDS);
        assert!(late == Late::Slow && lasted < Duration::from_millis(5200), "{lasted:?} {late:?}");
    }

    #[test]
    fn whoever_keeps_the_pace_lasts_until_the_whole_is_over() {
        let (lasted, late) = lasts(1024, Duration::from_secs(1), &BOUNDS);
        assert!(late == Late::Whole && lasted >= Duration::from_secs(599), "{lasted:?} {late:?}");
        let (_, late) = lasts(1, Duration::from_secs(1), &Bounds { rate_min: 0, ..BOUNDS });
        assert_eq!(late, Late::Whole, "where any pace will do");
    }

    #[test]
    fn a_pause_is_a_pause_however_much_came_before() {
        let (lasted, late) = lasts(1 << 30, Duration::from_secs(6), &BOUNDS);
        assert_eq!((lasted, late), (Duration::from_secs(5), Late::Quiet));
    }

    #[test]
    fn time_in_which_nobody_waited_for_the_client_is_free() {
        let mut pace = Pace::begin(0);
        for second in 1..500 {
            // The upstream took its time, then a byte was there at once.
            pace.moved(1, ticks(Duration::from_secs(second)));
        }
        assert_eq!(pace.wait(ticks(Duration::from_secs(500)), &BOUNDS).1, Late::Quiet);
    }
}
