//! Known faults of dependencies: Cargo.lock against the extract of the public advisory data in `tests/advisories`. No network; how
//! old the extract is, it says itself. A crate that was not looked up is a finding, too.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "this is test code: a panic is how a test tells"
)]

use serde_json::Value;
use std::cmp::Ordering;
use std::fs;
use wharf_tidy::{none, root};

/// Name and version of every crate that comes from outside.
fn locked(text: &str) -> Vec<(String, String)> {
    let value = |line: &str, name: &str| line.strip_prefix(name)?.trim_start_matches(" = ").trim_matches('"').to_owned().into();
    let mut found = Vec::new();
    for package in text.split("[[package]]").filter(|package| package.contains("\nsource = ")) {
        let of = |name: &str| package.lines().find_map(|line| value(line, name)).unwrap_or_default();
        found.push((of("name"), of("version")));
    }
    found
}

/// A version as it is compared: three numbers, and what makes it a forerunner of them (nothing is behind everything).
fn version(text: &str) -> ([u64; 3], Option<Vec<Result<u64, String>>>) {
    let text = text.split('+').next().unwrap_or_default();
    let (numbers, before) = text.split_once('-').map_or((text, None), |(numbers, before)| (numbers, Some(before)));
    let mut parts = numbers.split('.').map(|part| part.trim().parse().unwrap_or(0));
    let numbers = [parts.next().unwrap_or(0), parts.next().unwrap_or(0), parts.next().unwrap_or(0)];
    (numbers, before.map(|before| before.split('.').map(|part| part.parse().map_err(|_| part.to_owned())).collect()))
}

fn compare(one: &str, other: &str) -> Ordering {
    let (one, other) = (version(one), version(other));
    one.0.cmp(&other.0).then_with(|| match (one.1, other.1) {
        (None, None) => Ordering::Equal,
        (None, Some(_)) => Ordering::Greater,
        (Some(_), None) => Ordering::Less,
        (Some(one), Some(other)) => one.cmp(&other),
    })
}

/// Is the version within a range such as `>= 1.2, < 2`? Without an operator, or with `^`, as Cargo reads it.
fn within(have: &str, range: &str) -> bool {
    range.split(',').map(str::trim).all(|one| {
        let operator = one.find(|letter: char| letter.is_ascii_digit()).unwrap_or(one.len());
        let (operator, wanted) = (one[..operator].trim(), &one[operator..]);
        let order = compare(have, wanted);
        match operator {
            ">=" => order.is_ge(),
            ">" => order.is_gt(),
            "<" => order.is_lt(),
            // `<= 0.22` is all of 0.22.
            "<=" => order.is_le() || have.strip_prefix(wanted).is_some_and(|rest| rest.starts_with('.')),
            "=" => order.is_eq(),
            "" | "^" => {
                let (from, to) = (version(wanted).0, version(have).0);
                let fixed = from.iter().position(|number| *number > 0).unwrap_or(2);
                order.is_ge() && from[..=fixed] == to[..=fixed]
            }
            other => panic!("{other:?} in {range:?} is no operator that is known here"),
        }
    })
}

/// Crates whose advisories nobody looked up.
fn unknown(locked: &[(String, String)], looked_up: &[Value]) -> Vec<String> {
    let new = locked.iter().filter(|(name, _)| !looked_up.iter().any(|looked| *looked == **name));
    new.map(|(name, version)| format!("{name} {version}")).collect()
}

/// Advisories that a locked version is not known to be free of.
fn open(locked: &[(String, String)], advisories: &[Value]) -> Vec<String> {
    let mut findings = Vec::new();
    for advisory in advisories.iter().filter(|advisory| advisory["withdrawn"].is_null()) {
        let ranges =
            |name: &str| advisory[name].as_array().unwrap().iter().map(|range| range.as_str().unwrap().to_owned()).collect::<Vec<_>>();
        let free = [ranges("patched"), ranges("unaffected")].concat();
        for (name, version) in locked.iter().filter(|(name, _)| *name == advisory["package"]) {
            if !free.iter().any(|range| within(version, range)) {
                findings.push(format!("{name} {version}: {} {}. hint: {free:?}", advisory["id"], advisory["title"]));
            }
        }
    }
    findings
}

#[test]
fn no_dependency_has_an_open_advisory() {
    let extract: Value = serde_json::from_str(&fs::read_to_string(root().join("tests/advisories/advisories.json")).unwrap()).unwrap();
    let locked = locked(&fs::read_to_string(root().join("Cargo.lock")).unwrap());
    let advisories = extract["advisories"].as_array().unwrap();
    let looked_up = extract["looked_up"].as_array().unwrap();
    assert!(locked.len() > 100 && advisories.len() > 100, "{} {}", locked.len(), advisories.len());
    none(
        "the advisories of every dependency were looked up. hint: `tests/advisories/renew DIR` with a checkout of \
        https://github.com/rustsec/advisory-db writes the extract anew. By hand: enter what is in its folder `crates/NAME`, then the \
        name in `looked_up`",
        &unknown(&locked, looked_up),
    );
    println!(
        "advisories: {} locked versions against {} advisories, read on {}, the newest of {}",
        locked.len(),
        advisories.len(),
        extract["read_on"],
        extract["newest"]
    );
    none("dependencies have no open advisory (tests/advisories; renew it, or update the dependency)", &open(&locked, advisories));
}

#[test]
fn a_version_with_an_advisory_is_found() {
    let lock =
        "[[package]]\nname = \"h2\"\nversion = \"0.4.3\"\nsource = \"registry\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n";
    let locked = locked(lock);
    assert_eq!(locked, [("h2".to_owned(), "0.4.3".to_owned())]);
    let advisory = |patched: &[&str], unaffected: &[&str], withdrawn: Option<&str>| serde_json::json!({"id": "X", "package": "h2", "title": "t", "patched": patched, "unaffected": unaffected, "withdrawn": withdrawn});
    let found = |advisory: Value| open(&locked, &[advisory]).len();
    assert_eq!(found(advisory(&[">= 0.4.4", ">= 0.3.26, < 0.4.0"], &[], None)), 1);
    assert_eq!(found(advisory(&[">= 0.4.3"], &[], None)), 0);
    assert_eq!(found(advisory(&[], &["< 0.4.4"], None)), 0);
    assert_eq!(found(advisory(&[], &[], None)), 1, "one that nothing cures");
    assert_eq!(found(advisory(&[], &[], Some("2025-01-01"))), 0);
}

#[test]
fn a_crate_that_was_not_looked_up_is_found() {
    let locked = [("h2".to_owned(), "0.4.3".to_owned()), ("new".to_owned(), "1.0.0".to_owned())];
    assert_eq!(unknown(&locked, &["h2".into()]), ["new 1.0.0"]);
    assert_eq!(unknown(&locked, &["h2".into(), "new".into()]), [""; 0]);
}

#[test]
fn ranges_are_read_as_cargo_reads_them() {
    let check = |have: &str, range: &str, expected: bool| assert_eq!(within(have, range), expected, "{have} {range}");
    check("0.103.17", ">= 0.103.12, < 0.104.0-alpha.1", true);
    check("0.104.0-alpha.2", ">= 0.103.12, < 0.104.0-alpha.1", false);
    check("0.104.0-alpha.10", ">= 0.104.0-alpha.6", true);
    check("1.0.0-rc.1", ">= 1.0.0", false);
    check("0.22.5", "<= 0.22", true);
    check("0.23.0", "<= 0.22", false);
    check("48.0.8", ">=48.0.4,<49.0.0", true);
    check("1.4.0", "^1.2", true);
    check("2.0.0", "^1.2", false);
    check("0.3.9", "0.3.1", true);
    check("0.4.0", "0.3.1", false);
    check("1.2.3", "= 1.2.3", true);
}
