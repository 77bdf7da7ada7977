//! Linux swap space: used bytes (only its header, unless a hibernated system sleeps in it), and its
//! size.

use block_io::{BlockRead, BlockWrite, Result};

use crate::bytes::{be32, le32};
use crate::probe::{self, FsKind};
use crate::resize::{ResizeError, ResizeErrorKind, ResizeLimits, Resized};
use crate::used::{self, Findings, UsedRanges};

/// Fewest pages swap space may have, as mkswap and the kernel say.
const FEWEST_PAGES: u64 = 10;
/// Where the version lies; behind it follow the last page, the number of bad pages, UUID and label.
/// // Linux include/linux/swap.h, union swap_header
const VERSION_AT: u64 = 1024;

pub(crate) fn used_ranges(
    disk: &dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'static>> {
    let page = match probe::probe(disk)? {
        Some(found) if found.kind == FsKind::Swap => found.block_size,
        _ => None,
    };
    let Some(page) = page else {
        findings.note("swap space: no swap signature, all of it counts as used");
        return Ok(used::all(disk));
    };
    // What lies behind the pages the header counts is not swap space: it counts as used.
    let end = match probe::probe(disk)?.and_then(|found| found.size) {
        Some(size) if size <= disk.size() => size,
        Some(size) => {
            findings.note(format!(
                "swap space: header claims {size} bytes, the disk has {}",
                disk.size()
            ));
            disk.size()
        }
        None => disk.size(),
    };
    let ranges = [0..page.min(end), end..disk.size()];
    Ok(Box::new(used::Joined::new(ranges.into_iter().map(Ok))))
}

/// The header of swap space, as far as its size goes.
struct Header {
    page: u64,
    pages: u64,
    /// Written by a machine that keeps the high byte first.
    big_endian: bool,
}

impl Header {
    fn read(disk: &dyn BlockRead) -> Result<Self, ResizeError> {
        let found = probe::probe(disk)?;
        let page = match found.as_ref().map(|found| (found.kind, found.block_size)) {
            Some((FsKind::Swap, Some(page))) => page,
            Some((FsKind::SwapHibernated, _)) => {
                return Err(ResizeError::new(
                    ResizeErrorKind::Dirty,
                    "the swap space holds the memory of a hibernated system; start the source once and shut it down",
                ));
            }
            _ => {
                return Err(ResizeError::new(
                    ResizeErrorKind::Damaged,
                    "swap signature at the end of the first page: expected SWAPSPACE2, found none",
                ));
            }
        };
        let mut raw = [0; 12];
        disk.read_at(VERSION_AT, &mut raw)?;
        let big_endian = match (le32(&raw, 0), be32(&raw, 0)) {
            (1, _) => false,
            (_, 1) => true,
            (other, _) => {
                return Err(ResizeError::new(
                    ResizeErrorKind::Unsupported,
                    format!(
                        "swap version at byte 1024: expected 1, found {other}; make it anew with mkswap"
                    ),
                ));
            }
        };
        let field = |at| {
            if big_endian {
                be32(&raw, at)
            } else {
                le32(&raw, at)
            }
        };
        if field(8) != 0 {
            return Err(ResizeError::new(
                ResizeErrorKind::Unsupported,
                format!(
                    "swap space with bad pages: expected 0 at byte 1032, found {}; make it anew with mkswap",
                    field(8)
                ),
            ));
        }
        Ok(Self {
            page,
            pages: u64::from(field(4)) + 1,
            big_endian,
        })
    }

    fn limits(&self) -> ResizeLimits {
        ResizeLimits {
            smallest: FEWEST_PAGES * self.page,
            current: self.pages * self.page,
            largest: (1 << 32) * self.page,
            largest_because: "swap space counts its pages with 32 bits",
        }
    }
}

pub(crate) fn resize_limits(disk: &dyn BlockRead) -> Result<ResizeLimits, ResizeError> {
    Ok(Header::read(disk)?.limits())
}

/// Write the new last page into the header; UUID, label and the boot sector before it stay.
pub(crate) fn resize(disk: &dyn BlockWrite, new_size: u64) -> Result<Resized, ResizeError> {
    let header = Header::read(disk)?;
    let limits = header.limits();
    limits.check(new_size)?;
    let last = (new_size / header.page - 1) as u32;
    let bytes = match header.big_endian {
        true => last.to_be_bytes(),
        false => last.to_le_bytes(),
    };
    disk.write_at(VERSION_AT + 4, &bytes)
        .map_err(|e| ResizeError::from(e).torn())?;
    Ok(Resized {
        before: limits.current,
        after: (u64::from(last) + 1) * header.page,
        ..Resized::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::{BlockWrite, MemoryDisk};

    fn used_bytes(disk: &MemoryDisk) -> Option<Vec<std::ops::Range<u64>>> {
        let kind = probe::probe(disk).unwrap().unwrap().kind;
        let ranges = used::used_ranges(disk, kind).unwrap();
        ranges.map(|ranges| ranges.map(|r| r.unwrap()).collect())
    }

    #[test]
    fn hibernated_swap_is_used_whole_and_plain_swap_only_its_header() {
        let disk = MemoryDisk::zeroed(1 << 20);
        disk.write_at(1024, &1_u32.to_le_bytes()).unwrap();
        disk.write_at(1028, &127_u32.to_le_bytes()).unwrap();
        disk.write_at(4086, b"SWAPSPACE2").unwrap();
        assert_eq!(used_bytes(&disk).unwrap(), [0..4096, 512 << 10..1 << 20]);
        disk.write_at(4086, b"S1SUSPEND\0").unwrap();
        assert_eq!(used_bytes(&disk), None, "nothing is skipped");
    }
}
