//! Swap space made by `mkswap`, resized by us, read by `file` and `swaplabel`.
#![allow(clippy::unwrap_used, missing_docs)]

mod common;

use block_io::{BlockRead, BlockWrite, FileDiskMut, MemoryDisk};
use common::{has_tools, run_ok, text};
use filesystems::probe::{FsKind, probe};
use filesystems::resize::{ResizeErrorKind, resize, resize_limits};
use filesystems::tree::Recovery;

const UUID: &str = "0b5f0b1c-1d7c-4a4e-9a0f-2f8a5e3b7c11";

#[test]
fn swap_grows_and_shrinks_and_keeps_its_label_and_uuid() {
    if !has_tools("swap_grows_and_shrinks", &["mkswap", "file", "swaplabel"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = dir.path().join("swap");
    let file = std::fs::File::create(&image).unwrap();
    file.set_len(8 << 20).unwrap();
    run_ok("mkswap", &["-L", "sleepy", "-U", UUID, text(&image)]);
    for size in [64_u64 << 20, 40_960, 20 << 20, (3 << 30) + 5000] {
        file.set_len(size.max(8 << 20)).unwrap();
        let disk = FileDiskMut::open(&image).unwrap();
        let before = resize_limits(&disk, FsKind::Swap).unwrap();
        let done = resize(&disk, FsKind::Swap, size, Recovery::Refuse).unwrap();
        assert_eq!(done.before, before.current);
        assert_eq!(done.after, size / 4096 * 4096);
        drop(disk);
        file.set_len(size).unwrap();
        let told = run_ok("swaplabel", &[text(&image)]);
        assert!(told.contains("sleepy") && told.contains(UUID), "{told}");
        let told = run_ok("file", &["-b", text(&image)]);
        let pages = format!("size {} pages", done.after / 4096 - 1);
        assert!(told.contains(&pages), "expected {pages}, found {told}");
    }
}

#[test]
fn swap_that_must_not_be_touched_is_refused_by_kind() {
    let disk = MemoryDisk::zeroed(1 << 20);
    disk.write_at(1024, &[1, 0, 0, 0, 255, 0, 0, 0, 1, 0, 0, 0])
        .unwrap();
    disk.write_at(4086, b"SWAPSPACE2").unwrap();
    let error = resize(&disk, FsKind::Swap, 1 << 19, Recovery::Refuse).unwrap_err();
    assert_eq!(error.kind(), ResizeErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("bad pages"), "{error}");
    disk.write_at(1032, &[0]).unwrap();
    let error = resize(&disk, FsKind::Swap, 40_959, Recovery::Refuse).unwrap_err();
    assert_eq!(error.kind(), ResizeErrorKind::TooSmall { smallest: 40_960 });
    let error = resize(&disk, FsKind::Swap, 2 << 20, Recovery::Refuse).unwrap_err();
    assert_eq!(error.kind(), ResizeErrorKind::TooLarge { largest: 1 << 20 });
    assert!(!error.is_torn());
    let kind = probe(&disk).unwrap().unwrap();
    assert_eq!(kind.size, Some(1 << 20), "nothing was written");
    disk.write_at(4086, b"S1SUSPEND\0").unwrap();
    let error = resize(&disk, FsKind::SwapHibernated, 1 << 19, Recovery::Refuse).unwrap_err();
    assert_eq!(error.kind(), ResizeErrorKind::Dirty, "{error}");
    assert_eq!(disk.size(), 1 << 20);
}
