//! Each target for `WHARF_FUZZ_SECONDS`: `make test` gives a minute, plain `cargo test` two seconds.

#![allow(clippy::panic, clippy::print_stdout, reason = "this is test code: a panic is how a test tells, and its figure is printed")]

use std::path::Path;
use wharf_fuzz::driver::{self, Budget, Target};
use wharf_fuzz::{blocks, config_text, targets, wit_values};

fn check(target: &Target) {
    check_with(target, Vec::new());
}

/// With more inputs than its folder in the corpus has.
fn check_with(target: &Target, more: Vec<Vec<u8>>) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut corpus = driver::corpus(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    corpus.extend(more);
    match driver::check(target, corpus, Path::new(env!("CARGO_TARGET_TMPDIR")), &Budget::from_env()) {
        Ok(line) => println!("{line}"),
        Err(what) => panic!("{what}"),
    }
}

#[test]
fn no_client_bytes_break_the_request_codec() {
    check(&targets::REQUEST);
}

#[test]
fn no_block_of_fields_becomes_another_request_than_it_says() {
    check(&blocks::BLOCKS);
}

#[test]
fn no_upstream_bytes_break_the_answer_codec() {
    check(&targets::ANSWER);
}

#[test]
fn no_path_breaks_the_canonicaliser() {
    check(&targets::PATH);
}

#[test]
fn nothing_that_a_plugin_gives_back_breaks_a_message() {
    check(&wit_values::WIT_VALUES);
}

/// Besides the corpus: the wrong files that the gateway's own tests have, and the examples of the documentation.
#[test]
fn no_text_breaks_the_checker_of_the_configuration() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let wrong = root.join("host/gateway/tests/data/config");
    let mut more = driver::corpus(&wrong).unwrap_or_else(|error| panic!("{}: {error}", wrong.display()));
    let page = root.join("docs/configuration.md");
    let page = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let blocks = page.split("```yaml\n").skip(1).filter_map(|behind| behind.split("```").next());
    more.extend(blocks.map(|block| block.as_bytes().to_vec()));
    assert!(more.len() >= 50, "{} files", more.len());
    check_with(&config_text::CONFIG, more);
}
