//! The walls: which crate may know which, and what may come in from outside.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;
use wharf_tidy::{none, root, tree};

/// Who may know whom. Every room knows `core` and no neighbour; only `gateway` knows all. An edge that is missing here is
/// argued in the pull request that adds it.
const EDGES: &[(&str, &[&str])] = &[
    ("wharf-core", &[]),
    ("wharf-http", &["wharf-core"]),
    ("wharf-upstream", &["wharf-core"]),
    // The bindings are a crate of their own only because they rebuild slowly: inside the same room.
    ("wharf-wasm", &["wharf-core", "wharf-wasm-bindings"]),
    ("wharf-wasm-bindings", &[]),
    ("wharf-centre", &["wharf-core"]),
    ("wharf-ferry", &["wharf-core"]),
    ("wharf-embedded", &["wharf-core"]),
    ("wharf-kafka", &["wharf-core"]),
    ("wharf-rocketmq", &["wharf-core"]),
    (
        "wharf-gateway",
        &["wharf-core", "wharf-http", "wharf-upstream", "wharf-wasm", "wharf-centre", "wharf-ferry", "wharf-embedded", "wharf-kafka"],
    ),
    // The bench ladder is a second gateway with the shipped rules linked in.
    // The bench ladder assembles the road with native rules, as `gateway` does with components.
    (
        "wharf-ladder",
        &["wharf-core", "wharf-http", "wharf-upstream", "wharf-plugin", "wharf-plugin-auth", "wharf-plugin-route", "wharf-plugin-headers"],
    ),
    ("wharf-plugin", &[]),
    ("wharf-plugin-auth", &["wharf-plugin"]),
    ("wharf-plugin-route", &["wharf-plugin"]),
    ("wharf-plugin-headers", &["wharf-plugin"]),
    ("wharf-plugin-degrade", &["wharf-plugin"]),
    ("wharf-artifacts", &[]),
    ("wharf-guests", &["wharf-plugin"]),
    ("wharf-contract", &["wharf-core", "wharf-harness"]),
    ("wharf-harness", &[]),
    ("wharf-e2e", &["wharf-harness", "wharf-artifacts"]),
    // Fuzz targets look inside the rooms they feed; what they feed of the gateway they compile a second time.
    ("wharf-fuzz", &["wharf-core", "wharf-http", "wharf-ferry", "wharf-upstream"]),
    ("wharf-fuzz-planted", &["wharf-core", "wharf-http", "wharf-ferry", "wharf-upstream", "wharf-fuzz"]),
    ("wharf-tidy", &[]),
];

/// What tests of a room may use besides: guests to run, a gateway to start. Never a neighbour.
const FOR_TESTS: &[&str] = &["wharf-artifacts", "wharf-contract", "wharf-harness", "wharf-plugin"];

/// Licences that may come in, each with its reason.
const LICENCES: &[(&str, &str)] = &[
    ("Apache-2.0", "our own"),
    ("Apache-2.0 WITH LLVM-exception", "our own with less to ask; wasmtime"),
    ("MIT", "asks for its text only"),
    ("MIT-0", "asks for nothing"),
    ("BSD-2-Clause", "asks for its text only"),
    ("BSD-3-Clause", "asks for its text and not to use names"),
    ("ISC", "asks for its text only; crypto"),
    ("Zlib", "asks for nothing in binaries"),
    ("0BSD", "asks for nothing"),
    ("BSL-1.0", "asks for nothing in binaries"),
    ("CC0-1.0", "public domain"),
    ("Unicode-3.0", "asks for its text only; Unicode tables"),
];

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo).args(["metadata", "--format-version", "1", "--locked"]).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn members(metadata: &Value) -> Vec<&Value> {
    let ids: BTreeSet<&str> = metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    metadata["packages"].as_array().unwrap().iter().filter(|package| ids.contains(package["id"].as_str().unwrap())).collect()
}

#[test]
fn every_room_knows_core_and_no_neighbour() {
    let metadata = metadata();
    let mut findings = Vec::new();
    for package in members(&metadata) {
        let name = package["name"].as_str().unwrap();
        let Some((_, allowed)) = EDGES.iter().find(|(room, _)| *room == name) else {
            findings.push(format!("{name} is not in the table of rooms (EDGES in tests/tidy/tests/rooms.rs)"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["path"].is_string()) {
            let to = dependency["name"].as_str().unwrap();
            let for_tests = dependency["kind"] == "dev" && FOR_TESTS.contains(&to);
            if !allowed.contains(&to) && !for_tests {
                findings.push(format!("{name} -> {to}: no such door. hint: the noun between them belongs in core"));
            }
        }
    }
    none("no room looks at a neighbour", &findings);
}

#[test]
fn core_knows_exactly_its_four_dependencies() {
    let metadata = metadata();
    let core = members(&metadata).into_iter().find(|package| package["name"] == "wharf-core").unwrap().clone();
    let normal = core["dependencies"].as_array().unwrap().iter().filter(|dependency| dependency["kind"].is_null());
    let known: BTreeSet<&str> = normal.map(|dependency| dependency["name"].as_str().unwrap()).collect();
    assert_eq!(known, BTreeSet::from(["arc-swap", "bytes", "futures-core", "thiserror"]));
}

#[test]
fn every_dependency_is_declared_once_at_the_root_with_a_reason() {
    let mut findings = Vec::new();
    let tree = tree();
    let manifests = || tree.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    // Programs of the bench and guests of tests are workspaces of their own; what they use is not in the house.
    let own: Vec<&str> = manifests()
        .filter(|file| file.path != "Cargo.toml" && file.text.contains("[workspace]"))
        .map(|file| file.path.trim_end_matches("Cargo.toml"))
        .collect();
    for file in manifests().filter(|file| !own.iter().any(|folder| file.path.starts_with(folder))) {
        let is_root = file.path == "Cargo.toml";
        let (mut section, mut has_reason) = (String::new(), false);
        for (number, line) in file.lines() {
            let line = line.trim();
            if line.starts_with('[') {
                section = line.to_owned();
                has_reason = false;
            } else if line.is_empty() {
                has_reason = false;
            } else if line.starts_with('#') {
                has_reason = true;
            } else if is_root && section == "[workspace.dependencies]" {
                if !has_reason && !line.contains("path = ") {
                    findings.push(format!("{}:{number}: {line:?} has no line above it that says why it is in the house", file.path));
                }
            } else if !is_root && section.ends_with("dependencies]") && !line.contains("workspace = true") && line.contains('=') {
                findings.push(format!("{}:{number}: {line:?} names a version here. hint: declare it in the root", file.path));
            }
        }
        if !is_root && file.text.contains("[package]") && !file.text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{}: does not take the lints of the workspace", file.path));
        }
    }
    none("dependencies are declared once, with a reason", &findings);
}

#[test]
fn every_dependency_has_a_licence_that_we_can_keep() {
    let metadata = metadata();
    let mut findings = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let licence = package["license"].as_str().unwrap_or_default();
        if !is_allowed(licence) {
            findings.push(format!("{} {}: {licence:?}", package["name"], package["version"]));
        }
    }
    none("licences are on the list in tests/tidy/tests/rooms.rs", &findings);
    let deny = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let missing: Vec<String> =
        LICENCES.iter().filter(|(name, _)| !deny.contains(&format!("\"{name}\""))).map(|(name, _)| (*name).to_owned()).collect();
    none("deny.toml has the same list", &missing);
}

/// Can this SPDX expression be met with licences of the list? `/` is an old way to write OR.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = expression.split_ascii_whitespace().collect();
    let mut at = 0;
    let met = either(&words, &mut at);
    met && at == words.len()
}

fn either(words: &[&str], at: &mut usize) -> bool {
    let mut met = both(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= both(words, at);
    }
    met
}

fn both(words: &[&str], at: &mut usize) -> bool {
    let mut met = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at);
    }
    met
}

fn one(words: &[&str], at: &mut usize) -> bool {
    if words.get(*at) == Some(&"(") {
        *at += 1;
        let met = either(words, at);
        *at += 1;
        return met && words.get(*at - 1) == Some(&")");
    }
    let Some(name) = words.get(*at) else { return false };
    *at += 1;
    let mut name = (*name).to_owned();
    if let (Some(&"WITH"), Some(exception)) = (words.get(*at), words.get(*at + 1)) {
        name = format!("{name} WITH {exception}");
        *at += 2;
    }
    LICENCES.iter().any(|(allowed, _)| *allowed == name)
}

#[test]
fn licence_expressions_are_read_as_written() {
    let check = |expression: &str, expected: bool| assert_eq!(is_allowed(expression), expected, "{expression}");
    check("MIT", true);
    check("GPL-3.0", false);
    check("GPL-2.0-only OR Apache-2.0", true);
    check("MIT AND GPL-3.0", false);
    check("MIT/Apache-2.0", true);
    check("ISC AND (Apache-2.0 OR GPL-3.0) AND MIT", true);
    check("Apache-2.0 WITH LLVM-exception", true);
    check("GPL-2.0 WITH Classpath-exception-2.0", false);
    check("(MIT", false);
    check("", false);
}
