//! The superblock of another size. No I/O.

use super::damaged;
use crate::bytes::{le32, put_le16, put_le32};
use crate::ext::feature;
use crate::ext::format::Superblock;
use crate::resize::ResizeError;

/// Blocks that must be left for files in the last group; a shorter rest is left out of the file
/// system, as `resize2fs` does.
const LEAST_FOR_FILES: u64 = 50;
/// Blocks a file system without `64bit` can count, and with it can name in extents.
const BLOCKS_32: u64 = u32::MAX as u64;
const BLOCKS_48: u64 = 1 << 48;
/// Most groups whose descriptors are held in memory (256 MB); with 4 KiB blocks they are 512 TiB.
pub(super) const MOST_GROUPS: u64 = 1 << 22;

/// The largest size in bytes, and what sets it.
pub(super) fn largest(sb: &Superblock) -> (u64, &'static str) {
    let by_inodes = u64::from(u32::MAX / sb.inodes_per_group)
        .saturating_mul(sb.blocks_per_group)
        .saturating_add(sb.first_data_block);
    let (by_numbers, why) = match sb.has_incompat(feature::B64) {
        true => (BLOCKS_48, "ext4 block numbers have 48 bits"),
        false => (
            BLOCKS_32,
            "without the feature 64bit, ext block numbers have 32 bits",
        ),
    };
    let by_groups = MOST_GROUPS
        .saturating_mul(sb.blocks_per_group)
        .saturating_add(sb.first_data_block);
    let limits = [
        (by_numbers, why),
        (
            by_inodes,
            "ext inode numbers have 32 bits, and each group of blocks has its inodes",
        ),
        (
            by_groups,
            "the descriptors of at most 4194304 groups are held in memory",
        ),
    ];
    let least = limits.into_iter().min_by_key(|(blocks, _)| *blocks);
    let (blocks, why) = least.unwrap_or((by_numbers, why));
    (blocks.saturating_mul(sb.block_size), why)
}

/// The superblock `old` becomes with at most `blocks` blocks: fewer where the last group would be too
/// short. Counts of free blocks and inodes are still those of `old`.
pub(super) fn target(old: &Superblock, mut blocks: u64) -> Result<Superblock, ResizeError> {
    loop {
        let new = with_blocks(old, blocks)?;
        let last = new.groups - 1;
        let len = new.group_len(last);
        let overhead = new.group_head(last) + 2 + new.inode_table_blocks();
        let least = match last {
            0 => overhead,
            _ => overhead + LEAST_FOR_FILES,
        };
        if len >= least.min(new.blocks_per_group) || blocks == old.blocks {
            return Ok(new);
        }
        if last == 0 {
            return Err(damaged(format!(
                "a group needs {least} blocks, found {len} for it"
            )));
        }
        blocks -= len;
    }
}

fn with_blocks(old: &Superblock, blocks: u64) -> Result<Superblock, ResizeError> {
    let mut raw = old.raw.clone();
    let groups = blocks
        .saturating_sub(old.first_data_block)
        .div_ceil(old.blocks_per_group);
    let inodes = groups * u64::from(old.inodes_per_group);
    let Ok(inodes) = u32::try_from(inodes) else {
        return Err(damaged(format!(
            "s_inodes_count: expected 32 bits, found {inodes}"
        )));
    };
    put_le32(&mut raw, 0x00, inodes);
    put_le32(&mut raw, 0x04, blocks as u32);
    let wide = old.has_incompat(feature::B64);
    if wide {
        put_le32(&mut raw, 0x150, (blocks >> 32) as u32);
    }
    // The share kept for root stays the same. // s_r_blocks_count
    let high = if wide { le32(&raw, 0x154) } else { 0 };
    let kept = u128::from(u64::from(le32(&raw, 0x08)) | u64::from(high) << 32);
    let kept = (kept * u128::from(blocks) / u128::from(old.blocks.max(1))) as u64;
    put_le32(&mut raw, 0x08, kept as u32);
    if wide {
        put_le32(&mut raw, 0x154, (kept >> 32) as u32);
    }
    // s_overhead_clusters: 0 lets Linux count it when mounting.
    put_le32(&mut raw, 0x248, 0);
    put_table(old, &mut raw, groups, blocks);
    put_backup_groups(old, &mut raw, groups);
    let mut new = Superblock { raw, ..old.clone() };
    new.seal();
    Ok(Superblock::parse(new.raw, u64::MAX)?)
}

/// Where the descriptor table of `groups` groups lies: in the room kept for it while that lasts, then
/// in the groups it describes.
fn put_table(old: &Superblock, raw: &mut [u8], groups: u64, blocks: u64) {
    let (before, after) = (old.desc_blocks(), groups.div_ceil(old.descs_per_block()));
    if old.has_incompat(feature::META_BG) {
        let first = old.first_meta_bg().min(after);
        put_le32(raw, 0x104, first as u32);
        return;
    }
    let reserved = old.reserved_gdt_blocks();
    let has_inode = old.has_compat(feature::RESIZE_INODE);
    // The resize inode names blocks with 32 bits.
    let reaches = !has_inode || blocks <= 1 << 32;
    if after <= before + reserved && reaches {
        let most = old.block_size / 4;
        let left = match has_inode || reserved > 0 {
            true => (before + reserved - after).min(most),
            false => 0,
        };
        put_le16(raw, 0xCE, left as u16);
        return;
    }
    let compat = le32(raw, 0x5C) & !feature::RESIZE_INODE;
    put_le32(raw, 0x5C, compat);
    put_le32(raw, 0x60, old.incompat() | feature::META_BG);
    put_le32(raw, 0x104, (before + reserved) as u32);
    put_le16(raw, 0xCE, 0);
}

/// Which two groups keep copies of the superblock, with sparse_super2. // s_backup_bgs
fn put_backup_groups(old: &Superblock, raw: &mut [u8], groups: u64) {
    if !old.has_compat(feature::SPARSE_SUPER2) {
        return;
    }
    if old.groups == 1 && groups > 1 {
        put_le32(raw, 0x24C, 1);
        put_le32(raw, 0x250, if groups > 2 { groups as u32 - 1 } else { 0 });
    }
    for at in [0x24C, 0x250] {
        if u64::from(le32(raw, at)) >= groups {
            put_le32(raw, at, 0);
        }
    }
}
