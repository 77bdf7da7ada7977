//! `p2v-agent inventory`.

use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::Context;

use crate::inventory::{self, Root};

/// Print what this machine is: hardware, firmware, disks, network, operating system
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON, as the converter gets it
    #[arg(long)]
    json: bool,
    /// Read the machine whose root is mounted at this directory
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let inventory = inventory::read(&Root::new(&args.root));
    let mut text = String::new();
    if args.json {
        text = serde_json::to_string_pretty(&inventory).context("writing the inventory as JSON")?;
        text.push('\n');
    } else {
        inventory::write_table(&inventory, &mut text)?;
    }
    match io::stdout().write_all(text.as_bytes()) {
        // A reader that has seen enough, as `head` has.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome.context("printing the inventory"),
    }
}
