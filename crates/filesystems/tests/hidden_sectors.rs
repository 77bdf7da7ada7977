//! The partition's start in boot sectors, as `fsck.vfat`, `file` and `fsck.exfat` read it.
#![allow(
    clippy::single_range_in_vec_init,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used
)]

mod common;

use block_io::FileDiskMut;
use common::*;
use filesystems::hidden_sectors::set_partition_start;
use filesystems::probe::FsKind;
use filesystems::tree::TreeErrorKind;

#[test]
fn foreign_programs_read_the_start_that_was_written() {
    let test = "foreign_programs_read_the_start_that_was_written";
    let tools = [
        "mkfs.vfat",
        "fsck.vfat",
        "mkntfs",
        "ntfsresize",
        "mkfs.exfat",
        "fsck.exfat",
        "file",
    ];
    if !has_tools(test, &tools) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("image");
    let made: [(FsKind, &[&str]); 5] = [
        (
            FsKind::Fat12,
            &["mkfs.vfat", "-F", "12", "-s", "64", "-h", "63"],
        ),
        (FsKind::Fat16, &["mkfs.vfat", "-F", "16", "-h", "63"]),
        (FsKind::Fat32, &["mkfs.vfat", "-F", "32", "-h", "63"]),
        (
            FsKind::Ntfs,
            &[
                "mkntfs", "-F", "-Q", "-q", "-p", "63", "-s", "512", "-H", "16", "-S", "63",
            ],
        ),
        (FsKind::ExFat, &["mkfs.exfat"]),
    ];
    for (kind, command) in made {
        std::fs::write(&image, vec![0; 40 << 20]).unwrap();
        let args: Vec<&str> = command[1..].iter().copied().chain([text(&image)]).collect();
        run_ok(command[0], &args);
        let disk = FileDiskMut::open(&image).unwrap();
        assert!(set_partition_start(&disk, kind, 1 << 20).unwrap(), "{kind}");
        assert!(
            !set_partition_start(&disk, kind, 1 << 20).unwrap(),
            "{kind}: twice is once"
        );
        for refused in [100, 1 << 45] {
            if kind == FsKind::ExFat && refused == 1 << 45 {
                continue;
            }
            let error = set_partition_start(&disk, kind, refused).unwrap_err();
            assert_eq!(error.kind(), TreeErrorKind::Unsupported, "{kind}");
        }
        drop(disk);
        let said = run_ok("file", &["-s", text(&image)]);
        match kind {
            FsKind::ExFat => {
                run_ok("fsck.exfat", &["-n", text(&image)]);
            }
            FsKind::Ntfs => {
                assert!(said.contains("hidden sectors 2048"), "{said}");
                run_ok("ntfsresize", &["-i", "-f", text(&image)]);
                // The copy in the last sector is the same.
                let bytes = std::fs::read(&image).unwrap();
                assert!(bytes[..512] == bytes[bytes.len() - 512..]);
            }
            _ => {
                // It compares the boot sector of FAT32 with its copy.
                let checked = run_ok("fsck.vfat", &["-n", "-v", text(&image)]);
                assert!(checked.contains("2048 hidden sectors"), "{checked}");
            }
        }
    }
    let disk = FileDiskMut::open(&image).unwrap();
    let error = set_partition_start(&disk, FsKind::Ext4, 1 << 20).unwrap_err();
    assert_eq!(error.kind(), TreeErrorKind::Unsupported);
}
