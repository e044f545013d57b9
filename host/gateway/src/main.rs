//! `wharf`: the gateway and its command line.

use clap::Parser as _;
use std::io::Write as _;
use std::process::ExitCode;
use wharf_gateway::cli::{self, Cli, Command, Exit};
use wharf_gateway::config::Mistakes;
use wharf_gateway::run;

fn main() -> ExitCode {
    // The allocator asks for huge pages, and a kernel that grants them rounds every core's little heap up to 2 MiB steps:
    // measured as twice the memory of a whole gateway, for nothing in time. Where the kernel knows no such switch, so be it.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    match Cli::parse().command {
        Command::CompileChild { .. } => wharf_wasm::compile_child_main(),
        Command::Run(args) => match run::run(&args) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "error: {error:#}");
                // The message is the same for people; a supervisor tells what a restart may mend from what it may not.
                if error.is::<Mistakes>() { Exit::Config.into() } else { Exit::Start.into() }
            }
        },
        command => cli::execute(command, &mut std::io::stdout(), &mut std::io::stderr()).into(),
    }
}
