//! Used blocks of XFS: all but those in the groups' trees of free extents.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockErrorKind, BlockRead, Result};

use super::format::{Agf, SUPERBLOCK_LEN, Superblock};
use super::log::{LogState, log_state};
use super::volume::SHORT_TREE;
use crate::bytes::{be16, be32, slice};
use crate::fault::Fault;
use crate::used::{Batched, Findings, Joined, UsedRanges, all, all_noting, read_or_note};

/// Most free extents of one group that are kept (8 bytes each); with more it counts as used.
const MOST_FREE: usize = 8 << 20;
/// Deepest tree of free extents.
const MOST_LEVELS: u32 = 12;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let all_used = |why: String| Ok(all_noting(disk, why, findings));
    let mut raw = vec![0; SUPERBLOCK_LEN];
    if !read_or_note(disk, 0, &mut raw, "XFS superblock", findings)? {
        return Ok(all(disk));
    }
    raw.resize(usize::from(be16(&raw, 102)).clamp(512, 32_768), 0);
    if !read_or_note(disk, 0, &mut raw, "XFS superblock", findings)? {
        return Ok(all(disk));
    }
    let sb = match Superblock::parse(&raw, disk.size()) {
        Ok(sb) => sb,
        Err(why) => return all_used(why),
    };
    if let Some(why) = &sb.refusal {
        return all_used(why.clone());
    }
    match log_state(disk, &sb) {
        Ok(LogState::Clean) => {}
        // What was allocated may stand in the log only.
        Ok(LogState::Dirty(why)) => return all_used(format!("XFS: {why}")),
        Err(error) if error.kind() == BlockErrorKind::Unreadable => {
            return all_used(format!("XFS log: {error}"));
        }
        Err(error) => return Err(error),
    }
    let mut groups = Groups {
        disk,
        sb,
        findings: findings.clone(),
    };
    let mut next = 0;
    let batches = Batched::new(move |ready: &mut VecDeque<Range<u64>>| {
        if next < groups.sb.ag_count {
            groups.add(next, ready)?;
            next += 1;
            return Ok(true);
        }
        ready.push_back(groups.sb.blocks * groups.sb.block_size..disk.size());
        Ok(false)
    });
    Ok(Box::new(Joined::new(batches)))
}

struct Groups<'a> {
    disk: &'a dyn BlockRead,
    sb: Superblock,
    findings: Findings,
}

impl Groups<'_> {
    /// Add the used ranges of group `ag`.
    fn add(&mut self, ag: u64, ready: &mut VecDeque<Range<u64>>) -> Result<()> {
        let start = ag * self.sb.ag_blocks;
        let len = self.sb.ag_len(ag);
        let free = match self.free_extents(ag) {
            Ok(free) => free,
            Err(Fault::Disk(error)) => return Err(error),
            Err(Fault::Damage(why)) => {
                self.findings
                    .note(format!("group {ag}: {why}; it counts as used"));
                Vec::new()
            }
        };
        let bytes = |blocks: Range<u64>| {
            (start + blocks.start) * self.sb.block_size..(start + blocks.end) * self.sb.block_size
        };
        let mut at = 0;
        for (first, count) in free {
            ready.push_back(bytes(at..u64::from(first)));
            at = u64::from(first) + u64::from(count);
        }
        ready.push_back(bytes(at..len));
        Ok(())
    }

    /// The free extents of a group in order: first block and count. They are held against the group's
    /// length and its count of free blocks.
    fn free_extents(&self, ag: u64) -> Result<Vec<(u32, u32)>, Fault> {
        let at = ag * self.sb.ag_blocks * self.sb.block_size + self.sb.sector;
        let mut raw = vec![0; self.sb.sector as usize];
        self.disk.read_at(at, &mut raw)?;
        let agf = Agf::parse(&raw, &self.sb, ag).map_err(Fault::Damage)?;
        if agf.level == 0 || agf.level > MOST_LEVELS {
            return Err(Fault::Damage(format!(
                "free-space tree of {} levels",
                agf.level
            )));
        }
        let mut free = Vec::new();
        self.add_block(ag, agf.root, agf.level - 1, &mut free)?;
        let sum: u64 = free.iter().map(|(_, count)| u64::from(*count)).sum();
        // The blocks of the free list count as free in neither of the two.
        if sum != agf.free {
            return Err(Fault::Damage(format!(
                "free blocks: expected {}, found {sum}",
                agf.free
            )));
        }
        Ok(free)
    }

    /// Add the free extents below a block of the tree (xfs_alloc_block): extents must come in order, and
    /// a block that adds none is damage, so that no circle is followed.
    fn add_block(
        &self,
        ag: u64,
        block: u32,
        level: u32,
        free: &mut Vec<(u32, u32)>,
    ) -> Result<(), Fault> {
        let len = self.sb.ag_len(ag);
        let bad = |what: String| Err(Fault::Damage(format!("free-space block {block}: {what}")));
        if u64::from(block) >= len {
            return bad(format!("expected below {len}"));
        }
        let at = (ag * self.sb.ag_blocks + u64::from(block)) * self.sb.block_size;
        let mut raw = vec![0; self.sb.block_size as usize];
        self.disk.read_at(at, &mut raw)?;
        let (magic, header) = if self.sb.is_v5 {
            (b"AB3B", 56)
        } else {
            (b"ABTB", 16)
        };
        if slice(&raw, 0, 4) != magic || u32::from(be16(&raw, 4)) != level {
            return bad(format!("level: expected {level}, found {}", be16(&raw, 4)));
        }
        if self.sb.is_v5
            && let Some(fault) = SHORT_TREE.fault(&raw, at)
        {
            return bad(fault);
        }
        let count = usize::from(be16(&raw, 6));
        // A leaf holds extents of 8 bytes, an inner block keys of 8 and pointers of 4.
        let most = (raw.len() - header) / if level == 0 { 8 } else { 12 };
        if count > most {
            return bad(format!("{count} records, expected at most {most}"));
        }
        if level > 0 {
            for index in 0..count {
                let before = free.len();
                self.add_block(
                    ag,
                    be32(&raw, header + most * 8 + index * 4),
                    level - 1,
                    free,
                )?;
                if free.len() == before {
                    return bad("a child holds nothing".to_owned());
                }
            }
            return Ok(());
        }
        for record in slice(&raw, header, count * 8).chunks_exact(8) {
            let (first, blocks) = (be32(record, 0), be32(record, 4));
            let after = free
                .last()
                .map_or(0, |(first, count)| u64::from(*first) + u64::from(*count));
            let end = u64::from(first) + u64::from(blocks);
            if u64::from(first) < after || blocks == 0 || end > len {
                return bad(format!(
                    "extent: expected between {after} and {len}, found {first} to {end}"
                ));
            }
            if free.len() >= MOST_FREE {
                return bad(format!("more than {MOST_FREE} free extents"));
            }
            free.push((first, blocks));
        }
        Ok(())
    }
}
