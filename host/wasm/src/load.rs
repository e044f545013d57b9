//! Loading compiled code: the one place in this room that asks the compiler for trust.
//!
//! Compiled code is machine code; whoever controls these bytes controls the process. So they are taken only from a file
//! whose digest the caller noted when our own compile child wrote it, and what is executed is the very buffer that was
//! digested: a file that changes between the two looks cannot slip in.

#![allow(unsafe_code, reason = "deserialising compiled code is unsafe by nature; the digest below is the argument for it")]

use crate::WasmError;
use std::path::Path;
use wasmtime::component::Component;

/// Reads, verifies and maps compiled code.
pub(crate) fn load(engine: &wasmtime::Engine, compiled: &Path, compiled_sha256: &[u8; 32]) -> Result<Component, WasmError> {
    let bytes = std::fs::read(compiled).map_err(|cause| {
        WasmError::internal(format!("compiled code {} cannot be read: {cause}; it will be compiled again", compiled.display()))
    })?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes);
    if digest.as_ref() != compiled_sha256 {
        return Err(WasmError::refused(format!(
            "compiled code {} is not what was written there (its digest differs); it must be compiled again",
            compiled.display()
        )));
    }
    // SAFETY: `bytes` are what `compile` of this program returned, by their digest, which the caller keeps apart from
    // the file; `deserialize` itself refuses code of another engine version or other settings.
    unsafe { Component::deserialize(engine, &bytes) }.map_err(|cause| WasmError::refused(why(compiled, &format!("{cause:#}"))))
}

/// What to tell of compiled code that the engine did not take.
fn why(compiled: &Path, cause: &str) -> String {
    let compiled = compiled.display();
    // The engine's words for a system that refuses the one thing that compiled code needs.
    if cause.contains("memory executable") {
        return format!(
            "compiled code {compiled} may not be run here: {cause}; take `MemoryDenyWriteExecute=` out of the unit, or allow it in the \
             security policy (`execmem` in SELinux)"
        );
    }
    format!("compiled code {compiled} is of another engine or other settings: {cause}; it must be compiled again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_system_that_forbids_compiled_code_is_not_taken_for_another_engine() {
        let said = why(Path::new("/x.cwasm"), "unable to make memory executable: Permission denied (os error 13)");
        assert!(said.contains("MemoryDenyWriteExecute") && !said.contains("another engine"), "{said}");
        assert!(why(Path::new("/x.cwasm"), "compiled by version 47").contains("compiled again"));
    }
}
