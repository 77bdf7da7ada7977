//! What reading an image allocates is bounded by its file's size, whatever the file says: counted by the
//! allocator. A program of its own, with one test: everything it allocates counts.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

#[path = "../../../fuzz/entries/image.rs"]
mod entry;
#[path = "../../../fuzz/entries/mutate.rs"]
#[allow(dead_code)]
mod mutate;
mod support;

use image_formats::ImageFormat;
use mutate::Dice;
use peak_alloc::PeakAlloc;
use support::{make_disk, scratch, write_image};

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

/// Caches and buffers that every reader may have.
const ALWAYS: usize = 16 << 20;
/// And so many times the file: the entry itself holds it twice, tables are read and parsed.
const TIMES: usize = 8;

#[test]
fn memory_is_bounded_by_the_file_whatever_it_says() {
    let dir = scratch();
    let source = make_disk(
        &dir.path().join("source"),
        600 << 10,
        &[(0, 5000), (100 << 10, 90_000)],
    );
    for (format, kind) in [
        ("qcow2:cluster_size=4096", ImageFormat::Qcow2),
        ("qcow2:zstd,cluster_size=512", ImageFormat::Qcow2),
        ("vhdx", ImageFormat::Vhdx),
        ("vmdk", ImageFormat::Vmdk),
        ("vmdk:streamOptimized", ImageFormat::Vmdk),
        ("vhd", ImageFormat::Vhd),
        ("vdi", ImageFormat::Vdi),
        ("parallels", ImageFormat::Parallels),
    ] {
        let path = write_image(&source, format, &dir.path().join("image"));
        let sound = std::fs::read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let mut most = 0;
        // Numbers in a header and the tables behind it, made as large as they go, one after the other.
        let busy: Vec<usize> = (0..sound.len())
            .filter(|at| sound[*at] != 0)
            .take(400)
            .collect();
        let mut dice = Dice(7);
        for round in 0..300 {
            let mut bytes = sound.clone();
            let at = match round {
                // Every field of the first half KiB in turn, then where something stands.
                0..128 => round * 4,
                _ => busy[dice.roll(busy.len())],
            };
            let len = [1, 2, 3, 4, 8][dice.roll(5)].min(bytes.len() - at);
            let value = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x10][dice.roll(6)];
            bytes[at..at + len].fill(value);
            let before = ALLOCATED.current_usage();
            ALLOCATED.reset_peak_usage();
            entry::feed(Some(kind), &bytes);
            let used = ALLOCATED.peak_usage().saturating_sub(before);
            most = most.max(used);
            let bound = ALWAYS + TIMES * bytes.len();
            assert!(
                used <= bound,
                "{format}: {len} bytes of {value:#x} at {at}: {used} bytes allocated for a file of {}",
                bytes.len()
            );
        }
        println!(
            "{format}: file {} KiB, at most {} KiB allocated",
            sound.len() >> 10,
            most >> 10
        );
    }
}
