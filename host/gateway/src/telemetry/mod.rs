//! What the gateway says: one line for each request ([`access`]), and its own log ([`logs`]).
//!
//! Metrics are not here: rooms count in `wharf_core::metrics`, and the admin API shows the registry.

pub mod access;
pub mod logs;
mod sink;
