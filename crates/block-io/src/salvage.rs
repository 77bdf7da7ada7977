//! Reading a failing disk: retry, narrow the damage down to sectors, and, with the user's consent,
//! read zeroes for what stays unreadable while keeping the list.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::{BlockError, BlockErrorKind, BlockRead, Extent, Result, SectorSize, check_range};

/// How often a failing read is repeated before its sectors count as unreadable.
const ATTEMPTS: u32 = 3;
/// More separate bad runs than this and the disk is not worth reading: the list stays bounded.
const MOST_RUNS: usize = 65_536;

/// What to do with sectors that stay unreadable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// Fail the read, naming the sectors.
    Stop,
    /// Read zeroes for them and remember where.
    ReadZeroes,
}

/// A disk read through its bad spots. Other errors (a vanished disk, say) pass through untouched.
#[derive(Debug)]
pub struct Salvage<D> {
    disk: D,
    on_unreadable: Unreadable,
    lost: Mutex<Vec<Range<u64>>>,
}

impl<D: BlockRead> Salvage<D> {
    /// Read `disk`, doing as `on_unreadable` says with what cannot be read.
    pub fn new(disk: D, on_unreadable: Unreadable) -> Self {
        Self {
            disk,
            on_unreadable,
            lost: Mutex::default(),
        }
    }

    /// The byte ranges met so far that could not be read, in order, neighbours joined.
    #[must_use]
    pub fn unreadable(&self) -> Vec<Range<u64>> {
        self.lost
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Read `buf`, halving it around what fails until single sectors are left.
    fn read_narrowing(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let error = match self.read_with_retries(offset, buf) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() != BlockErrorKind::Unreadable => return Err(error),
            Err(error) => error,
        };
        let sector = self.sector_size().bytes();
        let end = offset + buf.len() as u64;
        let middle = (offset + (end - offset) / 2) / sector * sector;
        if middle > offset && middle < end {
            let (head, tail) = buf.split_at_mut((middle - offset) as usize);
            self.read_narrowing(offset, head)?;
            return self.read_narrowing(middle, tail);
        }
        // At most two sectors, cut at their border if the range straddles one.
        let border = (offset / sector + 1) * sector;
        if border < end {
            let (head, tail) = buf.split_at_mut((border - offset) as usize);
            self.read_narrowing(offset, head)?;
            return self.read_narrowing(border, tail);
        }
        self.give_up_on(offset, buf, error)
    }

    fn read_with_retries(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let mut outcome = self.disk.read_at(offset, buf);
        // Large reads are narrowed at once, small ones repeated: a retry of 4 MiB around one bad
        // sector costs a failing disk seconds each.
        let attempts = if buf.len() <= 65_536 { ATTEMPTS } else { 1 };
        for _ in 1..attempts {
            match &outcome {
                Err(error) if error.kind() == BlockErrorKind::Unreadable => {
                    outcome = self.disk.read_at(offset, buf);
                }
                _ => break,
            }
        }
        outcome
    }

    fn give_up_on(&self, offset: u64, buf: &mut [u8], error: BlockError) -> Result<()> {
        if self.on_unreadable == Unreadable::Stop {
            return Err(error.detail(format!("still unreadable after {ATTEMPTS} attempts")));
        }
        buf.fill(0);
        let sector = self.sector_size().bytes();
        let start = offset / sector * sector;
        self.remember(start..(start + sector).min(self.size()))
    }

    fn remember(&self, run: Range<u64>) -> Result<()> {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let at = lost.partition_point(|known| known.end < run.start);
        match lost.get_mut(at) {
            Some(known) if known.start <= run.end => {
                known.start = known.start.min(run.start);
                known.end = known.end.max(run.end);
            }
            _ => lost.insert(at, run.clone()),
        }
        if at + 1 < lost.len() && lost[at].end >= lost[at + 1].start {
            let next = lost.remove(at + 1);
            lost[at].end = lost[at].end.max(next.end);
        }
        if lost.len() > MOST_RUNS {
            return Err(BlockError::new(
                BlockErrorKind::Unreadable,
                run.start,
                run.end - run.start,
            )
            .detail(format!(
                "more than {MOST_RUNS} separate bad runs on this disk"
            )));
        }
        Ok(())
    }
}

impl<D: BlockRead> BlockRead for Salvage<D> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.disk.sector_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        self.read_narrowing(offset, buf)
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        self.disk.extent_at(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, FaultyDisk, MemoryDisk, conformance};

    fn pattern() -> Vec<u8> {
        (0..300_000).map(|i| (i % 251) as u8 + 1).collect()
    }

    #[test]
    fn a_healthy_disk_reads_as_it_is() {
        let disk = Salvage::new(MemoryDisk::from(pattern()), Unreadable::Stop);
        conformance::check_reads(&disk, &pattern());
    }

    #[test]
    fn bad_sectors_read_as_zeroes_and_are_listed_to_the_sector() {
        let bad = FaultyDisk::new(MemoryDisk::from(pattern()))
            .failing(5000..5001, Fault::Always(BlockErrorKind::Unreadable))
            .failing(5120..5700, Fault::Always(BlockErrorKind::Unreadable))
            .failing(299_999..300_000, Fault::Always(BlockErrorKind::Unreadable));
        let disk = Salvage::new(bad, Unreadable::ReadZeroes);
        let mut expected = pattern();
        for lost in [4608..5120, 5120..6144, 299_520..300_000] {
            expected[lost].fill(0);
        }
        let mut read = vec![0; expected.len()];
        disk.read_at(0, &mut read).unwrap();
        assert!(read == expected);
        disk.read_at(4999, &mut read[..3000]).unwrap();
        assert_eq!(disk.unreadable(), [4608..6144, 299_520..300_000]);
    }

    #[test]
    fn without_consent_the_read_fails_and_names_the_sector() {
        let bad = FaultyDisk::new(MemoryDisk::from(pattern()))
            .failing(102_400..102_401, Fault::Always(BlockErrorKind::Unreadable));
        let disk = Salvage::new(bad, Unreadable::Stop);
        let error = disk.read_at(0, &mut vec![0; 300_000]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Unreadable);
        assert_eq!(error.offset(), 102_400);
    }

    #[test]
    fn a_passing_fault_is_retried_away() {
        let bad = FaultyDisk::new(MemoryDisk::from(pattern()))
            .failing(1024..1025, Fault::Times(BlockErrorKind::Unreadable, 2));
        let disk = Salvage::new(bad, Unreadable::Stop);
        let mut read = vec![0; 4096];
        disk.read_at(0, &mut read).unwrap();
        assert!(read == pattern()[..4096] && disk.unreadable().is_empty());
    }

    #[test]
    fn a_vanished_disk_is_not_salvaged() {
        let gone = FaultyDisk::new(MemoryDisk::from(pattern()))
            .failing(0..1, Fault::Always(BlockErrorKind::Vanished));
        let disk = Salvage::new(gone, Unreadable::ReadZeroes);
        let error = disk.read_at(0, &mut [0; 512]).unwrap_err();
        assert_eq!(error.kind(), BlockErrorKind::Vanished);
        assert!(disk.unreadable().is_empty());
    }
}
