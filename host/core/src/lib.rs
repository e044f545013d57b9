//! The nouns, the doors and the one chain of the house.
//!
//! `core` knows nobody: no runtime, no serde, no HTTP library, no wasm engine, no vendor. Every room may look at
//! `core`; a type lives here only when two rooms exchange it.
//!
//! Read in this order: [`head`] and [`body`] (what travels), [`exchange`] (one journey), [`rules`] and [`outlet`]
//! (the core-local doors), [`road`] (the chain itself) and [`walk`] (all of it, for who has no socket), then the house-wide doors [`directory`], [`store`], [`bus`],
//! [`leases`], [`desk`].

#![warn(missing_docs)]

pub mod body;
pub mod bus;
pub mod desk;
pub mod directory;
pub mod dotted;
pub mod edit;
pub mod exchange;
pub mod fault;
pub mod head;
pub mod last_good;
pub mod leases;
pub mod metrics;
pub mod outlet;
pub mod path;
pub mod plugin_name;
pub mod road;
pub mod rules;
pub mod seldom;
pub mod store;
pub mod trace;
pub mod walk;
pub mod watched;

use std::future::Future;
use std::pin::Pin;

/// A future that never leaves its CPU core: what core-local doors return.
pub type LocalBoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// A future that may be driven from any thread: what house-wide doors return.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
