//! `wharf:host/random`: the operating system's generator, through the house's one crypto library.

use crate::error::Stop;
use crate::instance::Guest;
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;

const BYTES_MAX: u32 = 4096;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap("bytes", |mut store: StoreContextMut<'_, Guest>, (count,): (u32,)| {
        store.data_mut().charge()?;
        if count > BYTES_MAX {
            return Err(Stop::Random(count).into());
        }
        let mut bytes = vec![0; count as usize];
        fill(&mut bytes)?;
        Ok((bytes,))
    })?;
    to.func_wrap("u64", |mut store: StoreContextMut<'_, Guest>, (): ()| {
        store.data_mut().charge()?;
        Ok((number()?,))
    })
}

pub(super) fn fill(bytes: &mut [u8]) -> wasmtime::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| wasmtime::format_err!("the operating system gives no random bytes"))
}

pub(super) fn number() -> wasmtime::Result<u64> {
    let mut bytes = [0; 8];
    fill(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}
