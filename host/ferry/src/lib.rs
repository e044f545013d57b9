//! The ferry: requests and answers as messages. The only room that knows order, settlement, waiters and the journal.
//!
//! `flow.rs` is THE LIFE OF A MESSAGE, near side then far side. What it decides without waiting lies beside it: [`lane`] and
//! [`window`] (order, what is begun and done).

pub mod chance;
pub mod envelope;
pub mod lane;
pub mod window;
