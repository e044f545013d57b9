//! Write a Wharf plugin in Rust: one trait for each question a gateway asks.
//!
//! ```
//! use wharf_plugin::prelude::*;
//!
//! #[derive(Default)]
//! struct Hello;
//!
//! impl Filter for Hello {
//!     fn on_request(&self, _request: &Request) -> Decision {
//!         Decision::next().set("x-hello", "world")
//!     }
//! }
//!
//! wharf_plugin::export_filter!(Hello);
//! # fn main() {}
//! ```
//!
//! `crate-type = ["cdylib"]` and `cargo build --release --target wasm32-wasip2` make a component of it, and
//! `wharf plugin push hello FILE` hands it to a gateway.
//!
//! A plugin with a configuration implements [`Plugin`] too, and names its roles: `wharf_plugin::export!(Guard: auth,
//! filter)`. The same code builds natively, where [`host`] is a small world in memory that a test can set up: see
//! [`testing`].
//!
//! What the calls mean and what is bounded stands in the WIT packages (`wit/deps/`); this crate adds no meaning.

#![warn(missing_docs)]

#[cfg(all(target_family = "wasm", feature = "allocator"))]
mod alloc;
mod answer;
mod export;
pub mod host;
mod lookup;
mod plugin;
mod request;
pub mod rules;

#[cfg(not(target_family = "wasm"))]
pub mod testing;

#[cfg(target_family = "wasm")]
#[doc(hidden)]
pub mod guest;

pub use answer::{Decision, Edit, Edits, Fault, Instead, LastGood, Reply, Target};
pub use export::Unconfigured;
pub use lookup::Lookup;
#[cfg(feature = "serde")]
pub use plugin::config;
pub use plugin::{Auth, Degrade, Fact, Filter, Needs, Phases, Plugin, Route};
pub use request::{Method, Request, Response};

/// What nearly every plugin uses.
pub mod prelude {
    #[cfg(feature = "serde")]
    pub use crate::config;
    pub use crate::{
        Auth, Decision, Degrade, Edits, Fault, Filter, Instead, LastGood, Method, Needs, Phases, Plugin, Reply, Request, Response, Route,
        Target, host,
    };
}
