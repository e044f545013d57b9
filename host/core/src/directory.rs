//! Where endpoints come from. House-wide.

use crate::BoxFuture;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

/// One endpoint as a directory lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Where it listens.
    pub address: SocketAddr,
    /// 1 to 1,000,000; 0 takes no new calls.
    pub weight: u32,
    /// Where it stands.
    pub zone: Option<Box<str>>,
    /// What it is good for.
    pub tags: Box<[Box<str>]>,
}

/// What a directory knows of one service.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Grows with every change of `endpoints`.
    pub version: u64,
    /// The endpoints.
    pub endpoints: Vec<Listed>,
    /// When the source last confirmed this.
    pub confirmed: SystemTime,
    /// Why the source could not be asked last time; the listing is then the last good one.
    pub trouble: Option<String>,
}

/// Which endpoints has this service, and tell me when that changes. One object for each service.
///
/// A source that is down, or that answers "empty" after it had endpoints, never empties a listing: the last good one
/// stays, and its age can be read from [`Listing::confirmed`].
pub trait Directory: Send + Sync {
    /// The present listing. Never waits.
    fn listing(&self) -> Arc<Listing>;

    /// Resolves when the listing's version is not `seen` any more.
    ///
    /// # Cancel safety
    /// May be dropped and asked again at any time; no change is missed.
    fn changed(&self, seen: u64) -> BoxFuture<'_, Arc<Listing>>;

    /// Asks the source at once, if there is one that can be asked (three failed calls are a reason to).
    fn refresh(&self) {}
}
