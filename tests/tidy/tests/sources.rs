//! How files are written.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use wharf_tidy::{File, code, has_word, none, sources, tree};

/// The only files that may hold `unsafe`, each with what makes it sound.
const UNSAFE: &[(&str, &str)] = &[
    (
        "host/gateway/src/allocator.rs",
        "asks the allocator to give unused memory back: a foreign function without arguments that could be wrong",
    ),
    ("host/wasm/src/load.rs", "loads compiled code that a child of this binary wrote, checked by digest"),
    // Not the host's: within the sandbox of a component.
    ("sdk/rust/src/alloc.rs", "the allocator of a component"),
];

/// Files whose derives write some: nothing in them is unsafe by hand.
const UNSAFE_DERIVED: &[&str] = &["host/wasm/bindings/src/lib.rs"];

/// Longest file; past about 400 lines look for a second story.
const LINES_MAX: usize = 1500;

/// Systems that only `adapters` (and the inventory in `gateway`) may name.
const VENDORS: &[&str] = &["kafka", "rocketmq", "redis", "nacos", "eureka", "zookeeper", "consul", "etcd", "apollo", "dubbo"];

#[test]
fn every_source_file_says_first_what_it_is_for() {
    let findings: Vec<String> = sources().into_iter().filter(|file| !file.text.starts_with("//!")).map(|file| file.path).collect();
    none("a file opens with `//!`: what it is for, what it deliberately does not do", &findings);
}

#[test]
fn no_source_file_is_longer_than_a_story() {
    let long = |file: File| {
        let lines = file.text.lines().count();
        (lines > LINES_MAX).then(|| format!("{}: {lines} lines", file.path))
    };
    let findings: Vec<String> = sources().into_iter().filter_map(long).collect();
    none(&format!("no file is longer than {LINES_MAX} lines"), &findings);
}

#[test]
fn unsafe_stands_in_named_files_only_and_in_the_host_in_two() {
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| !UNSAFE.iter().any(|(path, _)| *path == file.path)) {
        for (number, line) in file.lines() {
            let code = code(line);
            if has_word(&code, "unsafe") {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
            // Bindings that are generated for a guest hold some; a guest can hurt nobody but itself.
            if file.path.starts_with("host/") && has_word(&code, "unsafe_code") && !UNSAFE_DERIVED.contains(&file.path.as_str()) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    assert_eq!(UNSAFE.iter().filter(|(path, _)| path.starts_with("host/")).count(), 2);
    none("unsafe only where UNSAFE in tests/tidy/tests/sources.rs says why it is sound", &findings);
}

#[test]
fn only_adapters_know_vendors() {
    let rooms = ["core", "http", "upstream", "wasm", "centre"].map(|room| format!("host/{room}/"));
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| rooms.iter().any(|room| file.path.starts_with(room))) {
        for (number, line) in file.lines() {
            let lower = line.to_ascii_lowercase();
            if let Some(vendor) = VENDORS.iter().find(|vendor| has_word(&lower, vendor)) {
                findings.push(format!("{}:{number}: names {vendor}", file.path));
            }
        }
    }
    none("a vendor's name stands in its adapter only", &findings);
}

#[test]
fn no_file_holds_a_machine_or_a_registry() {
    // Put together here, so that this file does not find itself.
    let folders = ["work", "tmp", "root", "home"].map(|folder| format!("/{folder}/"));
    let hosts = [
        ("crates", "io"),
        ("index.crates", "io"),
        ("pypi", "org"),
        ("npmjs", "org"),
        ("proxy.golang", "org"),
        ("deb.debian", "org"),
        ("static.rust-lang", "org"),
    ]
    .map(|(name, end)| format!("{name}.{end}"));
    let mut findings = Vec::new();
    for file in tree().iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in file.lines() {
            for found in
                folders.iter().filter(|folder| starts_a_path(line, folder)).chain(hosts.iter().filter(|host| line.contains(host.as_str())))
            {
                findings.push(format!("{}:{number}: {found}", file.path));
            }
        }
    }
    none("no machine's folders and no registry's host. hint: take folders from variables or mktemp", &findings);
}

/// `/x/` at the start of a path: not after another part of one.
fn starts_a_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        !line[..at]
            .chars()
            .next_back()
            .is_some_and(|before| before.is_alphanumeric() || matches!(before, '_' | '-' | '.' | '}' | '@' | ']'))
    })
}

#[test]
fn tests_are_never_ignored_and_never_sleep() {
    let ignored = format!("#[{}", "ignore");
    let mut findings = Vec::new();
    for file in sources() {
        // A hostile guest may well sleep: that is its test.
        let is_guest = file.path.contains("/guests/");
        // With the clock paused, a sleep is a statement about time and costs none.
        let clock_is_paused = file.text.contains("start_paused") || file.text.contains("time::pause");
        for (number, line) in file.test_lines() {
            let code = code(line);
            if code.contains(&ignored) {
                findings.push(format!(
                    "{}:{number}: an ignored test. hint: assert the wrong behaviour with its reason, or delete it",
                    file.path
                ));
            }
            // Where there is nothing to be woken by, a loop looks again until its deadline, and says so.
            let looks_again = line.contains("// look again");
            if !is_guest && !looks_again && (code.contains("thread::sleep(") || (code.contains("time::sleep(") && !clock_is_paused)) {
                findings.push(format!("{}:{number}: sleeps. hint: wait for a condition (wharf_harness::wait); a pause in a loop with a deadline is marked `// look again`", file.path));
            }
        }
    }
    none("tests wait for conditions, and all of them run", &findings);
}

#[test]
fn every_exception_from_a_lint_has_its_reason() {
    let mut findings = Vec::new();
    for file in sources() {
        let text = file.lines().map(|(_, line)| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
        for attribute in ["[allow(", "[expect("] {
            for (at, _) in text.match_indices(attribute).filter(|(at, _)| text[..*at].ends_with(['#', '!'])) {
                let whole = text[at..].split(")]").next().unwrap_or_default();
                if !whole.contains("reason") {
                    findings.push(format!("{}:{}: {}", file.path, text[..at].lines().count(), whole.replace('\n', " ")));
                }
            }
        }
    }
    none("`#[allow(..., reason = \"...\")]`", &findings);
}

#[test]
fn nothing_is_left_for_later() {
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"]].map(|parts| parts.concat());
    let macros = [["to", "do!("], ["unimpl", "emented!("]].map(|parts| parts.concat());
    let mut findings = Vec::new();
    for file in tree().iter().filter(|file| !file.path.ends_with("Cargo.lock")) {
        for (number, line) in file.lines() {
            if marks.iter().any(|mark| has_word(line, mark)) || macros.iter().any(|name| line.contains(name.as_str())) {
                findings.push(format!("{}:{number}: {}", file.path, line.trim()));
            }
        }
    }
    none("what is not done is not promised. hint: do it, or say in the docs that it is not there", &findings);
}

#[test]
fn types_are_named_by_what_they_are() {
    let vague = ["Manager", "Handler", "Helper", "Util", "Utils", "Peer", "Owner"];
    let mut findings = Vec::new();
    for file in sources().iter().filter(|file| file.path.starts_with("host/")) {
        for (number, line) in file.lines() {
            let code = code(line);
            let mut words = code.split_whitespace().skip_while(|word| !matches!(*word, "struct" | "enum" | "trait")).skip(1);
            let name: String = words.next().unwrap_or_default().chars().take_while(|letter| letter.is_alphanumeric()).collect();
            if vague.iter().any(|vague| name.ends_with(vague)) {
                findings.push(format!("{}:{number}: {name}", file.path));
            }
        }
    }
    none("a type has the domain's noun, not a vague one", &findings);
}

#[test]
fn a_machine_s_folder_is_told_from_a_part_of_a_path() {
    let folder = format!("/{}/", "tmp");
    for (line, expected) in [("x = \"/F/a\"", true), ("/F/a", true), ("$DIR/F/a", false), ("target/F/a", false), ("@DIR@/F/a", false)] {
        let line = line.replace("/F/", &folder);
        assert_eq!(starts_a_path(&line, &folder), expected, "{line}");
    }
}
