//! What tests push into a gateway: the shipped plugins and the guests of `tests/guests`, built by the build script.
//!
//! Names: `auth`, `route`, `headers`, `degrade`, `hostile` (one component for all roles; its behaviour is its
//! configuration), `hello` (the ten-line filter of the sdk: sets `x-hello: world`), and one for each file in `tests/guests/wat`: `minimal`, `loop-at-start`, `trap-at-start`,
//! `loop-in-schema`, `table`, `memory-at-start`, `non-utf8`, `wild-pointer`, `wild-tag`, `endless-list`, `wants-http`,
//! `wants-sockets`, `foreign-import`, `no-role`, `core-module`.

use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/list.rs"));

/// The bytes of a component.
///
/// # Panics
/// If there is none of this name.
pub fn component(name: &str) -> &'static [u8] {
    find(name).2
}

/// The file of a component, for the command line.
///
/// # Panics
/// If there is none of this name.
pub fn path(name: &str) -> &'static Path {
    Path::new(find(name).1)
}

/// All names, sorted.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|(name, ..)| *name)
}

fn find(wanted: &str) -> &'static (&'static str, &'static str, &'static [u8]) {
    #[allow(clippy::panic, reason = "a mistake in a test")]
    ALL.iter()
        .find(|(name, ..)| *name == wanted)
        .unwrap_or_else(|| panic!("no component is called {wanted:?}; there are {:?}", names().collect::<Vec<_>>()))
}

/// The same component with a number in a custom section: it behaves the same and has a digest never seen before.
pub fn with_build_number(component: &[u8], number: u64) -> Vec<u8> {
    const NAME: &[u8] = b"wharf-build";
    let mut section = Vec::new();
    leb128(&mut section, NAME.len());
    section.extend_from_slice(NAME);
    section.extend_from_slice(number.to_string().as_bytes());
    let mut bytes = component.to_vec();
    // A custom section (id 0) may stand at the end of a module and of a component alike.
    bytes.push(0);
    leb128(&mut bytes, section.len());
    bytes.extend_from_slice(&section);
    bytes
}

fn leb128(into: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        into.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    into.push(number as u8);
}

#[cfg(test)]
mod tests {
    use super::*;
    use wit_component::DecodedWasm;

    /// Interfaces that a component imports and exports, sorted.
    fn interfaces(bytes: &[u8]) -> (Vec<String>, Vec<String>) {
        let DecodedWasm::Component(resolve, world) = wit_component::decode(bytes).unwrap() else { panic!("not a component") };
        let world = &resolve.worlds[world];
        let names = |items: &mut dyn Iterator<Item = &wit_parser::WorldKey>| {
            let mut names: Vec<String> = items.map(|key| resolve.name_world_key(key)).collect();
            names.sort();
            names
        };
        (names(&mut world.imports.keys()), names(&mut world.exports.keys()))
    }

    fn exports(role: &str) -> Vec<String> {
        let mut names = vec!["wharf:lifecycle/lifecycle@0.1.0".into(), format!("wharf:{role}/{role}@0.1.0")];
        names.sort();
        names
    }

    #[test]
    fn every_shipped_plugin_exports_its_role_and_nothing_else() {
        for (name, role) in [
            ("auth", "auth"),
            ("route", "route"),
            ("headers", "filter"),
            ("degrade", "degrade"),
            ("hello", "filter"),
            ("minimal", "filter"),
        ] {
            assert_eq!(interfaces(component(name)).1, exports(role), "{name}");
        }
        let (_, all) = interfaces(component("hostile"));
        let mut wanted: Vec<String> = ["auth", "route", "filter", "degrade"].into_iter().flat_map(exports).collect();
        wanted.sort();
        wanted.dedup();
        assert_eq!(all, wanted);
    }

    #[test]
    fn a_plugin_asks_for_no_more_than_it_uses() {
        let granted = |name: &str| -> Vec<String> {
            interfaces(component(name)).0.into_iter().filter(|import| import.starts_with("wharf:host/")).collect()
        };
        let host = |names: &[&str]| names.iter().map(|name| format!("wharf:host/{name}@0.1.0")).collect::<Vec<_>>();
        assert_eq!(granted("auth"), host(&["clock", "crypto", "exchange", "kv", "log"]));
        assert_eq!(granted("route"), host(&["random"]));
        assert_eq!(granted("headers"), host(&["exchange", "metrics"]));
        assert_eq!(granted("degrade"), host(&["clock", "exchange"]));
        assert_eq!(granted("minimal"), host(&[]));
    }

    #[test]
    fn guests_that_ask_for_too_much_say_so_in_their_imports() {
        for (name, import) in [
            ("wants-http", "wharf:host/http@0.1.0"),
            ("foreign-import", "evil:corp/api"),
            ("wants-sockets", "wasi:sockets/instance-network@0.2.0"),
        ] {
            let (imports, exported) = interfaces(component(name));
            assert!(imports.iter().any(|have| have == import), "{name}: {imports:?}");
            assert_eq!(exported, exports("filter"), "{name}");
        }
    }

    #[test]
    fn all_are_valid_wasm_and_only_one_is_no_component() {
        for name in names() {
            let bytes = component(name);
            wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
                .validate_all(bytes)
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(wasmparser::Parser::is_component(bytes), name != "core-module", "{name}");
            assert_eq!(std::fs::read(path(name)).unwrap(), bytes, "{name}");
        }
    }

    #[test]
    fn a_build_number_makes_another_component_that_is_the_same_in_all_else() {
        for name in ["minimal", "core-module", "auth"] {
            let plain = component(name);
            let (one, two) = (with_build_number(plain, 1), with_build_number(plain, 200));
            assert!(one != plain && one != two);
            assert_eq!(&one[..plain.len()], plain);
            wasmparser::Validator::new().validate_all(&two).unwrap();
        }
    }

    #[test]
    fn shipped_components_stay_small() {
        for (name, kib_max) in [("auth", 400), ("route", 320), ("headers", 320), ("degrade", 320), ("hello", 100), ("minimal", 4)] {
            let kib = component(name).len() / 1024;
            println!("{name}: {} bytes", component(name).len());
            assert!(kib <= kib_max, "{name} has {kib} KiB");
        }
    }
}
