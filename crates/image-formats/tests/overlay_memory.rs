//! An overlay of a large disk that is zero where the image below is not: a table for each 512 MiB, and not
//! all of them in memory. A program of its own, with one test: everything it allocates counts.
#![allow(clippy::unwrap_used)]

mod support;

use std::process::Command;

use block_io::MemoryDisk;
use image_formats::{CopyOptions, OutputOptions, copy, output};
use peak_alloc::PeakAlloc;
use support::{arg, scratch};
use test_oracles::has_tools;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const SIZE: u64 = 1 << 40;

fn qemu_img(args: &[&str]) -> String {
    let output = Command::new("qemu-img").args(args).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

#[test]
fn a_terabyte_of_zeroes_over_data_is_mapped_in_little_memory() {
    let test = "a_terabyte_of_zeroes_over_data_is_mapped_in_little_memory";
    if !has_tools(test, &["qemu-img"]) {
        return;
    }
    let dir = scratch();
    // Every cluster is mapped, to nothing but holes of its file.
    let below = dir.path().join("below.qcow2");
    let options = "preallocation=metadata,cluster_size=2M";
    qemu_img(&[
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        options,
        arg(&below),
        "1T",
    ]);
    let source = block_io::Remap::new(
        SIZE,
        block_io::SectorSize::B512,
        vec![block_io::Piece {
            at: SIZE - (1 << 20)..SIZE,
            from: std::sync::Arc::new(MemoryDisk::from(vec![7; 1 << 20])),
            offset: 0,
        }],
    )
    .unwrap();
    let over = dir.path().join("over.qcow2");
    let format = "qcow2:backing=below.qcow2,backing_format=qcow2"
        .parse()
        .unwrap();
    ALLOCATED.reset_peak_usage();
    let sink = output::create(&over, &format, SIZE, OutputOptions::default()).unwrap();
    copy(&source, vec![sink], &(), &CopyOptions::default()).unwrap();
    let peak = ALLOCATED.peak_usage();
    assert!(peak < 64 << 20, "{peak} bytes");

    qemu_img(&["check", "-q", arg(&over)]);
    let map = qemu_img(&["map", "--output=json", arg(&over)]);
    // Zero by the overlay's own word (depth 0), up to its last MiB of data.
    let zeroes = map.lines().next().unwrap();
    for field in [
        "\"start\": 0",
        "\"length\": 1099510579200",
        "\"depth\": 0",
        "\"zero\": true",
    ] {
        assert!(zeroes.contains(field), "{field}: {zeroes}");
    }
    assert!(map.contains("\"length\": 1048576, \"depth\": 0"), "{map}");
}
