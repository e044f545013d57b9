//! Numbers and names that nobody else has: of clients, sessions, messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use wharf_core::bus::{BusError, BusErrorKind};

/// Stamps of one bus: random where it begins, counted from there.
pub(crate) struct Stamp {
    begin: u64,
    next: AtomicU64,
}

impl Stamp {
    pub(crate) fn new() -> Result<Stamp, BusError> {
        let mut bytes = [0; 8];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| BusError::new(BusErrorKind::Refused, "the system gives no random numbers"))?;
        Ok(Stamp { begin: u64::from_be_bytes(bytes), next: AtomicU64::new(0) })
    }

    /// A number.
    pub(crate) fn number(&self) -> u64 {
        // Spread, so that two buses with near beginnings do not meet.
        self.begin.wrapping_add(self.next.fetch_add(1, Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    /// The id of a message.
    pub(crate) fn message(&self) -> String {
        format!("{:016X}{:016X}", self.begin, self.next.fetch_add(1, Relaxed))
    }

    /// The name of a client. What follows the last `#` says which topic it reads: a group may be used for several.
    pub(crate) fn client(&self, name: &str, topic: &str) -> Arc<str> {
        let name: String =
            name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':') { c } else { '-' }).collect();
        format!("{name}@{:016x}#{topic}", self.number()).into()
    }
}
