//! The room that knows HTTP's wire, on both sides. It knows no endpoints, no plugins and no files.
//!
//! - [`front`]: the life of a connection, to its first request
//! - `h1`, `h2`: the fronts, a connection read into requests and written with answers
//! - `flow`: THE LIFE OF A REQUEST, the same for every protocol version
//! - [`client`]: one try over one upstream connection
//! - [`walk`]: requests that come by no connection
//! - [`codec`]: the strict HTTP/1.1 codec, bytes in, events out
//! - [`routes`]: which route a request matches; pure
//! - [`probe`]: checks whether an endpoint is well
//! - [`steps`]: what a route does natively around the road; each step is a file: [`lists`], [`rate`], [`cors`], [`check`],
//!   [`redirect`], [`rewrite`], [`edits`], [`split`], [`mirror`], [`envelope`], [`compress`]
//! - `reply`: the one place where a fault becomes a status
//! - [`house`]: what this room is given for each generation, core and listener

pub mod admission;
pub mod capture;
pub mod check;
pub mod client;
pub mod codec;
pub mod compress;
pub mod cors;
mod date;
pub mod deadlines;
pub mod edits;
pub mod envelope;
pub mod fixed;
mod flow;
pub mod front;
mod grpc;
mod h1;
mod h2;
pub mod house;
mod io;
mod json;
pub mod lists;
pub mod mirror;
mod pace;
mod pattern;
pub mod phrase;
pub mod probe;
mod proxied;
pub mod rate;
pub mod record;
pub mod redirect;
mod reply;
pub mod rewrite;
pub mod routes;
pub mod split;
pub mod steps;
pub mod tls;
mod tunnel;
pub mod walk;
pub mod watch;
mod websocket;
