//! The harness itself: a stranger that starts, speaks, ends and dies as the gateway may.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is test code: a panic is how a test tells")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use wharf_harness::wait::{try_until, until};
use wharf_harness::{Setup, Wharf};

const LIMIT: Duration = Duration::from_secs(10);

const SERVES: &str = r#"
trap 'echo leaving; exit 7' TERM
echo token-of-the-test > token
echo "config $3: $(cat "$3")" >&2
echo 'READY {"listeners":{"main":"127.0.0.1:1"},"admin":"127.0.0.1:2","token_file":"token"}'
while :; do read -t 1 line < "$0.never" || true; done
"#;

/// A program that plays the gateway: a shell script.
fn program(script: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wharf");
    fs::write(&path, format!("#!/usr/bin/env bash\n{script}")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    // Something to wait at without burning time: a pipe that nobody writes to.
    assert!(std::process::Command::new("mkfifo").arg(folder.path().join("wharf.never")).status().unwrap().success());
    (folder, path)
}

fn start(program: &Path) -> Wharf {
    Setup::new("state: @DIR@/state\n").binary(program).start().unwrap()
}

#[test]
fn a_program_is_ready_when_it_says_so_and_its_folder_is_filled_in() {
    let (_folder, program) = program(SERVES);
    let wharf = start(&program);
    assert_eq!(wharf.listener("main").port(), 1);
    assert_eq!(wharf.admin().address().port(), 2);
    let state = format!("state: {}/state", wharf.dir().display());
    wharf.until_said(&state, LIMIT);
    let (status, log) = wharf.stop(LIMIT).unwrap();
    assert_eq!(status.code(), Some(7), "{log}");
}

#[test]
fn a_program_ends_with_its_test() {
    let (_folder, program) = program(SERVES);
    let wharf = start(&program);
    let process = format!("/proc/{}", wharf.pid());
    assert!(wharf.pss_kib() > 0 && wharf.threads() == 1 && wharf.descriptors() > 2);
    drop(wharf);
    until("the end of the process", LIMIT, || (!Path::new(&process).exists()).then_some(()));
}

#[test]
fn a_program_that_ends_early_is_an_error_with_its_last_words() {
    let (_folder, program) = program("echo 'port 80 is taken' >&2; exit 3\n");
    let Err(error) = Setup::new("").binary(&program).start() else { panic!("it did not serve") };
    assert!(error.to_string().contains("port 80 is taken"), "{error}");
    let (status, log) = Setup::new("").binary(&program).start_in_vain().unwrap();
    assert_eq!((status.code(), log.trim()), (Some(3), "port 80 is taken"));
}

#[test]
fn a_killed_program_starts_again_in_its_folder() {
    let (_folder, program) = program(SERVES);
    let wharf = start(&program);
    let (pid, dir) = (wharf.pid(), wharf.dir().to_owned());
    fs::write(dir.join("kept"), "x").unwrap();
    let wharf = wharf.kill_and_start().unwrap();
    assert!(wharf.pid() != pid && wharf.dir() == dir && dir.join("kept").exists());
}

#[test]
fn a_condition_that_never_comes_ends_at_its_deadline() {
    assert_eq!(try_until(Duration::from_millis(20), || None::<()>), None);
    assert_eq!(try_until(Duration::ZERO, || Some(1)), Some(1), "it is looked at once in any case");
}
