//! Keeps messages back for a moment while a reader finds out where the end of its partition is.
//!
//! A reader from the end gets every message that was kept after it was made. It is made without asking anybody, so the broker is
//! asked just afterwards; were our own messages to go out meanwhile, answers to them might be there before the end is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use tokio::sync::Notify;

/// Open while nobody holds it.
#[derive(Default)]
pub(crate) struct Gate {
    holders: AtomicUsize,
    opened: Notify,
}

/// Dropping it lets go.
pub(crate) struct Held(Arc<Gate>);

impl Gate {
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
        self.holders.fetch_add(1, SeqCst);
        Held(self.clone())
    }

    /// Waits until nobody holds it.
    pub(crate) async fn passed(&self) {
        loop {
            let opened = self.opened.notified();
            if self.holders.load(SeqCst) == 0 {
                return;
            }
            opened.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.0.holders.fetch_sub(1, SeqCst) == 1 {
            self.0.opened.notify_waiters();
        }
    }
}
