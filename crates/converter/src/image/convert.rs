//! `p2v image convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, ensure};
use block_io::BlockRead;
use image_formats::{CopyOptions, OutputFormat, OutputOptions, copy, output};

use super::Source;
use crate::progress::ByteBar;

/// What to convert into what.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  p2v image convert disk.raw --to qcow2:zstd disk.qcow2
  p2v image convert old.vmdk --to vhdx:fixed new.vhdx --to raw new.raw
  p2v image convert old.vmdk --to raw /dev/vg0/web --force

Formats, options after a colon and separated by commas:
  raw        preallocated; the output may be a block device, which is emptied first
  qcow2      zlib, zstd, cluster_size=BYTES, backing=FILE with backing_format=FORMAT
  vmdk       monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, streamOptimized
  vhd        fixed, azure
  vhdx       fixed, block_size=BYTES, sector_size=4096
  vdi        fixed
  parallels  plain, bundle; a name that ends in .hdd is a bundle")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// A format, with options after a colon, and the file to write; may be repeated
    #[arg(long, num_args = 2, value_names = ["FORMAT", "OUT"], required = true)]
    to: Vec<String>,
    /// Replace outputs that exist, and write onto block devices
    #[arg(long)]
    force: bool,
    /// Do not wait until the outputs are on the medium: faster, but not safe from a power cut
    #[arg(long)]
    no_flush: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let outputs = parse_outputs(&args.to)?;
    let image = args.source.open()?;
    let info = image.info();
    if info.guessed {
        let name = info.format.qemu_name();
        eprintln!(
            "{}: taken for {name}; --from says otherwise",
            info.path.display()
        );
    }
    for note in &info.notes {
        eprintln!("{:?}: {note}", note.severity);
    }
    let options = OutputOptions {
        overwrite: args.force,
        no_flush: args.no_flush,
    };
    let mut sinks = Vec::new();
    for (format, path) in &outputs {
        // Said before anything else: the source is never written, by whatever name it is known.
        ensure!(
            !output::lies_on(path, &info.path),
            "{} and {} are on one medium: writing onto the device would change the source; \
             name another device, or a file",
            path.display(),
            info.path.display()
        );
        let sink = output::create(path, format, image.size(), options.clone())
            .with_context(|| format!("starting {}", path.display()))?;
        sinks.push(sink);
    }
    let bar = ByteBar::new("converting");
    let copied = copy(&image, sinks, &bar, &CopyOptions::default());
    bar.clear();
    for path in copied.context("converting")? {
        println!("{}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

fn parse_outputs(to: &[String]) -> anyhow::Result<Vec<(OutputFormat, PathBuf)>> {
    to.chunks_exact(2)
        .map(|pair| Ok((pair[0].parse()?, PathBuf::from(&pair[1]))))
        .collect()
}
