//! The command line of `p2v-agent`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    p2v_agent::cli::run(std::env::args_os())
}
