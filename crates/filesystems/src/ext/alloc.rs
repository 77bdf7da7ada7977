//! Giving out and taking back blocks and inodes: bitmaps, group descriptors, counters, checksums.

use std::ops::Range;

use block_io::BlockRead;

use super::checksum::crc32c;
use super::format::Block;
use super::group::{BLOCK_UNINIT, GroupDesc, INODE_UNINIT};
use super::volume::{Volume, corrupt};
use crate::bytes::{slice, u8_at};
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Groups with some free space that are looked at for a long enough run before the longest one seen
/// is taken.
const GROUPS_TRIED: usize = 16;

pub(super) fn is_set(bitmap: &[u8], bit: u64) -> bool {
    u8_at(bitmap, (bit / 8) as usize) & 1 << (bit % 8) != 0
}

pub(super) fn set_bits(bitmap: &mut [u8], bits: Range<u64>, value: bool) {
    for bit in bits {
        if let Some(byte) = bitmap.get_mut((bit / 8) as usize) {
            if value {
                *byte |= 1 << (bit % 8);
            } else {
                *byte &= !(1 << (bit % 8));
            }
        }
    }
}

/// The first clear run of at least `want` bits below `len`, or the longest one.
fn best_run(bitmap: &[u8], len: u64, want: u64) -> Option<Range<u64>> {
    let mut best: Option<Range<u64>> = None;
    let mut bit = 0;
    while bit < len {
        if bit % 8 == 0 && u8_at(bitmap, (bit / 8) as usize) == 0xFF {
            bit += 8;
            continue;
        }
        if is_set(bitmap, bit) {
            bit += 1;
            continue;
        }
        let run = clear_run(bitmap, bit, len, want);
        bit = run.end;
        if run.end - run.start >= want {
            return Some(run);
        }
        if best
            .as_ref()
            .is_none_or(|b| b.end - b.start < run.end - run.start)
        {
            best = Some(run);
        }
    }
    best
}

fn clear_run(bitmap: &[u8], start: u64, len: u64, want: u64) -> Range<u64> {
    let mut end = start;
    while end < len && end - start < want && !is_set(bitmap, end) {
        end += 1;
    }
    start..end
}

fn no_space(what: &str) -> TreeError {
    TreeError::of(TreeErrorKind::NoSpace, format!("no free {what}"))
}

impl<D: BlockRead> Volume<D> {
    /// Learn which blocks hold bitmaps, inode tables, superblocks and descriptors.
    pub(crate) fn survey_system_blocks(&mut self) -> Result<()> {
        let mut all = Vec::new();
        for group in 0..self.sb.groups {
            let desc = self.desc(group)?;
            let start = self.sb.group_start(group);
            all.push(start..start + self.sb.group_head(group));
            all.push(desc.block_bitmap()..desc.block_bitmap() + 1);
            all.push(desc.inode_bitmap()..desc.inode_bitmap() + 1);
            let table = desc.inode_table();
            all.push(table..table + self.sb.inode_table_blocks());
        }
        all.sort_by_key(|range| range.start);
        for range in all.into_iter().filter(|range| !range.is_empty()) {
            match self.system.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => self.system.push(range),
            }
        }
        Ok(())
    }

    /// Set the superblock's counters to the sums of the groups': the kernel does not journal them.
    pub(crate) fn recount(&mut self) -> Result<()> {
        let (mut blocks, mut inodes) = (0, 0);
        for group in 0..self.sb.groups {
            let desc = self.desc(group)?;
            blocks += u64::from(desc.free_blocks());
            inodes += desc.free_inodes();
        }
        self.sb.set_free_blocks(blocks * self.sb.cluster_ratio);
        self.sb.set_free_inodes(inodes);
        Ok(())
    }

    pub(super) fn system_in(
        &self,
        blocks: Range<Block>,
    ) -> impl Iterator<Item = Range<Block>> + '_ {
        let first = self
            .system
            .partition_point(|range| range.end <= blocks.start);
        let end = blocks.end;
        self.system
            .iter()
            .skip(first)
            .take_while(move |range| range.start < end)
            .map(move |range| range.start.max(blocks.start)..range.end.min(end))
    }

    fn uses_checksum(&self, desc: &GroupDesc, flag: u16) -> bool {
        self.sb.has_group_csum() && desc.flags() & flag != 0
    }

    /// The block bitmap of `group`, checked; made when the group has none yet.
    pub(super) fn block_bitmap(&self, group: u64, desc: &GroupDesc) -> Result<Vec<u8>> {
        let start = self.sb.group_start(group);
        let len = self.sb.group_len(group);
        if self.uses_checksum(desc, BLOCK_UNINIT) {
            let mut bitmap = vec![0; self.block_size()];
            for range in self.system_in(start..start + len) {
                set_bits(&mut bitmap, range.start - start..range.end - start, true);
            }
            set_bits(&mut bitmap, len..self.sb.block_size * 8, true);
            return Ok(bitmap);
        }
        let bitmap = self.block(desc.block_bitmap(), "block bitmap")?;
        if self.sb.has_metadata_csum() {
            let sum = self.block_bitmap_sum(&bitmap);
            self.check_bitmap(group, "block", desc, sum, desc.block_bitmap_csum())?;
        }
        Ok(bitmap.to_vec())
    }

    pub(super) fn block_bitmap_sum(&self, bitmap: &[u8]) -> u32 {
        crc32c(
            self.sb.seed,
            slice(bitmap, 0, (self.sb.blocks_per_group / 8) as usize),
        )
    }

    pub(super) fn inode_bitmap_sum(&self, bitmap: &[u8]) -> u32 {
        crc32c(
            self.sb.seed,
            slice(bitmap, 0, self.sb.inodes_per_group as usize / 8),
        )
    }

    fn check_bitmap(
        &self,
        group: u64,
        what: &str,
        desc: &GroupDesc,
        sum: u32,
        found: u32,
    ) -> Result<()> {
        let mask = desc.bitmap_csum_mask();
        if sum & mask == found & mask {
            return Ok(());
        }
        Err(corrupt(format!(
            "{what} bitmap of group {group}: checksum: expected {:#x}, found {:#x}",
            sum & mask,
            found & mask
        )))
    }

    /// Put a changed block bitmap and its descriptor into the transaction; `change` is added to the
    /// counts of free blocks.
    fn put_block_bitmap(
        &mut self,
        group: u64,
        mut desc: GroupDesc,
        bitmap: Vec<u8>,
        change: i64,
    ) -> Result<()> {
        let free = i64::from(desc.free_blocks()) + change;
        let Ok(free) = u32::try_from(free) else {
            return Err(corrupt(format!(
                "descriptor of group {group}: free blocks: expected at least {}, found {}",
                -change,
                desc.free_blocks()
            )));
        };
        desc.set_free_blocks(free);
        desc.set_flags(desc.flags() & !BLOCK_UNINIT);
        if self.sb.has_metadata_csum() {
            desc.set_block_bitmap_csum(self.block_bitmap_sum(&bitmap));
        }
        self.put_block(desc.block_bitmap(), bitmap);
        self.put_desc(group, desc)?;
        let total = self.sb.free_blocks().saturating_add_signed(change);
        self.sb.set_free_blocks(total);
        Ok(())
    }

    /// Allocate up to `want` blocks that follow each other, at `goal` or close to it: the first and
    /// how many.
    pub(crate) fn allocate(&mut self, goal: Block, want: u64) -> Result<(Block, u64)> {
        let want = want.clamp(1, self.sb.blocks_per_group);
        let goal = if goal < self.sb.blocks { goal } else { 0 };
        let near = self.sb.group_of(goal.max(self.sb.first_data_block));
        let mut best: Option<(u64, Range<u64>)> = None;
        let mut tried = 0;
        for step in 0..self.sb.groups {
            let group = (near + step) % self.sb.groups;
            let desc = self.desc(group)?;
            if desc.free_blocks() == 0 {
                continue;
            }
            let len = self.sb.group_len(group);
            let bitmap = self.block_bitmap(group, &desc)?;
            let at_goal = goal
                .checked_sub(self.sb.group_start(group))
                .filter(|_| step == 0);
            let run = match at_goal {
                Some(bit) if bit < len && !is_set(&bitmap, bit) => {
                    Some(clear_run(&bitmap, bit, len, want))
                }
                _ => best_run(&bitmap, len, want),
            };
            let Some(run) = run else { continue };
            let found = run.end - run.start;
            let longest = best.as_ref().map_or(0, |(_, best)| best.end - best.start);
            if found > longest {
                best = Some((group, run));
            }
            tried += 1;
            if found >= want || at_goal.is_some() && found * 8 >= want || tried >= GROUPS_TRIED {
                break;
            }
        }
        let Some((group, run)) = best else {
            return Err(no_space("blocks"));
        };
        self.take(group, run)
    }

    fn take(&mut self, group: u64, run: Range<u64>) -> Result<(Block, u64)> {
        let desc = self.desc(group)?;
        let mut bitmap = self.block_bitmap(group, &desc)?;
        let start = self.sb.group_start(group) + run.start;
        let len = run.end - run.start;
        if let Some(system) = self.system_in(start..start + len).next() {
            return Err(corrupt(format!(
                "block bitmap of group {group}: block {}: expected used by metadata, found free",
                system.start
            )));
        }
        set_bits(&mut bitmap, run, true);
        self.put_block_bitmap(group, desc, bitmap, -(len as i64))?;
        for block in start..start + len {
            self.forget(block);
        }
        Ok((start, len))
    }

    /// Take blocks back. Each must be in use, and none may hold metadata of the file system.
    pub(crate) fn free(&mut self, start: Block, len: u64) -> Result<()> {
        self.check_blocks(start, len, "freed blocks")?;
        if let Some(system) = self.system_in(start..start + len).next() {
            return Err(corrupt(format!(
                "block {}: expected contents of a file, found metadata of the file system",
                system.start
            )));
        }
        let mut at = start;
        while at < start + len {
            let group = self.sb.group_of(at);
            let first = self.sb.group_start(group);
            let end = (start + len).min(first + self.sb.group_len(group));
            let desc = self.desc(group)?;
            let mut bitmap = self.block_bitmap(group, &desc)?;
            if let Some(bit) = (at - first..end - first).find(|bit| !is_set(&bitmap, *bit)) {
                return Err(corrupt(format!(
                    "block {}: expected in use, found free in the bitmap of group {group}",
                    first + bit
                )));
            }
            set_bits(&mut bitmap, at - first..end - first, false);
            self.put_block_bitmap(group, desc, bitmap, (end - at) as i64)?;
            at = end;
        }
        for block in start..start + len {
            self.forget(block);
        }
        Ok(())
    }

    pub(super) fn inode_bitmap(&self, group: u64, desc: &GroupDesc) -> Result<Vec<u8>> {
        let inodes = u64::from(self.sb.inodes_per_group);
        if self.uses_checksum(desc, INODE_UNINIT) {
            let mut bitmap = vec![0; self.block_size()];
            set_bits(&mut bitmap, inodes..self.sb.block_size * 8, true);
            return Ok(bitmap);
        }
        let bitmap = self.block(desc.inode_bitmap(), "inode bitmap")?;
        if self.sb.has_metadata_csum() {
            let sum = self.inode_bitmap_sum(&bitmap);
            self.check_bitmap(group, "inode", desc, sum, desc.inode_bitmap_csum())?;
        }
        Ok(bitmap.to_vec())
    }

    fn put_inode_bitmap(
        &mut self,
        group: u64,
        mut desc: GroupDesc,
        bitmap: Vec<u8>,
        change: i32,
    ) -> Result<()> {
        let Some(free) = desc.free_inodes().checked_add_signed(change) else {
            return Err(corrupt(format!(
                "descriptor of group {group}: free inodes: expected at least 1, found {}",
                desc.free_inodes()
            )));
        };
        desc.set_free_inodes(free);
        desc.set_flags(desc.flags() & !INODE_UNINIT);
        if self.sb.has_metadata_csum() {
            desc.set_inode_bitmap_csum(self.inode_bitmap_sum(&bitmap));
        }
        self.put_block(desc.inode_bitmap(), bitmap);
        self.put_desc(group, desc)?;
        let total = self.sb.free_inodes().saturating_add_signed(change);
        self.sb.set_free_inodes(total);
        Ok(())
    }

    /// Allocate an inode near inode `parent`; directories are counted.
    pub(crate) fn allocate_inode(&mut self, parent: u32, is_dir: bool) -> Result<u32> {
        let near = u64::from(parent.saturating_sub(1) / self.sb.inodes_per_group);
        let reserved = u64::from(self.sb.first_inode() - 1);
        for step in 0..self.sb.groups {
            let group = (near + step) % self.sb.groups;
            let mut desc = self.desc(group)?;
            if desc.free_inodes() == 0 {
                continue;
            }
            let mut bitmap = self.inode_bitmap(group, &desc)?;
            let first = group * u64::from(self.sb.inodes_per_group);
            let from = reserved.saturating_sub(first);
            let inodes = u64::from(self.sb.inodes_per_group);
            let Some(index) = (from..inodes).find(|bit| !is_set(&bitmap, *bit)) else {
                continue;
            };
            set_bits(&mut bitmap, index..index + 1, true);
            if is_dir {
                desc.set_used_dirs(desc.used_dirs() + 1);
            }
            self.expose_inodes(&mut desc, index)?;
            self.put_inode_bitmap(group, desc, bitmap, -1)?;
            return Ok((first + index + 1) as u32);
        }
        Err(no_space("inodes"))
    }

    /// Count inode `index` of a group among those ever used. What lies between was never written by
    /// anyone: it is cleared.
    fn expose_inodes(&mut self, desc: &mut GroupDesc, index: u64) -> Result<()> {
        if !self.sb.has_group_csum() {
            return Ok(());
        }
        let inodes = u64::from(self.sb.inodes_per_group);
        let was_unused = if desc.flags() & INODE_UNINIT != 0 {
            inodes
        } else {
            u64::from(desc.itable_unused()).min(inodes)
        };
        let used = inodes - was_unused;
        if index < used {
            return Ok(());
        }
        for slot in used..=index {
            let byte = slot * self.sb.inode_size as u64;
            let block = desc.inode_table() + byte / self.sb.block_size;
            let at = (byte % self.sb.block_size) as usize;
            let len = self.sb.inode_size;
            let table = self.edit_block(block, "inode table")?;
            if let Some(inode) = table.get_mut(at..at + len) {
                inode.fill(0);
            }
        }
        desc.set_itable_unused((inodes - index - 1) as u32);
        Ok(())
    }

    /// Take an inode back.
    pub(crate) fn free_inode(&mut self, number: u32, is_dir: bool) -> Result<()> {
        let group = u64::from((number - 1) / self.sb.inodes_per_group);
        let bit = u64::from((number - 1) % self.sb.inodes_per_group);
        let mut desc = self.desc(group)?;
        let mut bitmap = self.inode_bitmap(group, &desc)?;
        if !is_set(&bitmap, bit) {
            return Err(corrupt(format!(
                "inode {number}: expected in use, found free in the bitmap of group {group}"
            )));
        }
        set_bits(&mut bitmap, bit..bit + 1, false);
        if is_dir {
            desc.set_used_dirs(desc.used_dirs().saturating_sub(1));
        }
        self.put_inode_bitmap(group, desc, bitmap, 1)
    }

    /// Where blocks of inode `number` should lie: the start of its group.
    pub(crate) fn goal_of(&self, number: u32) -> Block {
        let group = u64::from((number.max(1) - 1) / self.sb.inodes_per_group);
        self.sb.group_start(group.min(self.sb.groups - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_long_enough_run_is_taken_else_the_longest() {
        let bitmap = [0b1111_0011, 0b1110_0001, 0xFF];
        assert_eq!(best_run(&bitmap, 24, 2), Some(2..4));
        assert_eq!(best_run(&bitmap, 24, 4), Some(9..13));
        assert_eq!(best_run(&bitmap, 24, 9), Some(9..13));
        assert_eq!(best_run(&[0xFF; 3], 24, 1), None);
    }
}
