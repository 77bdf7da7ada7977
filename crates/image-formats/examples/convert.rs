//! Converts a raw disk: `convert [--no-flush] SOURCE FORMAT OUTPUT [FORMAT OUTPUT]…`. For the benchmark.
#![allow(clippy::unwrap_used)]

use image_formats::{CopyOptions, OutputOptions, copy, output};

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let no_flush = args.first().is_some_and(|arg| arg == "--no-flush");
    if no_flush {
        args.remove(0);
    }
    let source = block_io::FileDisk::open(&args[0]).unwrap();
    let options = OutputOptions {
        overwrite: true,
        no_flush,
    };
    let sinks = args[1..].chunks(2).map(|pair| {
        let size = block_io::BlockRead::size(&source);
        output::create(&pair[1], &pair[0].parse().unwrap(), size, options.clone()).unwrap()
    });
    copy(&source, sinks.collect(), &(), &CopyOptions::default()).unwrap();
}
