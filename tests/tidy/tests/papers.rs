//! What the papers say is there: cited symbols and files, the changelog, the licence, the published contract.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};
use wharf_tidy::{File, none, root, tree};

/// Folders whose names begin a path of ours.
const FOLDERS: &[&str] = &["host/", "wit/", "plugins/", "sdk/", "tests/", "bench/", "dev/", "dist/", "docs/", ".ci/"];

/// Pages that cite symbols.
fn pages(tree: &[File]) -> Vec<&File> {
    let is_page =
        |path: &str| path == "ARCHITECTURE.md" || path == "README.md" || path.starts_with("docs/") || path.ends_with("/README.md");
    tree.iter().filter(|file| file.path.ends_with(".md") && is_page(&file.path)).collect()
}

/// What stands between backticks outside of fenced blocks, with line numbers.
fn cited(page: &File) -> Vec<(usize, &str)> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in page.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced {
            found.extend(line.split('`').skip(1).step_by(2).map(|text| (number, text)));
        }
    }
    found
}

fn is_symbol(text: &str) -> bool {
    let parts: Vec<&str> = text.trim_end_matches("()").split("::").collect();
    parts.len() > 1 && parts.iter().all(|part| !part.is_empty() && part.chars().all(|letter| letter.is_alphanumeric() || letter == '_'))
}

#[test]
fn cited_files_and_symbols_exist() {
    let tree = tree();
    let mut words: BTreeSet<&str> = BTreeSet::new();
    for file in tree.iter().filter(|file| file.path.ends_with(".rs") || file.path.ends_with(".wit")) {
        words.extend(file.text.split(|letter: char| !letter.is_alphanumeric() && letter != '_'));
        // A module is a word, too.
        words.extend(file.path.trim_end_matches(".rs").split('/'));
    }
    let exists = |path: &str| root().join(path.trim_end_matches('/')).exists();
    let mut findings = Vec::new();
    for page in pages(&tree) {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, text) in cited(page) {
            let place = format!("{}:{number}", page.path);
            let has_pattern = text.contains(['*', '{', '<', ' ', '@']);
            if FOLDERS.iter().any(|folder| text.starts_with(folder)) && !has_pattern {
                if !exists(text) {
                    findings.push(format!("{place}: there is no {text}"));
                }
            } else if text.ends_with(".rs") && !has_pattern {
                let is_there = tree.iter().any(|file| file.path == text || file.path.ends_with(&format!("/{text}")));
                if !is_there {
                    findings.push(format!("{place}: there is no file {text}"));
                }
            } else if is_symbol(text) {
                for part in text.trim_end_matches("()").split("::") {
                    if !words.contains(part) && !matches!(part, "std" | "tokio" | "wasmtime") {
                        findings.push(format!("{place}: {text}: there is no {part} in the sources"));
                    }
                }
            }
        }
        for (number, line) in page.lines() {
            for rest in line.split("](").skip(1) {
                let target = rest.split([')', '#']).next().unwrap_or_default();
                let local = !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:");
                if local && !root().join(folder).join(target).exists() {
                    findings.push(format!("{}:{number}: the link to {target} leads nowhere", page.path));
                }
            }
        }
    }
    none("what a page cites is there", &findings);
}

/// Where a heading can be linked to, as the usual hosts make it of its text.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().to_lowercase();
    kept.chars().filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_')).collect::<String>().replace(' ', "-")
}

fn anchors(text: &str) -> BTreeSet<String> {
    let mut fenced = false;
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        } else if !fenced && line.starts_with('#') {
            found.insert(anchor(line.trim_start_matches('#')));
        }
    }
    found
}

#[test]
fn a_link_into_a_page_leads_to_a_heading() {
    let tree = tree();
    let mut findings = Vec::new();
    for page in pages(&tree) {
        let folder = page.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (number, line) in page.lines() {
            for rest in line.split("](").skip(1) {
                let Some((target, wanted)) = rest.split(')').next().unwrap_or_default().split_once('#') else { continue };
                if target.contains("://") {
                    continue;
                }
                let text = if target.is_empty() {
                    page.text.clone()
                } else {
                    fs::read_to_string(root().join(folder).join(target)).unwrap_or_default()
                };
                if !anchors(&text).contains(wanted) {
                    findings.push(format!("{}:{number}: {target} has no heading #{wanted}", page.path));
                }
            }
        }
    }
    none("a link into a page leads to a heading", &findings);
}

#[test]
fn every_page_is_in_the_table_of_contents() {
    let contents = fs::read_to_string(root().join("docs/README.md")).unwrap();
    let tree = tree();
    let listed = |path: &str| path == "README.md" || contents.contains(&format!("]({path})"));
    let pages = tree.iter().filter_map(|file| file.path.strip_prefix("docs/")).filter(|path| path.ends_with(".md"));
    let findings: Vec<String> = pages.filter(|path| !listed(path)).map(str::to_owned).collect();
    none("docs/README.md lists every page", &findings);
}

/// What an operator finds in a log or a metric is in the page for operators.
#[test]
fn every_word_for_what_went_wrong_is_explained() {
    let page = fs::read_to_string(root().join("docs/operations.md")).unwrap();
    let mut findings = Vec::new();
    for source in ["host/core/src/fault.rs", "host/http/src/codec/refusal.rs"] {
        let text = fs::read_to_string(root().join(source)).unwrap();
        let body = text.split("pub fn word(&self)").nth(1).unwrap_or_else(|| panic!("{source} has no fn word"));
        let body = body.split("\n    }\n").next().unwrap_or_default();
        let words: Vec<&str> = body.split("=> \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(words.len() > 20, "{source}: {words:?}");
        // Of answers: they become the fault `bad_answer`.
        let of_answers = ["status", "status_line", "switch", "interim_body"];
        let missing = words.iter().filter(|word| !of_answers.contains(word) && !page.contains(&format!("`{word}`")));
        findings.extend(missing.map(|word| format!("{source}: `{word}`")));
    }
    none("docs/operations.md explains every word", &findings);
}

#[test]
fn the_changelog_is_open_for_the_next_line() {
    let text = fs::read_to_string(root().join("CHANGELOG.md")).expect("there is a CHANGELOG.md");
    let first = text.lines().find(|line| line.starts_with("## ")).unwrap_or_default();
    assert!(first.to_ascii_lowercase().contains("unreleased"), "the first head of CHANGELOG.md is {first:?}, not `## Unreleased`");
}

#[test]
fn the_licence_is_the_one_that_the_manifest_names() {
    let licence = fs::read_to_string(root().join("LICENSE")).unwrap();
    assert!(licence.contains("Apache License") && licence.contains("Version 2.0"));
    let manifest = fs::read_to_string(root().join("Cargo.toml")).unwrap();
    assert!(manifest.contains("license = \"Apache-2.0\""));
}

#[test]
fn the_readme_says_what_make_run_prints() {
    let tries = fs::read_to_string(root().join("dev/demo/try.txt")).unwrap();
    let readme = fs::read_to_string(root().join("README.md")).expect("there is a README.md");
    let commands: Vec<&str> = tries.lines().filter_map(|line| line.strip_prefix("   ")).map(str::trim).collect();
    assert!(commands.len() >= 5, "dev/demo/try.txt has its commands");
    let findings: Vec<String> =
        commands.iter().filter(|command| !readme.contains(**command)).map(|command| (*command).to_owned()).collect();
    none("README.md has every command of dev/demo/try.txt", &findings);
}

/// A published package never changes: `wit/published.txt` holds `SHA-256  path` of each of its files. As long as nothing
/// is published there is no such file.
#[test]
fn a_published_contract_never_changes() {
    let Ok(list) = fs::read_to_string(root().join("wit/published.txt")) else { return };
    let tree = tree();
    let mut findings = Vec::new();
    let mut folders: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in list.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        let Some((digest, path)) = line.split_once("  ") else {
            findings.push(format!("wit/published.txt: {line:?} is not `SHA-256  path`"));
            continue;
        };
        if let Some((folder, _)) = path.rsplit_once('/') {
            folders.entry(folder.to_owned()).or_default().insert(path.to_owned());
        }
        match fs::read(root().join(path)) {
            Ok(bytes) if sha256(&bytes) == digest => {}
            Ok(_) => findings.push(format!("{path} has changed. hint: make a new version beside it")),
            Err(error) => findings.push(format!("{path}: {error}")),
        }
    }
    for (folder, published) in folders {
        for file in tree.iter().filter(|file| file.path.starts_with(&format!("{folder}/")) && !published.contains(&file.path)) {
            findings.push(format!("{} was added to a published package", file.path));
        }
    }
    none("a published contract never changes", &findings);
}

fn sha256(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap_or_default().to_owned()
}
