//! A disk composed of pieces of other disks: partitions at new places, without copying a byte.

use std::ops::Range;
use std::sync::Arc;

use crate::{BlockRead, Extent, ExtentKind, Result, SectorSize, check_range};

/// A run of the composed disk and where its bytes come from.
#[derive(Clone)]
pub struct Piece {
    /// Where the run lies on the composed disk, in bytes.
    pub at: Range<u64>,
    /// The disk it is read from.
    pub from: Arc<dyn BlockRead>,
    /// Where on that disk it starts, in bytes.
    pub offset: u64,
}

/// Why pieces do not make a disk.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RemapError {
    /// Two pieces claim the same bytes.
    #[error("the pieces at bytes {first:?} and {second:?} overlap")]
    Overlap {
        /// The piece that starts first.
        first: Range<u64>,
        /// The piece that starts inside it.
        second: Range<u64>,
    },
    /// A piece reaches past the composed disk, past its source, or is empty or reversed.
    #[error(
        "the piece at bytes {at:?} does not fit: its target ends at {target}, its source at {source_end}"
    )]
    DoesNotFit {
        /// Where the piece was to lie.
        at: Range<u64>,
        /// The size of the composed disk.
        target: u64,
        /// The size of the disk the piece is read from.
        source_end: u64,
    },
}

/// A disk of `size` bytes made of pieces; what no piece covers reads as zeroes.
pub struct Remap {
    size: u64,
    sector_size: SectorSize,
    pieces: Vec<Piece>,
}

impl Remap {
    /// Compose a disk of `size` bytes from `pieces`, in any order.
    ///
    /// # Errors
    /// [`RemapError`] when pieces overlap or do not fit.
    pub fn new(
        size: u64,
        sector_size: SectorSize,
        mut pieces: Vec<Piece>,
    ) -> Result<Self, RemapError> {
        pieces.sort_by_key(|piece| piece.at.start);
        for piece in &pieces {
            let len = piece.at.end.saturating_sub(piece.at.start);
            let fits = len > 0
                && piece.at.end <= size
                && check_range(piece.from.size(), piece.offset, len).is_ok();
            if !fits {
                return Err(RemapError::DoesNotFit {
                    at: piece.at.clone(),
                    target: size,
                    source_end: piece.from.size(),
                });
            }
        }
        for pair in pieces.windows(2) {
            if pair[1].at.start < pair[0].at.end {
                return Err(RemapError::Overlap {
                    first: pair[0].at.clone(),
                    second: pair[1].at.clone(),
                });
            }
        }
        Ok(Self {
            size,
            sector_size,
            pieces,
        })
    }

    /// The piece that covers `offset`, or the start of the next one (the disk's end if none).
    fn find(&self, offset: u64) -> std::result::Result<&Piece, u64> {
        let after = self.pieces.partition_point(|piece| piece.at.end <= offset);
        match self.pieces.get(after) {
            Some(piece) if piece.at.start <= offset => Ok(piece),
            Some(piece) => Err(piece.at.start),
            None => Err(self.size),
        }
    }
}

impl BlockRead for Remap {
    fn size(&self) -> u64 {
        self.size
    }

    fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    fn read_at(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        while !buf.is_empty() {
            let end = match self.find(offset) {
                Ok(piece) => piece.at.end,
                Err(next) => next,
            };
            let len = (end - offset).min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            match self.find(offset) {
                Ok(piece) => {
                    piece
                        .from
                        .read_at(piece.offset + (offset - piece.at.start), head)?;
                }
                Err(_) => head.fill(0),
            }
            offset += len as u64;
            buf = tail;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size, offset, 1)?;
        match self.find(offset) {
            Ok(piece) => {
                let below = piece
                    .from
                    .extent_at(piece.offset + (offset - piece.at.start))?;
                Ok(Extent {
                    kind: below.kind,
                    start: offset,
                    len: below.len,
                }
                .clipped_to(piece.at.end))
            }
            Err(next) => Ok(Extent {
                kind: ExtentKind::Zero,
                start: offset,
                len: next - offset,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, conformance};

    fn disk(byte: u8, len: usize) -> Arc<dyn BlockRead> {
        Arc::new(MemoryDisk::from(vec![byte; len]))
    }

    #[test]
    fn pieces_lie_where_they_were_put_and_gaps_read_as_zeroes() {
        let pieces = vec![
            Piece {
                at: 8192..12_288,
                from: disk(2, 4096),
                offset: 0,
            },
            Piece {
                at: 0..4096,
                from: disk(1, 8192),
                offset: 4096,
            },
        ];
        let remap = Remap::new(16_384, SectorSize::B512, pieces).unwrap();
        let mut expected = vec![1; 4096];
        expected.extend([0; 4096]);
        expected.extend([2; 4096]);
        expected.extend([0; 4096]);
        conformance::check_reads(&remap, &expected);
    }

    #[test]
    fn overlapping_and_oversized_pieces_are_refused() {
        let overlap = vec![
            Piece {
                at: 0..4096,
                from: disk(1, 4096),
                offset: 0,
            },
            Piece {
                at: 4095..5000,
                from: disk(1, 4096),
                offset: 0,
            },
        ];
        let error = Remap::new(8192, SectorSize::B512, overlap).err().unwrap();
        assert!(matches!(error, RemapError::Overlap { .. }));
        let long = vec![Piece {
            at: 0..4097,
            from: disk(1, 4096),
            offset: 0,
        }];
        let error = Remap::new(8192, SectorSize::B512, long).err().unwrap();
        assert!(matches!(error, RemapError::DoesNotFit { .. }));
    }
}
