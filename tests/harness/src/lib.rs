//! The house seen from the street: starts the real binary, plays its clients and its upstreams.
//!
//! Threads and blocking sockets only: what is tested is asynchronous, the tester need not be. It deliberately links no
//! crate of the house, so it can only see what a stranger sees. It never binds a fixed port and never waits for a time,
//! only for a condition with a deadline.
//!
//! [`wharf`] the gateway as a process, [`admin`] its admin API, [`raw`] bytes as they are, [`two`] frames as they
//! are, [`load`] many requests,
//! [`upstream`] answers as hostile as the test wants, [`servers`] real servers of others, [`wait`] conditions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "this crate is test code: a panic is how a test tells, and nothing of it is shipped"
)]

pub mod admin;
pub mod load;
pub mod message;
pub mod raw;
pub mod servers;
pub mod two;
pub mod upstream;
pub mod wait;
pub mod wharf;

pub use admin::{Admin, Answer, Metrics};
pub use load::{Load, Report};
pub use message::{Reply, Request};
pub use raw::{Connection, Ended, exchange};
pub use rustix::process::Signal;
pub use upstream::{Act, Upstream};
pub use wait::until;
pub use wharf::{Setup, Wharf, binary};
