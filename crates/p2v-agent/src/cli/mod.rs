//! Arguments in, exit code out.

mod inventory;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The end of `--help`: what the exit codes mean.
const EXIT_CODES: &str = "\
Exit codes:
  0  all went well
  1  something failed; the last line says what to do
  2  the command line is wrong";

/// Reads this machine and sends its disks to a converter. Never writes to them.
#[derive(Debug, Parser)]
#[command(name = "p2v-agent", version, after_help = EXIT_CODES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Inventory(inventory::Args),
}

/// Run the program with `arguments`, the first of which is its name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Inventory(args) => inventory::run(&args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "p2v-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
