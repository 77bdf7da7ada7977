//! Inodes of groups that are cut off get numbers in groups that stay, and everything that names them
//! is told: directories, attributes kept in inodes, the superblock.

use std::collections::HashMap;

use block_io::{BlockRead, BlockWrite};

use super::moves::{has_map, pick_inodes};
use super::{damaged, unsupported};
use crate::bytes::{le16, le32, put_le32, slice, u8_at};
use crate::ext::dir::{htree, parse_entries};
use crate::ext::feature;
use crate::ext::format::Block;
use crate::ext::inode::{Inode, flag};
use crate::ext::volume::Volume;
use crate::ext::xattr::{self, BLOCK_HEADER, XATTR_MAGIC};
use crate::resize::ResizeError;

/// Fields of the superblock that hold inode numbers: journal, user quota, group quota, project quota,
/// lost+found, orphan file. // [ext4 disk layout] Super Block
const SUPERBLOCK_FIELDS: [usize; 6] = [0xE0, 0x240, 0x244, 0x26C, 0x268, 0x280];
/// Changes are written after this many inodes.
const BATCH: usize = 512;

/// New numbers by old ones.
struct Numbers {
    map: HashMap<u32, u32>,
    /// The last number that stays.
    last: u32,
}

impl Numbers {
    /// The number `old` has now; `None` for one that was not in use.
    fn to(&self, old: u32) -> Option<u32> {
        match old <= self.last {
            true => Some(old),
            false => self.map.get(&old).copied(),
        }
    }
}

/// Refuse, before anything is written, to renumber where numbers must not change.
pub(super) fn refuse<D: BlockRead>(volume: &Volume<D>, groups: u64) -> Result<(), ResizeError> {
    if !volume.sb.has_compat(feature::STABLE_INODES) {
        return Ok(());
    }
    for group in groups..volume.sb.groups {
        if !pick_inodes(volume, group, |_| true)?.is_empty() {
            return Err(unsupported(
                "stable_inodes: files would get other inode numbers, which the keys of encrypted files depend on; shrink it less",
            ));
        }
    }
    Ok(())
}

/// Move every inode of the groups from `groups` on; how many.
pub(super) fn renumber<D: BlockWrite>(
    volume: &mut Volume<D>,
    groups: u64,
) -> Result<u64, ResizeError> {
    let mut leaving = Vec::new();
    for group in groups..volume.sb.groups {
        leaving.extend(pick_inodes(volume, group, |_| true)?);
    }
    if leaving.is_empty() {
        return Ok(0);
    }
    // No inode is given out there any more.
    set_free_inodes(volume, groups, 0)?;
    let mut numbers = Numbers {
        map: HashMap::with_capacity(leaving.len()),
        last: (groups * u64::from(volume.sb.inodes_per_group)) as u32,
    };
    let mut near = 1;
    for batch in leaving.chunks(BATCH) {
        volume.begin();
        for old in batch {
            near = move_inode(volume, *old, near)?;
            numbers.map.insert(*old, near);
        }
        volume.commit(&[])?;
    }
    tell_all(volume, groups, &numbers)?;
    let all = volume.sb.inodes_per_group;
    set_free_inodes(volume, groups, all)?;
    Ok(numbers.map.len() as u64)
}

/// Let the groups from `groups` on say that so many inodes are free.
fn set_free_inodes<D: BlockWrite>(
    volume: &mut Volume<D>,
    groups: u64,
    count: u32,
) -> Result<(), ResizeError> {
    volume.begin();
    for group in groups..volume.sb.groups {
        let mut desc = volume.desc(group)?;
        desc.set_free_inodes(count);
        volume.put_desc(group, desc)?;
    }
    Ok(volume.commit(&[])?)
}

fn move_inode<D: BlockWrite>(
    volume: &mut Volume<D>,
    old: u32,
    near: u32,
) -> Result<u32, ResizeError> {
    let inode = volume.inode(old)?;
    let number = volume.allocate_inode(near, inode.is_dir())?;
    let mut moved = Inode {
        number,
        raw: inode.raw.clone(),
    };
    // Checksums of tree blocks begin with the number.
    let has_tree = inode.has(flag::EXTENTS) && le16(inode.block(), 6) > 0;
    if volume.sb.has_metadata_csum() && has_tree && has_map(volume, &inode) {
        let list = volume.extent_list(&inode)?;
        volume.put_extents(&mut moved, list)?;
    }
    volume.put_inode(&mut moved)?;
    Ok(number)
}

/// Change every mention of the old numbers.
fn tell_all<D: BlockWrite>(
    volume: &mut Volume<D>,
    groups: u64,
    numbers: &Numbers,
) -> Result<(), ResizeError> {
    let before: HashMap<u32, u32> = numbers.map.iter().map(|(old, new)| (*new, *old)).collect();
    let has_values = volume.sb.has_incompat(feature::EA_INODE);
    for group in 0..groups {
        let concerned = pick_inodes(volume, group, |inode| has_values || inode.is_dir())?;
        for batch in concerned.chunks(BATCH) {
            volume.begin();
            for number in batch {
                let mut inode = volume.inode(*number)?;
                if inode.is_dir() {
                    tell_directory(volume, &mut inode, before.get(number).copied(), numbers)?;
                }
                if has_values {
                    tell_attributes(volume, &mut inode, numbers)?;
                }
            }
            volume.commit(&[])?;
        }
    }
    volume.begin();
    for at in SUPERBLOCK_FIELDS {
        let old = le32(&volume.sb.raw, at);
        if let Some(new) = numbers.to(old) {
            put_le32(&mut volume.sb.raw, at, new);
        }
    }
    Ok(volume.commit(&[])?)
}

/// Change the numbers in entries of `block`; whether any was.
fn tell_entries(block: &mut [u8], numbers: &Numbers, whose: &str) -> Result<bool, ResizeError> {
    let mut changes = Vec::new();
    for entry in parse_entries(block, whose)? {
        match numbers.to(entry.inode) {
            Some(new) if new == entry.inode => {}
            Some(new) => changes.push((entry.at, new)),
            None => {
                return Err(damaged(format!(
                    "{whose}: inode number at byte {}: expected one in use, found {}; run e2fsck -f",
                    entry.at, entry.inode
                )));
            }
        }
    }
    for (at, new) in &changes {
        put_le32(block, *at, *new);
    }
    Ok(!changes.is_empty())
}

fn tell_directory<D: BlockWrite>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    old_number: Option<u32>,
    numbers: &Numbers,
) -> Result<(), ResizeError> {
    if dir.has(flag::INLINE_DATA) {
        return tell_inline(volume, dir, numbers);
    }
    let as_old = Inode {
        number: old_number.unwrap_or(dir.number),
        raw: dir.raw.clone(),
    };
    let sums = volume.sb.has_metadata_csum();
    for logical in 0..volume.dir_len(dir)? {
        let whose = format!("directory inode {}, block {logical}", dir.number);
        let (place, bytes) = volume.dir_block(&as_old, logical)?;
        let mut block = bytes.to_vec();
        if tell_entries(&mut block, numbers, &whose)? || sums && old_number.is_some() {
            put_directory_block(volume, dir, place, block);
        }
    }
    Ok(())
}

/// Put a changed block of a directory, a leaf or one of its hash tree, with its checksum.
fn put_directory_block<D: BlockWrite>(
    volume: &mut Volume<D>,
    dir: &Inode,
    place: Block,
    mut block: Vec<u8>,
) {
    let node = htree::count_place(&block).filter(|_| dir.has(flag::INDEX));
    match node {
        Some(at) => {
            if volume.sb.has_metadata_csum() {
                let (sum, _) = htree::checksum(dir.seed(volume.sb.seed), &block, at);
                let tail = at + usize::from(le16(&block, at)) * 8;
                put_le32(&mut block, tail + 4, sum);
            }
            volume.put_block(place, block);
        }
        None => volume.put_leaf(dir, place, block),
    }
}

/// A directory in its inode: the parent's number, entries behind it, more of them in an attribute.
fn tell_inline<D: BlockWrite>(
    volume: &mut Volume<D>,
    dir: &mut Inode,
    numbers: &Numbers,
) -> Result<(), ResizeError> {
    let whose = format!("inline directory inode {}", dir.number);
    let parent = le32(dir.block(), 0);
    let Some(parent) = numbers.to(parent) else {
        return Err(damaged(format!(
            "{whose}: parent: expected an inode in use, found {parent}; run e2fsck -f"
        )));
    };
    put_le32(&mut dir.raw, 0x28, parent);
    // i_block behind the parent's number, then the value of the attribute "data".
    let value = volume
        .body_region(dir)
        .and_then(|at| inline_value(&dir.raw, at));
    let parts = [Some(0x28 + 4..0x28 + 60), value];
    for part in parts.into_iter().flatten() {
        if let Some(entries) = dir.raw.get_mut(part).filter(|part| !part.is_empty()) {
            tell_entries(entries, numbers, &whose)?;
        }
    }
    Ok(volume.put_inode(dir)?)
}

/// Where the value of the attribute that holds inline data lies in an inode.
fn inline_value(raw: &[u8], region: usize) -> Option<std::ops::Range<usize>> {
    if le32(raw, region - 4) != XATTR_MAGIC {
        return None;
    }
    let entries = entry_places(raw, region);
    let at = entries.into_iter().find(|at| {
        u8_at(raw, at + 1) == 7 && slice(raw, at + 16, usize::from(u8_at(raw, *at))) == b"data"
    })?;
    let start = region + usize::from(le16(raw, at + 2));
    let end = start.checked_add(le32(raw, at + 8) as usize)?;
    (end <= raw.len()).then_some(start..end)
}

/// Where the attributes of a list that begins at `at` lie.
fn entry_places(bytes: &[u8], mut at: usize) -> Vec<usize> {
    let mut places = Vec::new();
    while at + 16 <= bytes.len() && le32(bytes, at) != 0 {
        places.push(at);
        at += (16 + usize::from(u8_at(bytes, at))).next_multiple_of(4);
    }
    places
}

/// Change the numbers of inodes that hold values; whether any was.
fn tell_values(bytes: &mut [u8], at: usize, numbers: &Numbers) -> bool {
    let mut changed = false;
    for at in entry_places(bytes, at) {
        let old = le32(bytes, at + 4);
        if let Some(new) = numbers.to(old).filter(|new| *new != old) {
            put_le32(bytes, at + 4, new);
            changed = true;
        }
    }
    changed
}

fn tell_attributes<D: BlockWrite>(
    volume: &mut Volume<D>,
    inode: &mut Inode,
    numbers: &Numbers,
) -> Result<(), ResizeError> {
    if let Some(at) = volume.body_region(inode)
        && le32(&inode.raw, at - 4) == XATTR_MAGIC
        && tell_values(&mut inode.raw, at, numbers)
    {
        volume.put_inode(inode)?;
    }
    let place = inode.xattr_block();
    if place == 0 {
        return Ok(());
    }
    let whose = format!("inode {}, attribute block {place}", inode.number);
    let mut block = volume.block(place, &whose)?.to_vec();
    if le32(&block, 0) == XATTR_MAGIC && tell_values(&mut block, BLOCK_HEADER, numbers) {
        let sum = xattr::block_checksum(volume.sb.seed, place, &block);
        if volume.sb.has_metadata_csum() {
            put_le32(&mut block, 16, sum);
        }
        volume.put_block(place, block);
    }
    Ok(())
}
