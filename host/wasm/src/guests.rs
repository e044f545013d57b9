//! Guests for the tests of this room, made from text: real components of the contract in `wit/`, each with one quirk.

use crate::child::COMPILE_CHILD;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// The test binary as its own compile child.
pub(crate) fn child_command() -> (PathBuf, Vec<OsString>) {
    let args = ["--exact", "child::tests::the_test_binary_is_its_own_child", "--nocapture", COMPILE_CHILD];
    (PathBuf::from("/proc/self/exe"), args.map(OsString::from).to_vec())
}

/// What `configure` does.
#[derive(Clone, Copy)]
pub(crate) enum Configure {
    Accept,
    Refuse(&'static str),
    RefuseLongerThan(u32),
    Trap,
    Loop,
}

#[derive(Clone)]
pub(crate) struct Guest {
    pub(crate) roles: &'static [&'static str],
    /// Of `kv`, `http`, `log`, `wasi-random`, `wasi-http`, `unknown`.
    pub(crate) imports: &'static [&'static str],
    pub(crate) schema: &'static str,
    pub(crate) configure: Configure,
    pub(crate) traps_at_start: bool,
    /// Makes a digest of its own.
    pub(crate) build: u32,
}

impl Default for Guest {
    fn default() -> Guest {
        Guest { roles: &["auth"], imports: &[], schema: "{}", configure: Configure::Accept, traps_at_start: false, build: 0 }
    }
}

/// Interfaces that are no part of the contract.
const FOREIGN: [(&str, &str); 3] = [
    ("wasi-random.wit", "package wasi:random@0.2.0; interface random { f: func() -> u32; }"),
    ("wasi-http.wit", "package wasi:http@0.2.0; interface outgoing-handler { f: func() -> u32; }"),
    ("unknown.wit", "package acme:unknown@1.0.0; interface thing { f: func() -> u32; }"),
];

impl Guest {
    pub(crate) fn numbered(build: u32) -> Guest {
        Guest { build, ..Guest::default() }
    }

    pub(crate) fn build(&self) -> Vec<u8> {
        let mut resolve = Resolve::default();
        let wit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../wit");
        resolve.push_dir(&wit).unwrap();
        for (name, text) in FOREIGN {
            resolve.push_str(name, text).unwrap();
        }
        let (mut world, mut imports) = (String::from("package test:guest;\nworld guest {\n"), String::new());
        for import in self.imports {
            let (interface, function) = match *import {
                "kv" => ("wharf:host/kv@0.1.0", r#""get" (func (param i32 i32 i32))"#),
                "http" => ("wharf:host/http@0.1.0", r#""fetch" (func (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32))"#),
                "log" => ("wharf:host/log@0.1.0", r#""log" (func (param i32 i32 i32))"#),
                "wasi-random" => ("wasi:random/random@0.2.0", r#""f" (func (result i32))"#),
                "wasi-http" => ("wasi:http/outgoing-handler@0.2.0", r#""f" (func (result i32))"#),
                "unknown" => ("acme:unknown/thing@1.0.0", r#""f" (func (result i32))"#),
                other => panic!("no import {other}"),
            };
            world.push_str(&format!("  import {interface};\n"));
            imports.push_str(&format!("(import \"{interface}\" {function})\n"));
        }
        world.push_str("  export wharf:lifecycle/lifecycle@0.1.0;\n");
        let mut answers = String::new();
        // The method's tag and text, the list of facts.
        let five = "(param i32 i32 i32 i32 i32)";
        for role in self.roles {
            world.push_str(&format!("  export wharf:{role}/{role}@0.1.0;\n"));
            let functions: &[(&str, &str)] = match *role {
                "auth" => &[("check", five)],
                "route" => &[("pick", five)],
                "filter" => &[("on-request", five), ("on-response", "(param i32 i32 i32)")],
                "degrade" => &[("on-fault", "(param i32 i32 i32 i32 i32 i32 i32 i32)")],
                other => panic!("no role {other}"),
            };
            for (function, params) in functions {
                // 512: zeroes, which are "next, no edits", "no target", "pass".
                answers
                    .push_str(&format!("(func (export \"wharf:{role}/{role}@0.1.0#{function}\") {params} (result i32) (i32.const 512))\n"));
            }
        }
        world.push_str("}\n");
        let package = resolve.push_str("guest.wit", &world).unwrap();
        let world = resolve.select_world(&[package], Some("guest")).unwrap();

        let refuse = |text: &str| {
            format!(
                "(i32.store (i32.const 256) (i32.const 1)) (i32.store (i32.const 260) (i32.const 60000)) (i32.store (i32.const 264) (i32.const {})) (return (i32.const 256))",
                text.len()
            )
        };
        let (configure, text) = match self.configure {
            Configure::Accept => (String::new(), ""),
            Configure::Refuse(text) => (refuse(text), text),
            Configure::RefuseLongerThan(bytes) => {
                (format!("(if (i32.gt_u (local.get 1) (i32.const {bytes})) (then {}))", refuse("too long")), "too long")
            }
            Configure::Trap => ("unreachable".into(), ""),
            Configure::Loop => ("(loop $for_ever (br $for_ever))".into(), ""),
        };
        let start = if self.traps_at_start { "(func $start unreachable) (start $start)" } else { "" };
        let schema = self.schema;
        let quoted = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
        let core = format!(
            r#"(module
            {imports}
            (memory (export "memory") 2)
            (global $next (mut i32) (i32.const 70000))
            (data (i32.const 1024) "{}")
            (data (i32.const 60000) "{}")
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local $at i32)
                (local.set $at (i32.and (i32.add (global.get $next) (i32.const 7)) (i32.const -8)))
                (global.set $next (i32.add (local.get $at) (local.get 3)))
                (local.get $at))
            (func (export "wharf:lifecycle/lifecycle@0.1.0#schema") (result i32)
                (i32.store (i32.const 128) (i32.const 1024)) (i32.store (i32.const 132) (i32.const {})) (i32.const 128))
            (func (export "wharf:lifecycle/lifecycle@0.1.0#configure") (param i32 i32) (result i32)
                {configure}
                (i32.const 512))
            {answers}
            {start})"#,
            quoted(schema),
            quoted(text),
            schema.len()
        );
        let mut module = wat::parse_str(&core).unwrap();
        embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
        let mut component = ComponentEncoder::default().module(&module).unwrap().encode().unwrap();
        // A custom section "build" with its number, as a build server would leave it.
        component.extend([0, 10]);
        component.extend(b"\x05build");
        component.extend(self.build.to_le_bytes());
        component
    }
}
