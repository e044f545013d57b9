//! The command line: what can be typed, and the commands that need no gateway of their own to run in.
//!
//! `run` and the hidden `compile-child` belong to `main.rs`; everything else is done here by [`execute`]. Commands
//! about plugins and routes ask the admin API of a running gateway ([`admin`]). Every command has `--json`; nothing
//! here ever asks a question back.

mod admin;
mod diff;
mod explained;
mod show;
mod top;

use crate::config::document::Document;
use crate::config::plan::LogTarget;
use crate::config::warnings::{Warning, warnings};
use crate::config::{self, Plan, Surroundings};
use crate::explain::{self, Question};
use admin::Client;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused: the gateway understood and said no, or what was asked for does not exist
  2  wrong use of the command line
  3  the configuration has mistakes
  4  the gateway cannot be reached
  5  the admin token is missing or not accepted
  6  the gateway could not start or go on: a port, a file, the state folder";

/// Wharf: a gateway that is programmed with WebAssembly components.
#[derive(Debug, Parser)]
#[command(name = "wharf", version, about, after_help = EXIT_CODES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway
    Run(RunArgs),
    /// Check a configuration file: all mistakes, with place and hint
    Check(CheckArgs),
    /// Upload plugins and choose which version serves
    Plugin(PluginArgs),
    /// Routes with their effective chains, as the gateway serves them
    Routes(AdminArgs),
    /// Services with their endpoints, as the gateway sees them
    Services(AdminArgs),
    /// Replace the running process by the binary that is on disk now, without a lost connection
    Upgrade(AdminArgs),
    /// The configuration
    Config(ConfigArgs),
    /// The access log
    Log(LogArgs),
    /// What the running gateway is doing: requests, errors and times by route and service, health of endpoints
    Top(top::TopArgs),
    /// Which route would a request take, why, and what holds for it? From the file, or by the running gateway
    Explain(ExplainArgs),
    /// What would change from one configuration to another
    Diff(DiffArgs),
    /// A script that completes this command line in a shell
    Completion {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    /// Compile a component; started by the gateway for itself
    #[command(hide = true)]
    CompileChild {
        /// As the gateway gives them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<OsString>,
    },
}

/// `wharf run`
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The configuration file
    #[arg(long, short, env = "WHARF_CONFIG", default_value = "wharf.yaml")]
    pub config: PathBuf,
    /// Do not start if the configuration has any mistake, even where its last good version was kept
    #[arg(long)]
    pub strict: bool,
}

/// `wharf check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(env = "WHARF_CONFIG", default_value = "wharf.yaml")]
    pub file: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
    /// Take warnings for mistakes
    #[arg(long)]
    pub strict: bool,
    /// The file is meant for another machine: files and variables that are not here are notes, and any address will do
    #[arg(long)]
    pub elsewhere: bool,
    /// Print a file to begin with, and check nothing
    #[arg(long)]
    pub example: bool,
}

/// How a running gateway is reached.
#[derive(Clone, Debug, Args)]
pub struct AdminArgs {
    /// Host and port of the admin API; default from the configuration file
    #[arg(long, env = "WHARF_ADMIN", value_name = "HOST:PORT", value_parser = admin::address, global = true)]
    pub admin: Option<String>,
    /// File with the admin token; default from the configuration file
    #[arg(long, env = "WHARF_TOKEN_FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// The configuration file
    #[arg(long, short, env = "WHARF_CONFIG", default_value = "wharf.yaml", global = true)]
    pub config: PathBuf,
    /// Answer in JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// `wharf plugin`
#[derive(Clone, Debug, Args)]
pub struct PluginArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: PluginCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum PluginCommand {
    /// Upload a component and make it the serving version
    Push {
        /// Name of the plugin, as in the configuration
        name: String,
        /// The component (.wasm)
        file: PathBuf,
        /// A text for people that is kept with the version, such as a commit; at most 1 KiB
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// All plugins with their serving versions
    List,
    /// The versions of a plugin, the newest first
    Versions {
        /// Name of the plugin
        name: String,
    },
    /// Make a version the serving one
    Activate {
        /// Name of the plugin
        name: String,
        /// The version, as `versions` shows it
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        version: u32,
    },
    /// Go back to the version that served before
    Rollback {
        /// Name of the plugin
        name: String,
    },
    /// Roles, imports, schema and state of a version
    Inspect {
        /// Name of the plugin
        name: String,
        /// The version, as `versions` shows it
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        version: u32,
    },
}

/// `wharf config`
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: ConfigCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum ConfigCommand {
    /// Every setting that is in effect, defaults included and secrets left out: of the file, or of the running gateway
    Show {
        /// The configuration file; default as `--config` says
        file: Option<PathBuf>,
        /// Of the running gateway, in place of a file
        #[arg(long, conflicts_with = "file")]
        running: bool,
    },
    /// Which configuration the running gateway serves, and what of the newest it does not, if anything
    Status,
    /// Have the running gateway read its configuration now
    Reload,
    /// The JSON Schema of the configuration file, for editors
    Schema,
}

/// `wharf log`
#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: LogCommand,
}

#[derive(Clone, Debug, Subcommand)]
enum LogCommand {
    /// Open the file of the access log anew, after it was moved away
    Reopen,
}

/// `wharf explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The request: its URL, `http://api.example.com/orders/1`, with its method before it if that is not GET
    #[arg(value_name = "[METHOD] URL", num_args = 1..=2, required = true)]
    pub request: Vec<String>,
    /// The request's method
    #[arg(long, short = 'X')]
    pub method: Option<String>,
    /// A header of the request, `name: value`; may be given several times
    #[arg(long = "header", short = 'H')]
    pub headers: Vec<String>,
    /// The address that the request comes from
    #[arg(long, value_name = "IP")]
    pub source: Option<IpAddr>,
    /// The listener that the request comes in by; by default the one that the URL fits best
    #[arg(long, value_name = "NAME")]
    pub listener: Option<String>,
    /// Ask the running gateway, in place of the file
    #[arg(long)]
    pub running: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `wharf diff`
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// The configuration before and the one after; with `--running` only the one after
    #[arg(value_name = "FILE", num_args = 1..=2, required = true)]
    pub files: Vec<PathBuf>,
    /// Compare with what the running gateway serves
    #[arg(long)]
    pub running: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// How a command ended. The numbers are promised in `--help`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The gateway said no, or there is no such thing.
    Refused = 1,
    /// Wrong use of the command line (also clap's own).
    Usage = 2,
    /// The configuration has mistakes.
    Config = 3,
    /// The gateway cannot be reached.
    Unreachable = 4,
    /// The token is missing or not accepted.
    Token = 5,
    /// The gateway could not start or go on, though its configuration has no mistake.
    Start = 6,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a command was not done.
#[derive(Debug)]
struct Failure {
    exit: Exit,
    kind: String,
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(exit: Exit, kind: &str, message: impl Into<String>) -> Failure {
        Failure { exit, kind: kind.into(), message: message.into(), hint: None }
    }

    fn hint(mut self, hint: impl Into<String>) -> Failure {
        self.hint = Some(hint.into());
        self
    }
}

/// A configuration to begin with: it serves at once.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// Does a command that is neither `run` nor `compile-child`. Answers go to `out`, mistakes to `err` (with `--json`
/// to `out`, too).
pub fn execute(command: Command, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let json = match &command {
        Command::Check(args) => args.json,
        Command::Plugin(args) => args.admin.json,
        Command::Routes(args) | Command::Services(args) | Command::Upgrade(args) => args.json,
        Command::Config(args) => args.admin.json,
        Command::Log(args) => args.admin.json,
        Command::Top(args) => args.admin.json,
        Command::Explain(args) => args.admin.json,
        Command::Diff(args) => args.admin.json,
        Command::Run(_) | Command::CompileChild { .. } | Command::Completion { .. } => false,
    };
    let done = match command {
        Command::Check(args) => return check(&args, out, err),
        Command::Plugin(args) => plugin(args),
        Command::Routes(args) => Client::find(&args).and_then(|client| client.get(&["routes"])),
        Command::Services(args) => Client::find(&args).and_then(|client| client.get(&["services"])),
        Command::Log(LogArgs { admin, command: LogCommand::Reopen }) => {
            Client::find(&admin).and_then(|client| client.post(&["log", "reopen"]))
        }
        Command::Upgrade(args) => Client::find(&args).and_then(|client| client.post(&["upgrade"])),
        Command::Top(args) => return top::run(&args, out, err),
        Command::Config(ConfigArgs { admin, command }) => return configuration(&admin, command, out, err),
        Command::Explain(args) => match explained(&args) {
            Ok(answer) if json => Ok(answer),
            Ok(answer) => return print(out, &explained::text(&answer)),
            Err(Trouble::Mistakes(mistakes)) => return print_mistakes(&mistakes, json, out, err),
            Err(Trouble::Failure(failure)) => Err(failure),
        },
        Command::Diff(args) => match diff::of(&args) {
            Ok(found) if json => return print(out, &format!("{found:#}\n")),
            Ok(found) => return print(out, &diff::text(&found)),
            Err(Trouble::Mistakes(mistakes)) => return print_mistakes(&mistakes, json, out, err),
            Err(Trouble::Failure(failure)) => Err(failure),
        },
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut <Cli as clap::CommandFactory>::command(), "wharf", &mut script);
            return print(out, &String::from_utf8_lossy(&script));
        }
        Command::Run(_) | Command::CompileChild { .. } => Err(Failure::new(Exit::Usage, "usage", "this command is not done here")),
    };
    match done {
        Ok(answer) if json => print(out, &format!("{answer:#}\n")),
        Ok(answer) => print(out, &show::text(&answer)),
        Err(failure) => print_failure(&failure, json, out, err),
    }
}

/// What keeps a command that reads a configuration from answering.
enum Trouble {
    Mistakes(config::Mistakes),
    Failure(Failure),
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        Trouble::Failure(failure)
    }
}

impl From<config::Mistakes> for Trouble {
    fn from(mistakes: config::Mistakes) -> Trouble {
        Trouble::Mistakes(mistakes)
    }
}

fn configuration(admin: &AdminArgs, command: ConfigCommand, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let is_reload = matches!(command, ConfigCommand::Reload);
    let asked = match command {
        ConfigCommand::Schema => return print(out, &config::schema::text()),
        ConfigCommand::Show { file, running } => {
            let document = if running {
                Client::find(admin).and_then(|client| client.get(&["config", "effective"])).map(|value| Document::from_json(&value))
            } else {
                match document(file.as_ref().unwrap_or(&admin.config)) {
                    Ok((_, document)) => Ok(document),
                    Err(mistakes) => return print_mistakes(&mistakes, admin.json, out, err),
                }
            };
            match document {
                Ok(document) if admin.json => return print(out, &format!("{:#}\n", document.json())),
                Ok(document) => return print(out, &document.yaml()),
                Err(failure) => Err(failure),
            }
        }
        ConfigCommand::Status => Client::find(admin).and_then(|client| client.get(&["config"])),
        ConfigCommand::Reload => Client::find(admin).and_then(|client| client.post(&["config", "reload"])),
    };
    match asked {
        Ok(answer) => {
            print(out, &if admin.json { format!("{answer:#}\n") } else { show::text(&answer) });
            let held = answer.get("quarantined").and_then(Value::as_array).is_some_and(|held| !held.is_empty());
            if held && is_reload { Exit::Config } else { Exit::Done }
        }
        Err(failure) => print_failure(&failure, admin.json, out, err),
    }
}

/// A configuration and all that is in effect by it; it may be meant for another host.
fn document(path: &Path) -> Result<(Plan, Document), config::Mistakes> {
    let plan = config::load(path, &anywhere())?;
    let text = config::contents(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let made = config::document::read(&path.display().to_string(), path, &text, &mut config::sources::Here);
    let gone = || config::Mistakes::whole(&path.display().to_string(), "the file changed while it was read".into(), "try again");
    Ok((plan, made.ok_or_else(gone)?))
}

fn explained(args: &ExplainArgs) -> Result<Value, Trouble> {
    let (method, url) = match args.request.as_slice() {
        [method, url] => (Some(method), url.as_str()),
        [url] => (None, url.as_str()),
        _ => (None, "/"),
    };
    let method = args.method.as_ref().or(method).map_or("GET", String::as_str);
    let question = Question {
        method: method.into(),
        url: url.into(),
        headers: args.headers.clone(),
        source: args.source,
        listener: args.listener.clone(),
    };
    if !args.running {
        let (plan, document) = document(&args.admin.config)?;
        let refused = |message| Failure::new(Exit::Usage, "usage", message);
        return Ok(explain::explain(&plan, Some(&document), &question, &|_| None).map_err(refused)?);
    }
    let client = Client::find(&args.admin)?;
    let source = args.source.map(|source| source.to_string()).unwrap_or_default();
    let headers = args.headers.join("\n");
    let query = [
        ("method", method),
        ("url", url),
        ("header", headers.as_str()),
        ("source", source.as_str()),
        ("listener", args.listener.as_deref().unwrap_or_default()),
    ];
    let mut answer = client.get_with(&["config", "explain"], &query)?;
    // What it knows of the endpoints now is more than what the file says of them.
    let service = answer.get("to").and_then(Value::as_str).and_then(|to| to.strip_prefix("service ")?.split(',').next().map(str::to_owned));
    if let Some(service) = service
        && let Ok(all) = client.get(&["services"])
        && let Some(found) =
            all.get("services").and_then(Value::as_array).and_then(|all| all.iter().find(|have| have.get("name") == Some(&json!(service))))
        && let Some(fields) = answer.as_object_mut()
    {
        fields.insert("now".into(), found.clone());
    }
    Ok(answer)
}

fn check(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.example {
        return print(out, EXAMPLE);
    }
    match checked(args) {
        Ok((plan, absent)) => {
            let file = args.file.display().to_string();
            let counts = [
                ("listeners", plan.listeners.len()),
                ("routes", plan.routes.len()),
                ("services", plan.services.len()),
                ("plugins", plan.plugins.len()),
            ];
            let found = warnings(&plan);
            let exit = if args.strict && !found.is_empty() { Exit::Config } else { Exit::Done };
            let places = document(&args.file).map(|(_, document)| document).ok();
            let at = |warning: &Warning| {
                places.as_ref().and_then(|places| places.place_of(warning.item.0, &warning.item.1)).unwrap_or_else(|| file.clone())
            };
            if args.json {
                let counts: serde_json::Map<String, Value> = counts.iter().map(|&(name, count)| (name.into(), count.into())).collect();
                let list: Vec<Value> =
                    found.iter().map(|warning| json!({ "at": at(warning), "message": warning.message, "hint": warning.hint })).collect();
                let ok = exit == Exit::Done;
                let notes: Vec<Value> =
                    absent.iter().map(|(at, note)| json!({ "at": at, "message": note.message, "hint": note.hint })).collect();
                let mut said = json!({ "file": file, "ok": ok, "mistakes": [], "warnings": list, "counts": counts });
                if let (true, Some(said)) = (args.elsewhere, said.as_object_mut()) {
                    said.insert("notes".into(), notes.into());
                }
                print(out, &format!("{said:#}\n"));
                return exit;
            }
            for (at, note) in &absent {
                print(err, &format!("{at}: note: {}\n  hint: it must be there where the gateway runs\n\n", note.message));
            }
            for warning in &found {
                print(err, &format!("{}: warning: {}\n  hint: {}\n\n", at(warning), warning.message, warning.hint));
            }
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            let told = match found.len() {
                0 => String::new(),
                1 => "; 1 warning".into(),
                several => format!("; {several} warnings"),
            };
            let noted = match absent.len() {
                0 => String::new(),
                1 => "; 1 note".into(),
                several => format!("; {several} notes"),
            };
            let good = if args.elsewhere { "good, as far as that can be told elsewhere" } else { "good" };
            print(out, &format!("{file} is {good}: {}{told}{noted}\n", counts.join(", ")));
            exit
        }
        Err(mistakes) => print_mistakes(&mistakes, args.json, out, err),
    }
}

/// What is asked for, and with `--elsewhere` what of it is not here and where it is named.
fn checked(args: &CheckArgs) -> Result<(Plan, Vec<(String, config::tree::Mistake)>), config::Mistakes> {
    if !args.elsewhere {
        let plan = config::load(&args.file, &Surroundings::here())?;
        return Ok((starts(&args.file, plan)?, Vec::new()));
    }
    let mut checked = config::read_all(&args.file, &anywhere()).0?;
    let Some(mistakes) = checked.mistakes.take() else { return Ok((checked.into_plan()?, Vec::new())) };
    match mistakes.elsewhere() {
        (Some(mistakes), _) => Err(mistakes),
        (None, absent) => Ok((checked.into_plan()?, absent)),
    }
}

/// What keeps a gateway from starting here and is no reason to refuse a changed file to one that serves: that one has its
/// access log open, or says that it lost it.
fn starts(file: &Path, plan: Plan) -> Result<Plan, config::Mistakes> {
    if let LogTarget::File(log) = &plan.access_log.target
        && let Some(folder) = log.parent()
        // The state folder is made at the start, with all that it lies in.
        && !(folder == Path::new("") || folder.is_dir() || plan.node.state_dir.starts_with(folder))
    {
        let message = format!("the access log {} cannot be made: there is no folder {}", log.display(), folder.display());
        let hint = "make the folder, or name another file by `access_log.to`";
        return Err(config::Mistakes::whole(&file.display().to_string(), message, hint));
    }
    Ok(plan)
}

fn plugin(args: PluginArgs) -> Result<Value, Failure> {
    let client = Client::find(&args.admin)?;
    match &args.command {
        PluginCommand::List => client.get(&["plugins"]),
        PluginCommand::Push { name, file, note } => {
            client.put_file(&["plugins", name], &[("note", note.as_deref().unwrap_or_default())], file)
        }
        PluginCommand::Versions { name } => client.get(&["plugins", name, "versions"]),
        PluginCommand::Activate { name, version } => client.post(&["plugins", name, "versions", &version.to_string(), "activate"]),
        PluginCommand::Rollback { name } => client.post(&["plugins", name, "rollback"]),
        PluginCommand::Inspect { name, version } => client.get(&["plugins", name, "versions", &version.to_string()]),
    }
}

/// For commands that read a file that may be meant for another host.
fn anywhere() -> Surroundings {
    Surroundings { any_address: true, ..Surroundings::here() }
}

fn print(out: &mut dyn Write, text: &str) -> Exit {
    // A closed pipe (`wharf routes | head`) is no mistake, and there is nobody left to tell.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    Exit::Done
}

fn print_mistakes(mistakes: &config::Mistakes, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let _ = if json { writeln!(out, "{:#}", mistakes.json()) } else { writeln!(err, "{mistakes}") };
    Exit::Config
}

fn print_failure(failure: &Failure, json: bool, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    let Failure { exit, kind, message, hint } = failure;
    let written: io::Result<()> = if json {
        writeln!(out, "{:#}", json!({ "error": { "kind": kind, "message": message, "hint": hint } }))
    } else {
        writeln!(err, "error: {message}").and_then(|()| match hint {
            Some(hint) => writeln!(err, "  hint: {hint}"),
            None => Ok(()),
        })
    };
    let _ = written;
    *exit
}

#[cfg(test)]
mod page_tests;
#[cfg(test)]
mod tests;
