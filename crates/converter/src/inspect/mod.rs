//! `p2v inspect`: what a machine's disks hold, before anything is done with them.
//!
//! Reads tables, signatures, allocation records and the few files that tell a system's name and its
//! mount points; nothing is written and no file data is read.

mod logical;
mod model;
mod read;
mod text;

use std::process::ExitCode;

use anyhow::Context;

pub use self::model::{
    Disk, Finding, Inspection, Level, LogicalVolume, Mount, On, System, Table, Volume,
};
pub use self::read::{look, look_at};

use crate::convert::source::SourceArgs;
use crate::table::print;

/// Show what a machine's disks hold: partitions, file systems, mount points, systems
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  p2v inspect web01
  p2v inspect old.vmdk
  p2v inspect disk.img data.img --from raw --json

Nothing is written. Image files need no root. The JSON is described in docs/inspect.schema.json.
Exit codes: 0 looked at, 1 an error, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Print JSON instead of a tree
    #[arg(long)]
    json: bool,
}

/// Run the verb.
///
/// # Errors
/// When a disk cannot be opened or read.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let source = args.source.open(None)?;
    let seen = look(&source)?;
    if args.json {
        let json = serde_json::to_string_pretty(&seen).context("writing what was seen as JSON")?;
        print(&format!("{json}\n"))?;
    } else {
        print(&text::tree(&seen))?;
    }
    Ok(ExitCode::SUCCESS)
}
