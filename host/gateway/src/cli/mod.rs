//! The command line: what can be typed, and the commands that need no gateway of their own to run in.
//!
//! `run` and the hidden `compile-child` belong to `main.rs`; everything else is done here by [`execute`]. Commands
//! about plugins and routes ask the admin API of a running gateway ([`admin`]). Every command has `--json`; nothing
//! here ever asks a question back.

mod admin;
mod explain;
mod show;

use crate::config::plan::LogTarget;
use crate::config::{self, Plan, Surroundings};
use admin::Client;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::ffi::OsString;
use std::io::{self, Write};
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
    /// The configuration
    Config(ConfigArgs),
    /// Which route would a request take, and why? From the file, without a gateway
    Explain(ExplainArgs),
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
    /// What the running gateway serves, and why the last change was refused if it was
    Show,
    /// The JSON Schema of the configuration file, for editors
    Schema,
}

/// `wharf explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// The request's URL, `http://api.example.com/orders/1`
    pub url: String,
    /// The request's method
    #[arg(long, short = 'X', default_value = "GET")]
    pub method: String,
    /// A header of the request, `name: value`; may be given several times
    #[arg(long = "header", short = 'H')]
    pub headers: Vec<String>,
    /// The client's address
    #[arg(long, default_value = "127.0.0.1")]
    pub client: std::net::IpAddr,
    /// The configuration file
    #[arg(long, short, env = "WHARF_CONFIG", default_value = "wharf.yaml")]
    pub config: PathBuf,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
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
        Command::Routes(args) | Command::Services(args) => args.json,
        Command::Config(args) => args.admin.json,
        Command::Explain(args) => args.json,
        Command::Run(_) | Command::CompileChild { .. } => false,
    };
    let done = match command {
        Command::Check(args) => return check(&args, out, err),
        Command::Plugin(args) => plugin(args),
        Command::Routes(args) => Client::find(&args).and_then(|client| client.get(&["routes"])),
        Command::Services(args) => Client::find(&args).and_then(|client| client.get(&["services"])),
        Command::Config(ConfigArgs { admin, command: ConfigCommand::Show }) => {
            Client::find(&admin).and_then(|client| client.get(&["config"]))
        }
        Command::Config(ConfigArgs { command: ConfigCommand::Schema, .. }) => return print(out, &config::schema::text()),
        Command::Explain(args) => match config::load(&args.config, &anywhere()) {
            Ok(plan) => explain::explain(&plan, &args),
            Err(mistakes) => return print_mistakes(&mistakes, json, out, err),
        },
        Command::Run(_) | Command::CompileChild { .. } => Err(Failure::new(Exit::Usage, "usage", "this command is not done here")),
    };
    match done {
        Ok(answer) if json => print(out, &format!("{answer:#}\n")),
        Ok(answer) => print(out, &show::text(&answer)),
        Err(failure) => print_failure(&failure, json, out, err),
    }
}

fn check(args: &CheckArgs, out: &mut dyn Write, err: &mut dyn Write) -> Exit {
    if args.example {
        return print(out, EXAMPLE);
    }
    match config::load(&args.file, &Surroundings::here()).and_then(|plan| starts(&args.file, plan)) {
        Ok(plan) => {
            let file = args.file.display().to_string();
            let counts = [
                ("listeners", plan.listeners.len()),
                ("routes", plan.routes.len()),
                ("services", plan.services.len()),
                ("plugins", plan.plugins.len()),
            ];
            if args.json {
                let counts: serde_json::Map<String, Value> = counts.iter().map(|&(name, count)| (name.into(), count.into())).collect();
                return print(out, &format!("{:#}\n", json!({ "file": file, "ok": true, "mistakes": [], "counts": counts })));
            }
            let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
            print(out, &format!("{file} is good: {}\n", counts.join(", ")))
        }
        Err(mistakes) => print_mistakes(&mistakes, args.json, out, err),
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
        PluginCommand::Push { name, file } => client.put_file(&["plugins", name], file),
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
mod tests;
