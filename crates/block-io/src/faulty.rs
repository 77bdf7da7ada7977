//! A disk that fails on purpose, for tests.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::{
    BlockError, BlockErrorKind, BlockRead, BlockWrite, Extent, Result, SectorSize, check_range,
};

/// What happens to a read or write that touches a faulty range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It fails with this kind, every time.
    Always(BlockErrorKind),
    /// It fails with this kind so many times, then works.
    Times(BlockErrorKind, u32),
}

/// A disk with ranges that fail.
#[derive(Debug)]
pub struct FaultyDisk<D> {
    disk: D,
    faults: Mutex<BTreeMap<u64, (u64, Fault)>>,
}

impl<D: BlockRead> FaultyDisk<D> {
    /// `disk`, working so far.
    pub fn new(disk: D) -> Self {
        Self {
            disk,
            faults: Mutex::default(),
        }
    }

    /// Let every access that touches `range` meet `fault`.
    #[must_use]
    pub fn failing(self, range: Range<u64>, fault: Fault) -> Self {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        faults.insert(range.start, (range.end, fault));
        drop(faults);
        self
    }

    fn meet_faults(&self, offset: u64, len: u64) -> Result<()> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let end = offset + len;
        for (start, (fault_end, fault)) in faults.range_mut(..end) {
            if *fault_end <= offset {
                continue;
            }
            let kind = match fault {
                Fault::Always(kind) => *kind,
                Fault::Times(_, 0) => continue,
                Fault::Times(kind, left) => {
                    *left -= 1;
                    *kind
                }
            };
            return Err(
                BlockError::new(kind, (*start).max(offset), (*fault_end).min(end) - start)
                    .on("faulty disk"),
            );
        }
        Ok(())
    }
}

impl<D: BlockRead> BlockRead for FaultyDisk<D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        self.meet_faults(offset, buf.len() as u64)?;
        self.disk.read_at(offset, buf)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.disk.extent_at(offset)
    }
}

impl<D: BlockWrite> BlockWrite for FaultyDisk<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        self.meet_faults(offset, data.len() as u64)?;
        self.disk.write_at(offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn a_fault_that_passes_lets_the_retry_through() {
        let disk = FaultyDisk::new(MemoryDisk::zeroed(8192))
            .failing(4096..4608, Fault::Times(BlockErrorKind::Unreadable, 2));
        let mut buf = [0; 1024];
        assert!(disk.read_at(0, &mut buf).is_ok());
        for _ in 0..2 {
            let error = disk.read_at(4000, &mut buf).unwrap_err();
            assert_eq!(error.kind(), BlockErrorKind::Unreadable);
            assert_eq!(error.offset(), 4096);
        }
        assert!(disk.read_at(4000, &mut buf).is_ok());
    }
}
