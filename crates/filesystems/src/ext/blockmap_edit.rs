//! Block maps of ext2 and ext3: writing.

use block_io::BlockRead;

use super::blockmap::way;
use super::format::Block;
use super::inode::Inode;
use super::volume::{Volume, corrupt};
use crate::bytes::{le32, put_le32, slice};
use crate::tree::{Result, TreeError, TreeErrorKind};

impl<D: BlockRead> Volume<D> {
    /// Put block `place` of the disk in for block `logical` of a file, with the indirect blocks it
    /// takes.
    pub(crate) fn map_block(
        &mut self,
        inode: &mut Inode,
        logical: u64,
        place: Block,
    ) -> Result<()> {
        let Ok(place) = u32::try_from(place) else {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "no free blocks that a block map can name (below 2^32)",
            ));
        };
        let Some(way) = way(logical, self.numbers_per_block()) else {
            return Err(TreeError::of(
                TreeErrorKind::TooLarge,
                "a block-mapped file cannot be that large",
            ));
        };
        let whose = format!("inode {}, block map", inode.number);
        let at = 0x28 + way.root * 4;
        if way.slots.is_empty() {
            put_le32(&mut inode.raw, at, place);
            return Ok(());
        }
        let mut block = u64::from(le32(&inode.raw, at));
        if block == 0 {
            block = self.indirect_block(inode, place.into())?;
            put_le32(&mut inode.raw, at, block as u32);
        }
        let last = way.slots.len() - 1;
        for (level, slot) in way.slots.iter().enumerate() {
            if level == last {
                put_le32(self.edit_block(block, &whose)?, slot * 4, place);
                break;
            }
            let mut next = u64::from(le32(&self.block(block, &whose)?, slot * 4));
            if next == 0 {
                next = self.indirect_block(inode, place.into())?;
                put_le32(self.edit_block(block, &whose)?, slot * 4, next as u32);
            }
            block = next;
        }
        Ok(())
    }

    /// A fresh indirect block, all holes.
    fn indirect_block(&mut self, inode: &mut Inode, goal: Block) -> Result<Block> {
        let (block, _) = self.allocate(goal, 1)?;
        if u32::try_from(block).is_err() {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "no free blocks that a block map can name (below 2^32)",
            ));
        }
        self.charge(inode, 1);
        self.put_block(block, vec![0; self.block_size()]);
        Ok(block)
    }

    /// Free every block of the file from `keep` on, and indirect blocks nothing needs any more.
    pub(crate) fn unmap_from(&mut self, inode: &mut Inode, keep: u64) -> Result<()> {
        let n = self.numbers_per_block();
        let mut first = 0;
        for slot in 0..15_usize {
            let depth = slot.saturating_sub(11) as u32;
            let span = n.pow(depth);
            let block = u64::from(le32(slice(&inode.raw, 0x28, 60), slot * 4));
            if block != 0 && first + span > keep {
                let gone = self.unmap(inode, block, depth, first, keep)?;
                if gone {
                    put_le32(&mut inode.raw, 0x28 + slot * 4, 0);
                }
            }
            first += span;
        }
        Ok(())
    }

    /// Free what lies below `block` from `keep` on; whether the block itself is free now.
    fn unmap(
        &mut self,
        inode: &mut Inode,
        block: Block,
        depth: u32,
        first: u64,
        keep: u64,
    ) -> Result<bool> {
        let whose = format!("inode {}, block map", inode.number);
        if depth > 0 {
            let n = self.numbers_per_block();
            let span = n.pow(depth - 1);
            let numbers = self.block(block, &whose)?;
            // Freed at once, so that a map that names a block twice, or itself, is found out: the
            // second time it is free already.
            let whole = first >= keep;
            if whole {
                self.free(block, 1)?;
                self.charge(inode, -1);
            }
            for slot in 0..n {
                let child = u64::from(le32(&numbers, slot as usize * 4));
                let start = first + slot * span;
                if child == 0 || start + span <= keep {
                    continue;
                }
                let gone = self.unmap(inode, child, depth - 1, start, keep)?;
                if gone && !whole {
                    put_le32(self.edit_block(block, &whose)?, slot as usize * 4, 0);
                }
            }
            return Ok(whole);
        }
        if first < keep {
            return Err(corrupt(format!(
                "{whose}: block {first}: expected to be cut, found kept"
            )));
        }
        self.free(block, 1)?;
        self.charge(inode, -1);
        Ok(true)
    }
}
