//! What the scripts in `dev/` promise about their ends: what they started ends with them, whoever ended them, and what
//! somebody else has is not touched.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().and_then(Path::parent).unwrap()
}

fn script(text: &str) -> Command {
    // A shell in the background has its children ignore ^C, and what is ignored stays so: the tests may run there.
    let mut bash = Command::new("env");
    bash.args(["--default-signal=INT,TERM,HUP", "bash", "-c"])
        .arg(format!("source dev/lib.sh\n{text}"))
        .current_dir(root())
        .stdin(Stdio::null());
    bash
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_step_that_fails_leaves_nothing_behind() {
    // Reading to the end of the pipe takes until the last process that could still print into it has ended.
    let output = script("start() { sleep 600 & die 'no luck'; }\nstep_here 'starting' start").output().unwrap();
    let text = said(&output);
    assert!(output.status.code() == Some(1) && text.contains("starting  FAILED") && text.contains("error: no luck"), "{text}");
    let output = script("step 'first' true\nstep 'second' bash -c 'exit 7'").output().unwrap();
    let text = said(&output);
    assert!(output.status.code() == Some(1) && text.contains("second  FAILED") && text.contains("(exit 7)"), "{text}");
}

#[test]
fn a_script_that_is_told_to_end_ends_all_and_says_interrupted() {
    for (signal, code) in [("INT", 130), ("TERM", 143), ("HUP", 129)] {
        let mut child = script("step 'long' bash -c 'echo begun; sleep 600'").stdout(Stdio::piped()).spawn().unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while line.trim() != "begun" {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0);
        }
        let sent = Command::new("bash").arg("-c").arg(format!("kill -{signal} {}", child.id())).status().unwrap();
        assert!(sent.success());
        let mut rest = String::new();
        out.read_to_string(&mut rest).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(rest.contains("long  interrupted") && !rest.contains("FAILED"), "{signal}: {rest}");
    }
}

#[test]
fn a_second_demo_touches_nothing_of_the_first() {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("dev")).unwrap();
    for name in ["run", "lib.sh"] {
        fs::copy(root().join("dev").join(name), folder.path().join("dev").join(name)).unwrap();
    }
    let config = folder.path().join(".run/demo/wharf.yaml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    fs::write(&config, "theirs").unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let run = || {
        let mut command = Command::new(folder.path().join("dev/run"));
        command.env("WHARF_DEMO_PORT", port.to_string()).stdin(Stdio::null());
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        said(&output)
    };
    let text = run();
    assert!(text.contains(&format!("port {port} is taken")) && text.contains("WHARF_DEMO_PORT="), "{text}");
    let lock = File::open(folder.path().join(".run/demo.lock")).unwrap();
    lock.lock().unwrap();
    let text = run();
    assert!(text.contains("another `make run`"), "{text}");
    assert_eq!(fs::read_to_string(&config).unwrap(), "theirs");
}
