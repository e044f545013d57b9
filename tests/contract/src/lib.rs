//! One suite for each door: what every adapter promises is checked by the same code.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "this crate is test code: a panic is how a test tells, and nothing of it is shipped"
)]

pub mod bus;
