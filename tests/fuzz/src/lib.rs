//! Fuzzing on stable Rust: targets are plain `fn(&[u8])` that panic when a promise is broken, and a driver feeds them
//! for as long as it is told.
//!
//! - [`driver`]: seeded mutation of a corpus, a dictionary and made inputs; no coverage instruments, but targets note
//!   what they saw, and an input that showed something new joins the corpus
//! - [`targets`]: the wire codec, both directions, and the path canonicaliser, each against a naive second reading
//! - [`house`]: the code under test. `planted/` compiles the same targets against a copy with bugs in it
//!
//! `tests/fuzz.rs` runs each target for `WHARF_FUZZ_SECONDS`. Another room joins with one more [`driver::Target`] in a
//! test of its own (see README.md).

pub mod driver;
pub mod targets;

/// The code under test, by the names that targets know.
pub mod house {
    pub use wharf_core::path;
    pub use wharf_http::codec;
}
