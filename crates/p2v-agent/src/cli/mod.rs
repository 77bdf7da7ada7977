//! Arguments in, exit code out.

mod inventory;
mod push;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The end of `--help`: what the exit codes mean.
const EXIT_CODES: &str = "\
Exit codes:
  0  all went well: the machine is complete at the converter
  1  something failed that has no code of its own
  2  the command line is wrong
  3  sectors cannot be read: they are listed, and --skip-unreadable sends zeroes for them
  4  a disk vanished, shrank or failed otherwise
  5  the converter cannot be reached, is another one than expected, or refused
  130  interrupted
The last lines on standard error say what to do.";

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
    Push(Box<push::Args>),
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
        Command::Inventory(args) => inventory::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Push(args) => push::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "p2v-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}
