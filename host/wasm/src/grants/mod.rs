//! What a guest may ask of the host, one file per capability of `wharf:host`.
//!
//! All of them are linked for every guest; what is *granted* was settled at upload, where a component that imports more
//! is refused. A call to what is not granted ends the question all the same, should one get here.

mod clock;
mod config;
mod crypto;
mod exchange;
pub(crate) mod http;
mod kv;
pub(crate) mod log;
mod metrics;
mod random;
pub(crate) mod wasi_inert;

pub(crate) use crypto::Keys;
pub use wasi_inert::is_inert;

use crate::instance::Guest;
use wasmtime::component::Linker;

/// Interfaces of `wharf:host` that this host serves.
pub const CAPABILITIES: [&str; 9] = [
    "wharf:host/log@0.1.0",
    "wharf:host/config@0.1.0",
    "wharf:host/kv@0.1.0",
    "wharf:host/metrics@0.1.0",
    "wharf:host/clock@0.1.0",
    "wharf:host/random@0.1.0",
    "wharf:host/crypto@0.1.0",
    "wharf:host/http@0.1.0",
    "wharf:host/exchange@0.1.0",
];

/// A linker with all of them. Made once for an engine; each component's own adds the inert `wasi:*` set.
pub(crate) fn link(engine: &wasmtime::Engine) -> wasmtime::Result<Linker<Guest>> {
    let mut linker = Linker::new(engine);
    let [log_at, config_at, kv_at, metrics_at, clock_at, random_at, crypto_at, http_at, exchange_at] = CAPABILITIES;
    log::link(&mut linker.instance(log_at)?)?;
    config::link(&mut linker.instance(config_at)?)?;
    kv::link(&mut linker.instance(kv_at)?)?;
    metrics::link(&mut linker.instance(metrics_at)?)?;
    clock::link(&mut linker.instance(clock_at)?)?;
    random::link(&mut linker.instance(random_at)?)?;
    crypto::link(&mut linker.instance(crypto_at)?)?;
    http::link(&mut linker.instance(http_at)?)?;
    exchange::link(&mut linker.instance(exchange_at)?)?;
    // Types that these interfaces `use` of each other (`wharf:types`) hold no functions; wasmtime asks for none.
    Ok(linker)
}
