//! Proof that the fuzzer finds something: the files under test a second time, compiled with `cfg(wharf_planted)`, which
//! puts one bug into each, and the same targets on top of them.
//!
//! Nothing else is built with that cfg, so no binary of the house can have such a bug, and a plain `cargo test` shows
//! both: that the house holds, and that a house with a hole in it would not.

#[path = "../../../../host/http/src/codec/mod.rs"]
pub mod codec;
#[path = "../../../../host/core/src/path.rs"]
pub mod path;
#[path = "../../src/targets.rs"]
pub mod targets;

pub use wharf_fuzz::driver;

/// The code under test, by the names that targets know.
pub mod house {
    pub use crate::{codec, path};
}
