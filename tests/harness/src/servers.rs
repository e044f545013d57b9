//! Real servers of others: a process on free loopback ports with a folder of its own, which a test may kill and start again.
//!
//! Programs are installed by `dev/servers NAME` into `target/servers/NAME` (or below `WHARF_SERVERS`), never by a test: one
//! that is missing fails its tests and says so. Each server has a file of its own here.

pub mod kafka;
pub mod rocketmq;

use crate::until;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// How long a server may take until it answers: a JVM on a busy machine takes most of a minute.
pub const START_MAX: Duration = Duration::from_secs(180);

/// The folder that `dev/servers NAME` has filled.
///
/// # Panics
/// It is not there.
pub fn installed(name: &str) -> PathBuf {
    let below = std::env::var_os("WHARF_SERVERS").map_or_else(|| target().join("servers"), PathBuf::from);
    let folder = below.join(name);
    assert!(folder.is_dir(), "there is no {}; hint: run `dev/servers {name}`", folder.display());
    folder
}

fn target() -> PathBuf {
    let root = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(root, PathBuf::from)
}

/// A loopback port that nobody has at the moment.
pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// Does somebody accept connections there?
pub fn accepts(port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_millis(500)).is_ok()
}

/// A server that runs, or was killed and can run again. Dropping it kills it and removes its folder.
pub struct Server {
    name: &'static str,
    command: Box<dyn Fn(&Path) -> Command + Send>,
    ready: Box<dyn Fn(&Path) -> bool + Send>,
    child: Option<Child>,
    dir: TempDir,
}

impl Server {
    /// Starts it and waits until it is ready. `command` makes what is started, `ready` says whether it answers; both are
    /// handed the server's folder.
    ///
    /// # Panics
    /// It ends, or is not ready in [`START_MAX`]; with the end of its log.
    pub fn start(
        name: &'static str,
        command: impl Fn(&Path) -> Command + Send + 'static,
        ready: impl Fn(&Path) -> bool + Send + 'static,
    ) -> Server {
        let dir = tempfile::Builder::new().prefix("wharf-server-").tempdir().unwrap();
        let mut server = Server { name, command: Box::new(command), ready: Box::new(ready), child: None, dir };
        server.start_again();
        server
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process.
    ///
    /// # Panics
    /// It was killed.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// What it has printed.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir().join("out.log")).unwrap_or_default()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid() as i32).unwrap(), signal).unwrap();
    }

    /// Ends it as `kill -9` does. Its folder stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts what was killed, in the same folder, and waits until it is ready.
    ///
    /// # Panics
    /// As [`Server::start`].
    pub fn start_again(&mut self) {
        self.kill();
        let log = File::options().create(true).append(true).open(self.dir().join("out.log")).unwrap();
        let mut command = (self.command)(self.dir());
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", self.name)));
        until(&format!("{} answers", self.name), START_MAX, || {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
            if let Some(status) = ended {
                let log = self.log();
                let from = log.len().saturating_sub(4000);
                panic!("{} ended with {status}: {}", self.name, log.get(from..).unwrap_or(&log));
            }
            (self.ready)(self.dir.path()).then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
