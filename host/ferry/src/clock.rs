//! The wall clock, where messages say what time it is. The one place of this room that reads it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Microseconds since 1970.
pub(crate) fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// The moment of a time, milliseconds since 1970; as far as a day away.
pub(crate) fn moment(time_ms: u64) -> Instant {
    let left = Duration::from_millis(time_ms.saturating_sub(now_ms())).min(Duration::from_secs(86_400));
    Instant::now() + left
}
