//! The plugin room: the only one that knows the engine.
//!
//! - `call.rs` is THE LIFE OF ONE CALL: a warm instance, polled where it stands, moved away if it computes for long.
//! - `catalog.rs` is THE LIFE OF A PLUGIN: bytes come in, a version serves, another takes over.
//!
//! Around the call: `turn.rs` (one guest on one thread), `ticker.rs` (what interrupts it), `guest_thread.rs` (where it
//! goes on), `instance.rs` and `pool.rs` (what is asked), `core.rs` (what one core holds of all that), `limits.rs` (the
//! numbers), `metrics.rs` (what is counted). `rules/` turns core's questions into the contract's, one file per role;
//! `grants/` is what a guest may ask of the host, one file per capability. `load.rs` holds the room's one unsafe line.
//!
//! Around the catalog: `catalog/staging.rs` (from stored bytes to a version that is ready), `catalog/shown.rs` and
//! `answers.rs` (what an operator sees), `desk.rs` (where an operator asks), `examine.rs` (what an upload is), `child.rs`
//! (work that is done in a child process), `disk.rs` (the folder), `history.rs` (which version served when, and which is
//! the last good one), `wants.rs` (what the configuration attaches), `refusal.rs` (every no, with its remedy).

mod answers;
mod call;
mod catalog;
#[cfg(test)]
mod catalog_tests;
mod child;
mod core;
mod desk;
mod disk;
mod engine;
mod error;
mod examine;
mod grants;
mod guest_thread;
#[cfg(test)]
mod guests;
mod history;
mod instance;
mod limits;
mod load;
mod metrics;
mod moment;
mod pool;
mod ready;
mod refusal;
pub mod rules;
mod ticker;
mod turn;
mod wants;

pub use crate::core::{FaultSink, WasmCore};
pub use answers::{Activated, Inspected, Living, PluginRow, Pushed, VersionRow};
pub use catalog::{Catalog, CatalogParts, Prepared, Push};
pub use child::{COMPILE_CHILD, ChildLimits, compile_child_main};
pub use engine::{Engine, compile, fingerprint};
pub use error::{ErrorKind, WasmError};
pub use grants::{CAPABILITIES, is_inert};
pub use limits::{BODY_MAX, COMPONENT_BYTES_MAX, COMPONENT_TOO_LARGE, EngineLimits, GRACE, Grants, KvGrant, Quotas, REHEARSAL, SCHEMA_MAX};
pub use ready::{Code, Digest, Fact, Needs, Parts, Ready, Role, Setup};
pub use refusal::{CatalogError, Problem};
pub use wants::{Granted, Wanted, Wants};
