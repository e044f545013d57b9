//! The centre: the admin listener, its authentication, its audit log and its OpenAPI document.
//!
//! The only room that knows how an operator's call becomes a question to a desk. It deliberately does not know the
//! rooms behind the desks, nor what any operation means.
//!
//! Read [`centre`] first (who is served what), then `call` (the life of one call); `guard` and `openapi` are pure.

mod audit;
mod call;
pub mod centre;
mod error;
mod guard;
mod metrics;
pub mod openapi;
pub mod options;
mod reply;
mod stamp;
mod table;
mod token;

pub use centre::Centre;
pub use error::CentreError;
pub use options::{Options, Readiness};
