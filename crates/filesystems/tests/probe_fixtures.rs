//! Signatures against what blkid says: of the images util-linux tests itself with, and of fresh ones.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use block_io::{FileDisk, MemoryDisk};
use common::*;
use filesystems::probe::{FsKind, Probe, probe};
use filesystems::used::used_ranges;

/// The types we know, as blkid calls them.
const KNOWN: &[&str] = &[
    "ext2",
    "ext3",
    "ext4",
    "jbd",
    "swap",
    "swsuspend",
    "xfs",
    "btrfs",
    "ntfs",
    "vfat",
    "exfat",
    "ReFS",
    "crypto_LUKS",
    "BitLocker",
    "LVM2_member",
    "linux_raid_member",
    "reiserfs",
    "jfs",
    "squashfs",
    "iso9660",
];

fn unpacked(file: &Path) -> MemoryDisk {
    let output = run("xz", &["-dc", text(file)]);
    assert!(output.status.success(), "xz {file:?}");
    MemoryDisk::from(output.stdout)
}

/// Values as udev writes them: blanks and other odd bytes are underscores.
fn as_udev(text: &str) -> String {
    text.trim()
        .chars()
        .map(|c| {
            if c.is_whitespace() || c == '\u{fffd}' {
                '_'
            } else {
                c
            }
        })
        .collect()
}

fn check(name: &str, found: Option<&Probe>, expected: &BTreeMap<String, String>) {
    let get = |key: &str| expected.get(key).cloned().unwrap_or_default();
    let kind = get("TYPE");
    let Some(found) = found else {
        assert!(
            !KNOWN.contains(&kind.as_str()),
            "{name}: {kind} was not found"
        );
        return;
    };
    if kind == "udf" || kind.is_empty() || kind == "squashfs3" {
        // Bridges of UDF and ISO 9660, several sessions, and the older SquashFS: one name for us.
        assert!(
            matches!(found.kind, FsKind::Iso9660 | FsKind::SquashFs),
            "{name}: {found:?}"
        );
        return;
    }
    assert_eq!(found.kind.blkid_name(), kind, "{name}");
    if found.kind == FsKind::Iso9660 {
        return;
    }
    if found.kind != FsKind::BitLocker {
        assert_eq!(
            found.uuid.clone().unwrap_or_default(),
            get("UUID"),
            "{name}"
        );
    }
    // A label of exFAT behind the first cluster of its root, and BitLocker's, are not looked for.
    if !matches!(found.kind, FsKind::BitLocker | FsKind::ExFat) {
        assert_eq!(
            as_udev(&found.label.clone().unwrap_or_default()),
            as_udev(&get("LABEL")),
            "{name}"
        );
    }
}

#[test]
fn images_of_util_linux_are_what_it_says_they_are() {
    let test = "images_of_util_linux_are_what_it_says_they_are";
    let Some(dir) = fixtures(test, "volumes/util-linux") else {
        return;
    };
    if !has_tools(test, &["xz"]) {
        return;
    }
    let mut known = 0;
    for entry in std::fs::read_dir(dir.join("blkid/images-fs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path
            .file_name()
            .unwrap()
            .to_str()
            .unwrap()
            .trim_end_matches(".img.xz")
            .to_owned();
        let Ok(expected) =
            std::fs::read_to_string(dir.join(format!("expected-blkid/low-probe-{name}")))
        else {
            continue;
        };
        let expected: BTreeMap<String, String> = expected
            .lines()
            .filter_map(|line| line.strip_prefix("ID_FS_")?.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let disk = unpacked(&path);
        let found = probe(&disk).unwrap();
        check(&name, found.as_ref(), &expected);
        known += usize::from(found.is_some());
        // A hibernated system's memory is never skipped.
        if let Some(found) = found.filter(|f| f.kind == FsKind::SwapHibernated) {
            assert!(used_ranges(&disk, found.kind).unwrap().is_none(), "{name}");
        }
    }
    assert!(known >= 45, "only {known} images were known");
}

#[test]
fn fresh_file_systems_are_what_blkid_says() {
    let test = "fresh_file_systems_are_what_blkid_says";
    if !has_tools(test, &["blkid"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let file = text(&image);
    for (command, mib) in [
        ("mke2fs -q -F -t ext2 -L a-label", 16),
        ("mke2fs -q -F -t ext3", 32),
        ("mke2fs -q -F -t ext4 -L exactly-16-bytes", 32),
        ("mke2fs -q -F -t ext4 -O ^has_journal", 32),
        ("mke2fs -q -F -O journal_dev", 16),
        ("mkswap -q -L swapped", 16),
        ("mkswap -q -p 65536", 16),
        ("mkfs.xfs -q -f -L xfs-label", 512),
        ("mkfs.btrfs -q -f -L btrfs-label", 256),
        ("mkfs.ntfs -q -F -Q -L ntfs-label", 32),
        ("mkfs.ntfs -q -F -Q -c 65536", 32),
        ("mkfs.fat -F 12 -n TWELVE", 4),
        ("mkfs.fat -F 16 -n SIXTEEN", 32),
        ("mkfs.fat -F 32 -S 4096", 512),
        ("mkfs.exfat -L exfat-label", 64),
        ("mkfs.reiserfs -q -ff -l reiser", 64),
        ("mkfs.jfs -q -L jfs-label", 32),
        (
            "cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000",
            32,
        ),
        (
            "cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --label locked",
            32,
        ),
    ] {
        let program = command.split(' ').next().unwrap();
        if !has_tools(&format!("{test} ({program})"), &[program]) {
            continue;
        }
        std::fs::File::create(&image)
            .unwrap()
            .set_len(mib << 20)
            .unwrap();
        let key = dir.path().join("key");
        std::fs::write(&key, "secret").unwrap();
        let key = if program == "cryptsetup" {
            text(&key)
        } else {
            ""
        };
        run_ok(
            "sh",
            &[
                "-c",
                &format!("PATH=$PATH:/usr/sbin {command} {file} {key} >&2"),
            ],
        );
        let blkid = run_ok("blkid", &["-p", "-o", "export", file]);
        let expected: BTreeMap<String, String> = blkid
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        let found = probe(&FileDisk::open(&image).unwrap()).unwrap();
        assert!(found.is_some(), "{command}: nothing found, {blkid}");
        check(command, found.as_ref(), &expected);
        std::fs::remove_file(&image).unwrap();
    }
    assert_eq!(probe(&MemoryDisk::zeroed(1 << 20)).unwrap(), None);
    assert_eq!(probe(&MemoryDisk::zeroed(0)).unwrap(), None);
}
