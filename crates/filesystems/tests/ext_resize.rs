//! ext2, ext3 and ext4 made by `mke2fs`, resized by us, held against `e2fsck`, `dumpe2fs`, `resize2fs`
//! and the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use block_io::FileDiskMut;
use common::oracle::{assert_same, host_tree, make_tree};
use common::{VARIANTS, fsck, fsck_fix, has_tools, mke2fs, run, run_ok, text};
use filesystems::probe::probe;
use filesystems::resize::{ResizeErrorKind, Resized, resize, resize_limits};
use filesystems::tree::Recovery;

const TOOLS: &[&str] = &["mke2fs", "e2fsck", "dumpe2fs", "resize2fs", "debugfs"];
const MIB: u64 = 1 << 20;

/// Resize the file system in `image`; the file is made as long as it needs to be, and cut afterwards.
fn resized(image: &Path, size: u64) -> Resized {
    let file = std::fs::OpenOptions::new().write(true).open(image).unwrap();
    let len = file.metadata().unwrap().len();
    file.set_len(len.max(size)).unwrap();
    let disk = FileDiskMut::open(image).unwrap();
    let kind = probe(&disk).unwrap().unwrap().kind;
    let done = resize(&disk, kind, size, Recovery::Refuse).unwrap_or_else(|e| panic!("{e}"));
    drop(disk);
    file.set_len(size).unwrap();
    done
}

/// A line of what `dumpe2fs -h` prints.
fn told(image: &Path, field: &str) -> String {
    let all = run_ok("dumpe2fs", &["-h", text(image)]);
    let line = all.lines().find(|line| line.starts_with(field));
    let (_, value) = line.and_then(|l| l.split_once(':')).unwrap_or_default();
    value.trim().to_owned()
}

fn number(image: &Path, field: &str) -> u64 {
    told(image, field).parse().unwrap()
}

type Files = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// All files as the kernel reads them; as `debugfs` does where the kernel does not mount such a file
/// system (blocks larger than its pages).
fn files(image: &Path) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let mount = run(
        "mount",
        &["-t", "ext4", "-o", "loop,ro", text(image), text(dir.path())],
    );
    if mount.status.success() {
        let found = host_tree(dir.path());
        run_ok("umount", &[text(dir.path())]);
        return found;
    }
    let command = format!("rdump / {}", text(dir.path()));
    run_ok("debugfs", &["-R", &command, text(image)]);
    host_tree(dir.path())
}

/// What `dumpe2fs` tells of the places of all groups; read from the copy at block `copy`, if given.
fn places(image: &Path, copy: Option<(u64, u64)>) -> Vec<String> {
    let options = copy.map(|(b, s)| [format!("superblock={b}"), format!("blocksize={s}")]);
    let mut args = Vec::new();
    for option in options.iter().flatten() {
        args.extend(["-o", option]);
    }
    args.push(text(image));
    // It also answers with an error where a group has no bitmap yet and a copy is read.
    let all = run("dumpe2fs", &args).stdout;
    let all = String::from_utf8_lossy(&all).into_owned();
    let wanted = [
        "Block count",
        "Inode count",
        "Group ",
        "Primary",
        "Backup",
        "Block bitmap",
        "Inode table",
        "  Reserved",
    ];
    let lines = all
        .lines()
        .filter(|line| wanted.iter().any(|w| line.contains(w)));
    // Checksums and flags of groups are left out when a copy is read.
    let place = |line: &str| {
        line.split(&['[', ',', '('][..])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    lines.map(place).collect()
}

/// Every copy of the superblock must tell what the primary tells.
fn copies_agree(image: &Path, what: &str) {
    let all = run_ok("dumpe2fs", &[text(image)]);
    let size = number(image, "Block size");
    let copies = all.lines().filter_map(|line| {
        let rest = line.trim().strip_prefix("Backup superblock at ")?;
        rest.split(&[',', ' '][..]).next()?.parse::<u64>().ok()
    });
    let primary = places(image, None);
    for copy in copies.take(5) {
        let told = places(image, Some((copy, size)));
        assert!(told == primary, "{what}: the copy at {copy} differs");
    }
}

#[test]
fn every_variant_grows_in_steps_and_keeps_its_files() {
    let test = "every_variant_grows_in_steps_and_keeps_its_files";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 60, true);
    for (name, args, mib) in VARIANTS {
        let image = dir.path().join(name);
        mke2fs(&image, mib * MIB, args, Some(&from));
        // Large directories get their hash trees, and quotas are counted.
        fsck_fix(&image, "-fyD");
        let disk = FileDiskMut::open(&image).unwrap();
        let kind = probe(&disk).unwrap().unwrap().kind;
        let limits = resize_limits(&disk, kind);
        drop(disk);
        if name.contains("bigalloc") {
            let error = limits.unwrap_err();
            assert_eq!(error.kind(), ResizeErrorKind::Unsupported);
            assert!(error.to_string().contains("bigalloc"), "{error}");
            continue;
        }
        let limits = limits.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(limits.largest > mib * MIB * 1000, "{name}: {limits:?}");
        let tree = files(&image);
        assert!(tree.len() > 300, "{name}: {}", tree.len());
        let first = number(&image, "Free blocks");
        for size in [
            mib * MIB + 3 * 65_536,
            mib * 2 * MIB,
            mib * 7 * MIB + 65_536,
            mib * 40 * MIB,
        ] {
            let what = format!("{name} to {size}");
            let before = std::time::Instant::now();
            let done = resized(&image, size);
            println!("{what}: {done:?} {:?}", before.elapsed());
            assert!(
                done.after <= size && done.after + 128 * MIB > size,
                "{what}"
            );
            fsck(&image, &what);
            let block = number(&image, "Block size");
            assert_eq!(number(&image, "Block count") * block, done.after, "{what}");
            copies_agree(&image, &what);
        }
        assert_same(&files(&image), &tree, name);
        assert!(number(&image, "Free blocks") > first * 20, "{name}");
        // Their own tool must be able to go on from here.
        run_ok("resize2fs", &[text(&image), &format!("{}M", mib * 30)]);
        fsck(&image, &format!("{name} shrunk by resize2fs"));
        assert_same(
            &files(&image),
            &tree,
            &format!("{name} shrunk by resize2fs"),
        );
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn a_small_file_system_grows_to_16_tib() {
    let test = "a_small_file_system_grows_to_16_tib";
    if !has_tools(test, TOOLS) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let from = dir.path().join("from");
    make_tree(&from, 30, true);
    for (name, args, size) in [
        ("64bit", "-t ext4 -b 4096 -O 64bit", (16 << 40) - MIB),
        (
            "rhel",
            "-t ext4 -b 4096 -O ^metadata_csum,^64bit,uninit_bg",
            (16 << 40) - 4096,
        ),
    ] {
        let image = dir.path().join(name);
        mke2fs(&image, 4096 * MIB, args, Some(&from));
        let tree = files(&image);
        let before = std::time::Instant::now();
        let done = resized(&image, size);
        println!("{name}: {done:?} {:?}", before.elapsed());
        assert_eq!(done.after, size, "{name}");
        run_ok("dumpe2fs", &["-h", text(&image)]);
        assert_same(&files(&image), &tree, name);
        std::fs::remove_file(&image).unwrap();
    }
}
