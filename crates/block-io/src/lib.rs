//! What a disk is.
//!
//! Everything in this project reads disks through [`BlockRead`] and edits them through
//! [`BlockWrite`]. The pieces stack:
//!
//! ```text
//!   FileDisk (source, read-only by type)     MemoryDisk      FaultyDisk (tests)
//!        └──────────────┬───────────────────────┴───────────────┘
//!                    Overlay            edits live here; the disk below is never written
//!                       │
//!            Window  (one partition)    Remap (partitions at new places, nothing copied)
//!                       │                 │
//!              file systems, parsers    image writers
//! ```
//!
//! Offsets and lengths are bytes, always: one unit only, so plain `u64` and ranges serve. Other
//! crates, where sectors, clusters and bytes meet, wrap theirs in newtypes.
//!
//! Reading is positional and blocking through `&self`; parallelism is threads.
#![forbid(unsafe_code)]

mod error;
mod extent;
mod faulty;
mod file;
mod memory;
mod overlay;
mod remap;
mod salvage;
mod window;

pub mod conformance;

pub use error::{BlockError, BlockErrorKind, Result};
pub use extent::{Extent, ExtentKind, Extents};
pub use faulty::{Fault, FaultyDisk};
pub use file::{FileDisk, FileDiskMut};
pub use memory::MemoryDisk;
pub use overlay::{Edited, Overlay};
pub use remap::{Piece, Remap, RemapError};
pub use salvage::{Salvage, Unreadable};
pub use window::Window;

use std::ops::Range;
use std::sync::Arc;

/// Size in bytes of a logical sector: a power of two from 512 to 65,536.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SectorSize(u32);

impl SectorSize {
    /// The 512-byte sector of most disks.
    pub const B512: SectorSize = SectorSize(512);
    /// The 4096-byte sector of 4Kn disks.
    pub const B4096: SectorSize = SectorSize(4096);

    /// A sector size, if `bytes` is a power of two from 512 to 65,536.
    #[must_use]
    pub fn new(bytes: u32) -> Option<Self> {
        (bytes.is_power_of_two() && (512..=65_536).contains(&bytes)).then_some(Self(bytes))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }
}

/// A disk that can be read: a device, an image file, a snapshot in a store, an overlay, a partition.
///
/// The contract, which [`conformance::check_reads`] tests for every implementer:
///
/// - Implementers must never panic, whatever the range, and never answer short: either the whole
///   buffer is filled or an error comes back. A range past the end is
///   [`BlockErrorKind::OutOfBounds`].
/// - `size` does not change while the value lives. A source that shrinks underneath answers
///   [`BlockErrorKind::Vanished`] for what is gone.
/// - [`BlockRead::extent_at`] may answer a shorter run than the true one, never a longer one, and
///   never an empty one. `Zero` promises that reading the run gives zeroes. Copying, sparseness and
///   skipping of unused blocks all follow from it.
/// - In exchange they may rely on `offset + len` being checked by [`check_range`] only if they call
///   it: callers pass what they like.
pub trait BlockRead: Send + Sync {
    /// The size of the disk in bytes.
    fn size(&self) -> u64;

    /// The logical sector size. Reads need not be aligned to it; partition tables count in it.
    fn sector_size(&self) -> SectorSize {
        SectorSize::B512
    }

    /// Fill `buf` from the bytes at `offset`.
    ///
    /// # Errors
    /// `OutOfBounds` past the end; `Unreadable`, `Vanished` or `Io` as the medium answers.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// What lies at `offset`, and for how long. `offset` must be below [`BlockRead::size`].
    ///
    /// # Errors
    /// `OutOfBounds` at or past the end; otherwise as [`BlockRead::read_at`].
    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        Ok(Extent {
            kind: ExtentKind::Unknown,
            start: offset,
            len: self.size() - offset,
        })
    }
}

/// All extents of `range` of `disk` in order, clipped to it, neighbours of one kind joined.
pub fn extents<R: BlockRead + ?Sized>(disk: &R, range: Range<u64>) -> Extents<'_, R> {
    Extents::new(disk, range)
}

/// A disk that can also be edited. Only overlays, memory and fresh outputs are; a source never is.
///
/// Writing is positional through `&self`, as `pwrite` is, so that several file systems of one disk
/// can be open at once; implementers bring their own lock.
pub trait BlockWrite: BlockRead {
    /// Write all of `data` at `offset`, inside the disk's size.
    ///
    /// # Errors
    /// `OutOfBounds` past the end, `Full` where no space is left, `Io` otherwise.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Make what was written durable, where that means anything.
    ///
    /// # Errors
    /// As the medium answers.
    fn flush(&self) -> Result<()>;
}

/// Check that `len` bytes at `offset` lie inside a disk of `size` bytes.
///
/// # Errors
/// `OutOfBounds` when they do not, or when `offset + len` overflows.
pub fn check_range(size: u64, offset: u64, len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(BlockError::out_of_bounds(size, offset, len)),
    }
}

macro_rules! forward_block_read {
    ($($wrapper:ty),*) => {$(
        impl<T: BlockRead + ?Sized> BlockRead for $wrapper {
            fn size(&self) -> u64 {
                (**self).size()
            }
            fn sector_size(&self) -> SectorSize {
                (**self).sector_size()
            }
            fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
                (**self).read_at(offset, buf)
            }
            fn extent_at(&self, offset: u64) -> Result<Extent> {
                (**self).extent_at(offset)
            }
        }
        impl<T: BlockWrite + ?Sized> BlockWrite for $wrapper {
            fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
                (**self).write_at(offset, data)
            }
            fn flush(&self) -> Result<()> {
                (**self).flush()
            }
        }
    )*};
}
forward_block_read!(&T, Arc<T>, Box<T>);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sector_sizes_are_powers_of_two_between_512_and_64k() {
        for bytes in [512, 1024, 4096, 65_536] {
            assert_eq!(SectorSize::new(bytes).unwrap().bytes(), u64::from(bytes));
        }
        for bytes in [0, 1, 256, 520, 4095, 131_072] {
            assert!(SectorSize::new(bytes).is_none(), "{bytes}");
        }
    }

    #[test]
    fn a_range_that_overflows_is_out_of_bounds() {
        let error = check_range(10, u64::MAX, 2).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::OutOfBounds);
        assert!(check_range(10, 10, 0).is_ok());
        assert!(check_range(10, 9, 1).is_ok());
        assert!(check_range(10, 10, 1).is_err());
    }
}
