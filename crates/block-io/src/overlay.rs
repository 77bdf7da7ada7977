//! A copy-on-write overlay: edits live here, the disk below is never written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::{PoisonError, RwLock};

use crate::{
    BlockError, BlockRead, BlockWrite, Extent, ExtentKind, Result, SectorSize, check_range,
};

/// Edits are kept in pages of this size, aligned.
const PAGE: u64 = 4096;
/// Pages kept in memory (64 MiB); later ones go to an unnamed temporary file, so that memory does
/// not grow with the edits.
const PAGES_IN_MEMORY: usize = (64 << 20) / PAGE as usize;

/// A disk over another: reads see the edits, writes make them, the disk below stays as it is.
#[derive(Debug)]
pub struct Overlay<D> {
    below: D,
    pages: RwLock<Pages>,
}

/// A run of edited bytes, aligned to 4096 (the last one of a disk may be shorter).
pub type Edited = Range<u64>;

impl<D: BlockRead> Overlay<D> {
    /// An overlay without edits.
    pub fn new(below: D) -> Self {
        Self {
            below,
            pages: RwLock::default(),
        }
    }

    /// The disk below.
    pub fn below(&self) -> &D {
        &self.below
    }

    /// The edited runs in order, neighbours joined, rounded out to pages.
    #[must_use]
    pub fn edits(&self) -> Vec<Edited> {
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let mut runs: Vec<Edited> = Vec::new();
        for page in pages.slots.keys() {
            let run = page * PAGE..(page * PAGE + PAGE).min(self.below.size());
            match runs.last_mut() {
                Some(last) if last.end == run.start => last.end = run.end,
                _ => runs.push(run),
            }
        }
        runs
    }

    /// Undo every edit: the overlay reads as the disk below again.
    pub fn undo(&self) {
        *self.pages.write().unwrap_or_else(PoisonError::into_inner) = Pages::default();
    }

    /// Write page `index` of the merged view into `page`, from the edits or from below.
    fn load(&self, pages: &Pages, index: u64, page: &mut [u8]) -> Result<()> {
        match pages.slots.get(&index) {
            Some(slot) => pages.read(slot, page).map_err(|e| spill_error(e, index)),
            None => {
                let start = index * PAGE;
                let len = PAGE.min(self.below.size() - start) as usize;
                self.below.read_at(start, &mut page[..len])
            }
        }
    }
}

fn spill_error(error: io::Error, page: u64) -> BlockError {
    BlockError::from_io(error, page * PAGE, PAGE)
        .on("overlay")
        .detail("keeping edits in a temporary file; set TMPDIR to a place with more space")
}

/// The part of `offset..end` that lies on one page: its index, where on it, and how long.
fn on_page(offset: u64, end: u64) -> (u64, usize, usize) {
    let index = offset / PAGE;
    let start = offset % PAGE;
    let len = (PAGE - start).min(end - offset);
    (index, start as usize, len as usize)
}

impl<D: BlockRead> BlockRead for Overlay<D> {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn sector_size(&self) -> SectorSize {
        self.below.sector_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        check_range(self.size(), offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let touched = offset / PAGE..end.div_ceil(PAGE);
        // Read the runs between edited pages in one go, and the edited pages from the overlay.
        let mut at = offset;
        let mut page = [0; PAGE as usize];
        for (&index, slot) in pages.slots.range(touched) {
            let edited = index * PAGE;
            if at < edited {
                let gap = (at - offset) as usize..(edited - offset) as usize;
                self.below.read_at(at, &mut buf[gap])?;
                at = edited;
            }
            let (_, start, len) = on_page(at, end);
            pages
                .read(slot, &mut page)
                .map_err(|e| spill_error(e, index))?;
            let to = (at - offset) as usize;
            buf[to..to + len].copy_from_slice(&page[start..start + len]);
            at += len as u64;
        }
        if at < end {
            self.below.read_at(at, &mut buf[(at - offset) as usize..])?;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64) -> Result<Extent> {
        check_range(self.size(), offset, 1)?;
        let pages = self.pages.read().unwrap_or_else(PoisonError::into_inner);
        let index = offset / PAGE;
        match pages.slots.range(index..).next() {
            Some((&edited, _)) if edited == index => {
                let end = (index * PAGE + PAGE).min(self.size());
                Ok(Extent {
                    kind: ExtentKind::Data,
                    start: offset,
                    len: end - offset,
                })
            }
            Some((&edited, _)) => Ok(self.below.extent_at(offset)?.clipped_to(edited * PAGE)),
            None => self.below.extent_at(offset),
        }
    }
}

impl<D: BlockRead> BlockWrite for Overlay<D> {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        check_range(self.size(), offset, data.len() as u64)?;
        let end = offset + data.len() as u64;
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let mut page = [0; PAGE as usize];
        let mut at = offset;
        while at < end {
            let (index, start, len) = on_page(at, end);
            let whole = len as u64 == PAGE;
            if !whole {
                page.fill(0);
                self.load(&pages, index, &mut page)?;
            }
            let from = (at - offset) as usize;
            page[start..start + len].copy_from_slice(&data[from..from + len]);
            pages
                .store(index, &page)
                .map_err(|e| spill_error(e, index))?;
            at += len as u64;
        }
        Ok(())
    }

    /// Edits are kept in this process alone; there is nothing to make durable.
    fn flush(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
enum Slot {
    Memory(Box<[u8; PAGE as usize]>),
    Spilled { page: u64 },
}

#[derive(Debug, Default)]
struct Pages {
    slots: BTreeMap<u64, Slot>,
    in_memory: usize,
    spill: Option<File>,
    spilled: u64,
}

impl Pages {
    fn read(&self, slot: &Slot, page: &mut [u8]) -> io::Result<()> {
        match (slot, &self.spill) {
            (Slot::Memory(bytes), _) => page.copy_from_slice(&bytes[..]),
            (Slot::Spilled { page: at }, Some(file)) => file.read_exact_at(page, at * PAGE)?,
            (Slot::Spilled { .. }, None) => return Err(io::ErrorKind::NotFound.into()),
        }
        Ok(())
    }

    fn store(&mut self, index: u64, page: &[u8; PAGE as usize]) -> io::Result<()> {
        match self.slots.get_mut(&index) {
            Some(Slot::Memory(bytes)) => bytes.copy_from_slice(page),
            Some(&mut Slot::Spilled { page: at }) => {
                self.spill_file()?.write_all_at(page, at * PAGE)?;
            }
            None if self.in_memory < PAGES_IN_MEMORY => {
                self.slots.insert(index, Slot::Memory(Box::new(*page)));
                self.in_memory += 1;
            }
            None => {
                let at = self.spilled;
                self.spill_file()?.write_all_at(page, at * PAGE)?;
                self.spilled += 1;
                self.slots.insert(index, Slot::Spilled { page: at });
            }
        }
        Ok(())
    }

    fn spill_file(&mut self) -> io::Result<&File> {
        if self.spill.is_none() {
            self.spill = Some(tempfile::tempfile()?);
        }
        self.spill
            .as_ref()
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryDisk;

    #[test]
    fn edits_are_listed_joined_and_undone() {
        let overlay = Overlay::new(MemoryDisk::from(vec![7; 100_000]));
        overlay.write_at(4000, &[1; 200]).unwrap();
        overlay.write_at(99_999, &[1]).unwrap();
        assert_eq!(overlay.edits(), [0..8192, 98_304..100_000]);
        overlay.undo();
        assert!(overlay.edits().is_empty());
        let mut buf = [0; 200];
        overlay.read_at(4000, &mut buf).unwrap();
        assert_eq!(buf, [7; 200]);
    }

    #[test]
    fn edits_beyond_the_memory_budget_spill_and_read_back() {
        let size = (PAGES_IN_MEMORY + 64) * PAGE as usize;
        let overlay = Overlay::new(MemoryDisk::zeroed(size));
        let data: Vec<u8> = (0..size).map(|i| (i / 4096 % 255) as u8 + 1).collect();
        overlay.write_at(0, &data).unwrap();
        overlay.write_at(size as u64 - 100, &[9; 100]).unwrap();
        let mut back = vec![0; size];
        overlay.read_at(0, &mut back).unwrap();
        assert!(back[..size - 100] == data[..size - 100]);
        assert_eq!(back[size - 100..], [9; 100]);
    }
}
