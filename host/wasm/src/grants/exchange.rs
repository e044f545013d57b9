//! `wharf:host/exchange`: what a question's record did not carry. Outside an exchange every function traps.

use crate::instance::Guest;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::{LinkerInstance, WasmStr};
use wharf_core::exchange::Facts;
use wharf_core::head::text;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    tell(to, "id", |facts| facts.id.to_string())?;
    tell(to, "path", |facts| facts.request.path().to_owned())?;
    tell(to, "authority", |facts| facts.request.authority().to_owned())?;
    tell(to, "scheme", |facts| facts.request.scheme.as_str().to_owned())?;
    tell(to, "query", |facts| facts.request.query().map(str::to_owned))?;
    tell(to, "peer", |facts| facts.client.to_string())?;
    tell(to, "route", |facts| -> Arc<str> { facts.route.clone() })?;
    tell(to, "header-all", |facts| -> Vec<(String, Vec<u8>)> {
        facts.request.fields.iter().map(|(_, name, value)| (text(name).into_owned(), value.to_owned())).collect()
    })?;
    find(to, "header", |facts, name| facts.request.fields.joined(name.as_bytes()).map(String::from))?;
    find(to, "response-header", |facts, name| {
        facts.response.as_ref().and_then(|response| response.fields.joined(name.as_bytes())).map(String::from)
    })?;
    find(to, "attr", |facts, name| facts.attrs.get(name).map(str::to_owned))
}

fn tell<R>(to: &mut LinkerInstance<'_, Guest>, name: &str, what: fn(&Facts) -> R) -> wasmtime::Result<()>
where
    R: wasmtime::component::Lower + wasmtime::component::ComponentType + Send + Sync + 'static,
{
    to.func_wrap(name, move |mut store: StoreContextMut<'_, Guest>, (): ()| {
        store.data_mut().charge()?;
        Ok((what(store.data().facts()?),))
    })
}

fn find(to: &mut LinkerInstance<'_, Guest>, name: &str, what: fn(&Facts, &str) -> Option<String>) -> wasmtime::Result<()> {
    to.func_wrap(name, move |mut store: StoreContextMut<'_, Guest>, (asked,): (WasmStr,)| {
        store.data_mut().charge()?;
        let asked = asked.to_str(&store)?;
        Ok((what(store.data().facts()?, &asked),))
    })
}
