//! What the gateway says: lines about requests ([`access`]), traces ([`traces`]), and its own log ([`logs`]).
//!
//! Metrics are not here: rooms count in `wharf_core::metrics`, and the admin API shows the registry.

pub mod access;
mod line;
pub mod logs;
pub mod process;
mod redact;
mod shown;
mod sink;
mod text;
pub mod traces;

pub(crate) use line::date_of;
