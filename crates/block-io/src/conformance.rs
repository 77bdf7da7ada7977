//! The awkward cases every [`BlockRead`] must pass. Ship a backend, call this in its tests.

use crate::{BlockErrorKind, BlockRead, BlockWrite, ExtentKind};

/// Check that `disk` reads as `expected`, at every awkward place, and that its map is honest.
///
/// # Panics
/// Where it does not: it is a test.
#[allow(clippy::unwrap_used, clippy::missing_panics_doc)]
pub fn check_reads(disk: &dyn BlockRead, expected: &[u8]) {
    let size = expected.len() as u64;
    assert_eq!(disk.size(), size, "size");
    let mut whole = vec![0xAA; expected.len()];
    disk.read_at(0, &mut whole).unwrap();
    assert!(whole == expected, "the whole disk, read at once, differs");
    for (start, len) in awkward_ranges(expected.len()) {
        let mut buf = vec![0xAA; len];
        disk.read_at(start as u64, &mut buf).unwrap();
        assert!(
            buf == expected[start..start + len],
            "{len} bytes at {start} differ"
        );
    }
    for (start, len) in [
        (size, 1),
        (size.saturating_sub(1), 2),
        (u64::MAX, 1),
        (u64::MAX - 1, 8),
    ] {
        let error = disk.read_at(start, &mut vec![0; len]).unwrap_err();
        assert_eq!(
            error.kind(),
            BlockErrorKind::OutOfBounds,
            "{len} bytes at {start}"
        );
    }
    disk.read_at(size, &mut []).unwrap();
    assert_eq!(
        disk.extent_at(size).unwrap_err().kind(),
        BlockErrorKind::OutOfBounds
    );
    check_map(disk, expected);
}

/// Check that writes land where they should and nowhere else.
///
/// # Panics
/// Where they do not: it is a test.
#[allow(clippy::unwrap_used, clippy::missing_panics_doc)]
pub fn check_writes(disk: &dyn BlockWrite, mut expected: Vec<u8>) {
    for (round, (start, len)) in awkward_ranges(expected.len()).into_iter().enumerate() {
        let data: Vec<u8> = (0..len).map(|i| (i * 7 + round + 1) as u8).collect();
        disk.write_at(start as u64, &data).unwrap();
        expected[start..start + len].copy_from_slice(&data);
    }
    let size = expected.len() as u64;
    let error = disk.write_at(size, &[1]).unwrap_err();
    assert_eq!(error.kind(), BlockErrorKind::OutOfBounds);
    disk.flush().unwrap();
    check_reads(disk, &expected);
}

fn awkward_ranges(size: usize) -> Vec<(usize, usize)> {
    let mut ranges = Vec::new();
    for start in [
        0,
        1,
        511,
        512,
        513,
        4095,
        4096,
        4097,
        65_535,
        65_536,
        size / 2,
        size - 1,
    ] {
        for len in [0, 1, 2, 511, 512, 513, 4096, 4097, 8192, 65_537] {
            if start <= size && len <= size - start {
                ranges.push((start, len));
            }
        }
    }
    ranges
}

#[allow(clippy::unwrap_used)]
fn check_map(disk: &dyn BlockRead, expected: &[u8]) {
    let mut at = 0;
    for extent in crate::extents(disk, 0..disk.size()) {
        let extent = extent.unwrap();
        assert_eq!(extent.start, at, "extents follow each other");
        assert!(extent.len > 0, "an extent is never empty");
        let bytes = &expected[extent.start as usize..extent.end() as usize];
        if extent.kind == ExtentKind::Zero {
            assert!(
                bytes.iter().all(|b| *b == 0),
                "{extent:?} is said to be zero and is not"
            );
        }
        at = extent.end();
    }
    assert_eq!(at, disk.size(), "extents cover the disk");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FileDisk, FileDiskMut, MemoryDisk, Overlay, Window};
    use std::sync::Arc;

    fn pattern(len: usize) -> Vec<u8> {
        (0..len)
            .map(|i| {
                if (i / 8192) % 2 == 0 {
                    (i % 251) as u8
                } else {
                    0
                }
            })
            .collect()
    }

    #[test]
    fn memory() {
        check_reads(&MemoryDisk::from(pattern(200_001)), &pattern(200_001));
        check_writes(&MemoryDisk::from(pattern(200_001)), pattern(200_001));
    }

    #[test]
    fn file_read_only_and_writable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, pattern(150_000)).unwrap();
        check_reads(&FileDisk::open(&path).unwrap(), &pattern(150_000));
        check_writes(&FileDiskMut::open(&path).unwrap(), pattern(150_000));
    }

    #[test]
    fn sparse_file_reports_its_hole() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FileDiskMut::create_new(dir.path().join("disk"), 1 << 30).unwrap();
        disk.write_at(512 << 20, b"data").unwrap();
        let kinds: Vec<_> = crate::extents(&disk, 0..disk.size())
            .map(|e| e.unwrap().kind)
            .collect();
        assert_eq!(
            kinds,
            [ExtentKind::Zero, ExtentKind::Data, ExtentKind::Zero]
        );
    }

    #[test]
    fn file_that_shrank_has_vanished_and_does_not_read_as_zeroes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, pattern(150_000)).unwrap();
        let disk = FileDisk::open(&path).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4096)
            .unwrap();
        let error = disk.read_at(100_000, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Vanished);
        assert_eq!(
            disk.extent_at(100_000).unwrap_err().kind(),
            BlockErrorKind::Vanished
        );
    }

    #[test]
    fn a_directory_is_not_a_disk() {
        assert!(FileDisk::open("/").is_err());
    }

    #[test]
    fn window_and_overlay() {
        let base = Arc::new(MemoryDisk::from(pattern(300_000)));
        let window = Window::new(Arc::clone(&base), 1000..201_001).unwrap();
        check_reads(&window, &pattern(300_000)[1000..201_001]);
        let overlay = Overlay::new(Arc::clone(&base));
        check_writes(&overlay, pattern(300_000));
        assert!(
            base.to_vec() == pattern(300_000),
            "the disk below an overlay is never written"
        );
        assert!(Window::new(base, 0..300_001).is_err());
    }
}
