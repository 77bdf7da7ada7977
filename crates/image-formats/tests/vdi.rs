//! VDI, held against what QEMU writes and against children made by hand from the header's layout.
#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use block_io::{BlockRead, conformance};
use image_formats::{GateError, OpenError, SameFolder, StandAlone, open};
use support::{arg, make_disk, must, noise, scratch, write_image};

const MIB: usize = 1 << 20;

#[test]
fn what_qemu_writes_reads_back() {
    let test = "what_qemu_writes_reads_back";
    let dir = scratch();
    let (raw, image) = (dir.path().join("source.raw"), dir.path().join("image"));
    let runs = [(0, 300_000), (2 << 20, 100), ((9 << 20) + 1024, 512)];
    make_disk(&raw, (9 << 20) + 1536, &runs);
    let expected = std::fs::read(&raw).unwrap();
    for options in ["static=off", "static=on"] {
        let args = [
            "convert",
            "-O",
            "vdi",
            "-o",
            options,
            arg(&raw),
            arg(&image),
        ];
        if must(test, "qemu-img", &args).is_none() {
            return;
        }
        let opened = open(&image, &SameFolder).unwrap();
        assert_eq!(opened.info().format.qemu_name(), "vdi");
        conformance::check_reads(&opened, &expected);
    }
}

/// A base of 5 MiB and a bit, and a child over it: block 1 is the child's own, block 2 zeroes.
fn make_pair(dir: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
    let raw = dir.join("base.raw");
    let size = 5 * MIB as u64 + 4096;
    let base_disk = make_disk(&raw, size, &[(0, size)]);
    let base = write_image(&base_disk, "vdi", &dir.join("base.vdi"));
    let mut expected = std::fs::read(raw).unwrap();
    let parent = std::fs::read(&base).unwrap();
    let mut child = parent[..512].to_vec();
    child[76] = 4;
    child[388..392].copy_from_slice(&1u32.to_le_bytes());
    child[392] ^= 0x55;
    child.copy_within(408..424, 440);
    child[408] ^= 0x55;
    child[424..440].copy_from_slice(&parent[392..408]);
    child.resize(MIB, 0);
    for entry in [u32::MAX, 0, u32::MAX - 1, u32::MAX, u32::MAX, u32::MAX] {
        child.extend(entry.to_le_bytes());
    }
    child.resize(2 * MIB, 0);
    let own = noise(77, MIB);
    child.extend(&own);
    expected[MIB..2 * MIB].copy_from_slice(&own);
    expected[2 * MIB..3 * MIB].fill(0);
    let path = dir.join("child.vdi");
    std::fs::write(&path, child).unwrap();
    (base, path, expected)
}

#[test]
fn a_child_reads_through_to_the_parent_that_its_identifier_names() {
    let dir = scratch();
    let (base, child, expected) = make_pair(dir.path());
    std::fs::write(dir.path().join("another.vdi"), "no VDI at all").unwrap();
    let image = open(&child, &SameFolder).unwrap();
    assert_eq!(image.info().variant, "differencing");
    assert_eq!(image.info().below.as_ref().unwrap().path, base);
    conformance::check_reads(&image, &expected);
    let error = open(&child, &StandAlone).err().unwrap();
    assert!(
        matches!(
            &error,
            OpenError::Gate {
                source: GateError::Closed { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_parent_that_is_gone_or_was_changed_is_refused() {
    let dir = scratch();
    let (base, child, _) = make_pair(dir.path());
    let good = std::fs::read(&base).unwrap();
    let mut changed = good.clone();
    changed[408] ^= 1;
    std::fs::write(&base, changed).unwrap();
    let error = open(&child, &SameFolder).err().unwrap();
    assert_eq!(error.finding().unwrap().rule.id, "vdi.parent-changed");
    std::fs::remove_file(&base).unwrap();
    let error = open(&child, &SameFolder).err().unwrap();
    assert!(matches!(error, OpenError::NoParent { .. }), "{error}");
    // The same folder through a link that leads out of it is not the same folder.
    let elsewhere = scratch();
    let moved = elsewhere.path().join("base.vdi");
    std::fs::write(&moved, good).unwrap();
    std::os::unix::fs::symlink(&moved, &base).unwrap();
    let error = open(&child, &SameFolder).err().unwrap();
    assert!(matches!(error, OpenError::NoParent { .. }), "{error}");
}

#[test]
fn children_that_name_each_other_in_a_circle_end() {
    let dir = scratch();
    let (_, child, _) = make_pair(dir.path());
    std::fs::remove_file(dir.path().join("base.vdi")).unwrap();
    let mut bytes = std::fs::read(&child).unwrap();
    let own: Vec<u8> = bytes[392..408].to_vec();
    bytes[424..440].copy_from_slice(&own);
    bytes[440..456].fill(0);
    std::fs::write(&child, bytes).unwrap();
    let mut error = open(&child, &SameFolder).err().unwrap();
    while let OpenError::Below { source, .. } = error {
        error = *source;
    }
    assert!(
        matches!(
            &error,
            OpenError::Gate {
                source: GateError::TooDeep { .. },
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_sparse_disk_of_16_tib_takes_a_table_and_little_else() {
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    // The largest file that ext4 with blocks of 4 KiB holds, less a bit.
    let size = (16 << 40) - (1 << 20);
    let runs = [(0, 4096), (size / 2, 70_000), (size - 512, 512)];
    let source = make_disk(&raw, size, &runs);
    let path = write_image(&source, "vdi", &dir.path().join("image"));
    assert!(std::fs::metadata(&path).unwrap().len() < 72 << 20);
    let image = open(&path, &StandAlone).unwrap();
    assert_eq!(image.size(), size);
    let (mut left, mut right) = (vec![0; 70_000], vec![0; 70_000]);
    for (at, len) in [(0, 70_000), (size / 2 - 4096, 70_000), (size - 512, 512)] {
        source.read_at(at, &mut left[..len]).unwrap();
        image.read_at(at, &mut right[..len]).unwrap();
        assert!(left == right, "{len} bytes at {at}");
    }
}

/// Corruptions as `qemu-img check` counts them.
fn qemu_corruptions(test: &str, image: &Path) -> Option<u64> {
    let args = ["check", "-f", "vdi", "--output", "json", arg(image)];
    let (_, text) = support::run(test, "qemu-img", &args)?;
    let count = text.split("\"corruptions\": ").nth(1);
    let count = count.and_then(|rest| rest.split([',', '\n']).next());
    Some(count.map_or(0, |digits| digits.parse().unwrap()))
}

#[test]
fn damage_is_told_by_rule_and_found_by_qemu_too() {
    let test = "damage_is_told_by_rule_and_found_by_qemu_too";
    let dir = scratch();
    let raw = dir.path().join("source.raw");
    let source = make_disk(&raw, 5 << 20, &[(0, 100), (2 << 20, 100), (4 << 20, 100)]);
    let path = write_image(&source, "vdi", &dir.path().join("image.vdi"));
    let good = std::fs::read(&path).unwrap();
    let check = |path: &Path| image_formats::check(path, None, &SameFolder).unwrap();
    let report = check(&path);
    let clean = image_formats::Verdict::Clean;
    assert_eq!(report.verdict(), clean, "{report:#?}");
    let units = (report.total_units, report.allocated_units);
    assert_eq!(units, (Some(5), Some(3)));
    for (rule, at, value) in [
        ("vdi.allocated", 388, 2u32),
        ("vdi.block-shared", MIB, 1),
        ("vdi.block", MIB, 77),
        ("vdi.allocated", MIB, u32::MAX - 1),
    ] {
        let mut bytes = good.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
        let report = check(&path);
        let told: Vec<_> = report.findings.iter().map(|found| found.rule.id).collect();
        assert!(
            told.contains(&rule) && report.corruptions > 0,
            "{rule}: {told:?}"
        );
        let Some(theirs) = qemu_corruptions(test, &path) else {
            return;
        };
        assert!(theirs > 0, "QEMU finds {rule} clean");
    }
    let mut long = good.clone();
    long.resize(good.len() + 3 * MIB, 0);
    std::fs::write(&path, long).unwrap();
    let report = check(&path);
    assert_eq!((report.leaks, report.corruptions), (3, 0), "{report:#?}");
}

#[test]
fn numbers_at_their_limits_are_findings_and_no_more() {
    let dir = scratch();
    let source = make_disk(&dir.path().join("raw"), 3 << 20, &[(0, 3 << 20)]);
    let path = write_image(&source, "vdi", &dir.path().join("image.vdi"));
    let good = std::fs::read(&path).unwrap();
    for (at, len) in [
        (340, 4),
        (344, 4),
        (368, 8),
        (376, 4),
        (380, 4),
        (384, 4),
        (388, 4),
        (MIB, 4),
    ] {
        for byte in [0xff, 0x7f, 0x80] {
            let mut bytes = good.clone();
            bytes[at..at + len].fill(0xff);
            bytes[at + len - 1] = byte;
            if at == MIB {
                // With room before each block that multiplies past 2^64.
                bytes[380..384].fill(0xff);
                bytes[at] = 0xf0;
            }
            std::fs::write(&path, bytes).unwrap();
            if let Ok(image) = open(&path, &StandAlone) {
                let _ = image.read_at(0, &mut vec![0; 3 << 20]);
                let _ = image.extent_at(0);
            }
            let report = image_formats::check(&path, None, &StandAlone).unwrap();
            let clean = image_formats::Verdict::Clean;
            assert_ne!(report.verdict(), clean, "{at} {byte:#x}");
        }
    }
}
