//! The numbers that hold a plugin: what one version may use, and what all of them together may.
//!
//! Plain values with defaults; `gateway` reads them from the configuration file. Where each is counted stands beside it.

use std::time::Duration;

/// What one attached version may use.
#[derive(Clone, Debug, PartialEq)]
pub struct Quotas {
    /// Wall-clock time of one question, host calls included. 50 ms: far above what a sensible rule needs, far below
    /// what a client waits. Counted in `call.rs`.
    pub deadline: Duration,
    /// Linear memory of one instance. 32 MiB: a Rust or C guest needs 1 to 2, a Go guest 4 to 10. Counted in `instance.rs`.
    pub memory_bytes_max: usize,
    /// Questions of one plugin that wait or have left their core, over all cores. 256: with the deadline it admits
    /// 5,000 slow questions a second. Counted in `call.rs`; what answers at once is not counted, because there is never
    /// more than one such call on a core.
    pub concurrency_max: u32,
    /// Live instances of one plugin, over all cores and versions. 512: the waiting ones and as many again while a
    /// version is replaced. Counted in `pool.rs`.
    pub instances_max: u32,
    /// Log lines a second on each core. 100: enough to read, too few to fill a disk. Counted in `grants/log.rs`.
    pub log_lines_per_second: u32,
    /// Host calls of one question. 1,000: a rule makes a handful. Counted in `instance.rs`.
    pub host_calls_max: u32,
    /// An instance is replaced after this many questions. 10,000: what a guest leaks stays small, what a new instance
    /// costs (25 us) vanishes.
    pub recycle_calls: u32,
    /// An instance is replaced at this age. 10 minutes: slow leaks, and state that a guest keeps against the advice.
    pub recycle_after: Duration,
    /// A new instance for every question: nothing can be left over between two of them, for 25 us each.
    pub fresh_per_call: bool,
    /// So many faults of a version ...
    pub faults_max: u32,
    /// ... within this time bring the last good version back. 10 in 10 s: one odd request does not, a broken version does
    /// at once. Counted by the catalog.
    pub faults_window: Duration,
}

impl Default for Quotas {
    fn default() -> Quotas {
        Quotas {
            deadline: Duration::from_millis(50),
            memory_bytes_max: 32 << 20,
            concurrency_max: 256,
            instances_max: 512,
            log_lines_per_second: 100,
            host_calls_max: 1_000,
            recycle_calls: 10_000,
            recycle_after: Duration::from_secs(600),
            fresh_per_call: false,
            faults_max: 10,
            faults_window: Duration::from_secs(10),
        }
    }
}

/// What the operator granted to one plugin, beyond what every plugin has (log, config, clock, random, crypto, metrics,
/// exchange).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Grants {
    /// The key-value capability.
    pub kv: Option<KvGrant>,
    /// Services that outbound calls may name. Empty: no outbound calls.
    pub http_services: Vec<String>,
}

/// A namespace in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct KvGrant {
    /// Its name; two plugins with the same see the same values.
    pub namespace: String,
    /// Bytes that it may hold. Held by the store's adapter, which alone knows what is there.
    pub bytes_max: u64,
    /// Keys that it may hold. Held by the store's adapter.
    pub keys_max: u64,
}

/// What all plugins together may use.
#[derive(Clone, Debug, PartialEq)]
pub struct EngineLimits {
    /// Live instances of all plugins; less if the machine's `vm.max_map_count` does not allow so many.
    pub instances_max: u32,
    /// Largest `Quotas::memory_bytes_max` that can be given.
    pub memory_bytes_max: usize,
    /// The longest that a version which has behaved for long may hold a network thread on an otherwise idle gateway,
    /// once, before it is watched closely again; see `ticker.rs`. 2 ms: watching closer costs 20 us of
    /// processor time for each look on a virtual machine. 100 us gives the strict bound of 200 us always.
    pub tick_calm: Duration,
}

impl Default for EngineLimits {
    fn default() -> EngineLimits {
        // 4,096 waiting calls hold 130 MiB; beyond that a node is better off refusing.
        EngineLimits { instances_max: 4096, memory_bytes_max: 256 << 20, tick_calm: Duration::from_millis(2) }
    }
}

/// Memory mappings that one live instance takes, measured (memory, its guard and image, tables, stack and its guard).
const MAPPINGS_EACH: u32 = 6;

/// How many instances a machine's limit on mappings allows; a quarter of it is left to everything else. Pure.
pub(crate) fn instances_by_mappings(max_map_count: u32) -> u32 {
    (max_map_count / 4 * 3 / MAPPINGS_EACH).max(16)
}

/// The machine's limit on mappings; the kernel's default where it cannot be read.
pub(crate) fn max_map_count() -> u32 {
    std::fs::read_to_string("/proc/sys/vm/max_map_count").ok().and_then(|text| text.trim().parse().ok()).unwrap_or(65_530)
}

/// Time for `lifecycle.configure` (and for making the instance that it is asked on).
pub const REHEARSAL: Duration = Duration::from_secs(1);
/// A question ends within its deadline and this, whatever happens.
pub const GRACE: Duration = Duration::from_millis(8);
/// Largest component that is taken: by the admin API, by the catalog, and by the command line before it sends one.
pub const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// What to do about a larger one.
pub const COMPONENT_TOO_LARGE: &str = "build with optimisation and without debug information (`strip = true`)";
/// Longest text of a schema.
pub const SCHEMA_MAX: usize = 64 * 1024;
/// Longest refusal of a configuration that is shown.
pub(crate) const REFUSAL_MAX: usize = 4 * 1024;
/// Largest body that crosses to or from a guest.
pub const BODY_MAX: usize = 1 << 20;
/// Bytes that may be copied out of a guest at once: a body, its head, and what the lists around them take.
pub(crate) const COPY_MAX: usize = BODY_MAX + (256 << 10);
/// Facts that one list of `lifecycle.needs` may ask for.
pub(crate) const FACTS_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_bounds_the_instances() {
        assert_eq!(instances_by_mappings(65_530), 8191);
        assert_eq!(instances_by_mappings(0), 16);
    }
}
