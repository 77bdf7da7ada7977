//! FAT12, FAT16 and FAT32 made by `mkfs.vfat`, resized by us, checked by `fsck.vfat`, read by mtools.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::path::Path;

use block_io::{FileDisk, FileDiskMut, Overlay};
use common::mtools::{fill, read_back};
use common::oracle::{assert_same, make_tree, mutate, our_tree};
use common::resizing::{Files, limits, resized, steps, write_something};
use common::{Seeded, assert_succeeded, has_tools, make_fs, run, run_ok, text};
use filesystems::fat::FatTree;
use filesystems::probe::probe;
use filesystems::resize::{ResizeErrorKind, resize, resize_limits};
use filesystems::tree::Recovery;

const TOOLS: &[&str] = &["mkfs.vfat", "fsck.vfat", "mcopy", "mdel"];
const MIB: u64 = 1 << 20;

/// A name, what mkfs.vfat is told, MiB, and the sizes in MiB it is given.
const VARIANTS: &[(&str, &str, u64, &[u64])] = &[
    ("fat12", "-F 12 -s 8", 14, &[15, 8, 9]),
    ("fat12-small-clusters", "-F 12 -s 8 -f 1", 8, &[15, 7]),
    ("fat16", "-F 16 -s 4", 40, &[41, 120, 60, 30]),
    ("fat16-one", "-F 16 -s 1 -f 1 -r 64", 20, &[31, 15]),
    ("fat16-big", "-F 16 -s 64", 300, &[2000, 200]),
    ("fat16-hidden", "-F 16 -s 4 -h 63 -R 5", 40, &[100, 33]),
    ("fat32", "-F 32 -s 1", 60, &[61, 400, 3000, 50]),
    ("fat32-8k", "-F 32 -s 16", 700, &[710, 5000, 600]),
    ("fat32-4kn", "-F 32 -S 4096 -s 1", 300, &[1500, 290]),
    ("fat32-one", "-F 32 -f 1 -s 2", 90, &[500, 80]),
    ("fat32-unaligned", "-F 32 -s 8 -a -R 33", 300, &[1000, 299]),
];

fn fsck(image: &Path, what: &str) {
    let output = run("fsck.vfat", &["-n", text(image)]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_succeeded(&output, what);
    for word in [
        "differences",
        "wrong",
        "Dirty",
        "truncat",
        "Free cluster summary",
    ] {
        assert!(!said.contains(word), "{what}: {said}");
    }
}

#[test]
fn every_type_grows_and_shrinks_and_keeps_its_files() {
    let test = "every_type_grows_and_shrinks_and_keeps_its_files";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 30, false);
    for (name, args, mib, sizes) in VARIANTS {
        let image = dir.path().join(name);
        make_fs("mkfs.vfat", &[], args, &image, mib * MIB + 3072 * 4);
        fill(&image, &from);
        let tree = read_back(&image);
        assert!(tree.len() > 150, "{name}: {}", tree.len());
        // 0 stands for the smallest there is then.
        let steps = sizes.iter().map(|mib| mib * MIB).chain([0]);
        for size in steps.chain([mib * MIB + 512]) {
            let size = size.max(limits(&image).smallest);
            let what = format!("{name} to {size}");
            let before = std::time::Instant::now();
            let done = resized(&image, size);
            println!("{what}: {done:?} {:?}", before.elapsed());
            assert!(
                done.after <= size && done.after + 4 * MIB > size,
                "{what}: {done:?}"
            );
            fsck(&image, &what);
            assert_same(&read_back(&image), &tree, &what);
        }
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn sizes_a_type_cannot_have_are_refused_with_the_limit() {
    let test = "sizes_a_type_cannot_have_are_refused_with_the_limit";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for (args, mib, most) in [("-F 12 -s 8", 14, 4084), ("-F 16 -s 4", 40, 65_524)] {
        let image = dir.path().join("fat");
        make_fs("mkfs.vfat", &[], args, &image, mib * MIB);
        let bounds = limits(&image);
        assert!(
            bounds.largest_because.contains(&most.to_string()),
            "{bounds:?}"
        );
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .unwrap();
        file.set_len(bounds.largest + MIB).unwrap();
        let disk = Overlay::new(FileDisk::open(&image).unwrap());
        let kind = probe(&disk).unwrap().unwrap().kind;
        for (size, kind_of_error) in [
            (
                bounds.largest + 512,
                ResizeErrorKind::TooLarge {
                    largest: bounds.largest,
                },
            ),
            (
                bounds.smallest - 512,
                ResizeErrorKind::TooSmall {
                    smallest: bounds.smallest,
                },
            ),
        ] {
            let error = resize(&disk, kind, size, Recovery::Refuse).unwrap_err();
            assert_eq!(error.kind(), kind_of_error, "{error}");
            assert!(!error.is_torn() && disk.edits().is_empty(), "{error}");
        }
        drop(disk);
        file.set_len(mib * MIB).unwrap();
        let done = resized(&image, bounds.largest);
        assert_eq!(done.after, bounds.largest);
        fsck(&image, args);
        let clusters = run_ok("fsck.vfat", &["-n", "-v", text(&image)]);
        assert!(
            clusters.contains(&format!("/{most} clusters")),
            "{clusters}"
        );
    }
}

/// Thousands of steps with `P2V_STEPS=3000`.
#[test]
fn random_steps_of_growing_shrinking_and_writing_stay_sound() {
    let test = "fat: random_steps_of_growing_shrinking_and_writing_stay_sound";
    if !has_tools(test, TOOLS) {
        return;
    }
    let steps = steps(90);
    let dir = tempfile::tempdir().unwrap();
    for (n, (args, mib)) in [("-F 12 -s 1", 1), ("-F 16 -s 1", 5), ("-F 32 -s 1", 34)]
        .iter()
        .enumerate()
    {
        let image = dir.path().join("fat");
        make_fs("mkfs.vfat", &[], args, &image, mib * MIB);
        let mut random = Seeded(n as u64 + 5);
        let mut expected = Files::new();
        for step in 0..steps / 3 {
            let what = format!("{args}, step {step}");
            let disk = FileDiskMut::open(&image).unwrap();
            let mut tree = FatTree::open_rw(disk, Recovery::Refuse).unwrap();
            write_something(&mut tree, &mut random, &mut expected, 90 << 10);
            drop(tree);
            let bounds = limits(&image);
            let size = match random.below(4) {
                0 => bounds.smallest,
                1 | 2 => bounds.smallest + random.below(bounds.current - bounds.smallest + 1),
                _ => bounds.current + random.below(bounds.current / 2),
            };
            let done = resized(&image, size.min(bounds.largest) / 512 * 512);
            fsck(&image, &format!("{what}: {done:?}"));
            let tree = FatTree::open(FileDisk::open(&image).unwrap()).unwrap();
            assert_same(&our_tree(&tree), &expected, &format!("{what}: {done:?}"));
        }
        if !expected.is_empty() {
            assert_same(&read_back(&image), &expected, args);
        }
    }
}

#[test]
fn damaged_bytes_give_errors_and_never_a_panic() {
    let test = "fat: damaged_bytes_give_errors_and_never_a_panic";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 30, false);
    for (args, mib) in [("-F 12 -s 8", 14), ("-F 16 -s 4", 40), ("-F 32 -s 1", 40)] {
        let image = dir.path().join("fat");
        make_fs("mkfs.vfat", &[], args, &image, mib * MIB);
        fill(&image, &from);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&image)
            .unwrap();
        file.set_len(3 * mib * MIB).unwrap();
        let kind = probe(&FileDisk::open(&image).unwrap())
            .unwrap()
            .unwrap()
            .kind;
        let mut random = Seeded(mib);
        for _ in 0..300 {
            let disk = Overlay::new(FileDisk::open(&image).unwrap());
            for _ in 0..=random.below(3) {
                let at = match random.below(4) {
                    0 => random.below(90),
                    1 => random.below(40_000),
                    _ => random.below(MIB),
                };
                mutate(&disk, at, &mut random);
            }
            let _ = resize_limits(&disk, kind);
            for size in [3 * mib * MIB, mib * MIB / 2, 20 * MIB] {
                let _ = resize(&disk, kind, size, Recovery::Replay);
            }
        }
    }
}
