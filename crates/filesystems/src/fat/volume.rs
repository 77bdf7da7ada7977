//! The table and sectors of an open FAT file system: read in blocks, changed in transactions.
//!
//! A change is a set of sectors that waits in memory until the operation has succeeded. Contents of
//! files wait as references to the caller's bytes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite};

use super::format::{Cluster, Geometry, Link, Width};
use crate::bytes::{le32, put, slice};
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Bytes read at once, and most such blocks kept.
const BLOCK: u64 = 16 << 10;
const MOST_BLOCKS: usize = 512;

pub(crate) fn corrupt(detail: impl Into<String>) -> TreeError {
    TreeError::of(TreeErrorKind::Corrupt, detail)
}

/// Bytes of a file to be written when the transaction ends.
#[derive(Debug, Clone)]
pub(crate) enum Contents {
    /// A part of the bytes the operation was given.
    Given { at: u64, from: Range<usize> },
    /// Zeroes.
    Zeroes { at: u64, len: u64 },
}

/// Which clusters are free; known only when opened for writing.
struct Free {
    /// A set bit is a used cluster.
    used: Vec<u64>,
    count: u64,
    /// Where to look next.
    hint: Cluster,
    /// What the transaction changed, to be undone: the cluster, and whether it was used before.
    undo: Vec<(Cluster, bool)>,
}

impl Free {
    fn is_used(&self, cluster: Cluster) -> bool {
        let word = self.used.get(cluster as usize / 64).copied();
        word.is_none_or(|word| word >> (cluster % 64) & 1 != 0)
    }

    fn set(&mut self, cluster: Cluster, used: bool) {
        if let Some(word) = self.used.get_mut(cluster as usize / 64) {
            let bit = 1 << (cluster % 64);
            let was = *word & bit != 0;
            *word = if used { *word | bit } else { *word & !bit };
            match (was, used) {
                (false, true) => self.count -= 1,
                (true, false) => self.count += 1,
                _ => {}
            }
        }
    }
}

pub(crate) struct Volume<D> {
    pub(crate) disk: D,
    pub(crate) geometry: Geometry,
    clean: RefCell<HashMap<u64, Arc<Vec<u8>>>>,
    /// Changed sectors, by the offset they begin at.
    pending: BTreeMap<u64, Vec<u8>>,
    contents: Vec<Contents>,
    free: Option<Free>,
    /// Where the last walk along a chain ended: its first cluster, steps, cluster.
    walked: Cell<Option<(Cluster, u64, Cluster)>>,
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn open(disk: D) -> Result<Self> {
        let mut boot = [0; 512];
        disk.read_at(0, &mut boot)?;
        let geometry =
            Geometry::parse(&boot).map_err(|why| corrupt(format!("FAT boot sector: {why}")))?;
        if geometry.sectors * geometry.sector > disk.size() {
            return Err(corrupt(format!(
                "FAT boot sector: expected at most {} sectors, found {}",
                disk.size() / geometry.sector,
                geometry.sectors
            )));
        }
        if geometry
            .active
            .is_some_and(|active| active >= geometry.fats)
        {
            return Err(corrupt("FAT boot sector: the active table is not there"));
        }
        Ok(Self {
            disk,
            geometry,
            clean: RefCell::default(),
            pending: BTreeMap::new(),
            contents: Vec::new(),
            free: None,
            walked: Cell::new(None),
        })
    }

    /// Bytes of the table or of a directory, with what the transaction changed.
    pub(crate) fn read(&self, mut offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let sector = self.geometry.sector;
        while !buf.is_empty() {
            let start = offset / sector * sector;
            let within = (offset - start) as usize;
            let len = buf.len().min(sector as usize - within);
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            match self.pending.get(&start) {
                Some(bytes) => put(head, 0, slice(bytes, within, len)),
                None => self.read_clean(offset, head)?,
            }
            offset += len as u64;
            buf = tail;
        }
        Ok(())
    }

    /// Bytes within one sector.
    fn read_clean(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let start = offset / BLOCK * BLOCK;
        let mut clean = self.clean.borrow_mut();
        if !clean.contains_key(&start) {
            if clean.len() >= MOST_BLOCKS {
                clean.clear();
            }
            let end = (start + BLOCK).min(self.disk.size()).max(start);
            let mut bytes = vec![0; (end - start) as usize];
            self.disk.read_at(start, &mut bytes)?;
            clean.insert(start, Arc::new(bytes));
        }
        let bytes = clean.get(&start).map(Arc::clone).unwrap_or_default();
        let wanted = slice(&bytes, (offset - start) as usize, buf.len());
        if wanted.len() != buf.len() {
            return Err(corrupt(format!(
                "bytes at {offset}: expected inside the disk"
            )));
        }
        buf.copy_from_slice(wanted);
        Ok(())
    }

    /// The raw number the table has for `cluster`.
    fn entry(&self, cluster: Cluster) -> Result<u32> {
        let (at, len) = self.geometry.entry_place(cluster);
        let table = self.geometry.active.unwrap_or(0) * self.geometry.fat_len;
        let mut raw = [0; 4];
        let (touched, _) = raw.split_at_mut(len);
        self.read(self.geometry.fat_start + table + at, touched)?;
        Ok(self.geometry.entry_value(cluster, raw))
    }

    /// What follows `cluster` in its chain.
    pub(crate) fn link(&self, cluster: Cluster) -> Result<Link> {
        if !self.geometry.has(cluster) {
            return Err(corrupt(format!(
                "cluster: expected 2 to {}, found {cluster}",
                self.geometry.clusters + 1
            )));
        }
        let value = self.entry(cluster)?;
        self.geometry.link(value).ok_or_else(|| {
            corrupt(format!(
                "FAT entry of cluster {cluster}: expected 2 to {}, found {value}",
                self.geometry.clusters + 1
            ))
        })
    }

    /// The clusters of a chain, at most `most` of them: more are an error, as is a chain into free
    /// space.
    pub(crate) fn chain(&self, first: Cluster, most: u64) -> Result<Vec<Cluster>> {
        let mut chain = Vec::new();
        let mut at = first;
        loop {
            if chain.len() as u64 >= most {
                return Err(corrupt(format!(
                    "chain from cluster {first}: longer than {most} clusters"
                )));
            }
            chain.push(at);
            match self.link(at)? {
                Link::Next(next) => at = next,
                Link::End => return Ok(chain),
                Link::Free => return Err(leads_into_free(first, at)),
            }
        }
    }

    /// Cluster number `index` of a chain; `None` behind its end. Reading onwards from the last one asked
    /// for takes a step, not a walk.
    pub(crate) fn nth(&self, first: Cluster, index: u64) -> Result<Option<Cluster>> {
        let (mut step, mut at) = match self.walked.get() {
            Some((of, step, at)) if of == first && step <= index => (step, at),
            _ => (0, first),
        };
        while step < index {
            match self.link(at)? {
                Link::Next(next) => at = next,
                Link::End => return Ok(None),
                Link::Free => return Err(leads_into_free(first, at)),
            }
            step += 1;
        }
        // Says that the cluster is there.
        self.link(at)?;
        self.walked.set(Some((first, step, at)));
        Ok(Some(at))
    }

    pub(crate) fn free_clusters(&self) -> Result<u64> {
        if let Some(free) = &self.free {
            return Ok(free.count);
        }
        Ok(self.survey(false)?.count)
    }

    /// Read the table once: which clusters are free.
    fn survey(&self, compare: bool) -> Result<Free> {
        let geometry = &self.geometry;
        let entries = geometry.clusters + 2;
        let mut free = Free {
            used: vec![u64::MAX; entries.div_ceil(64) as usize],
            count: 0,
            hint: 2,
            undo: Vec::new(),
        };
        let mut last = None;
        for cluster in 2..entries as Cluster {
            let (at, _) = geometry.entry_place(cluster);
            let block = at / BLOCK;
            if compare && last != Some(block) {
                last = Some(block);
                self.compare_copies(block * BLOCK)?;
            }
            if self.entry(cluster)? == 0 {
                free.set(cluster, false);
            }
        }
        Ok(free)
    }

    /// A volume is written only where its tables agree.
    fn compare_copies(&self, at: u64) -> Result<()> {
        let geometry = &self.geometry;
        if geometry.active.is_some() || geometry.fats < 2 {
            return Ok(());
        }
        let len = BLOCK.min(geometry.fat_len.saturating_sub(at)) as usize;
        let (mut first, mut second) = (vec![0; len], vec![0; len]);
        self.disk.read_at(geometry.fat_start + at, &mut first)?;
        self.disk
            .read_at(geometry.fat_start + geometry.fat_len + at, &mut second)?;
        if first != second {
            return Err(corrupt(format!(
                "the two copies of the FAT differ behind byte {at}; let fsck.vfat choose on the source"
            )));
        }
        Ok(())
    }

    /// Whether the volume says it was not cleanly unmounted.
    ///
    /// Windows clears a bit of the second table entry while it is mounted (fatgen103
    /// "ClnShutBitMask"); Linux sets bit 0 of a byte of the boot sector.
    pub(crate) fn is_dirty(&self) -> Result<bool> {
        let mut boot = [0; 512];
        self.disk.read_at(0, &mut boot)?;
        let (state, clean) = match self.geometry.width {
            Width::Fat12 => (0x25, true),
            Width::Fat16 => (0x25, self.entry(1)? & 0x8000 != 0),
            Width::Fat32 => (0x41, self.entry(1)? & 0x0800_0000 != 0),
        };
        Ok(crate::bytes::u8_at(&boot, state) & 1 != 0 || !clean)
    }
}

fn leads_into_free(first: Cluster, at: Cluster) -> TreeError {
    corrupt(format!(
        "chain from cluster {first}: cluster {at} is marked free"
    ))
}

impl<D: BlockRead> Volume<D> {
    /// Find out what is free: from here on the volume can be changed.
    pub(crate) fn prepare_writing(&mut self) -> Result<()> {
        self.free = Some(self.survey(true)?);
        Ok(())
    }

    /// Change bytes of the table or of a directory, as part of the transaction.
    pub(crate) fn edit(&mut self, mut offset: u64, mut bytes: &[u8]) -> Result<()> {
        let sector = self.geometry.sector;
        while !bytes.is_empty() {
            let start = offset / sector * sector;
            let within = (offset - start) as usize;
            let (head, tail) = bytes.split_at(bytes.len().min(sector as usize - within));
            if !self.pending.contains_key(&start) {
                let mut whole = vec![0; sector as usize];
                self.read_clean(start, &mut whole)?;
                self.pending.insert(start, whole);
            }
            if let Some(whole) = self.pending.get_mut(&start) {
                put(whole, within, head);
            }
            offset += head.len() as u64;
            bytes = tail;
        }
        Ok(())
    }

    fn set_entry(&mut self, cluster: Cluster, value: u32) -> Result<()> {
        let (at, len) = self.geometry.entry_place(cluster);
        let tables = match self.geometry.active {
            Some(active) => active..active + 1,
            None => 0..self.geometry.fats,
        };
        for table in tables {
            let place = self.geometry.fat_start + table * self.geometry.fat_len + at;
            let mut raw = [0; 4];
            let (touched, _) = raw.split_at_mut(len);
            self.read(place, touched)?;
            let raw = self.geometry.entry_with(cluster, raw, value);
            self.edit(place, slice(&raw, 0, len))?;
        }
        self.walked.set(None);
        Ok(())
    }

    /// Take `count` free clusters and make them a chain behind `after`, or a new one. Neighbours are
    /// preferred.
    pub(crate) fn extend(&mut self, after: Option<Cluster>, count: u64) -> Result<Vec<Cluster>> {
        let clusters = self.geometry.clusters;
        let Some(free) = &mut self.free else {
            return Err(TreeError::of(
                TreeErrorKind::Unsupported,
                "writing: opened for reading only",
            ));
        };
        if count > free.count {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                format!("{count} clusters needed, {} are free", free.count),
            ));
        }
        let mut taken = Vec::with_capacity(count as usize);
        let mut at = after.map_or(free.hint, |after| after + 1);
        let mut looked = 0;
        while (taken.len() as u64) < count && looked <= clusters {
            if u64::from(at) >= clusters + 2 || at < 2 {
                at = 2;
            }
            if !free.is_used(at) {
                free.set(at, true);
                free.undo.push((at, false));
                taken.push(at);
            }
            at += 1;
            looked += 1;
        }
        free.hint = at;
        if (taken.len() as u64) < count {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "fewer free clusters than counted",
            ));
        }
        let mut before = after;
        for cluster in &taken {
            if let Some(before) = before {
                self.set_entry(before, *cluster)?;
            }
            before = Some(*cluster);
        }
        if let (Some(last), false) = (before, taken.is_empty()) {
            self.set_entry(last, self.geometry.end_mark())?;
        }
        Ok(taken)
    }

    /// Make `last` the end of its chain.
    pub(crate) fn end_chain(&mut self, last: Cluster) -> Result<()> {
        self.set_entry(last, self.geometry.end_mark())
    }

    /// Give the clusters back.
    pub(crate) fn release(&mut self, clusters: &[Cluster]) -> Result<()> {
        for cluster in clusters {
            self.set_entry(*cluster, 0)?;
            if let Some(free) = &mut self.free {
                free.undo.push((*cluster, true));
                free.set(*cluster, false);
            }
        }
        Ok(())
    }

    /// Write these contents when the transaction ends.
    pub(crate) fn queue(&mut self, contents: Contents) {
        self.contents.push(contents);
    }

    /// Drop what waits: the disk stays as it was when the transaction began.
    pub(crate) fn roll_back(&mut self) {
        self.pending.clear();
        self.contents.clear();
        self.walked.set(None);
        if let Some(free) = &mut self.free {
            for (cluster, used) in std::mem::take(&mut free.undo).into_iter().rev() {
                free.set(cluster, used);
            }
        }
    }

    /// Put the number of free clusters into the summary of FAT32. // fatgen103 "FSInfo"
    fn update_summary(&mut self) -> Result<()> {
        let (Some(at), Some(free)) = (self.geometry.fs_info, &self.free) else {
            return Ok(());
        };
        let (count, hint) = (free.count as u32, free.hint);
        let mut info = [0; 512];
        self.read(at, &mut info)?;
        if le32(&info, 0) == 0x4161_5252
            && le32(&info, 484) == 0x6141_7272
            && !self.pending.is_empty()
        {
            self.edit(at + 488, &count.to_le_bytes())?;
            self.edit(at + 492, &hint.to_le_bytes())?;
        }
        Ok(())
    }
}

impl<D: BlockWrite> Volume<D> {
    /// Write what waits; `given` are the bytes queued contents are parts of.
    pub(crate) fn commit(&mut self, given: &[u8]) -> Result<()> {
        self.update_summary()?;
        if let Some(free) = &mut self.free {
            free.undo.clear();
        }
        // Contents first: a table that names clusters names written ones.
        for contents in std::mem::take(&mut self.contents) {
            match contents {
                Contents::Given { at, from } => {
                    self.disk
                        .write_at(at, given.get(from).unwrap_or_default())?;
                }
                Contents::Zeroes { at, len } => self.write_zeroes(at, len)?,
            }
        }
        for (at, bytes) in std::mem::take(&mut self.pending) {
            self.disk.write_at(at, &bytes)?;
        }
        self.clean.borrow_mut().clear();
        Ok(())
    }

    fn write_zeroes(&self, mut at: u64, mut len: u64) -> Result<()> {
        let zeroes = vec![0; len.min(1 << 20) as usize];
        while len > 0 {
            let part = slice(&zeroes, 0, len.min(1 << 20) as usize);
            self.disk.write_at(at, part)?;
            at += part.len() as u64;
            len -= part.len() as u64;
        }
        Ok(())
    }
}
