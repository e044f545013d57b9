//! `docs/first-gateway.md` from its first block to its last, in an empty folder, with the programs that a reader has.

use anyhow::{Context as _, Result, ensure};
use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use wharf_e2e::docs::{Kind, Step, root, steps};
use wharf_harness::wait::try_until;
use wharf_harness::wharf;

/// How long what a page shows may be waited for, where it does not show at once.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// A reader: a folder, terminals in which something stays, and an address of this machine that nobody else uses, so that the
/// ports of the page can be what they are.
struct Reader {
    folder: tempfile::TempDir,
    address: String,
    stays: Vec<Child>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        for mut child in self.stays.drain(..) {
            // Each has a process group: bash and what it began.
            let _ = Command::new("kill").args(["-s", "TERM", "--", &format!("-{}", child.id())]).status();
            let _ = child.wait();
        }
    }
}

impl Reader {
    fn new() -> Result<Reader> {
        let folder = tempfile::Builder::new().prefix("wharf-first-").tempdir()?;
        let components = folder.path().join("repository/target/components");
        fs::create_dir_all(&components)?;
        fs::create_dir_all(folder.path().join("first"))?;
        fs::write(components.join("wharf_plugin_auth.wasm"), wharf_artifacts::component("auth"))?;
        let pid = std::process::id();
        let address = format!("127.{}.{}.{}", 64 + (pid >> 14) % 128, (pid >> 7) % 128, 1 + pid % 128);
        Ok(Reader { folder, address, stays: Vec::new() })
    }

    fn first(&self) -> PathBuf {
        self.folder.path().join("first")
    }

    /// What the page says, at our address.
    fn ours(&self, text: &str) -> String {
        text.replace("https://localhost:8443", &format!("--resolve localhost:8443:{0} https://localhost:8443", self.address))
            .replace("127.0.0.1", &self.address)
    }

    fn bash(&self, script: &str) -> Result<Command> {
        let mut command = Command::new("bash");
        let binary = wharf::binary()?;
        let path = std::env::var_os("PATH").unwrap_or_default();
        let begin = binary.parent().unwrap_or(Path::new("/")).as_os_str();
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.first()).stdin(Stdio::null());
        command.env("PATH", [begin, &path].join(std::ffi::OsStr::new(":"))).env("REPOSITORY", self.folder.path().join("repository"));
        command.env_remove("http_proxy").env_remove("https_proxy");
        Ok(command)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let mut text = self.ours(text);
        if path == "wharf.yaml" {
            text += &format!("\nadmin: {{bind: \"{0}:9901\", advertise: \"{0}:9901\"}}\n", self.address);
        }
        fs::write(self.first().join(path), text).context("writing")
    }

    fn begin(&mut self, script: &str, expected: &[String]) -> Result<()> {
        let seen = self.folder.path().join(format!("terminal-{}", self.stays.len()));
        let (out, err) = (File::create(&seen)?, File::options().append(true).open(&seen)?);
        let child = self.bash(&self.ours(script))?.stdout(out).stderr(err).process_group(0).spawn()?;
        self.stays.push(child);
        let said = || fs::read_to_string(&seen).unwrap_or_default();
        let told = try_until(LOOK_MAX, || expected.iter().all(|line| said().contains(line.as_str())).then_some(()));
        told.with_context(|| format!("it did not print {expected:?}, but:\n{}", said()))
    }

    fn type_in(&self, kind: Kind, script: &str, expected: &[String]) -> Result<()> {
        let once = || -> Result<()> {
            let output = self.bash(&self.ours(script))?.output()?;
            let all = String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned();
            ensure!(output.status.success() == (kind != Kind::Refused), "it ended with {}:\n{all}", output.status);
            let missing: Vec<String> = expected.iter().map(|line| self.ours(line)).filter(|line| !all.contains(line.as_str())).collect();
            ensure!(missing.is_empty(), "it did not print {missing:?}, but:\n{all}");
            Ok(())
        };
        if kind != Kind::Look {
            return once();
        }
        let mut last = String::new();
        try_until(LOOK_MAX, || once().map_err(|error| last = error.to_string()).ok())
            .with_context(|| format!("not within {LOOK_MAX:?}: {last}"))
    }
}

#[test]
fn the_page_leads_from_an_empty_folder_to_a_gateway_with_tls_limits_and_a_plugin() {
    let page = fs::read_to_string(root().join("docs/first-gateway.md")).unwrap();
    let steps = steps(&page).unwrap();
    let has = |word: &str| steps.iter().any(|step| matches!(step, Step::Type { script, .. } if script.contains(word)));
    for word in ["wharf check", "wharf run", "wharf config status", "wharf explain", "wharf services", "https://", "x-api-key"] {
        assert!(has(word), "the page no longer says {word:?}");
    }
    let mut reader = Reader::new().unwrap();
    for step in &steps {
        let (line, done) = match step {
            Step::Write { line, path, text } => (line, reader.write(path, text)),
            Step::Type { line, kind: Kind::Stays, script, expected } => (line, reader.begin(script, expected)),
            Step::Type { line, kind, script, expected } => (line, reader.type_in(*kind, script, expected)),
        };
        done.unwrap_or_else(|error| panic!("docs/first-gateway.md:{line}: {error:#}"));
    }
    assert_eq!(reader.stays.len(), 2, "the upstreams in one terminal, the gateway in another");
}
