//! A disk in memory, for tests and for small composed pieces.

use std::sync::{PoisonError, RwLock};

use crate::{BlockRead, BlockWrite, Extent, ExtentKind, Result, SectorSize, check_range};

/// How far apart zero runs are told from data.
const MAP_GRAIN: usize = 4096;

/// A disk whose bytes are a vector.
#[derive(Debug)]
pub struct MemoryDisk {
    bytes: RwLock<Vec<u8>>,
    sector_size: SectorSize,
}

impl MemoryDisk {
    /// A disk of `size` zero bytes.
    #[must_use]
    pub fn zeroed(size: usize) -> Self {
        Self::from(vec![0; size])
    }

    /// The same disk with another logical sector size.
    #[must_use]
    pub fn with_sector_size(mut self, sector_size: SectorSize) -> Self {
        self.sector_size = sector_size;
        self
    }

    /// A copy of all bytes.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl From<Vec<u8>> for MemoryDisk {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes: RwLock::new(bytes),
            sector_size: SectorSize::B512,
        }
    }
}

impl BlockRead for MemoryDisk {
    fn size(&self) -> u64 {
        self.bytes
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .len() as u64
    }

    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        buf.copy_from_slice(&bytes[start..start + buf.len()]);
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let bytes = self.bytes.read().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        let end = ((start / MAP_GRAIN + 1) * MAP_GRAIN).min(bytes.len());
        let zero = bytes[start..end].iter().all(|byte| *byte == 0);
        let kind = if zero {
            ExtentKind::Zero
        } else {
            ExtentKind::Data
        };
        Ok(Extent {
            kind,
            start: offset,
            len: (end - start) as u64,
        })
    }
}

impl BlockWrite for MemoryDisk {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        let mut bytes = self.bytes.write().unwrap_or_else(PoisonError::into_inner);
        let start = offset as usize;
        bytes[start..start + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn flush(&self) -> Result<()> {
        Ok(())
    }
}
