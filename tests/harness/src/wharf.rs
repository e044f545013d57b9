//! The gateway as a process of its own: started with a configuration in a folder of its own, ended with the test.
//!
//! Contract with the binary: `wharf run --config FILE` prints one line `READY {json}` on its standard output once it
//! serves: `{"listeners":{"main":"127.0.0.1:34567"},"admin":"127.0.0.1:34568","token_file":"..."}`. A configuration
//! binds port 0 everywhere; `@DIR@` in it is the folder.

use crate::admin::Admin;
use crate::wait::try_until;
use anyhow::{Context, Result, anyhow, bail};
pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, fs, thread};
use tempfile::TempDir;

/// From spawn to `READY`: a cold start compiles the plugins that the configuration names.
const READY_MAX: Duration = Duration::from_secs(120);
/// Longest log kept in memory.
const LOG_MAX: usize = 16 << 20;

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    config: String,
    files: Vec<(String, Vec<u8>)>,
    env: Vec<(String, String)>,
    args: Vec<String>,
    binary: Option<PathBuf>,
}

impl Setup {
    /// With this configuration (YAML).
    pub fn new(config: impl Into<String>) -> Setup {
        Setup { config: config.into(), files: Vec::new(), env: Vec::new(), args: Vec::new(), binary: None }
    }

    /// With a file beside it.
    #[must_use]
    pub fn file(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Setup {
        self.files.push((name.to_owned(), bytes.into()));
        self
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With one more argument after `run --config FILE`.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Setup {
        self.args.push(arg.to_owned());
        self
    }

    /// Another binary than the one of [`binary`].
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Setup {
        self.binary = Some(path.into());
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Errors
    /// It ended before it served, or did not serve in time; the error has its log.
    pub fn start(self) -> Result<Wharf> {
        let dir = self.folder()?;
        Wharf::spawn(self, dir)
    }

    /// Starts what is expected not to serve, and gives its exit and everything it said.
    ///
    /// # Errors
    /// It serves, or it does not end.
    pub fn start_in_vain(self) -> Result<(ExitStatus, String)> {
        let dir = self.folder()?;
        let mut process = Process::spawn(&self, dir.path())?;
        match process.ready()? {
            Some(ready) => bail!("it serves: {ready}"),
            None => {
                let status = process.end(READY_MAX)?;
                Ok((status, process.log_text()))
            }
        }
    }

    /// `wharf check` on this configuration.
    ///
    /// # Errors
    /// The binary could not be run.
    pub fn check(self) -> Result<Output> {
        let dir = self.folder()?;
        let output = Command::new(self.program()?).arg("check").arg(dir.path().join("wharf.yaml")).args(&self.args).output()?;
        Ok(output)
    }

    fn program(&self) -> Result<PathBuf> {
        self.binary.clone().map_or_else(binary, Ok)
    }

    fn folder(&self) -> Result<TempDir> {
        let dir = tempfile::Builder::new().prefix("wharf-").tempdir()?;
        for (name, bytes) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().context("a file has a folder")?)?;
            fs::write(path, bytes)?;
        }
        fs::write(dir.path().join("wharf.yaml"), substitute(&self.config, dir.path()))?;
        Ok(dir)
    }
}

/// A gateway that serves. Dropping it kills it; when the test is failing its log is shown.
pub struct Wharf {
    process: Process,
    dir: TempDir,
    setup: Setup,
    listeners: BTreeMap<String, SocketAddr>,
    admin: Admin,
    token_file: PathBuf,
}

impl Wharf {
    /// Starts one with this configuration.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn start(config: impl Into<String>) -> Result<Wharf> {
        Setup::new(config).start()
    }

    fn spawn(setup: Setup, dir: TempDir) -> Result<Wharf> {
        let mut process = Process::spawn(&setup, dir.path())?;
        let Some(ready) = process.ready()? else {
            let status = process.end(Duration::from_secs(10))?;
            bail!("wharf ended before it served ({status}); it said:\n{}", process.log_text());
        };
        let address = |value: &Value| -> Result<SocketAddr> {
            let text = value.as_str().ok_or_else(|| anyhow!("no address in READY {ready}"))?;
            text.parse().with_context(|| format!("address {text:?} in READY"))
        };
        let named = ready["listeners"].as_object().ok_or_else(|| anyhow!("no listeners in READY {ready}"))?;
        let listeners = named.iter().map(|(name, at)| Ok((name.clone(), address(at)?))).collect::<Result<_>>()?;
        let token_file = dir.path().join(ready["token_file"].as_str().unwrap_or_default());
        let admin = Admin::new(address(&ready["admin"])?, &token_file)?;
        Ok(Wharf { process, dir, setup, listeners, admin, token_file })
    }

    /// The actual address of a listener.
    ///
    /// # Panics
    /// There is no such listener.
    #[track_caller]
    pub fn listener(&self, name: &str) -> SocketAddr {
        match self.listeners.get(name) {
            Some(address) => *address,
            None => panic!("no listener {name:?}, only {:?}", self.listeners),
        }
    }

    /// The admin API.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// The folder with the configuration.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything it has said so far.
    pub fn log(&self) -> String {
        self.process.log_text()
    }

    /// Waits until it says something.
    ///
    /// # Panics
    /// After `limit`.
    #[track_caller]
    pub fn until_said(&self, what: &str, limit: Duration) {
        assert!(try_until(limit, || self.log().contains(what).then_some(())).is_some(), "wharf did not say {what:?} within {limit:?}");
    }

    /// Writes another configuration in the place of the present one, as an editor does: beside it, then renamed.
    pub fn write_config(&self, config: &str) {
        let draft = self.dir.path().join(".wharf.yaml.new");
        fs::write(&draft, substitute(config, self.dir.path())).unwrap();
        fs::rename(draft, self.dir.path().join("wharf.yaml")).unwrap();
    }

    /// Runs `wharf ARGS` against this gateway: its admin address and token come by `WHARF_ADMIN` and
    /// `WHARF_TOKEN_FILE`.
    ///
    /// # Panics
    /// The binary cannot be run.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> Output {
        let mut command = Command::new(self.setup.program().unwrap());
        command.args(args).current_dir(self.dir.path());
        command.env("WHARF_ADMIN", self.admin.address().to_string()).env("WHARF_TOKEN_FILE", &self.token_file);
        command.output().unwrap()
    }

    /// The process that serves: after an upgrade another one than was started.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Upgrades it by the command line and gives the id of the process that served until then, and may still drain.
    ///
    /// # Errors
    /// What the command said: the same process serves on.
    pub fn upgrade(&mut self) -> Result<u32> {
        let old = self.pid();
        let said = self.cli(&["upgrade", "--json"]);
        let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
        if !said.status.success() {
            bail!("{err}{out}");
        }
        let told: Value = serde_json::from_str(&out).with_context(|| format!("`wharf upgrade --json` said {out:?}"))?;
        let new = told["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).with_context(|| format!("no process in {told}"))?;
        self.is_replaced_by(new);
        Ok(old)
    }

    /// From now on it is this process: another way of upgrading has told so.
    pub fn is_replaced_by(&mut self, pid: u32) {
        self.process.heirs.push(pid);
    }

    /// Waits until a process that was replaced has ended; `false`: it has not, within the limit.
    pub fn has_ended(&mut self, pid: u32, limit: Duration) -> bool {
        try_until(limit, || self.process.is_over(pid).then_some(())).is_some()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Asks it to end and waits for that.
    ///
    /// # Errors
    /// It does not end within `limit`; it is killed then.
    pub fn stop(mut self, limit: Duration) -> Result<(ExitStatus, String)> {
        self.process.signal(Signal::TERM);
        let status = self.process.end(limit)?;
        Ok((status, self.process.log_text()))
    }

    /// Kills it without a word and starts it again in the same folder.
    ///
    /// # Errors
    /// As [`Setup::start`].
    pub fn kill_and_start(self) -> Result<Wharf> {
        let Wharf { mut process, dir, setup, .. } = self;
        process.signal(Signal::KILL);
        process.end(Duration::from_secs(10))?;
        drop(process);
        Wharf::spawn(setup, dir)
    }

    /// Proportional set size of the process and its children, KiB.
    pub fn pss_kib(&self) -> u64 {
        self.sized("Pss:")
    }

    /// Of that what no file stands behind, KiB: it does not grow when another gateway, which shared the binary's pages, ends.
    pub fn anonymous_kib(&self) -> u64 {
        self.sized("Pss_Anon:")
    }

    fn sized(&self, line: &str) -> u64 {
        family(self.pid()).iter().filter_map(|pid| sized(*pid, line)).sum()
    }

    /// User and system time so far, without its children.
    pub fn cpu(&self) -> (Duration, Duration) {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap_or_default();
        let rest: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        let ticks = |at: usize| rest.get(at).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let time = |at| Duration::from_millis(ticks(at) * 1000 / per_second);
        (time(11), time(12))
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }
}

/// The binary under test: `WHARF_BIN`, or the one built beside this test.
///
/// # Errors
/// There is none; the error says how to build it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WHARF_BIN") {
        return Ok(path.into());
    }
    let test = env::current_exe()?;
    let found = test.ancestors().skip(1).take(3).map(|folder| folder.join("wharf")).find(|path| path.is_file());
    found.ok_or_else(|| {
        anyhow!("no wharf binary beside {}. hint: `cargo build --release -p wharf-gateway`, or set WHARF_BIN", test.display())
    })
}

struct Process {
    child: Child,
    /// Those who took over, the newest last.
    heirs: Vec<u32>,
    log: Arc<Mutex<Vec<u8>>>,
    ready: mpsc::Receiver<String>,
    readers: Vec<JoinHandle<()>>,
    /// Ended in order, or told about already: nothing to show.
    quiet: AtomicBool,
}

impl Process {
    fn spawn(setup: &Setup, dir: &Path) -> Result<Process> {
        let binary = setup.program()?;
        let mut command = Command::new(&binary);
        command.arg("run").arg("--config").arg(dir.join("wharf.yaml")).args(&setup.args).envs(setup.env.iter().cloned());
        command.current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{} cannot be run", binary.display()))?;
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, ready) = mpsc::channel();
        let out = child.stdout.take().context("stdout is piped")?;
        let err = child.stderr.take().context("stderr is piped")?;
        let readers = vec![listen(out, log.clone(), Some(sender))?, listen(err, log.clone(), None)?];
        Ok(Process { child, heirs: Vec::new(), log, ready, readers, quiet: AtomicBool::new(false) })
    }

    /// The JSON of the READY line; `None`: it ended without one.
    fn ready(&mut self) -> Result<Option<Value>> {
        match self.ready.recv_timeout(READY_MAX) {
            Ok(line) => Ok(Some(serde_json::from_str(&line).with_context(|| format!("READY {line}"))?)),
            Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
            Err(mpsc::RecvTimeoutError::Timeout) => bail!("wharf did not say READY within {READY_MAX:?}; it said:\n{}", self.log_text()),
        }
    }

    fn pid(&self) -> u32 {
        self.heirs.last().copied().unwrap_or_else(|| self.child.id())
    }

    fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    fn is_over(&mut self, pid: u32) -> bool {
        if pid == self.child.id() {
            return !matches!(self.child.try_wait(), Ok(None));
        }
        // Its parent may have ended, and whoever has inherited it may not care.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'))
    }

    fn end(&mut self, limit: Duration) -> Result<ExitStatus> {
        for heir in self.heirs.clone() {
            if try_until(limit, || self.is_over(heir).then_some(())).is_none() {
                bail!("wharf, by now process {heir}, did not end within {limit:?}; it said:\n{}", self.log_text());
            }
        }
        let ended = try_until(limit, || self.child.try_wait().transpose());
        match ended {
            Some(status) => {
                self.quiet.store(true, Relaxed);
                // Its last words may still be in the pipes. A child of its own that lives on may hold them open.
                try_until(Duration::from_secs(5), || self.readers.iter().all(JoinHandle::is_finished).then_some(()));
                Ok(status?)
            }
            None => bail!("wharf did not end within {limit:?}; it said:\n{}", self.log_text()),
        }
    }

    fn log_text(&self) -> String {
        String::from_utf8_lossy(&self.log.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let died = matches!(self.child.try_wait(), Ok(Some(_))) && !self.quiet.load(Relaxed);
        for heir in self.heirs.drain(..) {
            send(heir, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        try_until(Duration::from_secs(1), || self.readers.iter().all(JoinHandle::is_finished).then_some(()));
        if thread::panicking() {
            let log = self.log_text();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines.get(lines.len().saturating_sub(80)..).unwrap_or_default().join("\n");
            let how = if died { "it had died" } else { "it was alive" };
            eprintln!("--- wharf's log, its last 80 of {} lines ({how}) ---\n{last}\n---", lines.len());
        }
    }
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // Gone already is as good.
        let _ = kill_process(pid, signal);
    }
}

/// Reads a pipe to its end into the log; hands on what follows `READY`.
fn listen(pipe: impl Read + Send + 'static, log: Arc<Mutex<Vec<u8>>>, ready: Option<mpsc::Sender<String>>) -> Result<JoinHandle<()>> {
    let reader = thread::Builder::new().name("wharf-log".into()).spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(lines.read_until(b'\n', &mut line), Ok(n) if n > 0) {
            if let (Some(sender), Some(rest)) = (&ready, line.strip_prefix(b"READY ")) {
                let _ = sender.send(String::from_utf8_lossy(rest).trim().to_owned());
            }
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() < LOG_MAX {
                log.extend_from_slice(&line);
            }
            line.clear();
        }
    })?;
    Ok(reader)
}

fn substitute(config: &str, dir: &Path) -> String {
    config.replace("@DIR@", &dir.display().to_string())
}

fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        at += 1;
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_ascii_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

fn sized(pid: u32, line: &str) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    rollup.lines().find_map(|have| have.strip_prefix(line)?.split_ascii_whitespace().next()?.parse().ok())
}
