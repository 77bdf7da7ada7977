//! A disk with everything that is not in use shown as zeroes.

use std::sync::Arc;

use block_io::{BlockRead, Extent, ExtentKind, Result, SectorSize, check_range};

use crate::map::UsedMap;

/// `D`, of which only the bytes in use can be seen: the others read as zeroes and map as `Zero`, and
/// the disk below is never asked for them, so that a bad sector in free space stops nobody.
#[derive(Debug, Clone)]
pub struct UsedOnly<D> {
    disk: D,
    used: Arc<UsedMap>,
}

impl<D: BlockRead> UsedOnly<D> {
    /// `disk` by `used`. Bytes of the disk which the map does not reach count as used.
    pub fn new(disk: D, used: Arc<UsedMap>) -> Self {
        Self { disk, used }
    }

    /// The disk below.
    pub fn below(&self) -> &D {
        &self.disk
    }
}

impl<D: BlockRead> BlockRead for UsedOnly<D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let (used, end) = self.used.run_at(offset);
            let len = (end - offset).min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            if used {
                self.disk.read_at(offset, head)?;
            } else {
                head.fill(0);
            }
            offset += len as u64;
            buf = tail;
        }
        Ok(())
    }

    /// `Data` in use, even where the disk below knows no better than `Unknown`; `Zero` otherwise, and
    /// where the disk below says so.
    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (used, end) = self.used.run_at(offset);
        if !used {
            return Ok(Extent {
                kind: ExtentKind::Zero,
                start: offset,
                len: end.min(self.size()) - offset,
            });
        }
        let below = self.disk.extent_at(offset)?.clipped_to(end);
        let kind = match below.kind {
            ExtentKind::Zero => ExtentKind::Zero,
            ExtentKind::Data | ExtentKind::Unknown => ExtentKind::Data,
        };
        Ok(Extent {
            kind,
            start: offset,
            len: below.len,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::{BlockErrorKind, Fault, FaultyDisk, MemoryDisk, conformance};

    fn map(size: u64, ranges: &[std::ops::Range<u64>]) -> Arc<UsedMap> {
        let mut map = UsedMap::none(size);
        ranges.iter().for_each(|range| map.add(range.clone()));
        map.finish();
        Arc::new(map)
    }

    #[test]
    fn unused_bytes_are_zeroes_and_used_ones_are_the_disks() {
        let bytes: Vec<u8> = (0..200_001).map(|i| (i % 251) as u8 + 1).collect();
        let used = [0..1000, 4096..70_000, 150_001..160_000, 200_000..200_001];
        let mut expected = vec![0; bytes.len()];
        for range in &used {
            let range = range.start as usize..range.end as usize;
            expected[range.clone()].copy_from_slice(&bytes[range]);
        }
        let disk = UsedOnly::new(MemoryDisk::from(bytes.clone()), map(200_001, &used));
        conformance::check_reads(&disk, &expected);
        // A map of a shorter disk: what it does not reach counts as used.
        let disk = UsedOnly::new(MemoryDisk::from(bytes.clone()), map(150_000, &used[..2]));
        expected[150_000..].copy_from_slice(&bytes[150_000..]);
        conformance::check_reads(&disk, &expected);
    }

    #[test]
    fn bad_sectors_in_free_space_are_never_touched() {
        let disk = FaultyDisk::new(MemoryDisk::from(vec![1; 1 << 20]))
            .failing(4096..1 << 19, Fault::Always(BlockErrorKind::Unreadable));
        let disk = UsedOnly::new(disk, map(1 << 20, &[0..4096, 1 << 19..1 << 20]));
        let mut all = vec![7; 1 << 20];
        disk.read_at(0, &mut all).unwrap();
        assert_eq!(all.iter().filter(|b| **b == 1).count(), 4096 + (1 << 19));
    }
}
