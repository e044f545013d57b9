//! The room that knows HTTP's wire, on both sides. It knows no endpoints, no plugins and no files.
//!
//! - [`h1`]: the front, a connection read into requests and written with answers
//! - `flow`: THE LIFE OF A REQUEST, the same for every protocol version
//! - [`client`]: one try over one upstream connection
//! - [`codec`]: the strict HTTP/1.1 codec, bytes in, events out
//! - [`routes`]: which route a request matches; pure
//! - `reply`: the one place where a fault becomes a status
//! - [`house`]: what this room is given for each generation, core and listener

pub mod client;
pub mod codec;
mod date;
pub mod deadlines;
pub mod fixed;
mod flow;
pub mod h1;
pub mod house;
mod io;
pub mod record;
mod reply;
mod pattern;
pub mod routes;
mod tunnel;
