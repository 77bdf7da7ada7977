//! A window: part of a disk, seen as a disk of its own. A partition is one.

use std::ops::Range;

use crate::{BlockRead, BlockWrite, Extent, Result, SectorSize, check_range};

/// The bytes `start..end` of a disk, as a disk.
#[derive(Debug, Clone)]
pub struct Window<D> {
    disk: D,
    start: u64,
    len: u64,
}

impl<D: BlockRead> Window<D> {
    /// The window on `range` of `disk`.
    ///
    /// # Errors
    /// `OutOfBounds` if the range is reversed or reaches past the disk.
    pub fn new(disk: D, range: Range<u64>) -> Result<Self> {
        let len = range.end.saturating_sub(range.start);
        check_range(disk.size(), range.start, len)?;
        if range.end < range.start {
            return Err(crate::BlockError::out_of_bounds(
                disk.size(),
                range.start,
                0,
            ));
        }
        Ok(Self {
            disk,
            start: range.start,
            len,
        })
    }

    /// Where the window lies on the disk below.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.len
    }
}

impl<D: BlockRead> BlockRead for Window<D> {
    fn size(&self) -> u64 {
        self.len
    }

    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.len, offset, buf.len() as u64)?;
        self.disk.read_at(self.start + offset, buf)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.len, offset, 1)?;
        let below = self.disk.extent_at(self.start + offset)?;
        Ok(Extent {
            kind: below.kind,
            start: offset,
            len: below.len,
        }
        .clipped_to(self.len))
    }
}

impl<D: BlockWrite> BlockWrite for Window<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.len, offset, data.len() as u64)?;
        self.disk.write_at(self.start + offset, data)
    }

    fn flush(&self) -> Result<()> {
        self.disk.flush()
    }
}
