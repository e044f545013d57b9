//! How somebody who waits for messages is woken, and how the bus sees that they are still there.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

/// One reader's. While it waits it is there; else it was there when it last stopped waiting or was woken.
pub(super) struct Bell(Mutex<Rest>);

struct Rest {
    waker: Option<Waker>,
    heard: Instant,
}

impl Bell {
    pub(super) fn new(now: Instant) -> Bell {
        Bell(Mutex::new(Rest { waker: None, heard: now }))
    }

    fn rest(&self) -> MutexGuard<'_, Rest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever waits.
    pub(super) fn ring(&self) {
        let mut rest = self.rest();
        if let Some(waker) = rest.waker.take() {
            rest.heard = Instant::now();
            drop(rest);
            waker.wake();
        }
    }

    /// To be rung from now on.
    pub(super) fn listen(&self, waker: &Waker) {
        let mut rest = self.rest();
        match &mut rest.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// It is there, whether it waits or not.
    pub(super) fn touch(&self) {
        self.rest().heard = Instant::now();
    }

    /// Not to be rung any more.
    pub(super) fn hush(&self) {
        let mut rest = self.rest();
        rest.waker = None;
        rest.heard = Instant::now();
    }

    /// When it will be taken for gone; `None` while it waits.
    pub(super) fn gone_at(&self, dead_after: Duration) -> Option<Instant> {
        let rest = self.rest();
        if rest.waker.is_some() { None } else { rest.heard.checked_add(dead_after) }
    }
}

/// Stops the waiting when it is dropped, however that comes.
pub(super) struct Waits<'a>(pub(super) &'a Bell);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.hush();
    }
}
