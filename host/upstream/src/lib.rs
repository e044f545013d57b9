//! The only room that knows endpoints: choose, try, judge, try again.
//!
//! [`flow`] is the life of a call; read it first. [`balance`], [`retry`], [`share`] and [`ejection`] decide and never wait.
//! [`service`] is what all cores share: the endpoints of a service, merged from its directory, and looked after by `care` and
//! [`health`]. `roster` is what one core remembers of them. [`guard`] stands before an outlet that has a [`breaker`] or a
//! [`limit`].
//!
//! Absent on purpose: sockets, HTTP, name resolution. A try is made by a [`wharf_core::outlet::Protocol`], a check by a
//! [`wharf_core::outlet::Probe`], endpoints come from a [`wharf_core::directory::Directory`].

mod ask;
pub mod balance;
pub mod breaker;
mod care;
pub mod config;
mod desk;
pub mod ejection;
pub mod flow;
pub mod guard;
pub mod health;
mod hedge;
mod hold;
mod judge;
pub mod limit;
mod metrics;
pub mod retry;
mod roster;
pub mod service;
pub mod share;
mod standing;
#[cfg(test)]
mod tests;

pub use balance::Policy;
pub use breaker::{Breaker, BreakerPolicy};
pub use config::{Care, EjectionPolicy, HealthPolicy, Key, OutletConfig, Sticky, SubsetMissing};
pub use flow::ServiceOutlet;
pub use guard::Guarded;
pub use limit::{Limiter, LimiterPolicy};
pub use retry::RetryPolicy;
pub use service::{EndpointSet, Guards, Service, Services};
