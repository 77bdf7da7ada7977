//! Which byte ranges of a file system are in use?
//!
//! The answer may name too much, never too little: where a checksum does not hold, a bitmap cannot be
//! read or the geometry is absurd, the bytes concerned count as used and a finding says why. What lies
//! before the first block and behind the last one counts as used too: boot loaders and RAID
//! superblocks live there.
//!
//! Memory stays flat whatever the size of the disk: ranges are made group by group as they are asked
//! for.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use block_io::{BlockErrorKind, BlockRead, Result};

use crate::probe::FsKind;

/// Used ranges in bytes, in order, neighbours joined, none empty.
pub type UsedRanges<'a> = Box<dyn Iterator<Item = Result<Range<u64>>> + Send + 'a>;

/// Most findings that are kept; a damaged disk has the same to say about every group.
const MOST_FINDINGS: usize = 100;

/// What was noticed on the way: why more counts as used than the file system says. Cheap to clone;
/// clones share the list.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<Vec<String>>>);

impl Findings {
    /// The findings so far.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn note(&self, finding: impl Into<String>) {
        let mut list = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match list.len() {
            0..MOST_FINDINGS => list.push(finding.into()),
            MOST_FINDINGS => list.push("more findings are not listed".to_owned()),
            _ => {}
        }
    }
}

/// The used ranges of `disk`, which holds `kind` (see [`crate::probe`]); `None` when nothing is known
/// about which blocks of that kind are used, so that all must count as used.
///
/// # Errors
/// When the disk fails. Damage of the file system is no error: it makes ranges used.
pub fn used_ranges(disk: &dyn BlockRead, kind: FsKind) -> Result<Option<UsedRanges<'_>>> {
    used_ranges_noting(disk, kind, &Findings::default())
}

/// As [`used_ranges`], with findings put into `findings`, also while the ranges are iterated.
///
/// # Errors
/// As [`used_ranges`].
pub fn used_ranges_noting<'a>(
    disk: &'a dyn BlockRead,
    kind: FsKind,
    findings: &Findings,
) -> Result<Option<UsedRanges<'a>>> {
    match kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => {
            crate::ext::used::used_ranges(disk, findings).map(Some)
        }
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => {
            crate::fat::used::used_ranges(disk, findings).map(Some)
        }
        FsKind::Xfs => crate::xfs::used::used_ranges(disk, findings).map(Some),
        FsKind::Ntfs => crate::ntfs::used::used_ranges(disk, findings).map(Some),
        FsKind::ExFat => crate::exfat::used_ranges(disk, findings).map(Some),
        FsKind::Btrfs => crate::btrfs::used::used_ranges(disk, findings).map(Some),
        FsKind::Swap => crate::swap::used_ranges(disk, findings).map(Some),
        _ => Ok(None),
    }
}

/// The whole disk as one used range.
pub(crate) fn all(disk: &dyn BlockRead) -> UsedRanges<'static> {
    let size = disk.size();
    Box::new((size > 0).then_some(Ok(0..size)).into_iter())
}

/// As [`all`], noting `why` the file system's own word is not taken.
pub(crate) fn all_noting(
    disk: &dyn BlockRead,
    why: impl std::fmt::Display,
    findings: &Findings,
) -> UsedRanges<'static> {
    findings.note(format!("{why}; the whole file system counts as used"));
    all(disk)
}

/// Ranges made batch by batch: `make` puts some into the queue and says whether there is more to come.
pub(crate) struct Batched<F> {
    make: F,
    ready: VecDeque<Range<u64>>,
    done: bool,
}

impl<F: FnMut(&mut VecDeque<Range<u64>>) -> Result<bool>> Batched<F> {
    pub(crate) fn new(make: F) -> Self {
        Self {
            make,
            ready: VecDeque::new(),
            done: false,
        }
    }
}

impl<F: FnMut(&mut VecDeque<Range<u64>>) -> Result<bool>> Iterator for Batched<F> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(range) = self.ready.pop_front() {
                return Some(Ok(range));
            }
            if self.done {
                return None;
            }
            match (self.make)(&mut self.ready) {
                Ok(more) => self.done = !more,
                Err(error) => {
                    self.done = true;
                    self.ready.clear();
                    return Some(Err(error));
                }
            }
        }
    }
}

/// Read `buf.len()` bytes; false, with a finding about `what`, where the medium cannot give them.
pub(crate) fn read_or_note(
    disk: &dyn BlockRead,
    offset: u64,
    buf: &mut [u8],
    what: &str,
    findings: &Findings,
) -> Result<bool> {
    match disk.read_at(offset, buf) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            BlockErrorKind::Unreadable | BlockErrorKind::OutOfBounds => {
                findings.note(format!("{what}: {error}"));
                Ok(false)
            }
            _ => Err(error),
        },
    }
}

/// Join neighbouring and overlapping ranges of an iterator whose ranges start in order.
pub(crate) struct Joined<I> {
    inner: I,
    waiting: Option<Range<u64>>,
    failed: bool,
}

impl<I> Joined<I> {
    pub(crate) fn new(inner: I) -> Self {
        Self {
            inner,
            waiting: None,
            failed: false,
        }
    }
}

impl<I: Iterator<Item = Result<Range<u64>>>> Iterator for Joined<I> {
    type Item = Result<Range<u64>>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let next = match self.inner.next() {
                Some(Ok(range)) => range,
                Some(Err(error)) => {
                    self.failed = true;
                    return Some(Err(error));
                }
                None => break,
            };
            if next.is_empty() {
                continue;
            }
            match &mut self.waiting {
                Some(waiting) if next.start <= waiting.end => {
                    waiting.end = waiting.end.max(next.end);
                }
                _ => {
                    if let Some(done) = self.waiting.replace(next) {
                        return Some(Ok(done));
                    }
                }
            }
        }
        self.waiting.take().filter(|_| !self.failed).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_an_error_ends_the_ranges() {
        let ranges = [0..2, 2..4, 3..5, 7..7, 7..9].map(Ok);
        let joined: Vec<_> = Joined::new(ranges.into_iter())
            .map(|r| r.unwrap())
            .collect();
        assert_eq!(joined, [0..5, 7..9]);
        let error = || block_io::BlockError::new(block_io::BlockErrorKind::Io, 0, 0);
        let mut joined = Joined::new([Ok(0..2), Err(error()), Ok(5..6)].into_iter());
        assert!(joined.next().unwrap().is_err());
        assert!(joined.next().is_none());
    }
}
