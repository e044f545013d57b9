//! Fuzzing on stable Rust: targets are plain `fn(&[u8])` that panic when a promise is broken, and a driver feeds them
//! for as long as it is told.
//!
//! - [`driver`]: seeded mutation of a corpus, a dictionary and made inputs; no coverage instruments, but targets note
//!   what they saw, and an input that showed something new joins the corpus
//! - [`targets`]: the wire codec, both directions, and the path canonicaliser, each against a naive second reading
//! - [`blocks`]: heads of HTTP/2, and what an upstream reads of them by HTTP/1.1
//! - [`wit_values`]: what plugins give back, and the messages that it is written into
//! - [`config_text`]: the checker of the configuration file
//! - [`house`]: the code under test. `planted/` compiles the same targets against a copy with bugs in it
//!
//! The checker is part of the gateway, which links everything that the house has. Its files look at `core` and `http`
//! only, so they are compiled here a second time.
//!
//! `tests/fuzz.rs` runs each target for `WHARF_FUZZ_SECONDS`. Another room joins with one more [`driver::Target`] in a
//! test of its own (see README.md).

pub mod blocks;
#[path = "../../../host/gateway/src/config/mod.rs"]
#[allow(dead_code, reason = "some of it only the gateway uses")]
pub mod config;
pub mod config_text;
pub mod driver;
#[path = "../../../host/gateway/src/telemetry/logs.rs"]
pub mod logs;
#[path = "../../../host/gateway/src/secret_names.rs"]
#[allow(dead_code, reason = "some of it only the gateway uses")]
mod secret_names;
pub mod targets;
pub mod wit_values;

/// What the checker asks of the gateway's telemetry: what a log level is.
pub mod telemetry {
    pub use crate::logs;
}

/// The code under test, by the names that targets know.
pub mod house {
    pub use crate::config;
    pub use wharf_core::{edit, path};
    pub use wharf_http::codec;
}
