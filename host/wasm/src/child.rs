//! Work on what a stranger wrote, done in a child of our own binary: compiling a component, and checking
//! configurations against the schema that a plugin gave. A compiler fault, a memory bomb, a schema that recurses for
//! ever or a ten-minute compilation costs the child, never the gateway.
//!
//! The child limits itself before it reads a byte: address space, CPU time, file size, no core file, low priority, and
//! it dies with its parent. The parent sets the wall-clock deadline and kills on drop. The compiled form goes from the
//! child to a file that the parent named; nothing compiled is ever taken from elsewhere.

use crate::engine::compile;
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Semaphore;

/// The hidden subcommand: everything after it belongs to [`compile_child_main`].
pub const COMPILE_CHILD: &str = "compile-child";

/// Most bytes read of what a child prints.
const SAYS_MAX: u64 = 1024 * 1024;

/// Bounds of one child and of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildLimits {
    /// Address space of a compilation, beyond what the child has at its start. Default 2 GiB.
    pub memory_bytes_max: u64,
    /// CPU time of a compilation, all its threads. Default 120 s (a JavaScript component takes 22).
    pub cpu_max: Duration,
    /// Wall-clock time of a compilation, from its start. Default 180 s.
    pub wall_max: Duration,
    /// Size of a compiled form. Default 512 MiB.
    pub output_bytes_max: u64,
    /// Compilations at once. Default 2.
    pub at_once_max: usize,
    /// Uploads in work at once, waiting ones included; the next is told to come later. Default 8.
    pub uploads_max: usize,
    /// How much the child lowers its priority (`nice`). Default 10.
    pub nice: i32,
}

impl Default for ChildLimits {
    fn default() -> ChildLimits {
        ChildLimits {
            memory_bytes_max: 2 << 30,
            cpu_max: Duration::from_secs(120),
            wall_max: Duration::from_secs(180),
            output_bytes_max: 512 << 20,
            at_once_max: 2,
            uploads_max: 8,
            nice: 10,
        }
    }
}

/// A schema check is small work: its bounds are not the operator's business.
const CHECK_MEMORY_MAX: u64 = 1 << 30;
const CHECK_CPU_MAX: Duration = Duration::from_secs(2);
const CHECK_WALL_MAX: Duration = Duration::from_secs(10);

/// Why a child did not do it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    #[error("no child process could be started from {exe:?}: {error}")]
    Start { exe: PathBuf, error: std::io::Error },
    #[error("it took longer than {0:?}")]
    Deadline(Duration),
    #[error("it used more than {0:?} of CPU time")]
    Cpu(Duration),
    #[error("it needed more than {} MiB of memory", .0 >> 20)]
    Memory(u64),
    #[error("its output exceeded {} MiB", .0 >> 20)]
    Output(u64),
    #[error("{0}")]
    Refused(String),
    #[error("{0}")]
    NotWritten(String),
    #[error("the child process ended without an answer ({0})")]
    Crashed(String),
}

/// The one line that a child prints.
#[derive(Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
enum Says {
    Compiled {
        sha256: String,
        bytes: u64,
    },
    /// For every configuration the mistakes in it.
    Checked {
        mistakes: Vec<Vec<String>>,
    },
    Refused {
        why: String,
    },
    NotWritten {
        why: String,
    },
}

/// What a check is asked with, on the child's standard input.
#[derive(Serialize, Deserialize)]
struct Check {
    schema: String,
    configs: Vec<String>,
}

/// How children are started. House-wide.
pub(crate) struct Child {
    exe: PathBuf,
    args: Vec<OsString>,
    limits: ChildLimits,
    compilations: Semaphore,
    checks: Semaphore,
}

impl Child {
    /// `exe` with `args` must end in [`compile_child_main`]; `args` includes [`COMPILE_CHILD`].
    pub(crate) fn new(exe: PathBuf, args: Vec<OsString>, limits: ChildLimits) -> Child {
        let (compilations, checks) = (Semaphore::new(limits.at_once_max.max(1)), Semaphore::new(2));
        Child { exe, args, limits, compilations, checks }
    }

    /// Compiles the component in `input` to the new file `output`; the sha-256 of what was written.
    ///
    /// # Cancel safety
    /// Dropped, it kills the child; `output` may be left half-written.
    pub(crate) async fn compile(&self, input: &Path, output: &Path) -> Result<String, ChildError> {
        // The semaphore is never closed.
        let _turn = self.compilations.acquire().await.map_err(|closed| ChildError::Crashed(closed.to_string()))?;
        let (memory, cpu) = (self.limits.memory_bytes_max, self.limits.cpu_max);
        let mut args: Vec<OsString> = vec!["compile".into()];
        args.extend(Limits { memory, cpu, file: self.limits.output_bytes_max, nice: self.limits.nice }.to_args());
        args.extend([input.as_os_str().to_owned(), output.as_os_str().to_owned()]);
        match self.run(args, Vec::new(), self.limits.wall_max, (memory, cpu)).await? {
            Says::Compiled { sha256, .. } => Ok(sha256),
            Says::Refused { why } => Err(ChildError::Refused(why)),
            Says::NotWritten { why } => Err(ChildError::NotWritten(why)),
            Says::Checked { .. } => Err(ChildError::Crashed("an answer to another question".into())),
        }
    }

    /// Checks configurations against a schema; for each the mistakes in it. `Refused`: the schema itself is wrong.
    ///
    /// # Cancel safety
    /// Dropped, it kills the child.
    pub(crate) async fn check(&self, schema: &str, configs: Vec<String>) -> Result<Vec<Vec<String>>, ChildError> {
        let _turn = self.checks.acquire().await.map_err(|closed| ChildError::Crashed(closed.to_string()))?;
        let asked = configs.len();
        let input =
            serde_json::to_vec(&Check { schema: schema.to_owned(), configs }).map_err(|error| ChildError::Crashed(error.to_string()))?;
        let limits = Limits { memory: CHECK_MEMORY_MAX, cpu: CHECK_CPU_MAX, file: 0, nice: 0 };
        let mut args: Vec<OsString> = vec!["check".into()];
        args.extend(limits.to_args());
        match self.run(args, input, CHECK_WALL_MAX, (CHECK_MEMORY_MAX, CHECK_CPU_MAX)).await? {
            Says::Checked { mistakes } if mistakes.len() == asked => Ok(mistakes),
            Says::Refused { why } => Err(ChildError::Refused(why)),
            _ => Err(ChildError::Crashed("an answer to another question".into())),
        }
    }

    async fn run(&self, args: Vec<OsString>, input: Vec<u8>, wall: Duration, (memory, cpu): (u64, Duration)) -> Result<Says, ChildError> {
        let mut child = tokio::process::Command::new(&self.exe)
            .arg0("wharf")
            .args(&self.args)
            .args(args)
            .env_clear()
            // Half of the machine at most: the other half serves.
            .env("RAYON_NUM_THREADS", (std::thread::available_parallelism().map_or(1, usize::from) / 2).max(1).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| ChildError::Start { exe: self.exe.clone(), error })?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let talk = async {
            let give = async {
                if let Some(mut stdin) = stdin {
                    // A child that ends early closes its end; its exit says why.
                    let _ = stdin.write_all(&input).await;
                }
            };
            let (mut said, mut complained) = (Vec::new(), Vec::new());
            let listen = async {
                if let Some(stdout) = stdout {
                    let _ = stdout.take(SAYS_MAX).read_to_end(&mut said).await;
                }
            };
            let overhear = async {
                if let Some(stderr) = stderr {
                    let _ = stderr.take(SAYS_MAX).read_to_end(&mut complained).await;
                }
            };
            tokio::join!(give, listen, overhear);
            (child.wait().await, said, complained)
        };
        // Bound first: `talk` borrows the child, and dropping the child is what kills it.
        let ended = tokio::time::timeout(wall, talk).await;
        let Ok((status, said, complained)) = ended else {
            let _ = child.kill().await;
            return Err(ChildError::Deadline(wall));
        };
        let status = status.map_err(|error| ChildError::Crashed(error.to_string()))?;
        let line = said.split(|&byte| byte == b'\n').rfind(|line| line.starts_with(b"{"));
        match line.and_then(|line| serde_json::from_slice(line).ok()) {
            Some(says) if status.success() => Ok(says),
            _ => Err(why_ended(status, &complained, memory, cpu, self.limits.output_bytes_max)),
        }
    }
}

/// What an exit without an answer means.
fn why_ended(status: ExitStatus, complained: &[u8], memory: u64, cpu: Duration, output: u64) -> ChildError {
    let text = String::from_utf8_lossy(complained);
    let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim();
    let is = |signal: Signal| status.signal() == Some(signal.as_raw());
    if is(Signal::XCPU) {
        ChildError::Cpu(cpu)
    } else if is(Signal::XFSZ) {
        ChildError::Output(output)
    } else if ["memory allocation of", "Cannot allocate memory", "Resource temporarily unavailable"]
        .iter()
        .any(|words| text.contains(words))
    {
        // The last one is what a thread says that gets no stack.
        ChildError::Memory(memory)
    } else {
        ChildError::Crashed(format!("{status}: {}", last.chars().take(400).collect::<String>()))
    }
}

/// What a child holds itself to.
struct Limits {
    memory: u64,
    cpu: Duration,
    file: u64,
    nice: i32,
}

impl Limits {
    fn to_args(&self) -> [OsString; 4] {
        [
            self.memory.to_string().into(),
            self.cpu.as_secs().max(1).to_string().into(),
            self.file.to_string().into(),
            self.nice.to_string().into(),
        ]
    }

    fn from_args(args: &mut impl Iterator<Item = OsString>) -> Option<Limits> {
        let mut number = || args.next()?.to_str()?.parse::<i64>().ok();
        let (memory, cpu, file, nice) = (number()?, number()?, number()?, number()?);
        Some(Limits {
            memory: memory.try_into().ok()?,
            cpu: Duration::from_secs(cpu.try_into().ok()?),
            file: file.try_into().ok()?,
            nice: nice.try_into().ok()?,
        })
    }

    fn hold(&self) -> Result<(), String> {
        let told = |what: &'static str| move |error: rustix::io::Errno| format!("the child could not limit its {what}: {error}");
        let exactly = |most: u64| Rlimit { current: Some(most), maximum: Some(most) };
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).map_err(told("life to its parent's"))?;
        // What is mapped already (the program, what its allocator has reserved) is not the component's doing.
        let pages =
            std::fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok()).unwrap_or(0);
        let mapped = pages.saturating_mul(rustix::param::page_size() as u64);
        rustix::process::setrlimit(Resource::As, exactly(self.memory.saturating_add(mapped))).map_err(told("address space"))?;
        // A second between the signal that says why and the one that cannot be missed.
        let cpu = self.cpu.as_secs();
        rustix::process::setrlimit(Resource::Cpu, Rlimit { current: Some(cpu), maximum: Some(cpu + 1) }).map_err(told("CPU time"))?;
        rustix::process::setrlimit(Resource::Fsize, exactly(self.file)).map_err(told("file size"))?;
        rustix::process::setrlimit(Resource::Core, exactly(0)).map_err(told("core file"))?;
        rustix::process::nice(self.nice).map_err(told("priority"))?;
        Ok(())
    }
}

/// What the hidden subcommand `compile-child` runs. Nobody else calls it: it limits the whole process.
pub fn compile_child_main() -> ExitCode {
    if answer_parent() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn answer_parent() -> bool {
    let mut args = std::env::args_os().skip_while(|arg| arg != COMPILE_CHILD).skip(1);
    let says = match child_work(&mut args) {
        Ok(says) => says,
        Err(why) => Says::Refused { why },
    };
    let mut line = serde_json::to_vec(&says).unwrap_or_default();
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    out.write_all(&line).and_then(|()| out.flush()).is_ok()
}

fn child_work(args: &mut impl Iterator<Item = OsString>) -> Result<Says, String> {
    const USAGE: &str = "compile-child is the gateway's own: it takes no arguments from people";
    let work = args.next().ok_or(USAGE)?;
    Limits::from_args(args).ok_or(USAGE)?.hold()?;
    match work.to_str() {
        Some("compile") => {
            let (input, output) = (args.next().ok_or(USAGE)?, args.next().ok_or(USAGE)?);
            child_compile(Path::new(&input), Path::new(&output))
        }
        Some("check") => {
            let mut asked = Vec::new();
            std::io::stdin().lock().read_to_end(&mut asked).map_err(|error| error.to_string())?;
            let Check { schema, configs } = serde_json::from_slice(&asked).map_err(|error| error.to_string())?;
            Ok(Says::Checked { mistakes: check_configs(&schema, &configs)? })
        }
        _ => Err(USAGE.into()),
    }
}

fn child_compile(input: &Path, output: &Path) -> Result<Says, String> {
    let wasm = std::fs::read(input).map_err(|error| format!("{}: {error}", input.display()))?;
    let compiled = compile(&wasm).map_err(|error| error.to_string())?;
    let open = || std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(output);
    if let Err(error) = open().and_then(|mut file| file.write_all(&compiled)) {
        return Ok(Says::NotWritten { why: format!("{}: {error}", output.display()) });
    }
    Ok(Says::Compiled { sha256: crate::disk::sha256(&compiled).to_string(), bytes: compiled.len() as u64 })
}

/// Most mistakes told of one configuration.
const MISTAKES_MAX: usize = 10;

/// The mistakes in each configuration; an error is about the schema.
fn check_configs(schema: &str, configs: &[String]) -> Result<Vec<Vec<String>>, String> {
    let schema: serde_json::Value = serde_json::from_str(schema).map_err(|error| format!("it is not JSON: {error}"))?;
    let validator = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        // Patterns run in linear time: no look-around, no backtracking.
        .with_pattern_options(jsonschema::PatternOptions::regex())
        .should_validate_formats(true)
        .build(&schema)
        .map_err(|error| format!("at {}: {error}", place(&error.instance_path().to_string())))?;
    let check = |config: &String| match serde_json::from_str::<serde_json::Value>(config) {
        Err(error) => vec![format!("it is not JSON: {error}")],
        Ok(config) => validator
            .iter_errors(&config)
            .take(MISTAKES_MAX)
            .map(|error| {
                // Without the values: one of them may be a secret, and this is logged.
                let text = error.masked().to_string();
                format!("{}: {}", place(&error.instance_path().to_string()), text.chars().take(400).collect::<String>())
            })
            .collect(),
    };
    Ok(configs.iter().map(check).collect())
}

/// A JSON pointer as people read it.
fn place(pointer: &str) -> &str {
    if pointer.is_empty() { "the top" } else { pointer }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The children of these tests are this very test binary, led to this test by its arguments.
    #[test]
    fn the_test_binary_is_its_own_child() {
        if std::env::args().any(|arg| arg == COMPILE_CHILD) {
            std::process::exit(i32::from(!answer_parent()));
        }
    }

    fn child(limits: ChildLimits) -> Child {
        let (exe, args) = crate::guests::child_command();
        Child::new(exe, args, limits)
    }

    async fn compile(limits: ChildLimits, wasm: &[u8]) -> Result<String, ChildError> {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in"), dir.path().join("out"));
        std::fs::write(&input, wasm).unwrap();
        let sum = child(limits).compile(&input, &output).await?;
        assert_eq!(sum, crate::disk::sha256(&std::fs::read(&output).unwrap()).to_string());
        Ok(sum)
    }

    #[tokio::test]
    async fn a_child_compiles_and_says_what_it_wrote() {
        compile(ChildLimits::default(), &crate::guests::Guest::default().build()).await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_component_is_refused_by_the_compiler() {
        let error = compile(ChildLimits::default(), b"\0asm\x0d\0\x01\0garbage").await.unwrap_err();
        assert!(matches!(&error, ChildError::Refused(why) if !why.is_empty()), "{error}");
    }

    #[tokio::test]
    async fn a_compiled_form_that_cannot_be_written_is_no_fault_of_the_component() {
        let dir = tempfile::tempdir().unwrap();
        let input = dir.path().join("in");
        std::fs::write(&input, crate::guests::Guest::default().build()).unwrap();
        let error = child(ChildLimits::default()).compile(&input, &dir.path().join("nowhere/out")).await.unwrap_err();
        assert!(matches!(&error, ChildError::NotWritten(why) if why.contains("nowhere/out")), "{error}");
    }

    #[tokio::test]
    async fn a_child_that_takes_too_long_or_too_much_is_ended() {
        let wasm = crate::guests::Guest::default().build();
        let slow = ChildLimits { wall_max: Duration::from_micros(1), ..ChildLimits::default() };
        let error = compile(slow, &wasm).await.unwrap_err();
        assert!(matches!(error, ChildError::Deadline(_)), "{error}");
        let greedy = ChildLimits { memory_bytes_max: 1 << 20, ..ChildLimits::default() };
        let error = compile(greedy, &wasm).await.unwrap_err();
        assert!(matches!(error, ChildError::Memory(_)), "{error}");
        let wordy = ChildLimits { output_bytes_max: 100, ..ChildLimits::default() };
        let error = compile(wordy, &wasm).await.unwrap_err();
        assert!(matches!(error, ChildError::Output(100)), "{error}");
    }

    #[tokio::test]
    async fn a_binary_that_is_gone_is_named() {
        let child = Child::new("/nowhere/wharf".into(), vec![], ChildLimits::default());
        let error = child.check("{}", vec![]).await.unwrap_err();
        assert!(error.to_string().contains("/nowhere/wharf"), "{error}");
    }

    async fn check(schema: &str, config: &str) -> Result<Vec<String>, ChildError> {
        let mut mistakes = child(ChildLimits::default()).check(schema, vec![config.to_owned()]).await?;
        Ok(mistakes.remove(0))
    }

    #[tokio::test]
    async fn mistakes_in_a_configuration_are_named_by_their_place() {
        let schema = r#"{"type":"object","required":["key"],"additionalProperties":false,
            "properties":{"key":{"type":"string","pattern":"^[a-z]+$"},"rules":{"type":"array","items":{"type":"integer","minimum":1}}}}"#;
        assert_eq!(check(schema, r#"{"key":"a"}"#).await.unwrap(), Vec::<String>::new());
        let mistakes = check(schema, r#"{"key":"A","rules":[1,0],"more":1}"#).await.unwrap().join("\n");
        for part in ["/key", "/rules/1", "more"] {
            assert!(mistakes.contains(part), "{part} in {mistakes}");
        }
        assert!(check(schema, "{").await.unwrap()[0].contains("not JSON"));
    }

    #[tokio::test]
    async fn a_schema_that_is_wrong_is_refused_and_says_where() {
        for (schema, told) in [
            ("[", "not JSON"),
            (r#"{"type":"no such type"}"#, "type"),
            (r#"{"properties":{"a":{"pattern":"("}}}"#, ""),
            (r#"{"$ref":"https://example.com/schema.json"}"#, ""),
            (r#"{"$ref":"file:///etc/passwd"}"#, ""),
        ] {
            let error = check(schema, "{}").await.unwrap_err();
            assert!(matches!(&error, ChildError::Refused(why) if why.contains(told)), "{schema}: {error}");
        }
    }

    #[tokio::test]
    async fn a_schema_built_to_hurt_costs_its_child_only() {
        // Recursion without end: either seen through or the end of the child, never ours.
        let _ = check(r##"{"$ref":"#"}"##, "{}").await;
        let _ = check(r##"{"allOf":[{"$ref":"#"}]}"##, "{}").await;
        // 2^40 evaluations.
        let mut definitions = vec![r#""d0":{"type":"object"}"#.to_owned()];
        definitions
            .extend((1..40).map(|n| format!(r##""d{n}":{{"allOf":[{{"$ref":"#/$defs/d{}"}},{{"$ref":"#/$defs/d{}"}}]}}"##, n - 1, n - 1)));
        let schema = format!(r##"{{"$ref":"#/$defs/d39","$defs":{{{}}}}}"##, definitions.join(","));
        let error = check(&schema, "{}").await.unwrap_err();
        assert!(matches!(error, ChildError::Cpu(_) | ChildError::Memory(_) | ChildError::Crashed(_) | ChildError::Deadline(_)), "{error}");
    }
}
