//! Whoever supervises the gateway is told which process serves, also when that changes.

#![allow(clippy::panic, clippy::indexing_slicing, reason = "this is test code: a panic is how a test tells")]

use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use wharf_harness::Setup;

const CONFIG: &str = "\
node: { state_dir: \"@DIR@/state\" }
access_log: { to: off }
admin: { bind: \"127.0.0.1:0\" }
listeners: { main: { bind: \"127.0.0.1:0\" } }
routes: [ { name: all, to: { answer: { status: 204 } } } ]
";

/// The messages to a supervisor, up to one with this line; all of their lines.
fn until(supervisor: &UnixDatagram, line: &str) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        let mut bytes = [0; 1024];
        let length = supervisor.recv(&mut bytes).unwrap_or_else(|error| panic!("{line} was not said, but {heard:?}: {error}"));
        heard.extend(String::from_utf8_lossy(&bytes[..length]).lines().map(str::to_owned));
        if heard.iter().any(|have| have == line) {
            return heard;
        }
    }
}

#[test]
fn a_supervisor_follows_an_upgrade_to_the_new_process() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("notify");
    let supervisor = UnixDatagram::bind(&socket).unwrap();
    supervisor.set_read_timeout(Some(Duration::from_secs(60))).unwrap();

    let mut wharf = Setup::new(CONFIG).env("NOTIFY_SOCKET", socket.to_str().unwrap()).start().unwrap();
    let first = wharf.pid();
    let heard = until(&supervisor, "READY=1");
    assert!(heard.contains(&format!("MAINPID={first}")), "{heard:?}");

    let old = wharf.upgrade().unwrap();
    let new = wharf.pid();
    assert_eq!(old, first);
    let heard = until(&supervisor, "READY=1");
    assert_eq!(heard[0], format!("MAINPID={new}"), "before the old one can end: {heard:?}");
    // That the old one ends is nothing that a supervisor should take for the end of the service.
    assert!(wharf.has_ended(old, Duration::from_secs(30)));
    wharf.stop(Duration::from_secs(30)).unwrap();
    let heard = until(&supervisor, "STOPPING=1");
    assert_eq!(heard.iter().filter(|line| *line == "STOPPING=1").count(), 1, "{heard:?}");
}
