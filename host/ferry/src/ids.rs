//! Ids of messages: unique as long as worker ids are, and ordered by time.
//!
//! 42 bits of milliseconds since 2020, 10 bits of worker id, 12 bits of a counter. A clock that is set back is not followed: ids
//! go on from the last time. Where 4,096 are not enough for a millisecond, the next one is begun early.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// 2020-01-01T00:00:00Z, milliseconds since 1970.
pub const EPOCH_MS: u64 = 1_577_836_800_000;

/// Makes ids. Lock-free.
#[derive(Debug, Default)]
pub struct Ids {
    /// Milliseconds since the epoch and counter of the last one.
    last: AtomicU64,
    worker: AtomicU64,
}

impl Ids {
    /// Ids of this worker from now on; none before `after_ms`, milliseconds since 1970.
    pub fn set(&self, worker: u16, after_ms: u64) {
        self.worker.store(u64::from(worker) & 0x3ff, Relaxed);
        self.last.fetch_max(after_ms.saturating_sub(EPOCH_MS) << 12 | 0xfff, Relaxed);
    }

    /// The next one, at this time, milliseconds since 1970.
    pub fn next(&self, now_ms: u64) -> u64 {
        let now = now_ms.saturating_sub(EPOCH_MS) << 12;
        let step = |last: u64| Some(now.max(last + 1));
        let last = self.last.fetch_update(Relaxed, Relaxed, step).unwrap_or_else(|last| last);
        let this = now.max(last + 1);
        (this >> 12) << 22 | self.worker.load(Relaxed) << 12 | (this & 0xfff)
    }
}

/// When an id was made, milliseconds since 1970.
pub fn time_ms(id: u64) -> u64 {
    (id >> 22) + EPOCH_MS
}

/// Who made an id.
pub fn worker(id: u64) -> u16 {
    (id >> 12 & 0x3ff) as u16
}
