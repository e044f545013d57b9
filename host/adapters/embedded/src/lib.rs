//! What one machine has of its own: endpoints from the configuration and from host names, small values and a bus, each in
//! a folder.
//!
//! [`fixed`] and [`dns`] implement the door `Directory`, [`kv`] the door `Store`, [`bus`] the door `Bus`. No other server
//! is needed.

pub mod bus;
pub mod dns;
pub mod fixed;
pub mod kv;
