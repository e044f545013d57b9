//! What goes wrong again and again, told at once and then seldom: an operator must hear of it, and a log must not drown in it.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// From one word to the next.
const EVERY: Duration = Duration::from_secs(60);

/// One thing that may go wrong. House-wide; takes a lock, so it is for what is no call's usual course.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<Told>);

#[derive(Debug, Default)]
struct Told {
    last: Option<Instant>,
    untold: u64,
}

impl Seldom {
    /// It has happened. `Some`: it is time to tell, the first time at once and then at most once a minute; the number is how
    /// often it has happened since it was told last, this time included.
    pub fn happened(&self, now: Instant) -> Option<u64> {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.untold += 1;
        if told.last.is_some_and(|last| now.saturating_duration_since(last) < EVERY) {
            return None;
        }
        told.last = Some(now);
        Some(std::mem::take(&mut told.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_at_once_and_then_once_a_minute_with_how_often_it_was() {
        let (seldom, start) = (Seldom::default(), Instant::now());
        let at = |second| seldom.happened(start + Duration::from_secs(second));
        assert_eq!(at(0), Some(1));
        assert_eq!((1..60).filter_map(at).count(), 0);
        assert_eq!(at(60), Some(60));
        assert_eq!(at(61), None);
        assert_eq!(at(3600), Some(2));
    }
}
