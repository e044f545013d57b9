//! The wall clock, where messages say what time it is. The one place of this room that reads it.

use std::time::{Duration, Instant};

/// Microseconds since 1970.
#[cfg(not(test))]
pub(crate) fn now_us() -> u64 {
    use std::time::{SystemTime, UNIX_EPOCH};
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

/// In tests the runtime's clock, which they may hold and set forward.
#[cfg(test)]
pub(crate) fn now_us() -> u64 {
    use std::cell::Cell;
    use tokio::time::Instant;
    thread_local! { static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) } }
    let now = Instant::now();
    let began = BEGAN.get().filter(|began| *began <= now).unwrap_or(now);
    BEGAN.set(Some(began));
    1_700_000_000_000_000 + (now - began).as_micros() as u64
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    now_us() / 1000
}

/// The moment of a time, milliseconds since 1970; as far as a day away.
pub(crate) fn moment(time_ms: u64) -> Instant {
    let left = Duration::from_millis(time_ms.saturating_sub(now_ms())).min(Duration::from_secs(86_400));
    steady() + left
}

/// Now, by the clock that only goes forward.
pub(crate) fn steady() -> Instant {
    tokio::time::Instant::now().into_std()
}
