//! Each planted bug is found within the time that `make test` gives each target. Without the committed corpus, which may
//! hold the very input: what is shown is that the fuzzer finds it.

#![allow(clippy::panic, clippy::print_stdout, reason = "this is test code: a panic is how a test tells, and its figure is printed")]

use std::time::Duration;
use wharf_fuzz_planted::driver::{self, Budget, Target};
use wharf_fuzz_planted::{blocks, config_text, targets, wit_values};

fn finds(target: &Target, expected: &[&str]) {
    let budget = Budget { time: Duration::from_secs(60), executions_min: 0, ..Budget::from_env() };
    let report = driver::fuzz(target, Vec::new(), &budget);
    let failure = report.failure.unwrap_or_else(|| panic!("{} executions of {} found nothing", report.executions, target.name));
    println!(
        "planted {}: found after {} executions in {:.2} s: {:?}",
        target.name,
        report.executions,
        report.took.as_secs_f64(),
        String::from_utf8_lossy(&failure.input)
    );
    assert!(expected.iter().any(|what| failure.message.contains(what)), "{}", failure.message);
}

/// A bare LF at the end of the last field is taken.
#[test]
fn the_bug_in_the_request_codec_is_found() {
    finds(&targets::REQUEST, &["a line does not end in CR LF"]);
}

/// The same for an answer; or a bare LF behind a chunk's data.
#[test]
fn the_bug_in_the_answer_codec_is_found() {
    finds(&targets::ANSWER, &[""]);
}

/// A line may end within a value.
#[test]
fn the_bug_in_the_heads_of_http_2_is_found() {
    finds(&blocks::BLOCKS, &["by HTTP/1.1 it is no request", "an upstream reads other fields", "something stands behind", "a line ends"]);
}

/// A slash that hides behind two encodings is taken.
#[test]
fn the_bug_in_the_path_canonicaliser_is_found() {
    finds(&targets::PATH, &["decoded"]);
}

/// A value may hold a line feed.
#[test]
fn the_bug_in_what_plugins_may_give_back_is_found() {
    finds(&wit_values::WIT_VALUES, &["a line does not end in CR LF", "that are not allowed", "that is not allowed"]);
}

/// A network of all addresses makes the checker fall.
#[test]
fn the_bug_in_the_checker_of_the_configuration_is_found() {
    finds(&config_text::CONFIG, &["shift left with overflow"]);
}
