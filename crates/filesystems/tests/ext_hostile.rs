//! Damaged and hostile file systems: an error that says where, never a panic or an endless loop.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::path::Path;
use std::time::{Duration, Instant};

use block_io::{MemoryDisk, Overlay};
use common::*;
use filesystems::ext::{ExtTree, Recovery};
use filesystems::path::GuestPath;
use filesystems::probe::FsKind;
use filesystems::tree::{Attributes, FileKind, FileTree, TreeError, TreeErrorKind};
use filesystems::used::used_ranges;

/// A small file system with a bit of everything.
fn sample(dir: &Path, args: &str) -> Vec<u8> {
    let root = dir.join("root");
    let _ = std::fs::remove_dir_all(&root);
    std::fs::create_dir_all(root.join("a/b")).unwrap();
    let mut random = Seeded(5);
    for n in 0..90 {
        std::fs::write(
            root.join(format!("a/file-with-a-name-{n}")),
            random.bytes(n * 30),
        )
        .unwrap();
    }
    use std::os::unix::fs::FileExt;
    let sparse = std::fs::File::create(root.join("sparse")).unwrap();
    for n in 0..40 {
        sparse.write_all_at(b"x", n * 16_384).unwrap();
    }
    std::fs::write(root.join("big"), random.bytes(400_000)).unwrap();
    std::os::unix::fs::symlink("x".repeat(100), root.join("link")).unwrap();
    let image = dir.join("image");
    mke2fs(&image, 4 << 20, args, Some(&root));
    fsck_fix(&image, "-fyD");
    std::fs::read(&image).unwrap()
}

/// Read all there is, stopping a directory tree that is too deep or too wide.
fn read_all(tree: &dyn FileTree) -> Result<(), TreeError> {
    let mut left = vec![GuestPath::root()];
    let mut steps = 0;
    let mut first = Ok(());
    while let Some(dir) = left.pop() {
        let entries = match tree.read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) => {
                first = first.and(Err(error));
                continue;
            }
        };
        for entry in entries {
            steps += 1;
            if steps > 2000 {
                return first;
            }
            let path = dir.join(&entry.name);
            let result = match entry.kind {
                FileKind::Directory => {
                    left.push(path.clone());
                    tree.stat(&path).map(drop)
                }
                FileKind::Symlink => tree.read_link(&path).map(drop),
                FileKind::File => tree.read_file(&path, 1 << 20).map(drop),
                FileKind::Special => Ok(()),
            };
            first = first.and(result).and(tree.xattrs(&path).map(drop));
        }
    }
    first
}

/// Change what can be changed; errors are fine, panics and loops are not.
fn write_some(tree: &mut dyn FileTree) {
    let new = Attributes::root_owned(0o644, 1_700_000_000);
    let _ = tree.write_file(&"/a/new-file".into(), &[7; 10_000], new);
    let _ = tree.write_file(&"/big".into(), &[7; 100_000], new);
    let _ = tree.write_at(&"/sparse".into(), 10_000, &[7; 100_000]);
    let _ = tree.truncate(&"/sparse".into(), 5000);
    let _ = tree.create_dir(&"/a/b/c".into(), new);
    let _ = tree.create_symlink(&"/l".into(), &[b'x'; 80], new);
    for n in 0..30 {
        let _ = tree.remove(&GuestPath::new(format!("/a/file-with-a-name-{n}")));
        let _ = tree.write_file(&GuestPath::new(format!("/a/another-name-{n}")), b"z", new);
    }
    let _ = tree.rename(&"/big".into(), &"/a/b/big".into());
    let _ = tree.set_xattr(&"/link".into(), b"user.x", Some(&[1; 300]));
    let _ = tree.remove(&"/a/b/big".into());
    let _ = tree.remove(&"/sparse".into());
    let _ = tree.sync();
}

fn exercise(bytes: &[u8]) {
    if let Ok(tree) = ExtTree::open(MemoryDisk::from(bytes.to_vec())) {
        let _ = read_all(&tree);
    }
    let disk = Overlay::new(MemoryDisk::from(bytes.to_vec()));
    if let Ok(mut tree) = ExtTree::open_rw(disk, Recovery::Replay) {
        write_some(&mut tree);
        let _ = read_all(&tree);
    }
    let disk = MemoryDisk::from(bytes.to_vec());
    if let Some(ranges) = used_ranges(&disk, FsKind::Ext4).unwrap() {
        assert!(ranges.take(1_000_000).count() < 1_000_000);
    }
}

const SAMPLES: &[&str] = &[
    "-t ext4 -b 1024 -O ^metadata_csum,^resize_inode",
    "-t ext4 -b 1024 -O ^resize_inode",
    "-t ext2 -b 1024 -O ^resize_inode",
    "-t ext4 -b 1024 -O ^metadata_csum,inline_data,^resize_inode",
];

#[test]
fn thousands_of_random_corruptions_neither_panic_nor_hang() {
    let test = "thousands_of_random_corruptions_neither_panic_nor_hang";
    if !has_tools(test, &["mke2fs", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let rounds = std::env::var("P2V_ROUNDS")
        .ok()
        .and_then(|r| r.parse().ok())
        .unwrap_or(700);
    for (n, args) in SAMPLES.iter().enumerate() {
        let sound = sample(dir.path(), args);
        let mut random = Seeded(n as u64);
        // Where there is something: hits in file contents and in nothing prove nothing.
        let busy: Vec<usize> = (0..sound.len() / 1024)
            .filter(|b| {
                sound[b * 1024..(b + 1) * 1024]
                    .iter()
                    .filter(|x| **x != 0)
                    .count()
                    .clamp(1, 900)
                    > 1
            })
            .filter(|b| {
                sound[b * 1024..(b + 1) * 1024]
                    .iter()
                    .filter(|x| **x == 0)
                    .count()
                    > 50
            })
            .collect();
        for round in 0..rounds {
            let mut bytes = sound.clone();
            for _ in 0..1 + random.below(6) {
                let block = busy[random.below(busy.len() as u64) as usize] * 1024;
                let at = block + random.below(1024) as usize;
                match random.below(4) {
                    0 => bytes[at] = random.next() as u8,
                    1 => bytes[at] ^= 1 << random.below(8),
                    2 => {
                        let value = [0, 1, 0xFF, 0x7F, 0x80][random.below(5) as usize];
                        let end = (at + 4).min(bytes.len());
                        bytes[at..end].fill(value);
                    }
                    _ => {
                        let from = busy[random.below(busy.len() as u64) as usize] * 1024;
                        bytes.copy_within(from..from + 1024, block);
                    }
                }
            }
            let start = Instant::now();
            exercise(&bytes);
            let took = start.elapsed();
            assert!(
                took < Duration::from_secs(20),
                "{args}, round {round}: {took:?}"
            );
        }
    }
}

#[test]
fn the_damaged_images_of_e2fsprogs_neither_panic_nor_hang() {
    let test = "the_damaged_images_of_e2fsprogs_neither_panic_nor_hang";
    let Some(archive) = fixtures(test, "volumes/e2fsprogs/f_a-l-dev.tar.xz") else {
        return;
    };
    if !has_tools(test, &["tar", "xz", "gzip"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    run_ok("tar", &["xf", text(&archive), "-C", text(dir.path())]);
    let mut images = 0;
    for entry in std::fs::read_dir(dir.path()).unwrap() {
        let packed = entry.unwrap().path().join("image.gz");
        if !packed.exists() {
            continue;
        }
        let output = run("gzip", &["-dc", text(&packed)]);
        if output.stdout.len() > 64 << 20 {
            continue;
        }
        let start = Instant::now();
        exercise(&output.stdout);
        assert!(start.elapsed() < Duration::from_secs(30), "{packed:?}");
        images += 1;
    }
    assert!(images > 100, "only {images} images");
}

/// Open, read everything: the first error.
#[track_caller]
fn first_error(bytes: Vec<u8>) -> TreeError {
    match ExtTree::open(MemoryDisk::from(bytes)) {
        Err(error) => error,
        Ok(tree) => read_all(&tree).expect_err("an error"),
    }
}

fn assert_says(error: &TreeError, words: &[&str]) {
    assert_eq!(error.kind(), TreeErrorKind::Corrupt, "{error}");
    let text = error.to_string();
    for word in words.iter().chain(&["expected", "found"]) {
        assert!(text.contains(word), "{word} is missing: {text}");
    }
}

/// Where an inode lies, in bytes, as debugfs tells it.
fn inode_at(dir: &Path, name: &str) -> usize {
    let image = dir.join("image");
    let place = run_ok("debugfs", &["-R", &format!("imap {name}"), text(&image)]);
    // "... located at block 42, offset 0x0180"
    let block = place
        .split("at block ")
        .nth(1)
        .unwrap()
        .split(',')
        .next()
        .unwrap();
    let offset = place.split("offset 0x").nth(1).unwrap().trim();
    block.parse::<usize>().unwrap() * 1024 + usize::from_str_radix(offset, 16).unwrap()
}

fn block_of(dir: &Path, name: &str, logical: u64) -> usize {
    let image = dir.join("image");
    let block = run_ok(
        "debugfs",
        &["-R", &format!("bmap {name} {logical}"), text(&image)],
    );
    block.trim().parse::<usize>().unwrap() * 1024
}

#[test]
fn each_lie_is_an_error_with_place_expected_and_found() {
    let test = "each_lie_is_an_error_with_place_expected_and_found";
    if !has_tools(test, &["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sound = sample(dir, SAMPLES[0]);
    read_all(&ExtTree::open(MemoryDisk::from(sound.clone())).unwrap()).unwrap();
    let changed = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = sound.clone();
        change(&mut bytes);
        first_error(bytes)
    };

    for (at, value, word) in [
        (0x38, 0, "s_magic"),
        (0x18, 9, "s_log_block_size"),
        (0x20, 3, "s_blocks_per_group"),
        (0x28, 1, "s_inodes"),
        (0x58, 77, "s_inode_size"),
        (0x07, 1, "s_blocks_count"),
        (0xFE, 5, "s_desc_size"),
    ] {
        if at == 0xFE && sound[1024 + 0x60] & 0x80 == 0 {
            continue;
        }
        let error = changed(&|bytes| bytes[1024 + at] = value);
        assert_says(&error, &["superblock", word]);
    }
    let error = changed(&|bytes| bytes[1024 + 0x60] |= 1);
    assert_eq!(error.kind(), TreeErrorKind::Unsupported);
    assert!(error.to_string().contains("compression"), "{error}");

    // Directory entries.
    let b = block_of(dir, "/a/b", 0);
    let error = changed(&|bytes| bytes[b + 4..b + 6].fill(0));
    assert_says(&error, &["directory inode", "rec_len at byte 0", "found 0"]);
    let error = changed(&|bytes| bytes[b + 4..b + 6].fill(0xFC));
    assert_says(&error, &["rec_len at byte 0"]);
    let root = block_of(dir, "/", 0);
    let error = changed(&|bytes| bytes[root + 24..root + 28].fill(0xEE));
    assert_says(&error, &["inode number at byte 24", "block 0"]);
    let error = changed(&|bytes| bytes[root + 32] = b'/');
    assert_says(&error, &["name at byte 24"]);

    // A directory that is its own ancestor: /a/b gets an entry for the root.
    let error = changed(&|bytes| {
        bytes[b + 12 + 4..b + 12 + 6].copy_from_slice(&12_u16.to_le_bytes());
        bytes[b + 24..b + 28].copy_from_slice(&2_u32.to_le_bytes());
        bytes[b + 28..b + 30].copy_from_slice(&1000_u16.to_le_bytes());
        bytes[b + 30..b + 36].copy_from_slice(&[4, 2, b'l', b'o', b'o', b'p']);
    });
    assert_says(&error, &["below itself", "found inode 2"]);

    // Extent trees.
    let sparse = inode_at(dir, "/sparse") + 0x28;
    let node =
        u32::from_le_bytes(sound[sparse + 16..sparse + 20].try_into().unwrap()) as usize * 1024;
    let error = changed(&|bytes| bytes[sparse] = 0);
    assert_says(&error, &["extent header", "0xf30a"]);
    let error = changed(&|bytes| bytes[sparse + 6] = 4);
    assert_says(&error, &["eh_depth", "extent block"]);
    let error = changed(&|bytes| bytes[sparse + 6] = 200);
    assert_says(&error, &["eh_depth"]);
    let error = changed(&|bytes| bytes[sparse + 2] = 9);
    assert_says(&error, &["eh_entries"]);
    let error = changed(&|bytes| bytes[node + 4..node + 6].fill(0xFF));
    assert_says(&error, &["eh_max"]);
    // A tree whose child is itself.
    let error = changed(&|bytes| {
        bytes[node + 6] = 1;
        let place = (node as u32 / 1024).to_le_bytes();
        bytes[node + 16..node + 20].copy_from_slice(&place);
        bytes[node + 20..node + 24].fill(0);
        bytes[sparse + 6] = 2;
    });
    assert_says(&error, &["extent block"]);
    let error = changed(&|bytes| bytes[node + 20..node + 24].fill(0xFF));
    assert_says(&error, &["extent block", "blocks from 1"]);
    let error = changed(&|bytes| bytes[node + 24..node + 28].fill(0));
    assert_says(&error, &["first block of an entry"]);

    // Block maps.
    let sound = sample(dir, SAMPLES[2]);
    let big = inode_at(dir, "/big") + 0x28;
    for slot in [0, 12, 13] {
        let mut bytes = sound.clone();
        bytes[big + slot * 4..big + slot * 4 + 4].fill(0xF0);
        assert_says(&first_error(bytes), &["block map"]);
    }
}

#[test]
fn checksums_that_do_not_hold_are_named_with_their_place() {
    let test = "checksums_that_do_not_hold_are_named_with_their_place";
    if !has_tools(test, &["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let sound = sample(dir, SAMPLES[1]);
    read_all(&ExtTree::open(MemoryDisk::from(sound.clone())).unwrap()).unwrap();
    let sparse = inode_at(dir, "/sparse");
    let node = u32::from_le_bytes(sound[sparse + 0x38..sparse + 0x3C].try_into().unwrap()) as usize;
    for (at, words) in [
        (1024 + 0x79, ["superblock", "s_checksum"]),
        (2048 + 0x10, ["descriptor of group 0", "checksum"]),
        (sparse + 0x0C, ["inode ", "checksum"]),
        (node * 1024 + 900, ["extent block", "checksum"]),
        (
            block_of(dir, "/a/b", 0) + 100,
            ["directory inode", "checksum"],
        ),
        (
            block_of(dir, "/a", 0) + 100,
            ["directory inode", "checksum"],
        ),
    ] {
        let mut bytes = sound.clone();
        bytes[at] ^= 0x20;
        // The tail of an index or extent block may lie outside what is summed.
        let error = match ExtTree::open(MemoryDisk::from(bytes.clone())) {
            Err(error) => error,
            Ok(tree) => match read_all(&tree) {
                Err(error) => error,
                Ok(()) => continue,
            },
        };
        assert_says(&error, &words);
    }
}
