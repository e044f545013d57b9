//! Waiting for conditions, each with a deadline and a name. The one place in the tests where time passes on purpose.

use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Between two looks at a condition.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Waits until `look` gives something.
///
/// # Panics
/// After `limit`, naming `what`.
#[track_caller]
pub fn until<T>(what: &str, limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    match try_until(limit, look) {
        Some(seen) => seen,
        None => panic!("{what}: not within {limit:?}"),
    }
}

/// The same for a test that has something better to say at the end.
pub fn try_until<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + limit;
    loop {
        // Time is read before the look: what became so at the last moment still counts.
        let is_last = Instant::now() >= end;
        if let Some(seen) = look() {
            return Some(seen);
        }
        if is_last {
            return None;
        }
        thread::park_timeout(LOOK_AGAIN);
    }
}

/// A door that opens once. Whoever waits for a moment is let go earlier when it opens.
#[derive(Debug, Default)]
pub struct Stop {
    open: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Opens it, for ever.
    pub fn open(&self) {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        *self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `moment`; `true`: it was opened before that.
    pub fn or_at(&self, moment: Instant) -> bool {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            let now = Instant::now();
            if now >= moment {
                return false;
            }
            open = self.changed.wait_timeout(open, moment - now).unwrap_or_else(PoisonError::into_inner).0;
        }
        true
    }

    /// Waits until it is opened.
    pub fn wait(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        while !*open {
            open = self.changed.wait(open).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
