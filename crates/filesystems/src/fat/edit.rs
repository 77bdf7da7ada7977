//! Changes: files and directories made, written, renamed and removed. Each is one transaction.

use std::collections::HashSet;

use block_io::BlockRead;

use super::dir::{Dir, DirPlace, Entry};
use super::format::{
    ARCHIVE, Cluster, DIRECTORY, ENTRY_LEN, READ_ONLY, REMOVED, ShortEntry, long_entries,
    name_checksum,
};
use super::names::{short_name, units_of};
use super::tree::Found;
use super::volume::{Contents, Volume, corrupt};
use crate::bytes::u8_at;
use crate::path::GuestPath;
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Most bytes of a file: its size has 32 bits.
const MOST_SIZE: u64 = u32::MAX as u64;
/// Most slots of a directory.
const MOST_SLOTS: usize = 65_536;

impl<D: BlockRead> Volume<D> {
    /// Give the file `size` bytes that the caller hands over, or make it new with them.
    pub(crate) fn write_file(&mut self, path: &GuestPath, size: u64, mtime: i64) -> Result<()> {
        let (mut short, at) = match self.look_up(path) {
            Ok(Found::Entry { entry, at, .. }) if !entry.short.is_dir() => (entry.short, at),
            Ok(_) => return Err(TreeError::new(TreeErrorKind::NotAFile, path)),
            Err(error) if error.kind() == TreeErrorKind::NotFound => {
                self.add_entry(path, ARCHIVE, mtime)?
            }
            Err(error) => return Err(error),
        };
        check_size(path, size)?;
        let first = short.first(self.geometry.width);
        if first != 0 {
            let old = self.file_chain(first)?;
            self.release(&old)?;
        }
        let clusters = self.extend(None, size.div_ceil(self.geometry.cluster))?;
        self.queue_given(&clusters, 0, size as usize);
        short.set_first(clusters.first().copied().unwrap_or(0), self.geometry.width);
        short.set_size(size as u32);
        short.set_mtime(mtime);
        short.set_attributes(short.attributes() | ARCHIVE);
        self.edit(at, &short.raw)
    }

    /// Write `len` bytes the caller hands over at `offset` of an existing file.
    pub(crate) fn write_part(&mut self, path: &GuestPath, offset: u64, len: usize) -> Result<()> {
        let end = offset.saturating_add(len as u64);
        check_size(path, end)?;
        let (short, at) = self.regular(path)?;
        let size = u64::from(short.size());
        let clusters = self.resize(short, at, size.max(end))?;
        if size < offset {
            self.queue_zeroes(&clusters, size, offset);
        }
        self.queue_given(&clusters, offset, len);
        Ok(())
    }

    pub(crate) fn truncate(&mut self, path: &GuestPath, size: u64) -> Result<()> {
        check_size(path, size)?;
        let (short, at) = self.regular(path)?;
        let before = u64::from(short.size());
        let clusters = self.resize(short, at, size)?;
        self.queue_zeroes(&clusters, before, size);
        Ok(())
    }

    fn regular(&self, path: &GuestPath) -> Result<(ShortEntry, u64)> {
        match self.look_up(path)? {
            Found::Entry { entry, at, .. } if !entry.short.is_dir() => Ok((entry.short, at)),
            _ => Err(TreeError::new(TreeErrorKind::NotAFile, path)),
        }
    }

    /// All clusters of a file; a chain that is a circle is longer than the longest file.
    fn file_chain(&self, first: Cluster) -> Result<Vec<Cluster>> {
        let longest = MOST_SIZE.div_ceil(self.geometry.cluster);
        self.chain(first, longest.min(self.geometry.clusters))
    }

    /// Make the chain of a file as long as `size` needs, and say so in its entry. Its clusters.
    fn resize(&mut self, mut short: ShortEntry, at: u64, size: u64) -> Result<Vec<Cluster>> {
        let width = self.geometry.width;
        let needed = size.div_ceil(self.geometry.cluster) as usize;
        let mut clusters = match short.first(width) {
            0 => Vec::new(),
            first => self.file_chain(first)?,
        };
        if (clusters.len() as u64) * self.geometry.cluster < u64::from(short.size()) {
            return Err(corrupt(format!(
                "chain: expected {} bytes, found {} clusters",
                short.size(),
                clusters.len()
            )));
        }
        if needed < clusters.len() {
            let rest = clusters.split_off(needed);
            self.release(&rest)?;
            if let Some(last) = clusters.last() {
                self.end_chain(*last)?;
            }
        } else {
            let more = self.extend(clusters.last().copied(), (needed - clusters.len()) as u64)?;
            clusters.extend(more);
        }
        short.set_first(clusters.first().copied().unwrap_or(0), width);
        short.set_size(size as u32);
        self.edit(at, &short.raw)?;
        Ok(clusters)
    }

    /// Queue the caller's `len` bytes for `offset` of a file with these clusters.
    fn queue_given(&mut self, clusters: &[Cluster], offset: u64, len: usize) {
        for (at, part) in self.pieces(clusters, offset..offset + len as u64) {
            let from = (part.start - offset) as usize..(part.end - offset) as usize;
            self.queue(Contents::Given { at, from });
        }
    }

    fn queue_zeroes(&mut self, clusters: &[Cluster], from: u64, to: u64) {
        for (at, part) in self.pieces(clusters, from..to) {
            self.queue(Contents::Zeroes {
                at,
                len: part.end - part.start,
            });
        }
    }

    /// Where the bytes `range` of a file lie on the disk, cluster by cluster, neighbours joined.
    fn pieces(
        &self,
        clusters: &[Cluster],
        range: std::ops::Range<u64>,
    ) -> Vec<(u64, std::ops::Range<u64>)> {
        let size = self.geometry.cluster;
        let mut pieces: Vec<(u64, std::ops::Range<u64>)> = Vec::new();
        let mut at = range.start;
        while at < range.end {
            let Some(cluster) = clusters.get((at / size) as usize) else {
                break;
            };
            let end = ((at / size + 1) * size).min(range.end);
            let place = self.geometry.start_of(*cluster) + at % size;
            match pieces.last_mut() {
                Some((start, part)) if *start + (part.end - part.start) == place => part.end = end,
                _ => pieces.push((place, at..end)),
            }
            at = end;
        }
        pieces
    }

    pub(crate) fn create_dir(&mut self, path: &GuestPath, mtime: i64) -> Result<()> {
        if !matches!(self.look_up(path), Err(e) if e.kind() == TreeErrorKind::NotFound) {
            self.look_up(path)?;
            return Err(TreeError::new(TreeErrorKind::Exists, path));
        }
        let (mut short, at) = self.add_entry(path, DIRECTORY, mtime)?;
        let clusters = self.extend(None, 1)?;
        let first = clusters.first().copied().unwrap_or(0);
        short.set_first(first, self.geometry.width);
        self.edit(at, &short.raw)?;
        self.clear_cluster(first)?;
        let parent = self.parent_place(path)?;
        for (slot, name, of) in [
            (0, *b".          ", first),
            (1, *b"..         ", self.dot_dot(parent)),
        ] {
            let mut dot = ShortEntry::new(name, DIRECTORY, mtime);
            dot.set_first(of, self.geometry.width);
            let start = self.geometry.start_of(first);
            self.edit(start + slot * ENTRY_LEN as u64, &dot.raw)?;
        }
        Ok(())
    }

    /// What `..` of a directory in `parent` says: 0 where that is the root, also on FAT32.
    fn dot_dot(&self, parent: DirPlace) -> Cluster {
        match parent {
            DirPlace::Chain(first) if parent != self.root_dir() => first,
            _ => 0,
        }
    }

    fn parent_place(&self, path: &GuestPath) -> Result<DirPlace> {
        let parent = path.parent().unwrap_or_default();
        self.place_of(&self.look_up(&parent)?, &parent)
    }

    fn clear_cluster(&mut self, cluster: Cluster) -> Result<()> {
        let zeroes = vec![0; self.geometry.cluster as usize];
        self.edit(self.geometry.start_of(cluster), &zeroes)
    }

    /// Make an entry for `path` in its directory. The short entry, and where it lies.
    fn add_entry(
        &mut self,
        path: &GuestPath,
        attributes: u8,
        mtime: i64,
    ) -> Result<(ShortEntry, u64)> {
        self.add_named(path, &ShortEntry::new([b' '; 11], attributes, mtime))
    }

    /// As [`Volume::add_entry`], with all of `like` but its name.
    fn add_named(&mut self, path: &GuestPath, like: &ShortEntry) -> Result<(ShortEntry, u64)> {
        let name = path.file_name().unwrap_or_default();
        let bad_name = || TreeError::new(TreeErrorKind::BadName, path);
        let units = units_of(name).ok_or_else(bad_name)?;
        let place = self.parent_place(path)?;
        let mut dir = self.dir(place)?;
        let taken: HashSet<[u8; 11]> = dir.entries.iter().map(|e| e.short.name()).collect();
        let (short_name, whole) = short_name(name, &taken).ok_or_else(bad_name)?;
        let mut short = like.clone();
        crate::bytes::put(&mut short.raw, 0, &short_name);
        crate::bytes::put(&mut short.raw, 12, &[0]);
        let mut slots = match whole {
            true => Vec::new(),
            false => long_entries(&units, name_checksum(&short_name)),
        };
        slots.push(short.raw);
        let first = self.free_slots(&mut dir, slots.len())?;
        let mut at = 0;
        for (n, bytes) in slots.iter().enumerate() {
            at = dir
                .slot_at(self, first + n)
                .ok_or_else(|| corrupt("directory shorter than its slots").on(path))?;
            self.edit(at, bytes)?;
        }
        Ok((short, at))
    }

    /// The first of `count` neighbouring free slots; the directory grows where there are none.
    fn free_slots(&mut self, dir: &mut Dir, count: usize) -> Result<usize> {
        let total = dir.raw.len() / ENTRY_LEN;
        let mut run = 0;
        let mut ended = false;
        for slot in 0..total {
            let first = u8_at(&dir.raw, slot * ENTRY_LEN);
            ended |= first == 0;
            run = if ended || first == REMOVED {
                run + 1
            } else {
                0
            };
            if run == count {
                self.end_behind(dir, slot + 1, ended, total)?;
                return Ok(slot + 1 - count);
            }
        }
        if dir.place == DirPlace::Fixed || total + count > MOST_SLOTS {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "the directory is full",
            ));
        }
        let needed = ((count - run) * ENTRY_LEN).div_ceil(self.geometry.cluster as usize);
        let new = self.extend(dir.clusters.last().copied(), needed as u64)?;
        for cluster in &new {
            self.clear_cluster(*cluster)?;
        }
        dir.clusters.extend(new);
        Ok(total - run)
    }

    /// Slots behind the end mark may hold anything: the mark moves along.
    fn end_behind(&mut self, dir: &Dir, slot: usize, ended: bool, total: usize) -> Result<()> {
        if ended
            && slot < total
            && u8_at(&dir.raw, slot * ENTRY_LEN) != 0
            && let Some(at) = dir.slot_at(self, slot)
        {
            self.edit(at, &[0; ENTRY_LEN])?;
        }
        Ok(())
    }

    /// Mark all slots of an entry as removed; its clusters stay.
    fn remove_entry(&mut self, parent: DirPlace, entry: &Entry) -> Result<()> {
        let dir = self.dir(parent)?;
        for slot in entry.slots.clone() {
            if let Some(at) = dir.slot_at(self, slot) {
                self.edit(at, &[REMOVED])?;
            }
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &GuestPath) -> Result<()> {
        let Found::Entry { parent, entry, .. } = self.look_up(path)? else {
            return Err(TreeError::new(TreeErrorKind::Unsupported, path).detail("it is the root"));
        };
        if entry.short.is_dir() && !self.dir(self.dir_of(&entry)?)?.entries.is_empty() {
            return Err(TreeError::new(TreeErrorKind::NotEmpty, path));
        }
        self.remove_found(parent, &entry)
    }

    fn remove_found(&mut self, parent: DirPlace, entry: &Entry) -> Result<()> {
        self.remove_entry(parent, entry)?;
        match entry.short.first(self.geometry.width) {
            0 => Ok(()),
            first => {
                let chain = self.file_chain(first)?;
                self.release(&chain)
            }
        }
    }

    pub(crate) fn rename(&mut self, from: &GuestPath, to: &GuestPath) -> Result<()> {
        let Found::Entry { parent, entry, at } = self.look_up(from)? else {
            return Err(TreeError::new(TreeErrorKind::Unsupported, from).detail("it is the root"));
        };
        let is_dir = entry.short.is_dir();
        if is_dir
            && to
                .strip_prefix(from)
                .is_some_and(|rest| rest != GuestPath::root())
        {
            return Err(TreeError::new(TreeErrorKind::BadName, to).detail("it lies in itself"));
        }
        match self.look_up(to) {
            // The same file by another case, or by its short name.
            Ok(Found::Entry { at: other, .. }) if other == at => {}
            Ok(Found::Entry { entry: old, .. }) if old.short.is_dir() || is_dir => {
                return Err(TreeError::new(TreeErrorKind::Exists, to));
            }
            Ok(Found::Entry { parent, entry, .. }) => self.remove_found(parent, &entry)?,
            Ok(Found::Root) => return Err(TreeError::new(TreeErrorKind::Exists, to)),
            Err(error) if error.kind() == TreeErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        self.remove_entry(parent, &entry)?;
        // With its entry gone, nothing below it is found: a directory cannot be moved into itself.
        let new_parent = self.parent_place(to)?;
        self.add_named(to, &entry.short)?;
        if is_dir && new_parent != parent {
            let first = entry.short.first(self.geometry.width);
            let place = self.geometry.start_of(first) + ENTRY_LEN as u64;
            let mut raw = [0; ENTRY_LEN];
            self.read(place, &mut raw)?;
            let mut dot_dot = ShortEntry { raw };
            if !dot_dot.name().starts_with(b"..") {
                return Err(corrupt("second entry: expected \"..\"").on(from));
            }
            dot_dot.set_first(self.dot_dot(new_parent), self.geometry.width);
            self.edit(place, &dot_dot.raw)?;
        }
        Ok(())
    }

    pub(crate) fn set_read_only(&mut self, path: &GuestPath, read_only: bool) -> Result<()> {
        let Found::Entry { mut entry, at, .. } = self.look_up(path)? else {
            return Ok(());
        };
        let others = entry.short.attributes() & !READ_ONLY;
        entry
            .short
            .set_attributes(others | if read_only { READ_ONLY } else { 0 });
        self.edit(at, &entry.short.raw)
    }
}

fn check_size(path: &GuestPath, size: u64) -> Result<()> {
    if size > MOST_SIZE {
        return Err(TreeError::new(TreeErrorKind::TooLarge, path)
            .detail(format!("{size} bytes, FAT holds at most {MOST_SIZE}")));
    }
    Ok(())
}
