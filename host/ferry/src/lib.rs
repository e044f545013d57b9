//! The ferry: requests and answers as messages. The only room that knows order, settlement, waiters and the journal.
//!
//! - `flow`: THE LIFE OF A MESSAGE, near side then far side
//! - [`near`], [`far`]: what each side has, and its tasks
//! - [`lane`], [`window`]: order for each key, what is begun and done; pure
//! - [`waiters`], `dedupe`: who waits for an answer, which keys are known; pure
//! - [`envelope`], [`hops`], [`codes`]: how messages are written, what happens to them, what callers are told; pure
//! - [`answers`]: what came of a message, by its id
//! - [`spool`]: bodies in pieces
//! - [`config`]: what this room is given

pub mod answers;
pub mod chance;
mod clock;
pub mod codes;
pub mod config;
mod dedupe;
pub mod envelope;
pub mod far;
mod flow;
pub mod hops;
pub mod ids;
pub mod lane;
pub mod near;
pub mod record;
pub mod spool;
pub mod waiters;
pub mod window;

#[cfg(test)]
mod tests;
