//! The descriptor table, the superblock, their copies, and the inode that keeps room for the table.

use block_io::{BlockRead, BlockWrite};

use super::damaged;
use crate::bytes::{le32, put_le16, put_le32, slice};
use crate::ext::feature;
use crate::ext::format::{Block, SUPERBLOCK_OFFSET, Superblock};
use crate::ext::group::GroupDesc;
use crate::ext::volume::Volume;
use crate::resize::ResizeError;

/// The inode that keeps room for descriptors.
pub(super) const RESIZE_INODE: u32 = 7;
/// The slot of the double indirect block in an inode.
const DOUBLE: usize = 13;

/// The descriptors of all groups.
pub(super) struct Table {
    raw: Vec<u8>,
    desc_size: usize,
}

impl Table {
    /// The descriptors of `volume`, checked, with room for those of `groups` groups.
    pub(super) fn read<D: BlockRead>(volume: &Volume<D>, groups: u64) -> Result<Self, ResizeError> {
        let sb = &volume.sb;
        let per_block = sb.descs_per_block();
        let blocks = groups.div_ceil(per_block);
        let mut table = Self {
            raw: vec![0; (blocks * sb.block_size) as usize],
            desc_size: sb.desc_size,
        };
        for group in 0..groups.min(sb.groups) {
            let desc = volume.desc(group)?;
            table.put(group, &desc);
        }
        Ok(table)
    }

    pub(super) fn get(&self, group: u64) -> GroupDesc {
        let at = (group as usize).saturating_mul(self.desc_size);
        let mut raw = slice(&self.raw, at, self.desc_size).to_vec();
        raw.resize(self.desc_size, 0);
        GroupDesc { raw }
    }

    /// Put a descriptor, with its checksum.
    pub(super) fn set(&mut self, sb: &Superblock, group: u64, mut desc: GroupDesc) {
        desc.seal(sb, group);
        self.put(group, &desc);
    }

    fn put(&mut self, group: u64, desc: &GroupDesc) {
        let at = (group as usize).saturating_mul(self.desc_size);
        crate::bytes::put(&mut self.raw, at, &desc.raw);
    }
}

/// Set the counts of `sb` to the sums of the groups', and write it and the descriptors everywhere they
/// belong.
pub(super) fn write_all<D: BlockWrite>(
    disk: &D,
    sb: &mut Superblock,
    table: &Table,
) -> Result<(), ResizeError> {
    let (mut blocks, mut inodes) = (0_u64, 0_u32);
    for group in 0..sb.groups {
        let desc = table.get(group);
        blocks += u64::from(desc.free_blocks());
        inodes = inodes.saturating_add(desc.free_inodes());
    }
    sb.set_free_blocks(blocks);
    sb.set_free_inodes(inodes);
    let size = sb.block_size as usize;
    let first_meta = first_meta(sb);
    let is_meta = sb.has_incompat(feature::META_BG);
    for (index, part) in (0_u64..).zip(table.raw.chunks(size)) {
        if index < first_meta {
            continue;
        }
        let first = index * sb.descs_per_block();
        for group in [first, first + 1, first + sb.descs_per_block() - 1] {
            if group < sb.groups {
                let at = sb.group_start(group) + u64::from(sb.has_super(group)) + odd(sb, group);
                disk.write_at(at * sb.block_size, part)?;
            }
        }
    }
    let old_style = table
        .raw
        .get(..first_meta as usize * size)
        .unwrap_or(&table.raw);
    for group in (0..sb.groups).filter(|group| sb.has_super(*group)) {
        let at = sb.group_start(group) + 1 + odd(sb, group);
        // Groups whose descriptors lie among them have no copy of the others.
        if !old_style.is_empty() && (!is_meta || group / sb.descs_per_block() < first_meta) {
            disk.write_at(at * sb.block_size, old_style)?;
        }
        write_superblock(disk, sb, group)?;
    }
    Ok(())
}

/// How many blocks of the table lie behind each copy of the superblock.
fn first_meta(sb: &Superblock) -> u64 {
    match sb.has_incompat(feature::META_BG) {
        true => sb.first_meta_bg().min(sb.desc_blocks()),
        false => sb.desc_blocks(),
    }
}

/// 1 for the first group of a file system that begins with block 0 and has its superblock in block 1.
fn odd(sb: &Superblock, group: u64) -> u64 {
    u64::from(sb.block_size == 1024 && group == 0 && sb.first_data_block == 0)
}

/// Write the superblock, or its copy in `group`, which carries the group's number.
fn write_superblock<D: BlockWrite>(
    disk: &D,
    sb: &Superblock,
    group: u64,
) -> Result<(), ResizeError> {
    let mut copy = sb.clone();
    // s_block_group_nr
    put_le16(&mut copy.raw, 0x5A, group as u16);
    copy.seal();
    let at = match group {
        0 => SUPERBLOCK_OFFSET,
        _ => sb.group_start(group) * sb.block_size,
    };
    Ok(disk.write_at(at, &copy.raw)?)
}

/// The block of the resize inode that names the room kept in the first group.
pub(super) fn resize_map<D: BlockRead>(volume: &Volume<D>) -> Result<Option<Block>, ResizeError> {
    if !volume.sb.has_compat(feature::RESIZE_INODE) {
        return Ok(None);
    }
    let inode = volume.inode(RESIZE_INODE)?;
    let map = u64::from(le32(inode.block(), DOUBLE * 4));
    volume.check_blocks(map, 1, "inode 7 (resize), double indirect block")?;
    Ok(Some(map))
}

/// Let the resize inode name the room that `new` keeps behind its descriptor tables; `map` is where
/// its double indirect block lies. // [ext4 disk layout] Special inodes; checked by e2fsck as
/// "resize inode"
pub(super) fn write_resize_inode<D: BlockWrite>(
    volume: &mut Volume<D>,
    new: &Superblock,
    map: Block,
) -> Result<(), ResizeError> {
    let per_block = new.block_size / 4;
    let reserved = new.reserved_gdt_blocks();
    if reserved > per_block {
        return Err(damaged(format!(
            "s_reserved_gdt_blocks: expected at most {per_block}, found {reserved}"
        )));
    }
    let copies: Vec<u64> = (1..new.groups)
        .filter(|group| new.has_super(*group))
        .collect();
    let mut double = vec![0; new.block_size as usize];
    let first = new.first_data_block + 1 + new.desc_blocks() + odd(new, 0);
    for n in 0..reserved {
        let place = first + n;
        let slot = (new.desc_blocks() + n) % per_block;
        put_le32(&mut double, slot as usize * 4, place as u32);
        let mut names = vec![0; new.block_size as usize];
        for (at, group) in copies.iter().enumerate() {
            let copy = place + group * new.blocks_per_group;
            put_le32(&mut names, at * 4, copy as u32);
        }
        volume.disk.write_at(place * new.block_size, &names)?;
        volume.forget(place);
    }
    volume.disk.write_at(map * new.block_size, &double)?;
    volume.forget(map);
    let mut inode = volume.inode(RESIZE_INODE)?;
    let mut blocks = [0; 60];
    put_le32(&mut blocks, DOUBLE * 4, map as u32);
    inode.set_block(&blocks);
    let count = 1 + reserved * (1 + copies.len() as u64);
    inode.set_blocks_field(count * (new.block_size / 512));
    volume.put_inode(&mut inode)?;
    Ok(())
}

/// Clear the resize inode: nothing is kept any more.
pub(super) fn clear_resize_inode<D: BlockRead>(volume: &mut Volume<D>) -> Result<(), ResizeError> {
    let mut inode = volume.inode(RESIZE_INODE)?;
    inode.raw.fill(0);
    Ok(volume.put_inode(&mut inode)?)
}
