//! Shrinking: inodes of groups that go get numbers in groups that stay, blocks behind the new end get
//! places before it, every reference is changed, and the groups are cut off.
//!
//! Everything is planned from bitmaps and descriptors before the first byte is written.

use std::collections::BTreeSet;

use block_io::BlockWrite;

use super::copies::{self, Table};
use super::moves::{Relink, copy_blocks};
use super::space::{Plan, Space, set_within};
use super::{renumber, unchanged, unsupported};
use crate::bytes::{self, le32, le64, put_le32, u8_at};
use crate::ext::alloc::{is_set, set_bits};
use crate::ext::feature;
use crate::ext::format::{Block, Superblock};
use crate::ext::group::BLOCK_UNINIT;
use crate::ext::volume::Volume;
use crate::resize::{ResizeError, Resized};

/// Make the file system `blocks` long, which is less than it is.
pub(super) fn shrink<D: BlockWrite + Copy>(
    volume: &mut Volume<D>,
    blocks: u64,
) -> Result<Resized, ResizeError> {
    let before = volume.sb.blocks * volume.sb.block_size;
    refuse_bad_blocks(volume)?;
    volume.system.clear();
    volume.survey_system_blocks()?;
    let plan = Space::survey(volume)?.plan(blocks)?;
    let map = copies::resize_map(volume)?;
    if plan.target.blocks >= volume.sb.blocks {
        return Ok(unchanged(volume));
    }
    renumber::refuse(volume, plan.target.groups)?;
    let done = write(volume, plan, blocks, map);
    let (after, moved, renumbered) = done.map_err(ResizeError::torn)?;
    Ok(Resized {
        before,
        after,
        moved,
        renumbered,
    })
}

fn refuse_bad_blocks<D: BlockWrite>(volume: &Volume<D>) -> Result<(), ResizeError> {
    if volume.inode(1)?.block().iter().any(|byte| *byte != 0) {
        return Err(unsupported(
            "a list of bad blocks (inode 1); run e2fsck -L with an empty list on the source, then try again",
        ));
    }
    Ok(())
}

fn write<D: BlockWrite + Copy>(
    old: &mut Volume<D>,
    mut plan: Plan,
    blocks: u64,
    map: Option<Block>,
) -> Result<(u64, u64, u64), ResizeError> {
    let renumbered = renumber::renumber(old, plan.target.groups)?;
    if renumbered > 0 {
        // Trees of files that have new numbers were laid out anew.
        plan = Space::survey(old)?.plan(blocks)?;
    }
    plan.moves.copy(&old.disk, &old.sb)?;
    let mut new = cut(old, &plan)?;
    if let Some(map) = map.and_then(|map| plan.moves.to(map)) {
        let target = new.sb.clone();
        copies::write_resize_inode(&mut new, &target, map.0)?;
        new.commit(&[])?;
    }
    move_mmp(&mut new, &plan);
    let left = old.sb.blocks.saturating_mul(2);
    Relink {
        old,
        new: &mut new,
        moves: &plan.moves,
        left,
    }
    .all()?;
    new.begin();
    new.seal_orphan_file()?;
    back_up_journal(&mut new)?;
    new.commit(&[])?;
    let table = Table::read(&new, new.sb.groups)?;
    copies::write_all(&new.disk, &mut new.sb, &table)?;
    let size = new.sb.block_size;
    let tables: u64 = plan.relocations.iter().map(|moved| moved.len).sum();
    let moved = (plan.moves.blocks() + tables) * size;
    Ok((new.sb.blocks * size, moved, renumbered))
}

/// Write bitmaps and descriptors of the groups that stay; the file system they make.
fn cut<D: BlockWrite + Copy>(old: &Volume<D>, plan: &Plan) -> Result<Volume<D>, ResizeError> {
    let mut sb = plan.target.clone();
    let mut table = Table::read(old, sb.groups)?;
    let mut touched = BTreeSet::from([sb.groups - 1]);
    let relocated = plan
        .relocations
        .iter()
        .map(|moved| moved.to..moved.to + moved.len);
    let taken: Vec<_> = plan.moves.places().chain(relocated).collect();
    for range in taken.iter().chain(&plan.freed) {
        touched.extend(sb.group_of(range.start)..=sb.group_of(range.end - 1));
    }
    for moved in &plan.relocations {
        copy_blocks(&old.disk, &sb, moved.from, moved.to, moved.len)?;
        let mut desc = table.get(moved.group);
        match moved.which {
            0 => desc.set_block_bitmap(moved.to),
            1 => desc.set_inode_bitmap(moved.to),
            _ => desc.set_inode_table(moved.to),
        }
        table.set(&sb, moved.group, desc);
    }
    let mut taken = taken;
    taken.sort_by_key(|range| range.start);
    for group in touched {
        cut_group(old, &sb, plan, &taken, group, &mut table)?;
    }
    copies::write_all(&old.disk, &mut sb, &table)?;
    let mut new = Volume::with_superblock(old.disk, sb);
    new.survey_system_blocks()?;
    Ok(new)
}

fn cut_group<D: BlockWrite>(
    old: &Volume<D>,
    sb: &Superblock,
    plan: &Plan,
    taken: &[std::ops::Range<Block>],
    group: u64,
    table: &mut Table,
) -> Result<(), ResizeError> {
    let (start, len) = (sb.group_start(group), sb.group_len(group));
    let mut bitmap = old.block_bitmap(group, &old.desc(group)?)?;
    for (ranges, value) in [(&plan.freed[..], false), (taken, true)] {
        set_within(&mut bitmap, ranges, start..start + len, value);
    }
    set_bits(&mut bitmap, len..sb.block_size * 8, true);
    let free = (0..len).filter(|bit| !is_set(&bitmap, *bit)).count();
    let mut desc = table.get(group);
    desc.set_free_blocks(free as u32);
    desc.set_flags(desc.flags() & !BLOCK_UNINIT);
    if sb.has_metadata_csum() {
        desc.set_block_bitmap_csum(old.block_bitmap_sum(&bitmap));
    }
    old.disk
        .write_at(desc.block_bitmap() * sb.block_size, &bitmap)?;
    table.set(sb, group, desc);
    Ok(())
}

/// The block of multiple mount protection belongs to no file. // s_mmp_block
fn move_mmp<D: BlockWrite>(new: &mut Volume<D>, plan: &Plan) {
    if !new.sb.has_incompat(feature::MMP) {
        return;
    }
    if let Some((to, _)) = plan.moves.to(le64(&new.sb.raw, 0x168)) {
        bytes::put(&mut new.sb.raw, 0x168, &to.to_le_bytes());
    }
}

/// The superblock keeps a copy of the journal's map. // s_jnl_blocks, s_jnl_backup_type
fn back_up_journal<D: BlockWrite>(new: &mut Volume<D>) -> Result<(), ResizeError> {
    let number = new.sb.journal_inode();
    let has_copy = u8_at(&new.sb.raw, 0xFD) == 1;
    if number == 0 || !new.sb.has_compat(feature::HAS_JOURNAL) || !has_copy {
        return Ok(());
    }
    let inode = new.inode(number)?;
    bytes::put(&mut new.sb.raw, 0x10C, inode.block());
    let (low, high) = (le32(&inode.raw, 0x04), le32(&inode.raw, 0x6C));
    put_le32(&mut new.sb.raw, 0x10C + 60, high);
    put_le32(&mut new.sb.raw, 0x10C + 64, low);
    Ok(())
}
