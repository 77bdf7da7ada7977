//! Which blocks must lie somewhere, and whether they find room in a smaller file system. Bitmaps and
//! descriptors are read, no file.

use std::ops::Range;

use block_io::BlockRead;

use super::moves::{Move, Moves};
use super::{damaged, geometry};
use crate::ext::alloc::{is_set, set_bits};
use crate::ext::feature;
use crate::ext::format::{Block, Superblock};
use crate::ext::used::runs;
use crate::ext::volume::Volume;
use crate::resize::{ResizeError, ResizeErrorKind};

/// Where bitmaps and inode table of a group lie.
type Tables = [Block; 3];

/// What a file system holds.
pub(super) struct Space {
    sb: Superblock,
    /// Blocks of files, directories and attributes, sorted and joined.
    data: Vec<Range<Block>>,
    tables: Vec<Tables>,
    used_inodes: u64,
    has_extents: bool,
}

/// A bitmap or inode table that must lie elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Relocation {
    pub(super) group: u64,
    /// 0 block bitmap, 1 inode bitmap, 2 inode table.
    pub(super) which: usize,
    pub(super) from: Block,
    pub(super) to: Block,
    pub(super) len: u64,
}

/// How everything finds its place in a smaller file system.
pub(super) struct Plan {
    pub(super) target: Superblock,
    pub(super) moves: Moves,
    pub(super) relocations: Vec<Relocation>,
    /// Blocks below the new end that held bitmaps, tables and copies and hold none any more.
    pub(super) freed: Vec<Range<Block>>,
}

/// A plan before each block has its place.
struct Rough {
    relocations: Vec<Relocation>,
    free: Vec<Range<Block>>,
    leaving: Vec<Range<Block>>,
}

impl Space {
    /// Read what `volume`, whose system blocks are known, holds.
    pub(super) fn survey<D: BlockRead>(volume: &Volume<D>) -> Result<Self, ResizeError> {
        let sb = volume.sb.clone();
        let (mut data, mut tables) = (Vec::new(), Vec::new());
        let mut free_inodes = 0;
        for group in 0..sb.groups {
            let desc = volume.desc(group)?;
            tables.push([desc.block_bitmap(), desc.inode_bitmap(), desc.inode_table()]);
            free_inodes += u64::from(desc.free_inodes());
            let start = sb.group_start(group);
            let whole = start..start + sb.group_len(group);
            let bitmap = volume.block_bitmap(group, &desc)?;
            let used = runs(&bitmap, &whole, 1);
            let free = sb.group_len(group) - total(&used);
            if free != u64::from(desc.free_blocks()) {
                return Err(damaged(format!(
                    "descriptor of group {group}: free blocks: expected the {free} of its bitmap, found {}; run e2fsck -f",
                    desc.free_blocks()
                )));
            }
            for system in volume.system_in(whole.clone()) {
                if let Some(block) = system.clone().find(|b| !is_set(&bitmap, b - start)) {
                    return Err(damaged(format!(
                        "block bitmap of group {group}: block {block}: expected used by metadata, found free; run e2fsck -f"
                    )));
                }
            }
            let system: Vec<_> = volume.system_in(whole).collect();
            data.extend(without(&used, &system));
        }
        Ok(Self {
            has_extents: sb.has_incompat(feature::EXTENTS),
            used_inodes: u64::from(sb.inodes).saturating_sub(free_inodes),
            sb,
            data: joined(data),
            tables,
        })
    }

    /// The smallest number of blocks this can be made to have.
    pub(super) fn smallest(&self) -> u64 {
        let (mut low, mut high) = (self.sb.first_data_block + 1, self.sb.blocks);
        let mut best = self.sb.blocks;
        while low < high {
            let middle = low + (high - low) / 2;
            let target = geometry::target(&self.sb, middle).ok();
            match target.filter(|target| self.rough(target).is_some()) {
                Some(target) => {
                    best = best.min(target.blocks);
                    high = middle;
                }
                None => low = middle + 1,
            }
        }
        best
    }

    /// How everything finds its place in `blocks` blocks.
    pub(super) fn plan(&self, blocks: u64) -> Result<Plan, ResizeError> {
        let target = geometry::target(&self.sb, blocks).ok();
        let rough = target.and_then(|target| self.rough(&target).map(|rough| (target, rough)));
        let Some((target, rough)) = rough else {
            let smallest = self.smallest().saturating_mul(self.sb.block_size);
            let asked = blocks * self.sb.block_size;
            return Err(ResizeError::new(
                ResizeErrorKind::TooSmall { smallest },
                format!(
                    "expected a size that holds its files, found {asked}; take a larger size, or remove files"
                ),
            ));
        };
        let before = self.kept(&self.sb, self.sb.groups, &[]);
        let freed = without(
            &before,
            &self.kept(&target, target.groups, &rough.relocations),
        );
        Ok(Plan {
            moves: place(rough.leaving, rough.free, target.blocks),
            freed: below(&freed, target.blocks),
            relocations: rough.relocations,
            target,
        })
    }

    /// Metadata of the first `groups` groups as `sb` lays them out.
    fn kept(&self, sb: &Superblock, groups: u64, relocations: &[Relocation]) -> Vec<Range<Block>> {
        let len = sb.inode_table_blocks();
        let mut kept = Vec::with_capacity(groups as usize * 2);
        for (group, [a, b, c]) in (0..groups).zip(&self.tables) {
            let start = sb.group_start(group);
            let own = [
                start..start + sb.group_head(group),
                *a..a + 1,
                *b..b + 1,
                *c..c + len,
            ];
            kept.extend(own.into_iter().filter(|range| !range.is_empty()));
        }
        for moved in relocations {
            kept.retain(|range| range.start != moved.from);
            kept.push(moved.to..moved.to + moved.len);
        }
        joined(kept)
    }

    /// Whether everything finds room in `target`, and where there is some.
    fn rough(&self, target: &Superblock) -> Option<Rough> {
        if self.used_inodes > u64::from(target.inodes) || target.blocks > self.sb.blocks {
            return None;
        }
        let end = target.blocks;
        let mut occupied = self.kept(target, target.groups, &[]);
        occupied.extend(below(&self.data, end));
        let all = target.first_data_block..end;
        let mut free = without(&[all], &joined(occupied));
        let relocations = self.relocate(target, &mut free)?;
        let cut = self.data.partition_point(|range| range.end <= end);
        let leaving = self.data.iter().skip(cut);
        let leaving: Vec<_> = leaving.map(|r| r.start.max(end)..r.end).collect();
        has_room(&free, total(&leaving), self.tall_trees()).then_some(Rough {
            relocations,
            free,
            leaving,
        })
    }

    /// How many extent trees with four full leaves there can be; `None` where there are no extents.
    fn tall_trees(&self) -> Option<u64> {
        let per_leaf = (self.sb.block_size - 12) / 12;
        self.has_extents
            .then_some(self.sb.blocks / (4 * per_leaf) + 1)
    }

    /// New places for bitmaps and tables of groups that stay which lie behind the end.
    fn relocate(
        &self,
        target: &Superblock,
        free: &mut Vec<Range<Block>>,
    ) -> Option<Vec<Relocation>> {
        let mut relocations = Vec::new();
        let lens = [1, 1, target.inode_table_blocks()];
        for (group, tables) in (0..target.groups).zip(&self.tables) {
            for (which, (from, len)) in tables.iter().zip(lens).enumerate() {
                if from + len <= target.blocks {
                    continue;
                }
                // Without flex_bg a group keeps its own. // [ext4 disk layout] Flexible Block Groups
                let within = match target.has_incompat(feature::FLEX_BG) {
                    true => target.first_data_block..target.blocks,
                    false => {
                        let start = target.group_start(group);
                        start..start + target.group_len(group)
                    }
                };
                let (at, to) = free.iter().enumerate().find_map(|(at, range)| {
                    let start = range.start.max(within.start);
                    (start + len <= range.end.min(within.end)).then_some((at, start))
                })?;
                let range = free.remove(at);
                let parts = [range.start..to, to + len..range.end];
                free.extend(parts.into_iter().filter(|part| !part.is_empty()));
                free.sort_by_key(|range| range.start);
                relocations.push(Relocation {
                    group,
                    which,
                    from: *from,
                    to,
                    len,
                });
            }
        }
        Some(relocations)
    }
}

/// Set or clear the bits of what of `ranges`, which are sorted, lies in `group`; how many.
pub(super) fn set_within(
    bitmap: &mut [u8],
    ranges: &[Range<Block>],
    group: Range<Block>,
    value: bool,
) -> u64 {
    let first = ranges.partition_point(|range| range.end <= group.start);
    let inside = ranges.iter().skip(first);
    let mut count = 0;
    for range in inside.take_while(|range| range.start < group.end) {
        let (start, end) = (range.start.max(group.start), range.end.min(group.end));
        set_bits(bitmap, start - group.start..end - group.start, value);
        count += end - start;
    }
    count
}

/// Whether `leaving` blocks find room in the longest of `free`.
///
/// Each run of free blocks that is filled may cut an extent in two, and that may cost a leaf of an
/// extent tree. It costs a level more only where four leaves were full: at most
/// `tall` trees are so large. Without extents nothing grows, and `tall` is `None`.
fn has_room(free: &[Range<Block>], leaving: u64, tall: Option<u64>) -> bool {
    if leaving == 0 {
        return true;
    }
    let Some(tall) = tall else {
        return total(free) >= leaving;
    };
    let mut lens: Vec<u64> = free.iter().map(|range| range.end - range.start).collect();
    lens.sort_unstable_by(|a, b| b.cmp(a));
    let (mut room, mut cuts) = (0, 0);
    for len in lens {
        room += len;
        cuts += 1;
        if room >= leaving {
            return total(free) >= leaving + cuts + tall.min(cuts);
        }
    }
    false
}

/// Give each run of `leaving` its place, the longest free runs first.
fn place(leaving: Vec<Range<Block>>, mut free: Vec<Range<Block>>, end: Block) -> Moves {
    free.sort_by_key(|range| (range.start.wrapping_sub(range.end), range.start));
    let mut free = free.into_iter();
    let mut room = free.next().unwrap_or(0..0);
    let mut list = Vec::new();
    for range in leaving {
        let mut from = range.start;
        while from < range.end {
            if room.is_empty() {
                match free.next() {
                    Some(next) => room = next,
                    None => break,
                }
            }
            let len = (range.end - from).min(room.end - room.start);
            list.push(Move {
                from,
                to: room.start,
                len,
            });
            from += len;
            room.start += len;
        }
    }
    Moves::new(list, end)
}

fn total(ranges: &[Range<Block>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

fn below(ranges: &[Range<Block>], end: Block) -> Vec<Range<Block>> {
    let cut = ranges.iter().take_while(|range| range.start < end);
    cut.map(|range| range.start..range.end.min(end)).collect()
}

/// Sorted, neighbours and overlaps joined.
fn joined(mut ranges: Vec<Range<Block>>) -> Vec<Range<Block>> {
    ranges.sort_by_key(|range| range.start);
    let mut joined: Vec<Range<Block>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ => joined.push(range),
        }
    }
    joined
}

/// What of `ranges` is not in `holes`; both are sorted and joined.
fn without(ranges: &[Range<Block>], holes: &[Range<Block>]) -> Vec<Range<Block>> {
    let mut left = Vec::with_capacity(ranges.len());
    let mut holes = holes.iter().peekable();
    for range in ranges {
        let mut at = range.start;
        while at < range.end {
            while holes.next_if(|hole| hole.end <= at).is_some() {}
            let Some(hole) = holes.peek().filter(|hole| hole.start < range.end) else {
                left.push(at..range.end);
                break;
            };
            if at < hole.start {
                left.push(at..hole.start);
            }
            at = hole.end;
        }
    }
    left
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_cut_out_of_ranges() {
        let cut = without(&[0..10, 20..30], &[2..4, 8..22, 25..26, 29..40]);
        assert_eq!(cut, [0..2, 4..8, 22..25, 26..29]);
        assert_eq!(without(&[5..6], &[]), [5..6]);
    }

    #[test]
    fn the_longest_free_runs_are_filled_first() {
        let moves = place(vec![100..106, 200..203], vec![1..3, 10..15, 20..40], 50);
        assert_eq!(moves.to(100), Some((20, 6)));
        assert_eq!(moves.to(105), Some((25, 1)));
        assert_eq!(moves.to(201), Some((27, 2)));
        assert_eq!(moves.to(7), Some((7, 43)));
        assert_eq!(moves.to(106), None);
    }

    #[test]
    fn cuts_cost_room() {
        assert!(has_room(&[0..10], 10, None));
        assert!(!has_room(&[0..10], 9, Some(1)));
        assert!(has_room(&[0..10], 8, Some(1)));
        assert!(!has_room(&[0..5, 6..11], 8, Some(1)));
        assert!(has_room(&[0..5, 6..11], 7, Some(1)));
    }
}
