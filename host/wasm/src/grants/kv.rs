//! `wharf:host/kv`: the store door, in the namespace that was granted. Every function may wait; the guest is suspended,
//! its core is not.

use crate::error::Stop;
use crate::instance::Guest;
use bytes::Bytes;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime::StoreContextMut;
use wasmtime::component::LinkerInstance;
use wharf_core::store::{KEY_MAX, Store, StoreError, VALUE_MAX};
use wharf_wasm_bindings::host::KvError;

type Answer<T> = wasmtime::Result<(Result<T, KvError>,)>;
type Pending<'a, T> = Box<dyn Future<Output = Answer<T>> + Send + 'a>;
type Here<'a> = StoreContextMut<'a, Guest>;

pub(super) fn link(to: &mut LinkerInstance<'_, Guest>) -> wasmtime::Result<()> {
    to.func_wrap_async("get", |mut here: Here<'_>, (key,): (String,)| -> Pending<'_, Option<Vec<u8>>> {
        Box::new(async move {
            let (store, namespace) = match open(&mut here, &key, None)? {
                Ok(open) => open,
                Err(refused) => return Ok((Err(refused),)),
            };
            let said = waited(&mut here, store.get(&namespace, &key)).await;
            Ok((said.map(|value| value.map(Vec::from)).map_err(told),))
        })
    })?;
    to.func_wrap_async("set", |mut here: Here<'_>, (key, value, ttl_ms): (String, Vec<u8>, Option<u64>)| -> Pending<'_, ()> {
        Box::new(async move {
            let (store, namespace) = match open(&mut here, &key, Some(value.len()))? {
                Ok(open) => open,
                Err(refused) => return Ok((Err(refused),)),
            };
            let said = waited(&mut here, store.set(&namespace, &key, Bytes::from(value), ttl(ttl_ms))).await;
            Ok((said.map_err(told),))
        })
    })?;
    to.func_wrap_async("delete", |mut here: Here<'_>, (key,): (String,)| -> Pending<'_, bool> {
        Box::new(async move {
            let (store, namespace) = match open(&mut here, &key, None)? {
                Ok(open) => open,
                Err(refused) => return Ok((Err(refused),)),
            };
            let said = waited(&mut here, store.delete(&namespace, &key)).await;
            Ok((said.map_err(told),))
        })
    })?;
    to.func_wrap_async(
        "compare-and-set",
        |mut here: Here<'_>, (key, expected, value, ttl_ms): (String, Option<Vec<u8>>, Vec<u8>, Option<u64>)| -> Pending<'_, bool> {
            Box::new(async move {
                let (store, namespace) = match open(&mut here, &key, Some(value.len()))? {
                    Ok(open) => open,
                    Err(refused) => return Ok((Err(refused),)),
                };
                let expected = expected.map(Bytes::from);
                let said = waited(&mut here, store.compare_and_set(&namespace, &key, expected, Bytes::from(value), ttl(ttl_ms))).await;
                Ok((said.map_err(told),))
            })
        },
    )?;
    to.func_wrap_async("increment", |mut here: Here<'_>, (key, by, ttl_ms): (String, i64, Option<u64>)| -> Pending<'_, i64> {
        Box::new(async move {
            let (store, namespace) = match open(&mut here, &key, None)? {
                Ok(open) => open,
                Err(refused) => return Ok((Err(refused),)),
            };
            let said = waited(&mut here, store.increment(&namespace, &key, by, ttl(ttl_ms))).await;
            Ok((said.map_err(told),))
        })
    })
}

type Open = (Arc<dyn Store>, String);

/// Charges the call, and holds key and value to the contract before the store sees them.
fn open(here: &mut Here<'_>, key: &str, value_len: Option<usize>) -> wasmtime::Result<Result<Open, KvError>> {
    here.data_mut().charge()?;
    let terms = &here.data().terms;
    let Some(grant) = &terms.setup.grants.kv else { return Err(Stop::NotGranted("wharf:host/kv").into()) };
    if key.is_empty() || key.len() > KEY_MAX {
        return Ok(Err(KvError::TooLarge(format!("a key has 1 to {KEY_MAX} bytes, this one has {}", key.len()))));
    }
    if let Some(len) = value_len
        && len > VALUE_MAX
    {
        return Ok(Err(KvError::TooLarge(format!("a value has at most {VALUE_MAX} bytes, this one has {len}"))));
    }
    Ok(Ok((terms.store.clone(), grant.namespace.clone())))
}

/// Awaits, and notes for how long if it did not answer at once.
pub(super) async fn waited<T>(here: &mut Here<'_>, asked: impl Future<Output = T> + Send) -> T {
    let mut asked = std::pin::pin!(asked);
    let at_once = std::future::poll_fn(|task| std::task::Poll::Ready(asked.as_mut().poll(task))).await;
    if let std::task::Poll::Ready(said) = at_once {
        return said;
    }
    let began = Instant::now();
    let said = asked.await;
    here.data_mut().tally.waited += began.elapsed();
    said
}

fn ttl(ms: Option<u64>) -> Option<Duration> {
    ms.map(Duration::from_millis)
}

fn told(error: StoreError) -> KvError {
    match error {
        StoreError::Unavailable(why) => KvError::Unavailable(why),
        StoreError::TooLarge(why) => KvError::TooLarge(why),
        StoreError::Full(why) => KvError::Full(why),
        StoreError::NotACounter => KvError::NotACounter,
    }
}
