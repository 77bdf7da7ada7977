//! Disks whose blocks lie where a table says: what reading them has in common.
//!
//! A format answers only where one offset lies ([`Mapped::map_one`]); joining runs, reading and the
//! extent map are here.

use std::sync::Arc;

use block_io::{
    BlockError, BlockErrorKind, BlockRead, Extent, ExtentKind, Result, SectorSize, check_range,
};

use crate::cache::TableCache;
use crate::error::corrupt;
use crate::finding::{Finding, Rule};
use crate::image::Image;

/// Tables are read and kept in pieces of this size, so many at most: 8 MiB.
const PIECE: u64 = 64 << 10;
const PIECES: usize = 128;
/// Runs looked at for one extent, at most: the caller joins what is cut.
const EXTENT_RUNS: u64 = 1 << 16;

/// Where a run of the disk comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// It reads as zeroes, whatever lies below.
    Zero,
    /// Not here: what lies below, or zeroes.
    Below,
    /// At this byte of the file.
    Data(u64),
}

impl Mapping {
    fn continues(self, len: u64, next: Mapping) -> bool {
        match (self, next) {
            (Mapping::Data(at), Mapping::Data(next)) => at.checked_add(len) == Some(next),
            (mapping, next) => mapping == next,
        }
    }
}

/// A disk in one file that maps it run by run.
pub(crate) trait Mapped: Send + Sync {
    /// Bytes of the disk.
    fn size(&self) -> u64;

    /// Its logical sector.
    fn sector_size(&self) -> SectorSize {
        SectorSize::B512
    }

    /// The file that [`Mapping::Data`] points into.
    fn file(&self) -> &dyn BlockRead;

    /// What [`Mapping::Below`] shows.
    fn parent(&self) -> Option<&Image> {
        None
    }

    /// Where the byte `offset` of the disk comes from, and for how many bytes the answer holds.
    fn map_one(&self, offset: u64) -> Result<(Mapping, u64)>;
}

/// A mapped disk, read.
pub(crate) struct MappedDisk<M>(pub(crate) M);

impl<M: Mapped> MappedDisk<M> {
    fn map_run(&self, offset: u64, end: u64) -> Result<(Mapping, u64)> {
        let (mapping, mut len) = self.0.map_one(offset)?;
        let mut looked_at = 0;
        while offset + len < end && looked_at < EXTENT_RUNS {
            // What cannot be mapped is met again, and told, when its turn comes.
            let Ok((next, more)) = self.0.map_one(offset + len) else {
                break;
            };
            if !mapping.continues(len, next) {
                break;
            }
            len += more;
            looked_at += 1;
        }
        Ok((mapping, len.min(end - offset)))
    }
}

impl<M: Mapped> BlockRead for MappedDisk<M> {
    fn size(&self) -> u64 {
        self.0.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.0.sector_size()
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        let end = offset + buf.len() as u64;
        while offset < end {
            let (mapping, len) = self.map_run(offset, end)?;
            let (part, rest) = buf.split_at_mut(len as usize);
            match (mapping, self.0.parent()) {
                (Mapping::Data(at), _) => self.0.file().read_at(at, part)?,
                (Mapping::Below, Some(parent)) => read_padded(parent, offset, part)?,
                (Mapping::Below | Mapping::Zero, _) => part.fill(0),
            }
            offset += len;
            buf = rest;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let (mapping, len) = self.map_run(offset, self.size())?;
        let below = match (mapping, self.0.parent()) {
            // What is a hole in the file is zero in the disk.
            (Mapping::Data(at), _) => self.0.file().extent_at(at)?,
            (Mapping::Below, Some(parent)) if offset < parent.size() => parent.extent_at(offset)?,
            (Mapping::Below | Mapping::Zero, _) => Extent {
                kind: ExtentKind::Zero,
                start: offset,
                len,
            },
        };
        Ok(Extent {
            kind: below.kind,
            start: offset,
            len: below.len.min(len),
        })
    }
}

/// Read an image below, which may be shorter: it reads as zeroes past its end.
pub(crate) fn read_padded(below: &dyn BlockRead, offset: u64, buf: &mut [u8]) -> Result<()> {
    let there = below.size().saturating_sub(offset).min(buf.len() as u64) as usize;
    let (head, tail) = buf.split_at_mut(there);
    tail.fill(0);
    match head.is_empty() {
        true => Ok(()),
        false => below.read_at(offset, head),
    }
}

/// The tables of a file, read and kept in pieces.
pub(crate) struct TableFile {
    file: Arc<dyn BlockRead>,
    name: String,
    pieces: TableCache<Vec<u8>>,
}

impl TableFile {
    /// The tables of `file`, which errors call `name`.
    pub(crate) fn new(file: Arc<dyn BlockRead>, name: String) -> Self {
        Self {
            file,
            name,
            pieces: TableCache::new(PIECES),
        }
    }

    /// The file itself.
    pub(crate) fn file(&self) -> &Arc<dyn BlockRead> {
        &self.file
    }

    /// The byte at `offset` of the file.
    pub(crate) fn byte(&self, offset: u64) -> Result<u8> {
        let [byte] = self.entry(offset)?;
        Ok(byte)
    }

    /// The `N` bytes at `offset`, which need not be aligned.
    pub(crate) fn entry<const N: usize>(&self, offset: u64) -> Result<[u8; N]> {
        // The file is wrong, not the caller.
        let past = || {
            let size = self.file.size();
            let detail = format!("a table's entry at byte {offset} of a file of {size} bytes");
            BlockError::new(BlockErrorKind::Corrupt, offset, N as u64).detail(detail)
        };
        let end = offset.checked_add(N as u64).ok_or_else(past)?;
        if end > self.file.size() {
            return Err(past().on(self.name.clone()));
        }
        let mut entry = [0; N];
        let piece = self.piece(offset / PIECE)?;
        let at = (offset % PIECE) as usize;
        if let Some(bytes) = piece.get(at..at + N) {
            entry.copy_from_slice(bytes);
            return Ok(entry);
        }
        // It lies across two pieces.
        for (place, byte) in (offset..end).zip(&mut entry) {
            let piece = self.piece(place / PIECE)?;
            *byte = piece.get((place % PIECE) as usize).copied().unwrap_or(0);
        }
        Ok(entry)
    }

    fn piece(&self, index: u64) -> Result<Arc<Vec<u8>>> {
        self.pieces.get(index, || {
            let start = index * PIECE;
            let len = PIECE.min(self.file.size().saturating_sub(start));
            let mut bytes = vec![0; len as usize];
            self.file.read_at(start, &mut bytes)?;
            Ok::<_, BlockError>(bytes)
        })
    }

    /// That the entry at `place` breaks `rule`, met when reading `offset` of the disk.
    pub(crate) fn broken(
        &self,
        rule: &'static Rule,
        place: u64,
        expected: impl Into<String>,
        found: impl ToString,
        offset: u64,
    ) -> BlockError {
        let finding = Finding::error(rule, place, expected, found.to_string());
        corrupt(&finding, offset, 1).on(self.name.clone())
    }
}
