//! Pages that are true: their commands are taken from their text, run by bash, and must print what the page shows.
//!
//! What a fenced block means is said by its first line:
//!
//! | block | meaning |
//! | --- | --- |
//! | `bash` | run from the root of the repository; it must succeed |
//! | `bash look` | the same, looked at again for some seconds until it prints what is expected |
//! | `bash refused` | the same as `bash`, but it must fail |
//! | `bash stays` | begun in a terminal of its own, and left there until the page ends |
//! | `text` after one of these | every line of it stands somewhere in what was printed |
//! | `rust file=PATH`, or another language | the reader writes this file |
//!
//! All other blocks are for the eye. Nothing is replaced in the commands but ports, the folder of the demo, the folder
//! of the reader's plugin, and the way to the binary.

use anyhow::{Context as _, Result, bail, ensure};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use std::{env, fs};
use wharf_harness::wait::try_until;
use wharf_harness::{Setup, Wharf, wharf};

/// How long a `look` is repeated.
const LOOK_MAX: Duration = Duration::from_secs(15);

/// What a block asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Succeeds.
    Run,
    /// Succeeds, and prints what is expected before long.
    Look,
    /// Fails.
    Refused,
    /// Goes on until the page ends.
    Stays,
}

/// One thing that a reader does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Types commands.
    Type { line: usize, kind: Kind, script: String, expected: Vec<String> },
    /// Writes a file.
    Write { line: usize, path: String, text: String },
}

/// The steps of a page, in order.
///
/// # Errors
/// A block that is not ended, or says what is not in the table above.
pub fn steps(page: &str) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    // Is the last block one that prints, so that a `text` block is its output?
    let mut prints = false;
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(says) = line.strip_prefix("```") else { continue };
        let line = at + 1;
        let mut body = Vec::new();
        loop {
            match lines.next() {
                Some((_, "```")) => break,
                Some((_, inside)) => body.push(inside),
                None => bail!("line {line}: this block is not ended"),
            }
        }
        let mut words = says.split(' ');
        let (language, more) = (words.next().unwrap_or_default(), words.next());
        let was_printing = std::mem::replace(&mut prints, false);
        match (language, more) {
            ("bash", more) => {
                let kind = match more {
                    None => Kind::Run,
                    Some("look") => Kind::Look,
                    Some("refused") => Kind::Refused,
                    Some("stays") => Kind::Stays,
                    Some(other) => bail!("line {line}: a bash block cannot be {other:?}"),
                };
                prints = true;
                steps.push(Step::Type { line, kind, script: body.join("\n"), expected: Vec::new() });
            }
            ("text", None) if was_printing => {
                if let Some(Step::Type { expected, .. }) = steps.last_mut() {
                    expected.extend(body.iter().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()));
                }
            }
            (_, Some(file)) => {
                let path = file.strip_prefix("file=").with_context(|| format!("line {line}: {says:?} is no kind of block"))?;
                steps.push(Step::Write { line, path: path.to_owned(), text: body.join("\n") + "\n" });
            }
            _ => {}
        }
    }
    Ok(steps)
}

/// What `dev/run` starts, on ports of its own: the demo's configuration, two upstreams, the gateway.
pub struct Demo {
    /// The gateway.
    pub wharf: Wharf,
    /// Where the reader's own files go.
    pub own: PathBuf,
    _folder: tempfile::TempDir,
    _upstreams: Vec<Upstream>,
}

/// A process that ends with its standard input.
struct Upstream(Child);

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Demo {
    /// Starts it; the greeting plugin is built where it has not been.
    ///
    /// # Errors
    /// Something does not start.
    pub fn start() -> Result<Demo> {
        let greetings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/greetings");
        let greetings = built().map_or(greetings, |folder| folder.join("greetings"));
        let output = bash("dev/greetings \"$FOLDER\" hello bonjour", |command| {
            command.env("FOLDER", &greetings);
            if let Some(folder) = built() {
                command.env("CARGO_TARGET_DIR", folder);
            }
        })?;
        ensure!(output.status.success(), "dev/greetings: {}", said(&output));

        let mut upstreams = Vec::new();
        let mut config = fs::read_to_string(root().join("dev/demo/wharf.yaml"))?;
        for (name, word) in [("blue", "@BLUE@"), ("green", "@GREEN@")] {
            let (upstream, address) = start_upstream(name)?;
            upstreams.push(upstream);
            config = config.replace(word, &address);
        }
        let own_words = [("@PORT@", "0"), ("@ADMIN_PORT@", "0"), ("@COMPONENTS@", "@DIR@/components"), ("@STATE@", "@DIR@/state")];
        for (word, ours) in own_words {
            config = config.replace(word, ours);
        }
        let mut setup = Setup::new(config);
        for name in ["auth", "route", "headers"] {
            setup = setup.file(&format!("components/wharf_plugin_{name}.wasm"), wharf_artifacts::component(name));
        }
        for name in ["greeting-hello.wasm", "greeting-bonjour.wasm"] {
            let bytes = fs::read(greetings.join(name))?;
            setup = setup.file(&format!("components/{name}"), bytes.clone()).file(name, bytes);
        }
        let folder = tempfile::Builder::new().prefix("wharf-docs-").tempdir()?;
        Ok(Demo { wharf: setup.start()?, own: folder.path().join("bouncer"), _folder: folder, _upstreams: upstreams })
    }

    /// Does what the page says, step by step.
    ///
    /// # Errors
    /// Names the line of the page, and shows what was printed.
    pub fn follow(&self, name: &str, steps: &[Step]) -> Result<()> {
        for step in steps {
            match step {
                Step::Write { line, path, text } => {
                    let path = PathBuf::from(self.ours(path));
                    let told = || format!("{name}:{line}: {}", path.display());
                    fs::create_dir_all(path.parent().with_context(told)?).with_context(told)?;
                    fs::write(&path, text).with_context(told)?;
                }
                Step::Type { line, kind, script, expected } => {
                    self.type_in(*kind, script, expected).with_context(|| format!("{name}:{line}:\n{script}\n"))?;
                }
            }
        }
        Ok(())
    }

    fn type_in(&self, kind: Kind, script: &str, expected: &[String]) -> Result<()> {
        ensure!(kind != Kind::Stays, "the demo has started what stays");
        let script = self.ours(script);
        let expected: Vec<String> = expected.iter().map(|line| self.ours(line)).collect();
        let mut last = String::new();
        let once = || -> Result<()> {
            let output = bash(&script, |command| {
                command.env("WHARF_CONFIG", self.wharf.dir().join("wharf.yaml"));
                command.env("WHARF_ADMIN", self.wharf.admin().address().to_string());
                command.env("WHARF_TOKEN_FILE", self.wharf.dir().join("state/admin-token"));
            })?;
            let all = said(&output);
            ensure!(output.status.success() == (kind != Kind::Refused), "it ended with {}:\n{all}", output.status);
            let missing: Vec<&String> = expected.iter().filter(|line| !all.contains(line.as_str())).collect();
            ensure!(missing.is_empty(), "it did not print {missing:?}, but:\n{all}");
            Ok(())
        };
        if kind != Kind::Look {
            return once();
        }
        let seen = try_until(LOOK_MAX, || once().map_err(|error| last = error.to_string()).ok());
        seen.with_context(|| format!("not within {LOOK_MAX:?}: {last}"))
    }

    /// A command of a page with this demo's ports and folders.
    fn ours(&self, text: &str) -> String {
        let binary = wharf::binary().unwrap_or_default();
        text.replace("127.0.0.1:8080", &self.wharf.listener("main").to_string())
            .replace("127.0.0.1:9901", &self.wharf.admin().address().to_string())
            .replace(".run/demo/", &format!("{}/", self.wharf.dir().display()))
            .replace("dev/wharf ", &format!("{} ", binary.display()))
            .replace("~/bouncer", &self.own.display().to_string())
    }
}

/// The root of the repository.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Where this test's own builds are kept between runs: the target folder that it was built into.
pub fn built() -> Option<PathBuf> {
    let test = env::current_exe().ok()?;
    let release = test.ancestors().find(|folder| folder.join("deps").is_dir())?;
    Some(release.parent()?.join("docs"))
}

fn start_upstream(name: &str) -> Result<(Upstream, String)> {
    let binary = wharf::binary()?.with_file_name("wharf-demo-upstream");
    let mut child = Command::new(&binary)
        .args([name, "127.0.0.1:0"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{}; hint: `cargo build --release -p wharf-harness`", binary.display()))?;
    let out = child.stdout.take();
    let upstream = Upstream(child);
    let mut line = String::new();
    BufReader::new(out.context("stdout is piped")?).read_line(&mut line)?;
    let address = line.trim().strip_prefix("READY ").with_context(|| format!("{name} said {line:?}"))?;
    Ok((upstream, address.to_owned()))
}

fn bash(script: &str, prepare: impl FnOnce(&mut Command)) -> Result<Output> {
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", script]).current_dir(root()).stdin(Stdio::null());
    // A reader's shell has none of what cargo sets for a test; a proxy has no business on loopback.
    let of_cargo = |name: &str| name.starts_with("CARGO_") && !matches!(name, "CARGO_HOME" | "CARGO_NET_OFFLINE");
    for (name, _) in env::vars().filter(|(name, _)| of_cargo(name) || name == "http_proxy" || name == "RUSTFLAGS") {
        command.env_remove(name);
    }
    // What the page builds must be what is in our lock file, so it needs nothing that is not here already.
    command.env("CARGO_NET_OFFLINE", "true");
    prepare(&mut command);
    command.output().context("there is no bash")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_become_steps() {
        let page = "a\n```bash\necho 1\n```\nb\n```text\n1\n```\n```text\nfor the eye\n```\n```rust file=~/a/b.rs\nfn f() {}\n```\n\
                    ```bash look\nx\n```\n```yaml\na: 1\n```\n```text\nnot its output\n```\n```bash refused\nfalse\n```\n```bash stays\ncat\n```\n";
        let typed = |line, kind, script: &str, expected: &[&str]| Step::Type {
            line,
            kind,
            script: script.into(),
            expected: expected.iter().map(|line| (*line).to_owned()).collect(),
        };
        assert_eq!(
            steps(page).unwrap(),
            [
                typed(2, Kind::Run, "echo 1", &["1"]),
                Step::Write { line: 12, path: "~/a/b.rs".into(), text: "fn f() {}\n".into() },
                typed(15, Kind::Look, "x", &[]),
                typed(24, Kind::Refused, "false", &[]),
                typed(27, Kind::Stays, "cat", &[]),
            ]
        );
        assert!(steps("```bash\n").is_err());
        assert!(steps("```bash sometimes\n```\n").is_err());
    }
}
