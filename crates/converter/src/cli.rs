//! The command line: one verb, one module, one call.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::{boot, convert};

/// Exit code for anything that failed with an error message.
pub const FAILED: u8 = 1;

/// Convert physical machines into virtual ones.
#[derive(Debug, Parser)]
#[command(name = "p2v", version, propagate_version = true, help_expected = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Inspect(crate::inspect::Args),
    Plan(crate::plan::Args),
    Convert(convert::Args),
    Boot(boot::Args),
    Serve(crate::serve::Args),
    Machines(crate::machines::Args),
    Store(crate::store_cmd::Args),
    Image(crate::image::Args),
}

/// Run the verb the user named; print what failed, and why, to standard error.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("p2v: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(verb: Verb) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Inspect(args) => crate::inspect::run(&args),
        Verb::Plan(args) => crate::plan::run(&args),
        Verb::Convert(args) => convert::run(args),
        Verb::Boot(args) => boot::run(&args),
        Verb::Serve(args) => crate::serve::run(args),
        Verb::Machines(args) => crate::machines::run(args),
        Verb::Store(args) => crate::store_cmd::run(args),
        Verb::Image(args) => crate::image::run(args),
    }
}
