//! Used blocks against `dumpe2fs`, and copies made of nothing else.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use block_io::{BlockRead, FileDisk, FileDiskMut};
use common::oracle::copy_ranges;
use common::*;
use filesystems::ext::{ExtTree, Recovery};
use filesystems::path::GuestPath;
use filesystems::probe::{FsKind, probe};
use filesystems::tree::{Attributes, FileTree};
use filesystems::used::{Findings, used_ranges_noting};

fn used(disk: &dyn BlockRead, findings: &Findings) -> Vec<Range<u64>> {
    let kind = probe(disk).unwrap().unwrap().kind;
    let ranges = used_ranges_noting(disk, kind, findings).unwrap().unwrap();
    let ranges: Vec<_> = ranges.map(|r| r.unwrap()).collect();
    for pair in ranges.windows(2) {
        assert!(
            pair[0].end < pair[1].start,
            "not joined or not in order: {pair:?}"
        );
    }
    ranges
}

/// The ranges between the free blocks dumpe2fs lists.
fn dumpe2fs_used(image: &Path) -> Vec<Range<u64>> {
    let dump = run_ok("dumpe2fs", &[text(image)]);
    let field = |name: &str| -> u64 {
        let line = dump.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let (size, blocks) = (field("Block size:"), field("Block count:"));
    // With bigalloc it lists the first block of each free cluster.
    let ratio = if dump.contains("Cluster size:") {
        field("Cluster size:") / size
    } else {
        1
    };
    let mut used = Vec::new();
    let mut at = 0;
    for line in dump
        .lines()
        .filter_map(|line| line.strip_prefix("  Free blocks:"))
    {
        for run in line.split(',').map(str::trim).filter(|run| !run.is_empty()) {
            let Some((first, last)) = run.split_once('-').or(Some((run, run))) else {
                continue;
            };
            let (Ok(first), Ok(last)) = (first.parse::<u64>(), last.parse::<u64>()) else {
                continue;
            };
            used.push(at * size..first * size);
            at = last + ratio;
        }
    }
    used.push(at * size..blocks * size);
    let end = std::fs::metadata(image).unwrap().len();
    used.push(blocks * size..end);
    used.retain(|range| !range.is_empty());
    let mut joined: Vec<Range<u64>> = Vec::new();
    for range in used {
        match joined.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            _ => joined.push(range),
        }
    }
    joined
}

fn fill(image: &Path) {
    let disk = FileDiskMut::open(image).unwrap();
    let Ok(mut tree) = ExtTree::open_rw(disk, Recovery::Refuse) else {
        return;
    };
    let mut random = Seeded(21);
    let new = Attributes::root_owned(0o755, 1_700_000_000);
    for n in 0..60 {
        let dir = GuestPath::new(format!("/dir-{}", n % 7));
        let _ = tree.create_dir(&dir, new);
        let len = random.below(200_000) as usize;
        tree.write_file(&dir.join(format!("file-{n}")), &random.bytes(len), new)
            .unwrap();
    }
    for n in (0..60).step_by(4) {
        tree.remove(&GuestPath::new(format!("/dir-{}/file-{n}", n % 7)))
            .unwrap();
    }
}

fn contents(image: &Path) -> Vec<(GuestPath, Vec<u8>)> {
    let tree = ExtTree::open(FileDisk::open(image).unwrap()).unwrap();
    let mut files = Vec::new();
    for dir in tree.read_dir(&GuestPath::root()).unwrap() {
        let dir = GuestPath::root().join(dir.name);
        for file in tree.read_dir(&dir).unwrap() {
            let path = dir.join(file.name);
            let bytes = tree.read_file(&path, 1 << 30).unwrap();
            files.push((path, bytes));
        }
    }
    files
}

#[test]
fn used_blocks_are_those_of_dumpe2fs_and_a_copy_of_them_is_whole() {
    let test = "used_blocks_are_those_of_dumpe2fs_and_a_copy_of_them_is_whole";
    if !has_tools(test, &["mke2fs", "dumpe2fs", "e2fsck"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (image, copy) = (dir.path().join("image"), dir.path().join("copy"));
    let odd = [(
        "meta_bg-4k",
        "-t ext4 -b 4096 -O meta_bg,^resize_inode -g 1024",
        301,
    )];
    for (name, args, mib) in VARIANTS.iter().chain(&odd) {
        // A last group that is not whole, and a tail behind the last block.
        mke2fs(&image, (mib << 20) + 3 * 1024 + 512, args, None);
        fill(&image);
        let findings = Findings::default();
        let ours = used(&FileDisk::open(&image).unwrap(), &findings);
        assert_eq!(ours, dumpe2fs_used(&image), "{name}");
        assert!(findings.list().is_empty(), "{name}: {:?}", findings.list());
        let bytes: u64 = ours.iter().map(|r| r.end - r.start).sum();
        assert!(bytes < (mib << 20) * 9 / 10, "{name}: nearly all is used");
        copy_ranges(&image, &ours, &copy);
        fsck(&copy, name);
        assert!(contents(&copy) == contents(&image), "{name}");
    }
}

struct Counting(FileDisk, AtomicU64);

impl BlockRead for Counting {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> block_io::Result<()> {
        self.1.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.0.read_at(offset, buf)
    }
}

#[test]
fn of_a_tebibyte_only_bitmaps_in_use_are_read() {
    let test = "of_a_tebibyte_only_bitmaps_in_use_are_read";
    if !has_tools(test, &["mke2fs", "dumpe2fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mke2fs(
        &image,
        1 << 40,
        "-t ext4 -b 4096 -E lazy_itable_init=1,lazy_journal_init=1",
        None,
    );
    let disk = Counting(FileDisk::open(&image).unwrap(), AtomicU64::new(0));
    let findings = Findings::default();
    let ours = used(&disk, &findings);
    assert!(findings.list().is_empty(), "{:?}", findings.list());
    let read = disk.1.load(Ordering::Relaxed);
    assert!(read < 16 << 20, "{read} bytes read");
    assert!(
        ours == dumpe2fs_used(&image),
        "not the blocks dumpe2fs lists"
    );
}

#[test]
fn damage_makes_more_used_and_never_less() {
    let test = "damage_makes_more_used_and_never_less";
    if !has_tools(test, &["mke2fs", "dumpe2fs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    for args in [
        "-t ext4 -b 1024",
        "-t ext3 -b 1024",
        "-t ext4 -b 1024 -O ^metadata_csum,uninit_bg",
    ] {
        mke2fs(&image, 64 << 20, args, None);
        fill(&image);
        let sound = std::fs::read(&image).unwrap();
        let truth = dumpe2fs_used(&image);
        let dump = run_ok("dumpe2fs", &[text(&image)]);
        let bitmap = |group: &str| -> usize {
            let at = dump.find(&format!("\nGroup {group}:")).unwrap();
            let at = at + dump[at..].find("Block bitmap at ").unwrap() + 16;
            let end = dump[at..].find(|c: char| !c.is_ascii_digit()).unwrap();
            dump[at..at + end].parse::<usize>().unwrap() * 1024
        };
        let places = [
            ("bitmap", bitmap("0") + 900, "block bitmap"),
            ("bitmap of group 1", bitmap("1") + 1000, "block bitmap"),
            (
                "descriptor",
                2048 + 0x0C,
                if args.contains("ext3") {
                    "free clusters"
                } else {
                    "checksum"
                },
            ),
            (
                "descriptor's bitmap",
                2048 + 1,
                if args.contains("ext3") {
                    "group 0"
                } else {
                    "checksum"
                },
            ),
            ("block count", 1024 + 7, "superblock"),
            ("magic", 1024 + 0x38, "s_magic"),
            ("inodes per group", 1024 + 0x28, "superblock"),
        ];
        for (what, at, word) in places {
            let mut bytes = sound.clone();
            bytes[at] ^= 0x41;
            std::fs::write(&image, &bytes).unwrap();
            let disk = FileDisk::open(&image).unwrap();
            let findings = Findings::default();
            let ranges = used_ranges_noting(&disk, FsKind::Ext4, &findings)
                .unwrap()
                .unwrap();
            let ours: Vec<_> = ranges.map(|r| r.unwrap()).collect();
            for range in &truth {
                let covered = ours
                    .iter()
                    .any(|r| r.start <= range.start && range.end <= r.end);
                assert!(
                    covered,
                    "{args}, {what}: {range:?} is used and not listed in {ours:?}"
                );
            }
            let list = findings.list();
            assert!(
                list.iter().any(|f| f.contains(word)),
                "{args}, {what}: {list:?}"
            );
        }
    }
}

#[test]
fn an_unclean_ext2_counts_as_used_whole() {
    let test = "an_unclean_ext2_counts_as_used_whole";
    if !has_tools(test, &["mke2fs", "debugfs"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    mke2fs(&image, 16 << 20, "-t ext2", None);
    run_ok("debugfs", &["-w", "-R", "ssv state 0", text(&image)]);
    let findings = Findings::default();
    let ranges = used(&FileDisk::open(&image).unwrap(), &findings);
    assert_eq!(
        ranges.iter().map(|r| r.end - r.start).sum::<u64>(),
        16 << 20
    );
    assert!(findings.list()[0].contains("not cleanly unmounted"));
}
