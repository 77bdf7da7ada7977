//! Extents: runs of a disk that hold data, hold zeroes, or might hold either.

use std::ops::Range;

use crate::{BlockRead, Result};

/// What a run of bytes holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExtentKind {
    /// Bytes that must be read.
    Data,
    /// Reads as zeroes; need not be read, copied or stored.
    Zero,
    /// Not known without reading.
    Unknown,
}

/// A run of bytes of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Extent {
    /// What the run holds.
    pub kind: ExtentKind,
    /// Where it starts, in bytes.
    pub start: u64,
    /// How long it is, in bytes. Never 0.
    pub len: u64,
}

impl Extent {
    /// The bytes it covers.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    /// The first byte after it.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.len)
    }

    /// The same run, not reaching past `end`, which must lie after its start.
    #[must_use]
    pub fn clipped_to(mut self, end: u64) -> Self {
        self.len = self.len.min(end.saturating_sub(self.start));
        self
    }
}

/// Iterator over the extents of a range; see [`crate::extents`].
#[derive(Debug)]
pub struct Extents<'a, R: ?Sized> {
    disk: &'a R,
    next: u64,
    end: u64,
}

impl<'a, R: BlockRead + ?Sized> Extents<'a, R> {
    pub(crate) fn new(disk: &'a R, range: Range<u64>) -> Self {
        Self {
            disk,
            next: range.start,
            end: range.end.min(disk.size()),
        }
    }

    fn single(&self, offset: u64) -> Result<Extent> {
        Ok(self.disk.extent_at(offset)?.clipped_to(self.end))
    }
}

impl<R: BlockRead + ?Sized> Iterator for Extents<'_, R> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next >= self.end {
            return None;
        }
        let mut joined = match self.single(self.next) {
            Ok(extent) => extent,
            Err(error) => {
                self.next = self.end;
                return Some(Err(error));
            }
        };
        while joined.end() < self.end {
            match self.single(joined.end()) {
                Ok(more) if more.kind == joined.kind && more.len > 0 => joined.len += more.len,
                // An error is met again, and reported, by the next call.
                _ => break,
            }
        }
        self.next = if joined.len == 0 {
            self.end
        } else {
            joined.end()
        };
        Some(Ok(joined))
    }
}
