//! Each target for `WHARF_FUZZ_SECONDS`: `make test` gives a minute, plain `cargo test` two seconds.

#![allow(clippy::panic, clippy::print_stdout, reason = "this is test code: a panic is how a test tells, and its figure is printed")]

use std::path::Path;
use wharf_fuzz::driver::{self, Budget, Target};
use wharf_fuzz::targets;

fn check(target: &Target) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    match driver::check(target, &corpus, Path::new(env!("CARGO_TARGET_TMPDIR")), &Budget::from_env()) {
        Ok(line) => println!("{line}"),
        Err(what) => panic!("{what}"),
    }
}

#[test]
fn no_client_bytes_break_the_request_codec() {
    check(&targets::REQUEST);
}

#[test]
fn no_upstream_bytes_break_the_answer_codec() {
    check(&targets::ANSWER);
}

#[test]
fn no_path_breaks_the_canonicaliser() {
    check(&targets::PATH);
}
