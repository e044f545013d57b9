//! The only room that knows endpoints: choose, try, judge, try again.
//!
//! [`flow`] is the life of a call; read it first. [`balance`] and [`retry`] decide and never wait. [`service`] is what
//! all cores share: the endpoints of a service, merged from its directory. `roster` is what one core remembers of them.
//!
//! Absent on purpose: sockets, HTTP, name resolution. A try is made by a [`wharf_core::outlet::Protocol`], endpoints come
//! from a [`wharf_core::directory::Directory`].

pub mod balance;
pub mod config;
mod desk;
pub mod flow;
mod hold;
mod metrics;
pub mod retry;
mod roster;
pub mod service;
#[cfg(test)]
mod tests;

pub use balance::Policy;
pub use config::{OutletConfig, SubsetMissing};
pub use flow::ServiceOutlet;
pub use retry::RetryPolicy;
pub use service::{EndpointSet, Service, Services};
