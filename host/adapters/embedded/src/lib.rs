//! What one machine has of its own: endpoints from the configuration and from host names, small values in a folder.
//!
//! [`fixed`] and [`dns`] implement the door `Directory`, [`kv`] the door `Store`. No other server is needed.

pub mod dns;
pub mod fixed;
pub mod kv;
