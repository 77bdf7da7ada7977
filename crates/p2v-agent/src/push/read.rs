//! The first stage: used runs of the disks into buffers. This thread does nothing but wait for disks.

use std::ops::Range;

use block_io::{BlockRead, ExtentKind, Result};

use super::buffers::{Buffer, Buffers};

/// Bytes of a buffer that are read into. Large enough for a spinning disk to stream.
pub(super) const READ_SIZE: usize = 2 << 20;

/// Gaps up to this size between used runs are bridged with zeroes, which cost next to nothing once
/// compressed: a file system that is used here and there would else be cut into tiny chunks, each
/// with its own name, recipe entry and compressor start.
const BRIDGED_GAP: u64 = 32 << 10;

/// A part of a buffer that lies in one piece on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Where it lies on the disk.
    pub offset: u64,
    /// Where it lies in the buffer.
    pub at: Range<usize>,
    /// Whether the used run ends with it. If not, the next piece goes on where it ends.
    pub ends_run: bool,
}

/// A buffer with what was read into it.
#[derive(Debug)]
pub(super) struct Filled {
    pub buffer: Buffer,
    pub pieces: Vec<Piece>,
}

/// Read all used runs of `disk`, leaving `headroom` bytes free at the front of each buffer, and hand
/// them on in order. `pass` says whether to go on. Returns whether the end was reached.
///
/// # Errors
/// What the disk answers.
pub(super) fn read_disk(
    disk: &dyn BlockRead,
    buffers: &Buffers,
    headroom: usize,
    pass: &mut dyn FnMut(Filled) -> bool,
) -> Result<bool> {
    let mut filling: Option<(Filled, usize)> = None;
    for run in UsedRuns::new(disk) {
        let run = run?;
        let mut offset = run.bytes.start;
        while offset < run.bytes.end {
            let (filled, at) = match &mut filling {
                Some(filling) => filling,
                None => {
                    let Some(buffer) = buffers.take() else {
                        return Ok(false);
                    };
                    let pieces = Vec::new();
                    filling.insert((Filled { buffer, pieces }, headroom))
                }
            };
            let room = filled.buffer.bytes.len().saturating_sub(*at) as u64;
            let len = (run.bytes.end - offset).min(room) as usize;
            let space = filled.buffer.bytes.get_mut(*at..*at + len);
            fill(disk, &run, offset, space.unwrap_or_default())?;
            filled.pieces.push(Piece {
                offset,
                at: *at..*at + len,
                ends_run: offset + len as u64 == run.bytes.end,
            });
            *at += len;
            offset += len as u64;
            if *at == filled.buffer.bytes.len()
                && let Some((full, _)) = filling.take()
                && !pass(full)
            {
                return Ok(false);
            }
        }
    }
    match filling {
        Some((last, _)) => Ok(pass(last)),
        None => Ok(true),
    }
}

/// Read what is used of `space`, which lies at `offset`, and clear the rest of it.
fn fill(disk: &dyn BlockRead, run: &UsedRun, offset: u64, space: &mut [u8]) -> Result<()> {
    let end = offset + space.len() as u64;
    let mut done = offset;
    for gap in &run.gaps {
        let gap = gap.start.clamp(done, end)..gap.end.clamp(done, end);
        if gap.is_empty() {
            continue;
        }
        let within = |at: u64| (at - offset) as usize;
        if let Some(used) = space.get_mut(within(done)..within(gap.start))
            && !used.is_empty()
        {
            disk.read_at(done, used)?;
        }
        if let Some(unused) = space.get_mut(within(gap.start)..within(gap.end)) {
            unused.fill(0);
        }
        done = gap.end;
    }
    match space.get_mut((done - offset) as usize..) {
        Some(rest) if !rest.is_empty() => disk.read_at(done, rest),
        _ => Ok(()),
    }
}

/// A run of a disk to be sent, with the unused gaps inside it, which are sent as zeroes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UsedRun {
    pub bytes: Range<u64>,
    pub gaps: Vec<Range<u64>>,
}

/// No run is longer, so that the list of its gaps stays short; the next one begins where it ends.
const LONGEST_RUN: u64 = 1 << 30;

/// The used runs of a disk in order.
pub(super) struct UsedRuns<'d> {
    extents: block_io::Extents<'d, dyn BlockRead + 'd>,
    next: Option<UsedRun>,
}

impl<'d> UsedRuns<'d> {
    pub fn new(disk: &'d dyn BlockRead) -> Self {
        Self {
            extents: block_io::extents(disk, 0..disk.size()),
            next: None,
        }
    }
}

impl Iterator for UsedRuns<'_> {
    type Item = Result<UsedRun>;

    fn next(&mut self) -> Option<Self::Item> {
        for extent in &mut self.extents {
            let extent = match extent {
                Ok(extent) if extent.kind == ExtentKind::Zero => continue,
                Ok(extent) => extent.range(),
                Err(error) => return Some(Err(error)),
            };
            match &mut self.next {
                Some(run)
                    if extent.start - run.bytes.end <= BRIDGED_GAP
                        && extent.end - run.bytes.start <= LONGEST_RUN =>
                {
                    if extent.start > run.bytes.end {
                        run.gaps.push(run.bytes.end..extent.start);
                    }
                    run.bytes.end = extent.end;
                }
                next => {
                    let run = UsedRun {
                        bytes: extent,
                        gaps: Vec::new(),
                    };
                    if let Some(complete) = next.replace(run) {
                        return Some(Ok(complete));
                    }
                }
            }
        }
        self.next.take().map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use block_io::{Extent, MemoryDisk, check_range};

    /// A disk of which only some ranges are used. What is not used is poison: nobody may read it.
    struct Sparse {
        disk: MemoryDisk,
        used: Vec<Range<u64>>,
    }

    impl BlockRead for Sparse {
        fn size(&self) -> u64 {
            self.disk.size()
        }

        fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
            let end = offset + buf.len() as u64;
            let used = self
                .used
                .iter()
                .any(|run| run.start <= offset && end <= run.end);
            assert!(used, "{offset}..{end} is not used, and was read");
            self.disk.read_at(offset, buf)
        }

        fn extent_at(&self, offset: u64) -> Result<Extent> {
            check_range(self.size(), offset, 1)?;
            let (kind, end) = match self.used.iter().find(|run| run.end > offset) {
                Some(run) if run.start <= offset => (ExtentKind::Data, run.end),
                Some(run) => (ExtentKind::Zero, run.start),
                None => (ExtentKind::Zero, self.size()),
            };
            let len = end - offset;
            Ok(Extent {
                kind,
                start: offset,
                len,
            })
        }
    }

    fn read_back(disk: &Sparse, buffer_size: usize) -> Vec<u8> {
        let mut image = vec![0; disk.size() as usize];
        let buffers = Buffers::new(1, buffer_size);
        let mut open = None;
        let whole = read_disk(disk, &buffers, 64, &mut |filled| {
            for piece in &filled.pieces {
                assert!(piece.at.start >= 64, "the headroom stays free");
                assert!(open.is_none_or(|end| end == piece.offset), "{piece:?}");
                let bytes = &filled.buffer.bytes[piece.at.clone()];
                image[piece.offset as usize..][..bytes.len()].copy_from_slice(bytes);
                open = (!piece.ends_run).then_some(piece.offset + bytes.len() as u64);
            }
            true
        });
        assert!(whole.unwrap());
        assert_eq!(open, None);
        image
    }

    #[test]
    fn near_runs_are_joined_by_zeroes_and_unused_bytes_are_never_read() {
        let content: Vec<u8> = (0..400_000_u32).map(|i| (i % 255) as u8 + 1).collect();
        let used = vec![0..512, 1024..40_000, 72_768..72_769, 200_000..400_000];
        let mut expected = vec![0; content.len()];
        for run in &used {
            let run = run.start as usize..run.end as usize;
            expected[run.clone()].copy_from_slice(&content[run]);
        }
        let disk = Sparse {
            disk: MemoryDisk::from(content),
            used,
        };
        let runs: Vec<_> = UsedRuns::new(&disk).map(|run| run.unwrap().bytes).collect();
        assert_eq!(runs, [0..72_769, 200_000..400_000]);
        for buffer_size in [65, 1000, 4096 + 64, 1 << 20] {
            let image = read_back(&disk, buffer_size);
            assert!(image == expected, "buffers of {buffer_size}");
        }
    }

    #[test]
    fn a_reader_that_is_told_to_stop_stops() {
        let buffers = Buffers::new(2, 1024);
        let disk = MemoryDisk::from(vec![1; 100_000]);
        let mut calls = 0;
        let whole = read_disk(&disk, &buffers, 0, &mut |_| {
            calls += 1;
            false
        });
        assert!(!whole.unwrap());
        assert_eq!(calls, 1);
    }
}
