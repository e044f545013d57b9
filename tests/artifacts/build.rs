//! Builds everything that tests push into a gateway: the shipped plugins, the hostile guest, and the small text modules.
//!
//! Cargo is called once more, for `wasm32-wasip2`, with a target folder of its own inside `OUT_DIR`: the folder of the
//! outer build is locked while we run. The inner build is incremental, so a change in one plugin costs that plugin.

use anyhow::{Context as _, Result, bail, ensure};
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use wit_component::{ComponentEncoder, StringEncoding};
use wit_parser::Resolve;

/// Package, artifact file, name in tests.
const CRATES: &[(&str, &str, &str)] = &[
    ("wharf-plugin-auth", "wharf_plugin_auth.wasm", "auth"),
    ("wharf-plugin-route", "wharf_plugin_route.wasm", "route"),
    ("wharf-plugin-headers", "wharf_plugin_headers.wasm", "headers"),
    ("wharf-plugin-degrade", "wharf_plugin_degrade.wasm", "degrade"),
    ("wharf-guests", "wharf_guests.wasm", "hostile"),
];

/// Of the root, what the components are made of. `Cargo.lock` is not listed: it changes with every dependency of the
/// host, and what it says about plugins is also in effect when one of these changes.
const INPUTS: &[&str] = &["plugins", "sdk/rust", "wit", "tests/guests", "Cargo.toml", "rust-toolchain.toml"];

fn main() -> Result<()> {
    let root = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../..").canonicalize()?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", root.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let mut made: Vec<(String, PathBuf)> = Vec::new();
    let built = components(&root, &out)?;
    for (_, file, name) in CRATES {
        made.push((name.to_string(), built.join(file)));
    }
    made.push(("hello".into(), built.join("examples/hello.wasm")));
    let texts = root.join("tests/guests/wat");
    let resolve = contract(&root, &texts)?;
    for entry in fs::read_dir(&texts)? {
        let path = entry?.path();
        if path.extension().is_some_and(|ending| ending == "wat") {
            let name = path.file_stem().and_then(|name| name.to_str()).context("a text module without a name")?.to_string();
            let bytes = from_text(&path, &resolve).with_context(|| format!("{}", path.display()))?;
            let to = out.join(format!("{name}.wasm"));
            fs::write(&to, bytes)?;
            made.push((name, to));
        }
    }
    made.sort();

    let mut list = String::from("pub(crate) static ALL: &[(&str, &str, &[u8])] = &[\n");
    for (name, path) in &made {
        writeln!(list, "    ({name:?}, {path:?}, include_bytes!({path:?})),")?;
    }
    list.push_str("];\n");
    fs::write(out.join("list.rs"), list)?;
    Ok(())
}

/// Builds the crates and returns the folder where the components are.
fn components(root: &Path, out: &Path) -> Result<PathBuf> {
    let target = out.join("wasm");
    let packages: Vec<&str> = CRATES.iter().flat_map(|(package, ..)| ["-p", package]).collect();
    cargo(root, &target, &[&["--lib"], &packages[..]].concat())?;
    // Apart: an example brings the features of development dependencies (of jsonschema, for one) into all of its build,
    // and the components are to be the ones that are shipped.
    cargo(root, &target, &["-p", "wharf-plugin", "--example", "hello"])?;
    Ok(target.join("wasm32-wasip2/plugin"))
}

fn cargo(root: &Path, target: &Path, what: &[&str]) -> Result<()> {
    let mut cargo = Command::new(env::var_os("CARGO").context("CARGO is set by cargo")?);
    cargo.current_dir(root).args(["build", "--locked", "--profile", "plugin", "--target", "wasm32-wasip2"]).args(what);
    cargo.env("CARGO_TARGET_DIR", target);
    // Set for the host's build (flags, wrappers such as clippy's); wrong or slow for the guests'.
    for name in
        ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "CARGO_BUILD_TARGET", "RUSTC", "RUSTDOC"]
    {
        cargo.env_remove(name);
    }
    let output = cargo.output().context("cargo cannot be started")?;
    ensure!(
        output.status.success(),
        "the plugins do not build for wasm32-wasip2; if the target is missing: `rustup target add wasm32-wasip2`\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

/// The plugin contract, and the foreign packages that some guests are built against.
fn contract(root: &Path, texts: &Path) -> Result<Resolve> {
    let mut resolve = Resolve::default();
    resolve.push_path(root.join("wit"))?;
    for foreign in ["foreign.wit", "sockets.wit"] {
        resolve.push_file(texts.join(foreign))?;
    }
    Ok(resolve)
}

/// A module out of its text; made a component where its first line names a world.
fn from_text(path: &Path, resolve: &Resolve) -> Result<Vec<u8>> {
    let text = fs::read_to_string(path)?;
    let mut bytes = wat::parse_str(&text)?;
    let first = text.lines().next().unwrap_or_default();
    let world = match first.strip_prefix(";; ") {
        Some("component" | "world: none") => return Ok(bytes),
        Some(line) => line.strip_prefix("world: ").context("the first line is `;; world: NAME`")?,
        None => bail!("the first line is `;; world: NAME`, `;; world: none` or `;; component`"),
    };
    let packages: Vec<_> = resolve.packages.iter().map(|(id, _)| id).collect();
    let world = resolve.select_world(&packages, Some(world))?;
    wit_component::embed_component_metadata(&mut bytes, resolve, world, StringEncoding::UTF8)?;
    ComponentEncoder::default().module(&bytes)?.validate(true).encode()
}
