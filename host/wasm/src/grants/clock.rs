//! `wharf:host/clock`: the machine's two clocks.

use crate::instance::Guest;
use std::sync::OnceLock;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap("now-ms", |mut store: StoreContextMut<'_, Guest>, (): ()| -> wasmtime::Result<(u64,)> {
        store.data_mut().charge()?;
        Ok((since_1970().as_millis() as u64,))
    })?;
    to.func_wrap("monotonic-ns", |mut store: StoreContextMut<'_, Guest>, (): ()| -> wasmtime::Result<(u64,)> {
        store.data_mut().charge()?;
        Ok((monotonic_ns(),))
    })
}

/// Time since 1970; zero on a machine that believes in an earlier date.
pub(super) fn since_1970() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Nanoseconds since the first time anybody asked.
pub(super) fn monotonic_ns() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    Instant::now().saturating_duration_since(*START.get_or_init(Instant::now)).as_nanos() as u64
}
