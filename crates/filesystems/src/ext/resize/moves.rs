//! Where blocks go that lie behind the new end, and every reference to them.

use std::ops::Range;

use block_io::{BlockRead, BlockWrite};

use super::copies::RESIZE_INODE;
use super::{damaged, unsupported};
use crate::bytes::{le16, le32, put_le16, put_le32, slice};
use crate::ext::alloc::is_set;
use crate::ext::checksum::crc32c;
use crate::ext::feature;
use crate::ext::format::{Block, Superblock};
use crate::ext::group::INODE_UNINIT;
use crate::ext::inode::{Inode, flag};
use crate::ext::volume::{Volume, corrupt};
use crate::ext::xattr;
use crate::resize::ResizeError;
use crate::tree::FileKind;

/// Bytes copied at a time.
const PIECE: u64 = 1 << 20;
/// Bytes of inode tables read at a time.
const TABLE_PIECE: u64 = 1 << 18;

/// A run of blocks and its new place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) from: Block,
    pub(super) to: Block,
    pub(super) len: u64,
}

/// All moves: nothing at or behind `end` stays.
pub(super) struct Moves {
    /// Sorted by `from`.
    list: Vec<Move>,
    end: Block,
}

impl Moves {
    pub(super) fn new(list: Vec<Move>, end: Block) -> Self {
        Self { list, end }
    }

    /// Where `block` lies now, and for how many blocks from it that holds; `None` when it was free.
    pub(super) fn to(&self, block: Block) -> Option<(Block, u64)> {
        if block < self.end {
            return Some((block, self.end - block));
        }
        let after = self.list.partition_point(|run| run.from <= block);
        let run = self.list.get(after.checked_sub(1)?)?;
        let inside = block - run.from;
        (inside < run.len).then(|| (run.to + inside, run.len - inside))
    }

    pub(super) fn places(&self) -> impl Iterator<Item = Range<Block>> + '_ {
        self.list.iter().map(|run| run.to..run.to + run.len)
    }

    pub(super) fn blocks(&self) -> u64 {
        self.list.iter().map(|run| run.len).sum()
    }

    /// Copy the blocks to their new places.
    pub(super) fn copy<D: BlockWrite>(&self, disk: &D, sb: &Superblock) -> Result<(), ResizeError> {
        for run in &self.list {
            copy_blocks(disk, sb, run.from, run.to, run.len)?;
        }
        Ok(())
    }
}

/// Copy `len` blocks.
pub(super) fn copy_blocks<D: BlockWrite>(
    disk: &D,
    sb: &Superblock,
    from: Block,
    to: Block,
    len: u64,
) -> Result<(), ResizeError> {
    let (from, to, len) = (
        from * sb.block_size,
        to * sb.block_size,
        len * sb.block_size,
    );
    let mut buf = vec![0; PIECE.min(len) as usize];
    let mut done = 0;
    while done < len {
        let part = (len - done).min(PIECE) as usize;
        let part = buf.get_mut(..part).unwrap_or_default();
        disk.read_at(from + done, part)?;
        disk.write_at(to + done, part)?;
        done += part.len() as u64;
    }
    Ok(())
}

/// The numbers of the used inodes of `group` whose bytes `wanted` picks. Reads what is on the disk.
pub(super) fn pick_inodes<D: BlockRead>(
    volume: &Volume<D>,
    group: u64,
    mut wanted: impl FnMut(&Inode) -> bool,
) -> Result<Vec<u32>, ResizeError> {
    let sb = &volume.sb;
    let desc = volume.desc(group)?;
    if sb.has_group_csum() && desc.flags() & INODE_UNINIT != 0 {
        return Ok(Vec::new());
    }
    let bitmap = volume.inode_bitmap(group, &desc)?;
    let count = u64::from(sb.inodes_per_group);
    let Some(last) = (0..count).rev().find(|bit| is_set(&bitmap, *bit)) else {
        return Ok(Vec::new());
    };
    let size = sb.inode_size as u64;
    let (start, len) = (desc.inode_table() * sb.block_size, (last + 1) * size);
    let mut picked = Vec::new();
    let mut done = 0;
    let mut buf = vec![0; TABLE_PIECE.min(len) as usize];
    while done < len {
        let part = buf.get_mut(..(len - done).min(TABLE_PIECE) as usize);
        let part = part.unwrap_or_default();
        volume.disk.read_at(start + done, part)?;
        let first = done / size;
        for (bit, raw) in (first..).zip(part.chunks_exact(sb.inode_size)) {
            if !is_set(&bitmap, bit) {
                continue;
            }
            let inode = Inode {
                number: (group * count + bit + 1) as u32,
                raw: raw.to_vec(),
            };
            if wanted(&inode) {
                picked.push(inode.number);
            }
        }
        done += part.len() as u64;
    }
    Ok(picked)
}

/// Whether an inode has a map of blocks.
pub(super) fn has_map<D: BlockRead>(volume: &Volume<D>, inode: &Inode) -> bool {
    if inode.has(flag::INLINE_DATA) {
        return false;
    }
    match inode.kind() {
        Some(FileKind::File | FileKind::Directory) => true,
        Some(FileKind::Symlink) => {
            inode.has(flag::EXTENTS)
                || inode.size() >= 60
                || inode.blocks_field() > volume.xattr_units(inode)
        }
        _ => false,
    }
}

/// Every reference to a moved block, changed in all files.
pub(super) struct Relink<'a, D> {
    /// The file system before: maps are read through it.
    pub(super) old: &'a Volume<D>,
    /// The file system it becomes.
    pub(super) new: &'a mut Volume<D>,
    pub(super) moves: &'a Moves,
    /// Blocks of maps that may still be looked at before there are more than the file system has.
    pub(super) left: u64,
}

impl<D: BlockWrite> Relink<'_, D> {
    pub(super) fn all(&mut self) -> Result<(), ResizeError> {
        for group in 0..self.new.sb.groups {
            let (end, new) = (self.moves.end, &*self.new);
            let touched = pick_inodes(new, group, |inode| may_reach(new, inode, end))?;
            self.new.begin();
            for number in touched {
                self.inode(number)?;
            }
            self.new.commit(&[])?;
        }
        Ok(())
    }

    fn inode(&mut self, number: u32) -> Result<(), ResizeError> {
        if number == RESIZE_INODE {
            return Ok(());
        }
        let mut inode = self.new.inode(number)?;
        let before = inode.clone();
        let place = inode.xattr_block();
        if place >= self.moves.end {
            let to = self.place_of(place, number)?;
            inode.set_xattr_block(to);
            self.seal_attributes(to, number)?;
        }
        if has_map(self.new, &inode) {
            match inode.has(flag::EXTENTS) {
                true => self.extents(&mut inode)?,
                false => self.block_map(&mut inode)?,
            }
        }
        let charged = inode.blocks_field() != before.blocks_field();
        if charged
            && self.new.sb.has_ro_compat(feature::QUOTA)
            && number >= self.new.sb.first_inode()
        {
            return Err(unsupported(format!(
                "quota: inode {number} needs a longer extent tree, which its owner would be charged for; shrink it less, or turn quotas off"
            )));
        }
        if inode != before {
            self.new.put_inode(&mut inode)?;
        }
        Ok(())
    }

    fn place_of(&self, block: Block, number: u32) -> Result<Block, ResizeError> {
        match self.moves.to(block) {
            Some((to, _)) => Ok(to),
            None => Err(damaged(format!(
                "inode {number}: block {block}: expected in use, found free in its bitmap; run e2fsck -f"
            ))),
        }
    }

    fn seal_attributes(&mut self, place: Block, number: u32) -> Result<(), ResizeError> {
        if !self.new.sb.has_metadata_csum() {
            return Ok(());
        }
        let whose = format!("inode {number}, attribute block {place}");
        let mut block = self.new.block(place, &whose)?.to_vec();
        let sum = xattr::block_checksum(self.new.sb.seed, place, &block);
        put_le32(&mut block, 16, sum);
        self.new.put_block(place, block);
        Ok(())
    }

    fn count(&mut self, number: u32, blocks: u64) -> Result<(), ResizeError> {
        match self.left.checked_sub(blocks) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(damaged(format!(
                "inode {number}: expected no more blocks in all files than the file system has, found more; run e2fsck -f"
            ))),
        }
    }

    fn extents(&mut self, inode: &mut Inode) -> Result<(), ResizeError> {
        let mut list = self.old.extent_list(inode)?;
        self.count(inode.number, list.len() as u64)?;
        if !list.reaches(self.moves.end) {
            return Ok(());
        }
        let before = list.len();
        let (moves, number) = (self.moves, inode.number);
        list.translate(|block| {
            moves.to(block).ok_or_else(|| {
                corrupt(format!(
                    "inode {number}: block {block}: expected in use, found free in its bitmap"
                ))
            })
        })?;
        if list.len() > before {
            return Ok(self.new.put_extents(inode, list)?);
        }
        // No extent was cut in two: the tree keeps its form, and its owner is charged for no more.
        let mut root = [0; 60];
        root.copy_from_slice(inode.block().get(..60).unwrap_or(&[0; 60]));
        self.patch_node(inode, &mut root)?;
        inode.set_block(&root);
        Ok(())
    }

    /// Put new places into a node of an extent tree, which was checked before, and into all below it.
    /// Whether it changed.
    fn patch_node(&mut self, inode: &Inode, node: &mut [u8]) -> Result<bool, ResizeError> {
        let (entries, is_leaf) = (usize::from(le16(node, 2)), le16(node, 6) == 0);
        // Of a place, where the low 32 bits and the high 16 lie in an entry.
        let (low, high) = if is_leaf { (8, 6) } else { (4, 8) };
        let mut changed = false;
        for at in (0..entries).map(|n| 12 + n * 12) {
            let from = u64::from(le32(node, at + low)) | u64::from(le16(node, at + high)) << 32;
            let to = self.place_of(from, inode.number)?;
            if !is_leaf {
                let whose = format!("inode {}, extent block {from}", inode.number);
                let mut below = self.old.block(from, &whose)?.to_vec();
                if self.patch_node(inode, &mut below)? {
                    self.put_node(inode, to, below);
                }
            }
            if to != from {
                put_le32(node, at + low, to as u32);
                put_le16(node, at + high, (to >> 32) as u16);
                changed = true;
            }
        }
        Ok(changed)
    }

    fn put_node(&mut self, inode: &Inode, place: Block, mut node: Vec<u8>) {
        if self.new.sb.has_metadata_csum() {
            let tail = 12 + usize::from(le16(&node, 4)) * 12;
            let sum = crc32c(inode.seed(self.new.sb.seed), slice(&node, 0, tail));
            put_le32(&mut node, tail, sum);
        }
        self.new.put_block(place, node);
    }

    fn block_map(&mut self, inode: &mut Inode) -> Result<(), ResizeError> {
        let mut slots = [0; 60];
        slots.copy_from_slice(inode.block().get(..60).unwrap_or(&[0; 60]));
        for slot in 0..15_usize {
            let depth = [1, 2, 3].get(slot.wrapping_sub(12)).copied().unwrap_or(0);
            let block = u64::from(le32(&slots, slot * 4));
            if block != 0 {
                let to = self.mapped(inode.number, block, depth)?;
                put_le32(&mut slots, slot * 4, to as u32);
            }
        }
        inode.set_block(&slots);
        Ok(())
    }

    /// The new place of a block of a map, `depth` levels of numbers below it.
    fn mapped(&mut self, number: u32, block: Block, depth: u32) -> Result<Block, ResizeError> {
        let whose = format!("inode {number}, block map");
        self.old.check_blocks(block, 1, &whose)?;
        let to = self.place_of(block, number)?;
        if depth == 0 {
            return Ok(to);
        }
        self.count(number, 1)?;
        let names = self.old.block(block, &whose)?;
        let mut changed = None;
        for (slot, raw) in names.chunks_exact(4).enumerate() {
            let child = u64::from(le32(raw, 0));
            if child == 0 || depth == 1 && child < self.moves.end {
                continue;
            }
            let child_to = self.mapped(number, child, depth - 1)?;
            if child_to != child {
                let block = changed.get_or_insert_with(|| names.to_vec());
                put_le32(block, slot * 4, child_to as u32);
            }
        }
        if let Some(block) = changed {
            self.new.put_block(to, block);
        }
        Ok(to)
    }
}

/// Whether an inode may name a block at or behind `end`: cheap, and never wrongly `false`.
fn may_reach<D: BlockRead>(volume: &Volume<D>, inode: &Inode, end: Block) -> bool {
    if inode.xattr_block() >= end {
        return true;
    }
    if !has_map(volume, inode) {
        return false;
    }
    let map = inode.block();
    if !inode.has(flag::EXTENTS) {
        let slot = |slot: usize| u64::from(le32(map, slot * 4));
        return (0..12).any(|n| slot(n) >= end) || (12..15).any(|n| slot(n) != 0);
    }
    if le16(map, 6) > 0 {
        return true;
    }
    slice(map, 12, 48).chunks_exact(12).any(|extent| {
        let at = u64::from(le32(extent, 8)) | u64::from(le16(extent, 6)) << 32;
        at + u64::from(le16(extent, 4)) > end
    })
}
