//! `p2v image map`: which parts of the disk hold data.

use std::process::ExitCode;

use block_io::{BlockRead, Extent, ExtentKind};
use serde_json::json;

use super::Source;

/// Which image to map.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON, with qemu-img's names where they mean the same
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let image = args.source.open()?;
    if !args.json {
        println!("{:>16} {:>16}  kind", "start", "length");
    }
    let mut first = true;
    for extent in block_io::extents(&image, 0..image.size()) {
        let extent = extent?;
        match args.json {
            true => {
                print!("{}{}", if first { "[" } else { ",\n" }, as_json(&extent));
                first = false;
            }
            false => println!("{:>16} {:>16}  {:?}", extent.start, extent.len, extent.kind),
        }
    }
    if args.json {
        println!("{}]", if first { "[" } else { "" });
    }
    Ok(ExitCode::SUCCESS)
}

fn as_json(extent: &Extent) -> serde_json::Value {
    let zero = extent.kind == ExtentKind::Zero;
    json!({ "start": extent.start, "length": extent.len, "zero": zero, "data": !zero })
}
