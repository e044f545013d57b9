//! `wharf:host/config`: the configuration that the instance was given.

use crate::instance::Guest;
use std::sync::Arc;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap("get", |mut store: StoreContextMut<'_, Guest>, (): ()| -> wasmtime::Result<(Arc<str>,)> {
        store.data_mut().charge()?;
        Ok((store.data().terms.setup.config.clone(),))
    })
}
