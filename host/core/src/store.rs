//! Small shared values: what plugins' key-value capability and limits stand on. House-wide.

use crate::BoxFuture;
use bytes::Bytes;
use std::time::Duration;

/// Longest key, bytes.
pub const KEY_MAX: usize = 512;
/// Longest value, bytes.
pub const VALUE_MAX: usize = 256 * 1024;

/// Why a store did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It does not answer, or cannot write (full disk). Trying again at once will not help.
    #[error("the store does not answer: {0}")]
    Unavailable(String),
    /// Key or value beyond [`KEY_MAX`] or [`VALUE_MAX`], or an empty key.
    #[error("{0}")]
    TooLarge(String),
    /// The namespace is full.
    #[error("{0}")]
    Full(String),
    /// The value under this key is not a decimal counter.
    #[error("the value under this key is not a counter")]
    NotACounter,
}

/// Small values by namespace and key. `ttl`: `None` is for ever.
///
/// Every method resolves once the change is as durable as the store makes it (the adapter's documentation says when).
/// Dropping a future leaves open whether the change was made.
pub trait Store: Send + Sync {
    /// The value, if it is there and its time has not run out.
    fn get<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<Option<Bytes>, StoreError>>;

    /// Sets a value.
    fn set<'a>(&'a self, namespace: &'a str, key: &'a str, value: Bytes, ttl: Option<Duration>) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Deletes; `false`: there was none.
    fn delete<'a>(&'a self, namespace: &'a str, key: &'a str) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Sets only if the present value is `expected`; `false`: it is not.
    fn compare_and_set<'a>(
        &'a self,
        namespace: &'a str,
        key: &'a str,
        expected: Option<Bytes>,
        value: Bytes,
        ttl: Option<Duration>,
    ) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Adds to a decimal counter and returns the sum, saturating. `ttl` counts from the counter's creation.
    fn increment<'a>(&'a self, namespace: &'a str, key: &'a str, by: i64, ttl: Option<Duration>) -> BoxFuture<'a, Result<i64, StoreError>>;
}
