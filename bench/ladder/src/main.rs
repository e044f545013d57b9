//! `wharf-ladder run --config FILE`: our road with the rules of the shipped plugins linked in. What a component costs
//! more than this is what the sandbox costs; what this costs more than the plain road is what the rules themselves cost.
//!
//! It reads the bench's own configuration, the same file that the gateway is measured with: same listener limits, same
//! deadlines, same access log, same counters, one core. Deliberately without a plugin room, an admin API (`/metrics` is
//! all there is), reloading and draining: none of them is on the road.
//!
//! `telemetry` is the gateway's own access log, compiled in from its room: the crate it lives in would bring the plugin
//! room along, and a second log would be a second cost.

// Not for tests: the log that is compiled in would bring its own, which belong to its own room.
#[cfg(not(test))]
mod config;
#[cfg(not(test))]
#[path = "../../../host/gateway/src/secret_names.rs"]
#[allow(dead_code, reason = "the gateway uses more of it")]
mod secret_names;
#[cfg(not(test))]
mod serve;
#[cfg(not(test))]
mod telemetry;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(not(test))]
fn main() -> std::process::ExitCode {
    serve::main()
}
