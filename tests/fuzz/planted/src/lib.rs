//! Proof that the fuzzer finds something: the files under test a second time, compiled with `cfg(wharf_planted)`, which
//! puts one bug into each, and the same targets on top of them.
//!
//! Nothing else is built with that cfg, so no binary of the house can have such a bug, and a plain `cargo test` shows
//! both: that the house holds, and that a house with a hole in it would not.

#[path = "../../src/blocks.rs"]
pub mod blocks;
#[path = "../../../../host/http/src/codec/mod.rs"]
pub mod codec;
#[path = "../../../../host/gateway/src/config/mod.rs"]
#[allow(dead_code, reason = "some of it only the gateway uses")]
pub mod config;
#[path = "../../src/config_text.rs"]
pub mod config_text;
#[path = "../../../../host/core/src/edit.rs"]
pub mod edit;
#[path = "../../../../host/gateway/src/telemetry/logs.rs"]
pub mod logs;
#[path = "../../../../host/core/src/path.rs"]
pub mod path;
#[path = "../../../../host/gateway/src/secret_names.rs"]
#[allow(dead_code, reason = "some of it only the gateway uses")]
mod secret_names;
#[path = "../../src/targets.rs"]
pub mod targets;
#[path = "../../src/wit_values.rs"]
pub mod wit_values;

// What the copied files call their own crate's.
pub use wharf_core::{exchange, head};
pub use wharf_fuzz::driver;

/// What the checker asks of the gateway's telemetry: what a log level is.
pub mod telemetry {
    pub use crate::logs;
}

/// The code under test, by the names that targets know.
pub mod house {
    pub use crate::{codec, config, edit, path};
}
