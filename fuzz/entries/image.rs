//! What the fuzz targets and the bounded test of `image-formats` both run: open, map, read and check any
//! bytes as one format.
//!
//! Any error is fine. A map that does not move on, a read beyond the disk, a panic or an endless loop is not.

use std::sync::Arc;

use block_io::{BlockRead, MemoryDisk};
use image_formats::{ImageFormat, StandAlone, check_disk, open_disk};

/// Bytes read of one image, at most: what it inflates to may be far more than its file.
const MOST_READ: u64 = 8 << 20;
/// Extents followed of one image, at most.
const MOST_EXTENTS: u64 = 1 << 16;

/// Feed `data` to all that reads `format`; `None` guesses.
pub fn feed(format: Option<ImageFormat>, data: &[u8]) {
    let disk: Arc<dyn BlockRead> = Arc::new(MemoryDisk::from(data.to_vec()));
    if let Ok(image) = open_disk(Arc::clone(&disk), "image", format, &StandAlone) {
        walk(&image);
    }
    if let Ok(report) = check_disk(disk, "image", format, &StandAlone) {
        for finding in &report.findings {
            assert!(!finding.rule.id.is_empty() && !finding.to_string().is_empty());
        }
    }
}

fn walk(image: &dyn BlockRead) {
    let (mut at, mut left) = (0, MOST_READ);
    let mut buf = vec![0; 70_000];
    for _ in 0..MOST_EXTENTS {
        if at >= image.size() || left == 0 {
            break;
        }
        let Ok(extent) = image.extent_at(at) else {
            at += 65_536 - at % 65_536;
            continue;
        };
        assert!(extent.len > 0 && extent.start == at, "the map moves on");
        assert!(
            extent.len <= image.size() - at,
            "the map ends with the disk"
        );
        let len = extent.len.min(buf.len() as u64).min(left);
        let _ = image.read_at(at, &mut buf[..len as usize]);
        left -= len;
        // The ends of runs are where readers go wrong.
        let last = extent.len.min(100);
        let _ = image.read_at(at + extent.len - last, &mut buf[..last as usize]);
        at += extent.len;
    }
    for (offset, len) in [(image.size(), 1), (u64::MAX, 1), (u64::MAX - 10, 20)] {
        assert!(image.read_at(offset, &mut buf[..len]).is_err());
    }
    if image.size() > 0 {
        let _ = image.read_at(image.size() - 1, &mut buf[..1]);
    }
}
