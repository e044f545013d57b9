//! Leases: a small id that nobody else holds. House-wide.

use crate::BoxFuture;
use std::sync::Arc;

/// Ids are 0 to this many, without it: what the ids of messages have room for.
pub const LEASE_IDS: u16 = 1024;

/// Milliseconds since 1970, read anew at each call.
pub type WallClock = Arc<dyn Fn() -> u64 + Send + Sync>;

/// Who wants an id.
#[derive(Clone)]
pub struct Tenant {
    /// `ip:port`, by which a registry knows a node again.
    pub address: Box<str>,
    /// The node's clock, which registries that keep such things are told from time to time.
    pub clock: WallClock,
}

/// Gives ids.
pub trait Leases: Send + Sync {
    /// Takes an id that no live node holds; for an address that the registry knows, the one that it had before.
    ///
    /// # Errors
    /// See [`LeaseError`].
    ///
    /// # Cancel safety
    /// Dropping it leaves open whether an id was taken; what was taken is free again when the registry has noticed.
    fn take<'a>(&'a self, tenant: &'a Tenant) -> BoxFuture<'a, Result<Box<dyn Lease>, LeaseError>>;
}

/// An id that is held. Kept alive by its implementation until it is dropped, given back or lost.
pub trait Lease: Send + Sync {
    /// The id, less than [`LEASE_IDS`].
    fn id(&self) -> u16;

    /// Larger than that of every earlier holder of this id: who finds a larger one is not the holder any more.
    fn token(&self) -> u64;

    /// Resolves when it may be another's, with the reason, for operators. While the registry is out of reach the lease
    /// holds as long as the registry would keep it; a registry that keeps ids for ever never takes one back for that.
    ///
    /// # Cancel safety
    /// May be dropped and asked again.
    fn lost(&self) -> BoxFuture<'_, String>;

    /// Gives it back, so that it need not run out.
    fn give_back(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// Why there is no id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeaseError {
    /// The registry knows this address and has been told a later time by it than its clock shows now: ids that were given
    /// out would be given out again.
    #[error(
        "the clock of node {address} is {behind_ms} ms behind the time that it told the registry last; hint: set the clock, or wait, or remove the node {place} if its ids are of no matter any more"
    )]
    ClockBehind {
        /// The node.
        address: Box<str>,
        /// By how much.
        behind_ms: u64,
        /// Where the registry keeps it.
        place: Box<str>,
    },
    /// Another live process holds the id of this address.
    #[error("{0}")]
    Held(String),
    /// All ids are held, or the one given is out of bounds.
    #[error("{0}")]
    Exhausted(String),
    /// The registry did not answer in its time. The same may be tried again.
    #[error("{0}")]
    Unreachable(String),
    /// The registry answers what cannot be understood, or refuses.
    #[error("{0}")]
    Refused(String),
}
