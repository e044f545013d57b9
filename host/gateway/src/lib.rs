//! The binary's parts: the only room that knows all rooms, files, environment and signals.
//!
//! - [`run`]: from the command line to a serving gateway, and to its end
//! - [`assemble`]: the inventory; from a plan to what each core serves
//! - [`control`]: what serves, and how it changes; [`follow`]: when its files change; [`last_good`]: what is kept of it
//! - [`cores`]: one thread for each CPU
//! - [`ferry`]: buses, and what of the ferry runs where
//! - [`listen`]: sockets and accepting; [`upgrade`]: how they pass to a newer process; [`supervisor`]: who is told of it
//! - [`memory`]: how much there is, and what follows when it runs short; [`state`]: who else holds the state folder
//! - [`explain`]: what would become of a request; [`expiry`]: when certificates end
//! - `secret_names`: what is never shown, wherever something is
//! - [`config`]: the file, checked; [`cli`]: the command line; [`telemetry`]: access log and log

mod allocator;
pub mod assemble;
pub mod cli;
pub mod config;
#[cfg(test)]
#[path = "config/tests.rs"]
mod config_tests;
pub mod control;
pub mod cores;
pub mod desk;
#[cfg(test)]
#[path = "config/document_tests.rs"]
mod document_tests;
pub mod expiry;
pub mod explain;
pub mod ferry;
pub mod follow;
pub mod last_good;
pub mod listen;
pub mod memory;
#[cfg(test)]
#[path = "config/quarantine_tests.rs"]
mod quarantine_tests;
#[cfg(test)]
#[path = "config/reference_tests.rs"]
mod reference_tests;
pub mod run;
mod secret_names;
pub mod state;
pub mod supervisor;
pub mod telemetry;
pub mod upgrade;
