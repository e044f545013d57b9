//! What an upload is, read from its bytes before anything is compiled or run: a component? which roles does it answer?
//! what does it ask of the house? Pure.
//!
//! Only the outermost imports and exports are looked at. Whether the code inside is valid is the compiler's question
//! (asked in a child process), and whether an export has the right type is the staging instance's.

use crate::CAPABILITIES;
use crate::limits::Grants;
use crate::ready::Role;
use wasmparser::{ComponentExternalKind, ComponentTypeRef, Parser, Payload};

/// The interface that every plugin answers.
pub(crate) const LIFECYCLE: &str = "wharf:lifecycle/lifecycle@0.1.0";

/// Holds no function, so it needs no grant: `use` of its types imports it.
const TYPES: &str = "wharf:types/types@0.1.0";
/// The two capabilities that the configuration grants; every plugin has the others.
const KV: &str = "wharf:host/kv@0.1.0";
const HTTP: &str = "wharf:host/http@0.1.0";

/// The packages of WASI 0.2 that are linked to the inert set: what standard toolchains import without being asked.
/// (Preview-1 adapters import `sockets` for programs that have none.)
const INERT: [&str; 6] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// What a component exports and imports, each list in the component's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Examined {
    pub(crate) roles: Vec<Role>,
    /// `wharf:*`.
    pub(crate) imports: Vec<String>,
    /// `wasi:*`, all of the inert set.
    pub(crate) wasi: Vec<String>,
}

/// Why an upload is no plugin. Each text says what it is and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("the upload is not WebAssembly: {0}")]
    NotWasm(&'static str),
    #[error("the upload is a core module, not a component")]
    CoreModule,
    #[error("the upload is not a well-formed component: {0}")]
    Malformed(String),
    #[error("the component does not export {LIFECYCLE:?}, which every plugin answers")]
    NoLifecycle,
    #[error("the component answers no role; it exports {}", list(.0))]
    NoRole(Vec<String>),
    #[error("the component imports {0:?}, which this gateway does not offer")]
    UnknownImport(String),
    #[error("the component imports {0:?}, which is not within the inert WASI set")]
    LiveWasi(String),
}

impl Unfit {
    pub(crate) fn hint(&self) -> String {
        match self {
            Unfit::NotWasm(_) => "upload the .wasm file itself, e.g. target/wasm32-wasip2/release/NAME.wasm".into(),
            Unfit::CoreModule => {
                "build it as a component: for Rust `--target wasm32-wasip2`, else `wasm-tools component new module.wasm -o plugin.wasm`"
                    .into()
            }
            Unfit::Malformed(_) => "the file may be cut short: build it again and compare its size and sha-256 after the upload".into(),
            Unfit::NoLifecycle | Unfit::NoRole(_) => {
                let roles = Role::ALL.map(Role::interface);
                format!("export {LIFECYCLE} and one or more of {}; the worlds in wit/worlds.wit do", roles.join(", "))
            }
            Unfit::UnknownImport(_) => "build it against the packages in wit/deps of this gateway's release".into(),
            Unfit::LiveWasi(name) if name.starts_with("wasi:http/") => "a plugin owns no socket: call services by wharf:host/http".into(),
            Unfit::LiveWasi(_) => format!(
                "of WASI, these packages (0.2) are linked, without effect: {}",
                INERT.map(|name| name.trim_end_matches('/')).join(", ")
            ),
        }
    }
}

fn list(names: &[String]) -> String {
    if names.is_empty() { "nothing".into() } else { names.join(", ") }
}

/// Reads the outermost imports and exports.
pub(crate) fn examine(wasm: &[u8]) -> Result<Examined, Unfit> {
    if !wasm.starts_with(b"\0asm") {
        return Err(Unfit::NotWasm(match wasm {
            [] => "it is empty",
            [b'P', b'K', ..] => "it is a zip archive",
            [0x1f, 0x8b, ..] => "it is gzip-compressed",
            [0x28, 0xb5, 0x2f, 0xfd, ..] => "it is zstd-compressed",
            [0x7f, b'E', b'L', b'F', ..] => "it is a native ELF file; a compiled form is never accepted from outside",
            _ if wasm.trim_ascii_start().starts_with(b"(") => "it is WebAssembly text",
            _ => "it does not begin with \\0asm",
        }));
    }
    if Parser::is_core_wasm(wasm) {
        return Err(Unfit::CoreModule);
    }
    if !Parser::is_component(wasm) {
        return Err(Unfit::Malformed("unknown version in its first eight bytes".into()));
    }
    let malformed = |error: wasmparser::BinaryReaderError| Unfit::Malformed(error.to_string());
    let (mut examined, mut exports, mut has_lifecycle, mut depth) = (Examined::default(), Vec::new(), false, 0u32);
    for payload in Parser::new(0).parse_all(wasm) {
        match payload.map_err(malformed)? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.map_err(malformed)?;
                    sort_import(&mut examined, import.name.name, &import.ty)?;
                }
            }
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(malformed)?;
                    let name = export.name.name;
                    exports.push(name.to_owned());
                    if export.kind != ComponentExternalKind::Instance {
                        continue;
                    }
                    has_lifecycle |= name == LIFECYCLE;
                    examined.roles.extend(Role::ALL.into_iter().find(|role| role.interface() == name));
                }
            }
            _ => {}
        }
    }
    if examined.roles.is_empty() {
        return Err(Unfit::NoRole(exports));
    }
    if !has_lifecycle {
        return Err(Unfit::NoLifecycle);
    }
    Ok(examined)
}

fn sort_import(examined: &mut Examined, name: &str, ty: &ComponentTypeRef) -> Result<(), Unfit> {
    let is_instance = matches!(ty, ComponentTypeRef::Instance(_));
    if is_instance && (name == TYPES || CAPABILITIES.contains(&name)) {
        examined.imports.push(name.to_owned());
    } else if is_instance && INERT.iter().any(|package| name.starts_with(package)) && name.contains("@0.2.") {
        examined.wasi.push(name.to_owned());
    } else if name.starts_with("wasi:") {
        return Err(Unfit::LiveWasi(name.to_owned()));
    } else {
        return Err(Unfit::UnknownImport(name.to_owned()));
    }
    Ok(())
}

/// The first import that is not granted, and the line of configuration that would grant it.
pub(crate) fn missing_grant(plugin: &str, imports: &[String], grants: &Grants) -> Option<(String, String)> {
    imports.iter().find_map(|import| match import.as_str() {
        KV if grants.kv.is_none() => Some((import.clone(), format!("plugins.{plugin}.grants.kv: {{}}"))),
        HTTP if grants.http_services.is_empty() => {
            Some((import.clone(), format!("plugins.{plugin}.grants.http: {{ services: [SERVICE] }}")))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guests::Guest;

    #[test]
    fn only_the_outermost_imports_and_exports_count() {
        let roles = Guest { roles: &["route", "filter"], imports: &["log", "wasi-random"], ..Guest::default() }.build();
        let examined = examine(&roles).unwrap();
        assert_eq!(examined.roles, [Role::Route, Role::Filter]);
        assert!(examined.imports.contains(&"wharf:host/log@0.1.0".to_owned()), "{examined:?}");
        assert_eq!(examined.wasi, ["wasi:random/random@0.2.0"]);
        let inside = r#"(component (component (import "acme:x/y@1.0.0" (func)) (export "wharf:auth/auth@0.1.0" (func 0))))"#;
        assert_eq!(examine(&wat::parse_str(inside).unwrap()), Err(Unfit::NoRole(vec![])));
    }

    #[test]
    fn every_cut_of_a_component_is_refused_without_a_panic() {
        let whole = Guest::default().build();
        for end in 0..whole.len() {
            // A cut between two sections leaves a smaller component; what it lost is then missed.
            let _ = examine(&whole[..end]);
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x55;
            let _ = examine(&changed);
        }
    }
}
