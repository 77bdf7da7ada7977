//! Contents of files: writing, growing, cutting.

use std::ops::Range;

use block_io::BlockRead;

use super::extents::{Extent, MOST_BLOCKS};
use super::extents_edit::empty_root;
use super::feature;
use super::format::Block;
use super::inode::{Inode, flag};
use super::volume::{Contents, Volume};
use super::xattr::Entry;
use crate::bytes::put;
use crate::tree::{FileKind, Result, TreeError, TreeErrorKind};

/// Longest link target kept in the inode.
pub(crate) const LONGEST_FAST_LINK: usize = 59;

/// A run of blocks of a file that is about to be written.
struct Target {
    logical: u64,
    len: u64,
    place: Block,
    /// The blocks hold rubbish: what is not written over must be zeroed.
    fresh: bool,
}

impl<D: BlockRead> Volume<D> {
    /// Give a fresh inode an empty map of blocks, of the kind this file system uses.
    pub(crate) fn init_map(&self, inode: &mut Inode) {
        if self.sb.has_incompat(feature::EXTENTS) {
            inode.set_flags(inode.flags() | flag::EXTENTS);
            inode.set_block(&empty_root());
        } else {
            inode.set_flags(inode.flags() & !flag::EXTENTS);
            inode.set_block(&[0; 60]);
        }
    }

    /// Write the part `from` of the given bytes at `offset` of a file, growing it where needed.
    /// `given` are all of them.
    pub(crate) fn write_contents(
        &mut self,
        inode: &mut Inode,
        offset: u64,
        given: &[u8],
    ) -> Result<()> {
        let end = offset
            .checked_add(given.len() as u64)
            .ok_or_else(too_large)?;
        self.check_size(inode, end)?;
        if given.is_empty() {
            return Ok(());
        }
        if inode.has(flag::INLINE_DATA) {
            let mut whole = self.whole_inline(inode)?;
            if self.write_inline(inode, &mut whole, offset, given)? {
                return Ok(());
            }
            self.leave_inline(inode, &whole)?;
        }
        let size = self.sb.block_size;
        self.clear_tail(inode, offset)?;
        for target in self.make_room(inode, offset / size..end.div_ceil(size))? {
            let run = target.logical * size..(target.logical + target.len) * size;
            let part = run.start.max(offset)..run.end.min(end);
            let at = target.place * size;
            if target.fresh {
                self.queue_zeroes(at, part.start - run.start);
                self.queue_zeroes(at + (part.end - run.start), run.end - part.end);
            }
            self.queue(Contents::Given {
                at: at + (part.start - run.start),
                from: (part.start - offset) as usize..(part.end - offset) as usize,
            });
        }
        if end > inode.size() {
            self.set_size(inode, end);
        }
        Ok(())
    }

    fn queue_zeroes(&mut self, at: u64, len: u64) {
        if len > 0 {
            self.queue(Contents::Zeroes { at, len });
        }
    }

    /// Cut a file to `size`, or let it grow with a hole.
    pub(crate) fn resize(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        self.check_size(inode, size)?;
        if inode.has(flag::INLINE_DATA) {
            let mut whole = self.whole_inline(inode)?;
            if self.fits_inline(inode, size) {
                whole.resize(size as usize, 0);
                return self.put_inline(inode, &whole);
            }
            self.leave_inline(inode, &whole)?;
        }
        let before = inode.size();
        if size > before {
            self.clear_tail(inode, size)?;
            self.set_size(inode, size);
            return Ok(());
        }
        if size < before {
            self.cut_beyond(inode, size)?;
        }
        self.set_size(inode, size);
        Ok(())
    }

    /// Free what lies behind byte `size`, and zero the rest of its block.
    pub(crate) fn cut_beyond(&mut self, inode: &mut Inode, size: u64) -> Result<()> {
        if inode.has(flag::INLINE_DATA) {
            return Ok(());
        }
        let block = self.sb.block_size;
        self.cut_blocks(inode, size.div_ceil(block))?;
        if !size.is_multiple_of(block) {
            self.zero_rest(inode, size)?;
        }
        Ok(())
    }

    /// Free the blocks of a file from block `keep` on. Its size is left to the caller.
    pub(crate) fn cut_blocks(&mut self, inode: &mut Inode, keep: u64) -> Result<()> {
        if !inode.has(flag::EXTENTS) {
            return self.unmap_from(inode, keep);
        }
        let mut list = self.extent_list(inode)?;
        let cut = list.cut(keep);
        if cut.is_empty() {
            return Ok(());
        }
        for (start, len) in cut {
            self.free(start, len)?;
            self.charge(inode, -(len as i64));
        }
        self.put_extents(inode, list)
    }

    /// Before a file grows past its end (to `to` or by a write there): what lies behind the end in
    /// its last block must read as zeroes.
    fn clear_tail(&mut self, inode: &Inode, to: u64) -> Result<()> {
        let end = inode.size();
        if to > end && !end.is_multiple_of(self.sb.block_size) {
            self.zero_rest(inode, end)?;
        }
        Ok(())
    }

    /// Zero the rest of the block that holds byte `at` of a file.
    fn zero_rest(&mut self, inode: &Inode, at: u64) -> Result<()> {
        let size = self.sb.block_size;
        let run = self.run(inode, at / size)?;
        if let Some(place) = run.physical.filter(|_| !run.unwritten) {
            self.queue_zeroes(place * size + at % size, size - at % size);
        }
        Ok(())
    }

    fn check_size(&self, inode: &Inode, size: u64) -> Result<()> {
        let blocks = size.div_ceil(self.sb.block_size);
        let n = self.numbers_per_block();
        let most = if inode.has(flag::EXTENTS) || self.sb.has_incompat(feature::EXTENTS) {
            MOST_BLOCKS - 1
        } else {
            // i_blocks counts 512-byte units in 32 bits.
            (12 + n + n * n + n * n * n).min((u64::from(u32::MAX) * 512) / self.sb.block_size)
        };
        if blocks > most {
            Err(too_large())
        } else {
            Ok(())
        }
    }

    fn set_size(&mut self, inode: &mut Inode, size: u64) {
        inode.set_size(size);
        if size >= 1 << 31 && inode.kind() == Some(FileKind::File) {
            self.sb
                .set_ro_compat(self.sb.ro_compat() | feature::LARGE_FILE);
        }
    }

    /// See that the blocks of a range of a file are allocated and count as written.
    fn make_room(&mut self, inode: &mut Inode, blocks: Range<u64>) -> Result<Vec<Target>> {
        if inode.has(flag::EXTENTS) {
            self.make_extents(inode, blocks)
        } else {
            self.make_mapped(inode, blocks)
        }
    }

    fn make_extents(&mut self, inode: &mut Inode, blocks: Range<u64>) -> Result<Vec<Target>> {
        let mut list = self.extent_list(inode)?;
        let (mut targets, mut changed) = (Vec::new(), false);
        let mut at = blocks.start;
        while at < blocks.end {
            let found = list.find(at).copied();
            let target = match found {
                Ok(extent) => Target {
                    logical: at,
                    len: extent.end().min(blocks.end) - at,
                    place: extent.physical + (at - extent.logical),
                    fresh: extent.unwritten,
                },
                Err(next) => {
                    let before = at.checked_sub(1).and_then(|last| list.find(last).ok());
                    let goal = before.map_or(self.goal_of(inode.number), |e| e.physical + e.len);
                    let (place, len) = self.allocate(goal, next.min(blocks.end) - at)?;
                    self.charge(inode, len as i64);
                    list.insert(Extent {
                        logical: at,
                        len,
                        physical: place,
                        unwritten: false,
                    });
                    Target {
                        logical: at,
                        len,
                        place,
                        fresh: true,
                    }
                }
            };
            if target.fresh {
                changed = true;
                if found.is_ok() {
                    list.mark_written(at, at + target.len);
                }
            }
            at += target.len;
            targets.push(target);
        }
        if changed {
            self.put_extents(inode, list)?;
        }
        Ok(targets)
    }

    fn make_mapped(&mut self, inode: &mut Inode, blocks: Range<u64>) -> Result<Vec<Target>> {
        let mut targets: Vec<Target> = Vec::new();
        let mut at = blocks.start;
        let mut goal = match at.checked_sub(1).map(|last| self.mapped_run(inode, last)) {
            Some(run) => run?.physical.map(|place| place + 1),
            None => None,
        }
        .unwrap_or(self.goal_of(inode.number));
        while at < blocks.end {
            let run = self.mapped_run(inode, at)?;
            let want = run.len.min(blocks.end - at);
            let (place, len) = match run.physical {
                Some(place) => (place, want),
                None => {
                    let (place, len) = self.allocate(goal, want)?;
                    self.charge(inode, len as i64);
                    for n in 0..len {
                        self.map_block(inode, at + n, place + n)?;
                    }
                    (place, len)
                }
            };
            targets.push(Target {
                logical: at,
                len,
                place,
                fresh: run.physical.is_none(),
            });
            at += len;
            goal = place + len;
        }
        Ok(targets)
    }

    /// Contents of a file or directory kept inline, exactly as long as it is.
    fn whole_inline(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut whole = vec![0; inode.size().min(self.sb.block_size) as usize];
        let n = self.read_contents(inode, 0, &mut whole)?;
        whole.truncate(n);
        Ok(whole)
    }

    fn write_inline(
        &mut self,
        inode: &mut Inode,
        whole: &mut Vec<u8>,
        offset: u64,
        given: &[u8],
    ) -> Result<bool> {
        let end = (offset + given.len() as u64).max(whole.len() as u64);
        if !self.fits_inline(inode, end) {
            return Ok(false);
        }
        whole.resize(end as usize, 0);
        put(whole, offset as usize, given);
        self.put_inline(inode, whole)?;
        Ok(true)
    }

    /// Whether `size` bytes fit into the inode beside its other attributes.
    fn fits_inline(&self, inode: &Inode, size: u64) -> bool {
        if size <= 60 {
            return true;
        }
        if size > inode.raw.len() as u64 {
            return false;
        }
        let mut probe = inode.clone();
        self.put_inline_parts(&mut probe, &vec![0; size as usize])
            .is_ok()
    }

    fn put_inline(&mut self, inode: &mut Inode, whole: &[u8]) -> Result<()> {
        self.put_inline_parts(inode, whole)?;
        inode.set_size(whole.len() as u64);
        Ok(())
    }

    fn put_inline_parts(&self, inode: &mut Inode, whole: &[u8]) -> Result<()> {
        let mut block = [0; 60];
        put(
            &mut block,
            0,
            whole.get(..whole.len().min(60)).unwrap_or_default(),
        );
        let rest = whole.get(60..).unwrap_or_default();
        let mut entries = self.body_entries(inode)?;
        entries.retain(|entry| !entry.is_inline_data());
        entries.extend(Entry::new(b"system.data", rest));
        self.put_body_entries(inode, &entries)?;
        inode.set_block(&block);
        Ok(())
    }

    /// Move contents out of the inode into blocks.
    fn leave_inline(&mut self, inode: &mut Inode, whole: &[u8]) -> Result<()> {
        self.drop_inline(inode)?;
        if whole.is_empty() {
            return Ok(());
        }
        let size = self.sb.block_size;
        for target in self.make_room(inode, 0..(whole.len() as u64).div_ceil(size))? {
            // At most one block: what was inline. It goes through the transaction, since the bytes
            // are not part of what the caller gave.
            let mut block = vec![0; self.block_size()];
            put(&mut block, 0, whole);
            self.put_block(target.place, block);
        }
        inode.set_size(whole.len() as u64);
        Ok(())
    }

    /// Make an inline file or directory an empty one with a map of blocks.
    pub(crate) fn drop_inline(&mut self, inode: &mut Inode) -> Result<()> {
        let mut entries = self.body_entries(inode)?;
        entries.retain(|entry| !entry.is_inline_data());
        self.put_body_entries(inode, &entries)?;
        inode.set_flags(inode.flags() & !flag::INLINE_DATA);
        self.init_map(inode);
        inode.set_size(0);
        Ok(())
    }

    /// Free everything a file owns besides its inode.
    pub(crate) fn drop_contents(&mut self, inode: &mut Inode) -> Result<()> {
        if inode.has(flag::INLINE_DATA) {
            return Ok(());
        }
        let fast_link = inode.kind() == Some(FileKind::Symlink)
            && !inode.has(flag::EXTENTS)
            && inode.size() <= LONGEST_FAST_LINK as u64
            && inode.blocks_field() <= self.xattr_units(inode);
        match inode.kind() {
            Some(FileKind::Special) | None => Ok(()),
            _ if fast_link => Ok(()),
            _ => self.cut_blocks(inode, 0),
        }
    }
}

fn too_large() -> TreeError {
    TreeError::of(
        TreeErrorKind::TooLarge,
        "the file system cannot hold such a file",
    )
}
