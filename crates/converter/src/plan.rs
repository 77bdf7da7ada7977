//! `p2v plan`: what a conversion would do to the disks' layout and to the guest's files, before anything is done.

use std::path::PathBuf;
use std::process::ExitCode;

use image_formats::OutputFormat;

use crate::convert::{self, Wanted};

/// Show what `p2v convert` with the same flags would do: disk layouts today and new, changes of files
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  p2v plan web01 --disk-size 120G --grow /srv
  p2v plan web01 --shrink 2=used+4G --disk-size fit --svg layout.svg
  p2v plan old-nt.img --align 1M --leave-out 3
  p2v plan web01 --layout small.toml

Nothing is written but the picture. docs/layout.md tells of disk layouts.
Exit codes: 0 planned, 1 it cannot be done, 2 wrong usage.")]
pub struct Args {
    #[command(flatten)]
    wanted: Wanted,

    /// Draw the layouts, today and new, into a file
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,

    /// Taken as `p2v convert` takes it, and of no use here
    #[arg(long, value_name = "FORMAT", hide = true)]
    to: Vec<OutputFormat>,

    /// Taken as `p2v convert` takes it, and of no use here
    #[arg(long, value_name = "DIR", hide = true)]
    out: Option<PathBuf>,

    /// Taken as `p2v convert` takes it, and of no use here
    #[arg(long, hide = true)]
    force: bool,
}

/// Run the verb.
///
/// # Errors
/// What would stop the conversion before it wrote anything.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    convert::preview(&args.wanted, args.svg.as_deref())
}
