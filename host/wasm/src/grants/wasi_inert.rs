//! `wasi:*`, inert. A standard toolchain links a dozen of its interfaces whether the program uses them or not; refusing
//! them would refuse nearly every guest, serving them would hand out files and sockets.
//!
//! So: clocks and random numbers are the host's, standard output and error go to the plugin's log under its quota, and
//! there are no arguments, no environment, no files, no sockets. Anything else is linked to a trap that names it, so a
//! guest that really needs it ends one question and says why.
//!
//! Each component gets exactly the names that it imports, because the version in a name is part of it and every
//! toolchain writes another patch release.

use super::{clock, log, random};
use crate::error::{Stop, WasmError};
use crate::instance::Guest;
use wasmtime::StoreContextMut;
use wasmtime::component::types::{ComponentInstance, ComponentItem};
use wasmtime::component::{Component, Linker, LinkerInstance, Resource, ResourceType, WasmList};
use wharf_wasm_bindings::wasi::{
    Datetime, Descriptor, InputStream, IoError, OutputStream, Pollable, StreamError, TerminalInput, TerminalOutput,
};

type Here<'a> = StoreContextMut<'a, Guest>;

/// Bytes that a guest may write to standard output or error at once.
const WRITE_MAX: u64 = 4096;

/// Is this an import that is linked to the inert set (whole or as traps)?
pub fn is_inert(import: &str) -> bool {
    import.starts_with("wasi:")
}

/// A linker that has everything the component imports, or the reason why not.
pub(crate) fn complete(base: &Linker<Guest>, component: &Component) -> Result<Linker<Guest>, WasmError> {
    let mut linker = base.clone();
    let engine = base.engine().clone();
    for (name, import) in component.component_type().imports(&engine) {
        if !is_inert(name) {
            // `wharf:host` is linked, and `wharf:*` interfaces of types alone need nothing.
            if name.starts_with("wharf:") {
                continue;
            }
            return Err(WasmError::refused(format!("the component imports {name:?}, which this host does not have")));
        }
        let ComponentItem::ComponentInstance(interface) = import.ty else {
            return Err(WasmError::refused(format!("the component imports {name:?}, which is no interface")));
        };
        let failed = |cause: wasmtime::Error| WasmError::refused(format!("the component's import {name:?} cannot be linked: {cause:#}"));
        let mut to = linker.instance(name).map_err(failed)?;
        fill(&mut to, name, &interface, &engine).map_err(failed)?;
    }
    Ok(linker)
}

fn fill(to: &mut LinkerInstance<'_, Guest>, name: &str, interface: &ComponentInstance, engine: &wasmtime::Engine) -> wasmtime::Result<()> {
    // `wasi:io/streams@0.2.6` is `wasi:io/streams` of any patch release.
    let unversioned = name.split('@').next().unwrap_or(name);
    for (item, ty) in interface.exports(engine) {
        match ty.ty {
            ComponentItem::ComponentFunc(_) if served(to, unversioned, item)? => {}
            ComponentItem::ComponentFunc(_) => {
                let what = format!("{name}#{item}");
                to.func_new(item, move |_, _, _, _| Err(Stop::Import(what.clone()).into()))?;
            }
            ComponentItem::Resource(_) => to.resource(item, resource(item), |_, _| Ok(()))?,
            _ => {}
        }
    }
    Ok(())
}

/// The host's type for a resource of this name. Those that no served function mentions share one: every function that
/// could give or take them is a trap.
fn resource(name: &str) -> ResourceType {
    match name {
        "error" => ResourceType::host::<IoError>(),
        "pollable" => ResourceType::host::<Pollable>(),
        "input-stream" => ResourceType::host::<InputStream>(),
        "output-stream" => ResourceType::host::<OutputStream>(),
        "terminal-input" => ResourceType::host::<TerminalInput>(),
        "terminal-output" => ResourceType::host::<TerminalOutput>(),
        "descriptor" => ResourceType::host::<Descriptor>(),
        _ => ResourceType::host::<()>(),
    }
}

/// Which of the three standard streams a handle stands for.
const OUTPUT: u32 = 1;
const ERROR: u32 = 2;

/// Links a function that does something. `false`: it is none of those.
fn served(to: &mut LinkerInstance<'_, Guest>, interface: &str, function: &str) -> wasmtime::Result<bool> {
    match (interface, function) {
        ("wasi:clocks/monotonic-clock", "now") => tell(to, function, || Ok((clock::monotonic_ns(),)))?,
        ("wasi:clocks/monotonic-clock", "resolution") => tell(to, function, || Ok((1u64,)))?,
        ("wasi:clocks/wall-clock", "now") => tell(to, function, || {
            let now = clock::since_1970();
            Ok((Datetime { seconds: now.as_secs(), nanoseconds: now.subsec_nanos() },))
        })?,
        ("wasi:clocks/wall-clock", "resolution") => tell(to, function, || Ok((Datetime { seconds: 0, nanoseconds: 1 },)))?,
        ("wasi:random/random" | "wasi:random/insecure", "get-random-u64" | "get-insecure-random-u64") => {
            tell(to, function, || Ok((random::number()?,)))?;
        }
        ("wasi:random/random" | "wasi:random/insecure", "get-random-bytes" | "get-insecure-random-bytes") => {
            to.func_wrap(function, |mut here: Here<'_>, (len,): (u64,)| -> wasmtime::Result<(Vec<u8>,)> {
                here.data_mut().charge()?;
                let len = u32::try_from(len).unwrap_or(u32::MAX);
                if len > 4096 {
                    return Err(Stop::Random(len).into());
                }
                let mut bytes = vec![0; len as usize];
                random::fill(&mut bytes)?;
                Ok((bytes,))
            })?;
        }
        ("wasi:random/insecure-seed", "insecure-seed" | "get-insecure-seed") => {
            tell(to, function, || Ok(((random::number()?, random::number()?),)))?;
        }
        ("wasi:cli/environment", "get-environment") => tell(to, function, || Ok((Vec::<(String, String)>::new(),)))?,
        ("wasi:cli/environment", "get-arguments") => tell(to, function, || Ok((Vec::<String>::new(),)))?,
        ("wasi:cli/environment", "initial-cwd") => tell(to, function, || Ok((None::<String>,)))?,
        ("wasi:cli/stdin", "get-stdin") => tell(to, function, || Ok((Resource::<InputStream>::new_own(0),)))?,
        ("wasi:cli/stdout", "get-stdout") => tell(to, function, || Ok((Resource::<OutputStream>::new_own(OUTPUT),)))?,
        ("wasi:cli/stderr", "get-stderr") => tell(to, function, || Ok((Resource::<OutputStream>::new_own(ERROR),)))?,
        ("wasi:cli/terminal-stdin", "get-terminal-stdin") => tell(to, function, || Ok((None::<Resource<TerminalInput>>,)))?,
        ("wasi:cli/terminal-stdout", "get-terminal-stdout") | ("wasi:cli/terminal-stderr", "get-terminal-stderr") => {
            tell(to, function, || Ok((None::<Resource<TerminalOutput>>,)))?;
        }
        ("wasi:filesystem/preopens", "get-directories") => tell(to, function, || Ok((Vec::<(Resource<Descriptor>, String)>::new(),)))?,
        // The only pollables there are come from the standard streams, which never keep anybody waiting. (Those of
        // clocks and sockets are not given out: a guest that sleeps does not wait for an answer, it wastes a deadline.)
        ("wasi:io/poll", "[method]pollable.ready") => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<Pollable>,)| -> wasmtime::Result<(bool,)> {
                here.data_mut().charge()?;
                Ok((true,))
            })?;
        }
        ("wasi:io/poll", "[method]pollable.block") => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<Pollable>,)| -> wasmtime::Result<()> { here.data_mut().charge() })?;
        }
        ("wasi:io/poll", "poll") => {
            to.func_wrap(function, |mut here: Here<'_>, (all,): (Vec<Resource<Pollable>>,)| -> wasmtime::Result<(Vec<u32>,)> {
                here.data_mut().charge()?;
                Ok(((0..all.len() as u32).collect(),))
            })?;
        }
        ("wasi:io/streams", _) => return stream(to, function),
        _ => return Ok(false),
    }
    Ok(true)
}

type Written<T> = wasmtime::Result<(Result<T, StreamError>,)>;

fn stream(to: &mut LinkerInstance<'_, Guest>, function: &str) -> wasmtime::Result<bool> {
    match function {
        "[method]output-stream.check-write" => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<OutputStream>,)| -> Written<u64> {
                here.data_mut().charge()?;
                Ok((Ok(WRITE_MAX),))
            })?;
        }
        "[method]output-stream.write" | "[method]output-stream.blocking-write-and-flush" => {
            to.func_wrap(function, |mut here: Here<'_>, (which, bytes): (Resource<OutputStream>, WasmList<u8>)| -> Written<()> {
                here.data_mut().charge()?;
                let at = if which.rep() == ERROR { 1 } else { 0 };
                // Copied, and no more than allowed: a write is followed by changes to the store it lies in.
                let all = bytes.as_le_slice(&here);
                let some = all.get(..WRITE_MAX as usize).unwrap_or(all).to_vec();
                log::write(here.data_mut(), at, &some);
                Ok((Ok(()),))
            })?;
        }
        "[method]output-stream.subscribe" => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<OutputStream>,)| -> wasmtime::Result<(Resource<Pollable>,)> {
                here.data_mut().charge()?;
                Ok((Resource::new_own(0),))
            })?;
        }
        "[method]output-stream.flush" | "[method]output-stream.blocking-flush" => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<OutputStream>,)| -> Written<()> {
                here.data_mut().charge()?;
                Ok((Ok(()),))
            })?;
        }
        "[method]input-stream.subscribe" => {
            to.func_wrap(function, |mut here: Here<'_>, (_,): (Resource<InputStream>,)| -> wasmtime::Result<(Resource<Pollable>,)> {
                here.data_mut().charge()?;
                Ok((Resource::new_own(0),))
            })?;
        }
        "[method]input-stream.read" | "[method]input-stream.blocking-read" => {
            to.func_wrap(function, |mut here: Here<'_>, (_, _): (Resource<InputStream>, u64)| -> Written<Vec<u8>> {
                here.data_mut().charge()?;
                Ok((Err(StreamError::Closed),))
            })?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn tell<R>(to: &mut LinkerInstance<'_, Guest>, function: &str, what: fn() -> wasmtime::Result<(R,)>) -> wasmtime::Result<()>
where
    R: wasmtime::component::Lower + wasmtime::component::ComponentType + Send + Sync + 'static,
{
    to.func_wrap(function, move |mut here: Here<'_>, (): ()| {
        here.data_mut().charge()?;
        what()
    })
}
