//! `p2v image map` and `p2v image check`: walk an image from its start to its end.

use std::process::ExitCode;

use block_io::{BlockRead, Extent, ExtentKind};
use image_formats::Severity;
use serde_json::json;

use super::{DIFFERENT, Source};

/// Bytes read at once by `check`.
const STEP: u64 = 2 << 20;
/// Broken places that are told one by one.
const TOLD: u64 = 100;

/// Which image to map.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON, with qemu-img's names where they mean the same
    #[arg(long)]
    json: bool,
}

/// Which image to check.
#[derive(Debug, clap::Args)]
pub struct CheckArgs {
    #[command(flatten)]
    source: Source,
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

pub(super) fn run_check(args: &CheckArgs) -> anyhow::Result<ExitCode> {
    let image = args.source.open()?;
    let mut worst = Severity::Note;
    for note in &image.info().notes {
        println!("{:?}: {note}", note.severity);
        worst = worst.max(note.severity);
    }
    let mut broken = 0u64;
    let mut tell = |error: &dyn std::fmt::Display| {
        broken += 1;
        if broken <= TOLD {
            println!("Error: {error}");
        }
    };
    let mut buf = vec![0; STEP as usize];
    let mut at = 0;
    while at < image.size() {
        let extent = match image.extent_at(at) {
            Ok(extent) => extent,
            Err(error) => {
                tell(&error);
                at = (at / 512 + 1) * 512;
                continue;
            }
        };
        let len = match extent.kind {
            ExtentKind::Zero => extent.len,
            _ => extent.len.min(STEP),
        };
        if extent.kind != ExtentKind::Zero
            && let Err(error) = image.read_at(at, &mut buf[..len as usize])
        {
            tell(&error);
        }
        at += len;
    }
    if broken > TOLD {
        println!("Error: {} further places", broken - TOLD);
    }
    if broken > 0 || worst == Severity::Error {
        return Ok(ExitCode::from(DIFFERENT));
    }
    println!(
        "{}: every table and all data could be read",
        args.source.image.display()
    );
    Ok(ExitCode::SUCCESS)
}
