//! The engine: its settings, its memory, its threads. One for the process, made at the first need.
//!
//! A gateway without plugins never comes here: no thread, no reservation of address space, no signal handler.

use crate::error::WasmError;
use crate::grants;
use crate::guest_thread::GuestThreads;
use crate::instance::Guest;
use crate::limits::{self, EngineLimits};
use crate::ready::Code;
use crate::ticker::Ticker;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use wasmtime::component::Linker;
use wasmtime::{Config, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig};
use wharf_core::metrics::{Count, Registry};

/// Address space for one linear memory. With all of 4 GiB reserved, bounds checks cost nothing: what a 32-bit index
/// can reach and is not memory is a guard page.
const RESERVATION: u64 = 4 << 30;
/// Stack of one call: 512 KiB for the guest (a deep recursion ends there), the rest for the host functions it calls.
const GUEST_STACK: usize = 512 << 10;
const CALL_STACK: usize = 1 << 20;

/// The engine.
pub struct Engine {
    // Order of dropping: threads first, then what they used.
    pub(crate) guest_threads: GuestThreads,
    pub(crate) ticker: Ticker,
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) linker: Linker<Guest>,
    pub(crate) instances_max: u32,
    pub(crate) live: AtomicU32,
    plugins: Mutex<HashMap<Arc<str>, Weak<Plugin>>>,
}

/// What all versions of one plugin share: the counts that hold over all cores.
#[derive(Debug)]
pub(crate) struct Plugin {
    pub(crate) name: Arc<str>,
    /// Live instances.
    pub(crate) live: AtomicU32,
    /// Questions that wait or were moved.
    pub(crate) in_flight: AtomicU32,
    /// Counters of its own; see `grants/metrics.rs`.
    pub(crate) counters: Mutex<HashMap<Box<str>, Arc<Count>>>,
}

impl Engine {
    /// Makes the engine and starts its threads.
    ///
    /// # Errors
    /// The machine refuses: address space, mappings or threads.
    pub fn start(max: &EngineLimits) -> Result<Arc<Engine>, WasmError> {
        let instances_max = max.instances_max.min(limits::instances_by_mappings(limits::max_map_count()));
        let mut config = settings();
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances_max, max.memory_bytes_max)));
        let wasmtime = wasmtime::Engine::new(&config).map_err(|cause| {
            WasmError::internal(format!(
                "no room for {instances_max} instances: {cause:#}; lower `plugins.instances_max`, or allow the process more address space"
            ))
        })?;
        let ticker = Ticker::start(wasmtime.weak(), max.tick_calm)?;
        let guest_threads = GuestThreads::start(&ticker)?;
        let linker = grants::link(&wasmtime).map_err(|cause| WasmError::internal(format!("the host functions do not link: {cause:#}")))?;
        Ok(Arc::new(Engine { guest_threads, ticker, wasmtime, linker, instances_max, live: AtomicU32::new(0), plugins: Mutex::default() }))
    }

    /// Loads code that [`compile`] has made and the caller has written, after verifying the digest of exactly the bytes
    /// that are loaded.
    ///
    /// # Errors
    /// The file cannot be read, is not what was written, belongs to another engine version or other settings, exports no
    /// role, or imports what this host does not know.
    pub fn load(self: &Arc<Engine>, compiled: &Path, compiled_sha256: &[u8; 32]) -> Result<Code, WasmError> {
        Code::new(self, crate::load::load(&self.wasmtime, compiled, compiled_sha256)?)
    }

    /// Live instances of all plugins.
    pub fn instances(&self) -> u32 {
        self.live.load(Ordering::Relaxed)
    }

    /// Counts in this registry from now on what belongs to no plugin.
    pub(crate) fn observe(&self, metrics: &Registry) {
        self.ticker.count_late(crate::metrics::late_ticks(metrics));
    }

    /// The counts of a plugin, made when it is first seen.
    pub(crate) fn plugin(&self, name: &Arc<str>) -> Arc<Plugin> {
        let mut plugins = self.plugins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plugin) = plugins.get(name).and_then(Weak::upgrade) {
            return plugin;
        }
        plugins.retain(|_, plugin| plugin.strong_count() > 0);
        let plugin =
            Arc::new(Plugin { name: name.clone(), live: AtomicU32::new(0), in_flight: AtomicU32::new(0), counters: Mutex::default() });
        plugins.insert(name.clone(), Arc::downgrade(&plugin));
        plugin
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("instances", &self.instances()).field("instances_max", &self.instances_max).finish_non_exhaustive()
    }
}

/// A live instance's place in the counts. Dropped with the instance.
#[derive(Debug)]
pub(crate) struct Ticket {
    engine: Arc<Engine>,
    plugin: Arc<Plugin>,
}

impl Ticket {
    /// Takes a place; the limit's name where there is none.
    pub(crate) fn take(engine: &Arc<Engine>, plugin: &Arc<Plugin>, plugins_max: u32) -> Result<Ticket, &'static str> {
        let below = |count: &AtomicU32, max: u32| {
            count.try_update(Ordering::Relaxed, Ordering::Relaxed, |live| (live < max).then_some(live + 1)).is_ok()
        };
        if !below(&plugin.live, plugins_max) {
            return Err("instances");
        }
        if !below(&engine.live, engine.instances_max) {
            plugin.live.fetch_sub(1, Ordering::Relaxed);
            return Err("instances_of_all_plugins");
        }
        Ok(Ticket { engine: engine.clone(), plugin: plugin.clone() })
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.plugin.live.fetch_sub(1, Ordering::Relaxed);
        self.engine.live.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Compiles a component for [`Engine::load`]. Takes seconds of processor time and much memory for large ones: called
/// only in the compile child, whose limits hold it.
///
/// # Errors
/// The engine's words about what is wrong with the component.
pub fn compile(wasm: &[u8]) -> Result<Vec<u8>, WasmError> {
    // The same settings, without the pool: the child may not have its address space, and code does not depend on it.
    let engine =
        wasmtime::Engine::new(&settings()).map_err(|cause| WasmError::internal(format!("the compiler does not start: {cause:#}")))?;
    engine.precompile_component(wasm).map_err(|cause| WasmError::refused(format!("the component does not compile: {cause:#}")))
}

/// Names the engine version and every setting that compiled code depends on. Two programs with the same fingerprint can
/// load each other's code.
pub fn fingerprint() -> String {
    let mut hash = std::hash::DefaultHasher::new();
    if let Ok(engine) = wasmtime::Engine::new(&settings()) {
        engine.precompile_compatibility_hash().hash(&mut hash);
    }
    format!("wasmtime48-{:016x}", hash.finish())
}

/// The settings that code depends on. Features are off unless a supported toolchain emits them: what is not there has
/// no advisories.
fn settings() -> Config {
    let mut config = Config::new();
    config
        .strategy(wasmtime::Strategy::Cranelift)
        .cranelift_opt_level(OptLevel::Speed)
        .epoch_interruption(true)
        .consume_fuel(false)
        .memory_reservation(RESERVATION)
        .memory_may_move(false)
        .max_wasm_stack(GUEST_STACK)
        .async_stack_size(CALL_STACK)
        // A guest that recursed has dirtied its whole stack; its pages go back when the instance ends.
        .async_stack_zeroing(true)
        // Enough frames to name the function that trapped; a storm of traps should not pay for more.
        .wasm_backtrace_max_frames(std::num::NonZeroUsize::new(8))
        .wasm_component_model(true)
        .wasm_simd(true)
        .wasm_relaxed_simd(false)
        .wasm_multi_memory(false)
        .wasm_memory64(false)
        .wasm_tail_call(false)
        .wasm_wide_arithmetic(false)
        .wasm_custom_page_sizes(false);
    config
}

fn pool(instances: u32, memory_bytes_max: usize) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        // A component is a main module and up to three small ones that tie its imports together.
        .total_core_instances(instances.saturating_mul(4))
        .max_core_instances_per_component(12)
        .total_memories(instances.saturating_add(instances / 4))
        .max_memories_per_component(2)
        .max_memory_size(memory_bytes_max)
        .total_tables(instances.saturating_mul(2))
        .max_tables_per_component(6)
        .max_tables_per_module(4)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_component_instance_size(1 << 20)
        .max_core_instance_size(1 << 20)
        .total_stacks(instances.saturating_add(64))
        // Slots that keep the last version's pages for its next instance. Its instances are few, and every swap leaves
        // some behind: the next version takes over what they hold, and does not add to it.
        .max_unused_warm_slots(8)
        // What a stack usually dirties is zeroed by hand, the rest is given back.
        .async_stack_keep_resident(16 << 10)
        .linear_memory_keep_resident(0);
    pool
}

/// Largest table. A large Go program has some 20,000 functions that can be called indirectly.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compiled_code_loads_into_the_pooled_engine_and_a_changed_file_does_not() {
        let wasm = wat::parse_str("(component)").unwrap();
        let compiled = compile(&wasm).unwrap();
        let engine = Engine::start(&EngineLimits { instances_max: 16, ..EngineLimits::default() }).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("c");
        std::fs::write(&path, &compiled).unwrap();
        let digest: [u8; 32] = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &compiled).as_ref().try_into().unwrap();
        // It loads; what it lacks is a role.
        let error = engine.load(&path, &digest).unwrap_err();
        assert!(error.to_string().contains("role"), "{error}");
        let mut changed = compiled.clone();
        let last = changed.len() - 1;
        changed[last] ^= 1;
        std::fs::write(&path, &changed).unwrap();
        let error = engine.load(&path, &digest).unwrap_err();
        assert!(error.to_string().contains("digest"), "{error}");
        assert_eq!(fingerprint(), fingerprint());
    }
}
