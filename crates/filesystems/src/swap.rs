//! Used bytes of Linux swap space: only its header, unless a hibernated system sleeps in it.

use block_io::{BlockRead, Result};

use crate::probe::{self, FsKind};
use crate::used::{self, Findings, UsedRanges};

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
