//! `wharf:host/metrics`: counters of the plugin's own.

use crate::instance::Guest;
use std::sync::PoisonError;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, WasmStr};

/// Names of one plugin; what comes later is counted under `other`.
const NAMES_MAX: usize = 64;
const NAME_MAX: usize = 64;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap("count", |mut store: StoreContextMut<'_, Guest>, (name, by): (WasmStr, u64)| {
        store.data_mut().charge()?;
        let name = name.to_str(&store)?;
        count(store.data(), &name, by);
        Ok(())
    })
}

fn count(guest: &Guest, name: &str, by: u64) {
    // A name beyond the rules is not worth a trap in the middle of a request; it is seen as `other`.
    let name = if is_name(name) { name } else { "other" };
    let plugin = &guest.terms.plugin;
    let mut counters = plugin.counters.lock().unwrap_or_else(PoisonError::into_inner);
    let name = if counters.contains_key(name) || counters.len() < NAMES_MAX { name } else { "other" };
    match counters.get(name) {
        Some(count) => count.add_shared(by),
        None => {
            let made = crate::metrics::custom(&guest.terms.metrics, &plugin.name, name);
            made.add_shared(by);
            counters.insert(name.into(), made);
        }
    }
}

fn is_name(name: &str) -> bool {
    (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bounded() {
        assert!(is_name("logins_refused"));
        for bad in ["", "A", "a-b", "a\nb", &"a".repeat(65)] {
            assert!(!is_name(bad), "{bad:?}");
        }
    }
}
