//! Extent trees: writing. A changed tree is laid out anew from its list of extents, packed, in the
//! blocks it had; that is right for every depth and leaves nothing half split.

use block_io::BlockRead;

use super::checksum::crc32c;
use super::extents::{EXTENT_MAGIC, Extent, LONGEST_EXTENT, MOST_BLOCKS};
use super::format::Block;
use super::inode::Inode;
use super::volume::{Volume, unsupported};
use crate::bytes::{self, put_le16, put_le32, slice};
use crate::tree::Result;

/// Most extents of a file that is changed (48 MiB of tree).
pub(crate) const MOST_EXTENTS: usize = 4 << 20;
/// Entries the root in the inode has room for.
const ROOT_ENTRIES: usize = 4;

/// A changed extent list on its way back into a tree.
pub(crate) struct ExtentList {
    pub(crate) extents: Vec<Extent>,
    nodes: Vec<Block>,
}

/// The root of an empty tree.
pub(crate) fn empty_root() -> [u8; 60] {
    let mut root = [0; 60];
    put_header(&mut root, 0, ROOT_ENTRIES, 0);
    root
}

fn put_header(node: &mut [u8], entries: usize, max: usize, depth: u16) {
    put_le16(node, 0, EXTENT_MAGIC);
    put_le16(node, 2, entries as u16);
    put_le16(node, 4, max as u16);
    put_le16(node, 6, depth);
}

/// One entry of a node: 12 bytes.
fn leaf_entry(extent: &Extent) -> [u8; 12] {
    let mut entry = [0; 12];
    let len = extent.len + if extent.unwritten { LONGEST_EXTENT } else { 0 };
    put_le32(&mut entry, 0, extent.logical as u32);
    put_le16(&mut entry, 4, len as u16);
    put_le16(&mut entry, 6, (extent.physical >> 32) as u16);
    put_le32(&mut entry, 8, extent.physical as u32);
    entry
}

fn index_entry(first: u32, child: Block) -> [u8; 12] {
    let mut entry = [0; 12];
    put_le32(&mut entry, 0, first);
    put_le32(&mut entry, 4, child as u32);
    put_le16(&mut entry, 8, (child >> 32) as u16);
    entry
}

impl ExtentList {
    /// Put `new` into a hole of the list.
    pub(crate) fn insert(&mut self, new: Extent) {
        let at = self
            .extents
            .partition_point(|extent| extent.logical < new.logical);
        self.extents.insert(at, new);
    }

    /// The extent that covers `logical`, or where the next one begins.
    pub(crate) fn find(&self, logical: u64) -> Result<&Extent, u64> {
        let after = self
            .extents
            .partition_point(|extent| extent.logical <= logical);
        let next = self
            .extents
            .get(after)
            .map_or(MOST_BLOCKS, |next| next.logical);
        match after.checked_sub(1).and_then(|at| self.extents.get(at)) {
            Some(extent) if logical < extent.end() => Ok(extent),
            _ => Err(next),
        }
    }

    /// Call the blocks `from..to` of an unwritten extent written.
    pub(crate) fn mark_written(&mut self, from: u64, to: u64) {
        let at = self
            .extents
            .partition_point(|extent| extent.logical <= from);
        let Some(at) = at.checked_sub(1) else { return };
        let Some(whole) = self.extents.get(at).copied() else {
            return;
        };
        let part = |from: u64, to: u64, unwritten: bool| Extent {
            logical: from,
            len: to - from,
            physical: whole.physical + (from - whole.logical),
            unwritten,
        };
        let parts = [
            part(whole.logical, from, true),
            part(from, to, false),
            part(to, whole.end(), true),
        ];
        let parts = parts.into_iter().filter(|part| part.len > 0);
        self.extents.splice(at..=at, parts);
    }

    /// Drop everything from block `keep` on: the runs of blocks that are free now.
    pub(crate) fn cut(&mut self, keep: u64) -> Vec<(Block, u64)> {
        let mut freed = Vec::new();
        while let Some(last) = self.extents.last_mut() {
            if last.end() <= keep {
                break;
            }
            let stay = keep.saturating_sub(last.logical);
            freed.push((last.physical + stay, last.len - stay));
            last.len = stay;
            if stay == 0 {
                self.extents.pop();
            }
        }
        freed
    }

    /// Whether any block of the file or of its tree lies at `end` or behind it.
    pub(crate) fn reaches(&self, end: Block) -> bool {
        let beyond = |extent: &Extent| extent.physical + extent.len > end;
        self.extents.iter().any(beyond) || self.nodes.iter().any(|node| *node >= end)
    }

    /// Put every block where `to` says it lies now: the new place of a block, and for how many blocks
    /// from it that holds.
    pub(crate) fn translate(&mut self, to: impl Fn(Block) -> Result<(Block, u64)>) -> Result<()> {
        let mut extents = Vec::with_capacity(self.extents.len());
        for whole in &self.extents {
            let mut done = 0;
            while done < whole.len {
                let (physical, holds) = to(whole.physical + done)?;
                let len = holds.clamp(1, whole.len - done);
                extents.push(Extent {
                    logical: whole.logical + done,
                    len,
                    physical,
                    unwritten: whole.unwritten,
                });
                done += len;
            }
        }
        self.extents = extents;
        for node in &mut self.nodes {
            *node = to(*node)?.0;
        }
        Ok(())
    }

    /// How many extents the file has.
    pub(crate) fn len(&self) -> usize {
        self.extents.len()
    }

    /// Join neighbours, and split what is longer than an extent may be.
    fn normalise(&mut self) {
        let mut joined: Vec<Extent> = Vec::with_capacity(self.extents.len());
        for extent in self.extents.drain(..) {
            let most = if extent.unwritten {
                LONGEST_EXTENT - 1
            } else {
                LONGEST_EXTENT
            };
            if let Some(last) = joined.last_mut() {
                let follows = last.end() == extent.logical
                    && last.physical + last.len == extent.physical
                    && last.unwritten == extent.unwritten;
                if follows && last.len + extent.len <= most {
                    last.len += extent.len;
                    continue;
                }
            }
            joined.push(extent);
        }
        self.extents = joined;
    }
}

impl<D: BlockRead> Volume<D> {
    /// The extents of a file, to be changed.
    pub(crate) fn extent_list(&self, inode: &Inode) -> Result<ExtentList> {
        let (extents, nodes) = self.all_extents(inode, MOST_EXTENTS)?;
        Ok(ExtentList { extents, nodes })
    }

    /// Lay a changed list out as the tree of `inode`, allocating and freeing tree blocks as needed.
    pub(crate) fn put_extents(&mut self, inode: &mut Inode, mut list: ExtentList) -> Result<()> {
        list.normalise();
        if list.extents.len() > MOST_EXTENTS {
            return Err(unsupported(format!(
                "files of more than {MOST_EXTENTS} extents"
            )));
        }
        let mut spare = list.nodes.into_iter();
        let mut entries: Vec<[u8; 12]> = list.extents.iter().map(leaf_entry).collect();
        let per_node = (self.block_size() - 12) / 12;
        let mut depth = 0;
        while entries.len() > ROOT_ENTRIES {
            let mut above = Vec::with_capacity(entries.len() / per_node + 1);
            for part in entries.chunks(per_node) {
                let place = match spare.next() {
                    Some(place) => place,
                    None => {
                        let goal = list
                            .extents
                            .last()
                            .map_or(0, |last| last.physical + last.len);
                        let (place, _) = self.allocate(goal.max(self.goal_of(inode.number)), 1)?;
                        self.charge(inode, 1);
                        place
                    }
                };
                self.put_extent_node(inode, place, part, depth)?;
                let first = part.first().map_or(0, |entry| bytes::le32(entry, 0));
                above.push(index_entry(first, place));
            }
            entries = above;
            depth += 1;
        }
        for place in spare {
            self.free(place, 1)?;
            self.charge(inode, -1);
        }
        let mut root = [0; 60];
        put_header(&mut root, entries.len(), ROOT_ENTRIES, depth);
        for (n, entry) in entries.iter().enumerate() {
            bytes::put(&mut root, 12 + n * 12, entry);
        }
        inode.set_block(&root);
        Ok(())
    }

    fn put_extent_node(
        &mut self,
        inode: &Inode,
        place: Block,
        entries: &[[u8; 12]],
        depth: u16,
    ) -> Result<()> {
        let max = (self.block_size() - 12) / 12;
        let mut node = vec![0; self.block_size()];
        put_header(&mut node, entries.len(), max, depth);
        for (n, entry) in entries.iter().enumerate() {
            bytes::put(&mut node, 12 + n * 12, entry);
        }
        if self.sb.has_metadata_csum() {
            let tail = 12 + max * 12;
            let sum = crc32c(inode.seed(self.sb.seed), slice(&node, 0, tail));
            put_le32(&mut node, tail, sum);
        }
        self.put_block(place, node);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(logical: u64, len: u64, physical: u64, unwritten: bool) -> Extent {
        Extent {
            logical,
            len,
            physical,
            unwritten,
        }
    }

    #[test]
    fn lists_are_written_to_cut_and_joined() {
        let mut list = ExtentList {
            extents: vec![extent(0, 10, 100, true), extent(20, 5, 300, false)],
            nodes: Vec::new(),
        };
        list.mark_written(3, 5);
        assert_eq!(list.extents.len(), 4);
        list.mark_written(0, 3);
        list.mark_written(5, 10);
        list.normalise();
        assert_eq!(
            list.extents,
            [extent(0, 10, 100, false), extent(20, 5, 300, false)]
        );
        assert_eq!(list.find(12), Err(20));
        assert_eq!(list.cut(4), [(300, 5), (104, 6)]);
        assert_eq!(list.extents, [extent(0, 4, 100, false)]);
    }
}
