//! Growing: the last group filled up, new groups behind it.

use std::ops::Range;

use block_io::{BlockRead, BlockWrite, ExtentKind};

use super::copies::{self, Table};
use super::space::set_within;
use super::{geometry, unchanged};
use crate::bytes::u8_at;
use crate::ext::alloc::set_bits;
use crate::ext::checksum::crc32c;
use crate::ext::feature;
use crate::ext::format::{Block, Superblock};
use crate::ext::group::{BLOCK_UNINIT, GroupDesc, INODE_UNINIT, INODE_ZEROED};
use crate::ext::volume::Volume;
use crate::resize::{ResizeError, ResizeErrorKind, Resized};

/// Zeroes are written this many bytes at a time.
const ZEROES: usize = 1 << 20;

/// Make the file system `blocks` long, which is more than it is.
pub(super) fn grow<D: BlockWrite>(
    volume: &mut Volume<D>,
    blocks: u64,
) -> Result<Resized, ResizeError> {
    let old = volume.sb.clone();
    let (largest, why) = geometry::largest(&old);
    if blocks.saturating_mul(old.block_size) > largest {
        return Err(ResizeError::new(ResizeErrorKind::TooLarge { largest }, why));
    }
    let mut new = geometry::target(&old, blocks)?;
    if new.blocks <= old.blocks {
        return Ok(unchanged(volume));
    }
    let mut table = Table::read(volume, new.groups)?;
    let map = copies::resize_map(volume)?;
    volume.begin();
    let done = write(volume, &old, &mut new, &mut table, map);
    done.map_err(ResizeError::torn)?;
    Ok(Resized {
        before: old.blocks * old.block_size,
        after: new.blocks * new.block_size,
        ..Resized::default()
    })
}

fn write<D: BlockWrite>(
    volume: &mut Volume<D>,
    old: &Superblock,
    new: &mut Superblock,
    table: &mut Table,
    map: Option<Block>,
) -> Result<(), ResizeError> {
    match map {
        Some(map) if new.has_compat(feature::RESIZE_INODE) => {
            copies::write_resize_inode(volume, new, map)?;
        }
        Some(map) => {
            copies::clear_resize_inode(volume)?;
            free_block(volume, table, new, map)?;
        }
        None => {}
    }
    fill_last(volume, old, new, table)?;
    volume.commit(&[])?;
    let per_flex = match new.has_incompat(feature::FLEX_BG) {
        true => 1_u64
            .checked_shl(u8_at(&new.raw, 0x174).into())
            .unwrap_or(1),
        false => 1,
    };
    let mut group = old.groups;
    while group < new.groups {
        let end = (group / per_flex + 1)
            .saturating_mul(per_flex)
            .min(new.groups);
        Added::lay_out(new, group..end).write(&volume.disk, new, table)?;
        group = end;
    }
    copies::write_all(&volume.disk, new, table)
}

/// Take one block back that lay outside of all tables.
fn free_block<D: BlockRead>(
    volume: &mut Volume<D>,
    table: &mut Table,
    new: &Superblock,
    block: Block,
) -> Result<(), ResizeError> {
    let group = volume.sb.group_of(block);
    let mut desc = table.get(group);
    let mut bitmap = volume.block_bitmap(group, &desc)?;
    let bit = block - volume.sb.group_start(group);
    set_bits(&mut bitmap, bit..bit + 1, false);
    desc.set_free_blocks(desc.free_blocks().saturating_add(1));
    put_bitmap(volume, table, new, group, desc, bitmap)
}

/// Put a changed bitmap, which its group had before, and its descriptor.
fn put_bitmap<D: BlockRead>(
    volume: &mut Volume<D>,
    table: &mut Table,
    new: &Superblock,
    group: u64,
    mut desc: GroupDesc,
    bitmap: Vec<u8>,
) -> Result<(), ResizeError> {
    if new.has_metadata_csum() {
        desc.set_block_bitmap_csum(volume.block_bitmap_sum(&bitmap));
    }
    volume.put_block(desc.block_bitmap(), bitmap);
    table.set(new, group, desc.clone());
    // Later reads of this bitmap check it against its descriptor.
    Ok(volume.put_desc(group, desc)?)
}

/// The last group of old takes in what follows it.
fn fill_last<D: BlockRead>(
    volume: &mut Volume<D>,
    old: &Superblock,
    new: &Superblock,
    table: &mut Table,
) -> Result<(), ResizeError> {
    let last = old.groups - 1;
    let (before, after) = (old.group_len(last), new.group_len(last));
    if after <= before {
        return Ok(());
    }
    let mut desc = table.get(last);
    let free = desc.free_blocks().saturating_add((after - before) as u32);
    let is_uninit = old.has_group_csum() && desc.flags() & BLOCK_UNINIT != 0;
    if is_uninit {
        desc.set_free_blocks(free);
        table.set(new, last, desc);
        return Ok(());
    }
    let mut bitmap = volume.block_bitmap(last, &desc)?;
    set_bits(&mut bitmap, before..after, false);
    desc.set_free_blocks(free);
    put_bitmap(volume, table, new, last, desc, bitmap)
}

/// New groups that share their place for bitmaps and inode tables, and where these lie.
struct Added {
    groups: Range<u64>,
    /// Block bitmap, inode bitmap, inode table of each.
    places: Vec<[Block; 3]>,
}

impl Added {
    /// Bitmaps first, then tables, at the start of the first of `groups`; where that does not fit,
    /// each group keeps its own.
    fn lay_out(sb: &Superblock, groups: Range<u64>) -> Self {
        let together = Self::together(sb, groups.clone());
        let places = together.unwrap_or_else(|| {
            let own = |group| {
                let first = sb.group_start(group) + sb.group_head(group);
                [first, first + 1, first + 2]
            };
            groups.clone().map(own).collect()
        });
        Self { groups, places }
    }

    fn together(sb: &Superblock, groups: Range<u64>) -> Option<Vec<[Block; 3]>> {
        let mut next = sb.group_start(groups.start);
        let mut take = |len: u64| take_behind_heads(sb, &mut next, len);
        let blocks: Option<Vec<_>> = groups.clone().map(|_| take(1)).collect();
        let inodes: Option<Vec<_>> = groups.clone().map(|_| take(1)).collect();
        let len = sb.inode_table_blocks();
        let tables: Option<Vec<_>> = groups.clone().map(|_| take(len)).collect();
        let bitmaps = blocks?.into_iter().zip(inodes?).zip(tables?);
        Some(bitmaps.map(|((a, b), c)| [a, b, c]).collect())
    }

    fn ranges(&self, sb: &Superblock) -> Vec<Range<Block>> {
        let table = sb.inode_table_blocks();
        let of = |[a, b, c]: &[Block; 3]| [*a..a + 1, *b..b + 1, *c..c + table];
        let mut ranges: Vec<_> = self.places.iter().flat_map(of).collect();
        ranges.sort_by_key(|range| range.start);
        ranges
    }

    fn write<D: BlockWrite>(
        &self,
        disk: &D,
        sb: &Superblock,
        table: &mut Table,
    ) -> Result<(), ResizeError> {
        let ranges = self.ranges(sb);
        for (group, [block_bitmap, inode_bitmap, inode_table]) in
            self.groups.clone().zip(self.places.iter().copied())
        {
            let mut desc = table.get(group);
            desc.raw.fill(0);
            desc.set_block_bitmap(block_bitmap);
            desc.set_inode_bitmap(inode_bitmap);
            desc.set_inode_table(inode_table);
            desc.set_free_inodes(sb.inodes_per_group);
            self.write_inodes(disk, sb, &mut desc)?;
            self.write_bitmap(disk, sb, &mut desc, group, &ranges)?;
            table.set(sb, group, desc);
        }
        Ok(())
    }

    /// An empty inode table: with checksums over descriptors it need not be written.
    fn write_inodes<D: BlockWrite>(
        &self,
        disk: &D,
        sb: &Superblock,
        desc: &mut GroupDesc,
    ) -> Result<(), ResizeError> {
        let start = desc.inode_table() * sb.block_size;
        let bytes = start..start + sb.inode_table_blocks() * sb.block_size;
        if sb.has_group_csum() {
            let mut flags = INODE_UNINIT;
            if is_zero(disk, bytes)? {
                flags |= INODE_ZEROED;
            }
            desc.set_flags(flags);
            desc.set_itable_unused(sb.inodes_per_group);
            return Ok(());
        }
        write_zeroes(disk, bytes)?;
        let mut bitmap = vec![0; sb.block_size as usize];
        set_bits(
            &mut bitmap,
            sb.inodes_per_group.into()..sb.block_size * 8,
            true,
        );
        Ok(disk.write_at(desc.inode_bitmap() * sb.block_size, &bitmap)?)
    }

    /// The block bitmap of a new group. A group that holds but copies of superblock and descriptors
    /// needs none, unless it is the last one, as mke2fs has it.
    fn write_bitmap<D: BlockWrite>(
        &self,
        disk: &D,
        sb: &Superblock,
        desc: &mut GroupDesc,
        group: u64,
        ranges: &[Range<Block>],
    ) -> Result<(), ResizeError> {
        let (start, len) = (sb.group_start(group), sb.group_len(group));
        let mut bitmap = vec![0; sb.block_size as usize];
        set_bits(&mut bitmap, 0..sb.group_head(group), true);
        let mut used = sb.group_head(group);
        used += set_within(&mut bitmap, ranges, start..start + len, true);
        desc.set_free_blocks(len.saturating_sub(used) as u32);
        let is_bare = used == sb.group_head(group) && group + 1 < sb.groups;
        if sb.has_group_csum() && is_bare {
            desc.set_flags(desc.flags() | BLOCK_UNINIT);
            return Ok(());
        }
        set_bits(&mut bitmap, len..sb.block_size * 8, true);
        if sb.has_metadata_csum() {
            let bytes = bitmap.get(..(sb.blocks_per_group / 8) as usize);
            desc.set_block_bitmap_csum(crc32c(sb.seed, bytes.unwrap_or_default()));
        }
        Ok(disk.write_at(desc.block_bitmap() * sb.block_size, &bitmap)?)
    }
}

/// The next `len` blocks from `next` on that no copy of superblock and descriptors needs.
fn take_behind_heads(sb: &Superblock, next: &mut Block, len: u64) -> Option<Block> {
    loop {
        let group = sb.group_of(*next);
        let head = sb.group_start(group) + sb.group_head(group);
        *next = (*next).max(head);
        let end = next.checked_add(len)?;
        if end > sb.blocks {
            return None;
        }
        let crossed = (group + 1..=sb.group_of(end - 1)).find(|group| sb.group_head(*group) > 0);
        match crossed {
            Some(group) => *next = sb.group_start(group),
            None => {
                let start = *next;
                *next = end;
                return Some(start);
            }
        }
    }
}

/// Whether the disk promises that a range reads as zeroes.
fn is_zero<D: BlockRead>(disk: &D, bytes: Range<u64>) -> Result<bool, ResizeError> {
    let mut at = bytes.start;
    while at < bytes.end {
        let extent = disk.extent_at(at)?;
        if extent.kind != ExtentKind::Zero || extent.len == 0 {
            return Ok(false);
        }
        at = extent.start.saturating_add(extent.len).max(at + 1);
    }
    Ok(true)
}

/// Write zeroes where the disk does not promise them.
fn write_zeroes<D: BlockWrite>(disk: &D, bytes: Range<u64>) -> Result<(), ResizeError> {
    let zeroes = vec![0; ZEROES];
    let mut at = bytes.start;
    while at < bytes.end {
        let extent = disk.extent_at(at)?;
        let left = (bytes.end - at).min(extent.len.max(1));
        let len = match extent.kind {
            ExtentKind::Zero => left,
            _ => {
                let len = left.min(ZEROES as u64);
                disk.write_at(at, zeroes.get(..len as usize).unwrap_or_default())?;
                len
            }
        };
        at += len;
    }
    Ok(())
}
