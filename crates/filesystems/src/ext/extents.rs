//! Extent trees: reading. // [ext4 disk layout] Extent Tree

use block_io::BlockRead;

use super::checksum::crc32c;
use super::format::Block;
use super::inode::Inode;
use super::volume::{Volume, corrupt};
use crate::bytes::{le16, le32, slice};
use crate::tree::Result;

pub(crate) const EXTENT_MAGIC: u16 = 0xF30A;
/// Linux refuses deeper trees (EXT4_MAX_EXTENT_DEPTH).
pub(crate) const MOST_DEPTH: u16 = 5;
/// Longest run of one extent that holds data; longer ones in its field mean "not written yet".
pub(crate) const LONGEST_EXTENT: u64 = 32_768;
/// Blocks a file can have: block numbers inside a file have 32 bits.
pub(crate) const MOST_BLOCKS: u64 = 1 << 32;

/// A run of blocks of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) logical: u64,
    pub(crate) len: u64,
    pub(crate) physical: Block,
    /// Allocated, reads as zeroes.
    pub(crate) unwritten: bool,
}

impl Extent {
    pub(crate) fn end(&self) -> u64 {
        self.logical + self.len
    }
}

/// Where a run of blocks of a file lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Run {
    /// How many blocks, from the one asked for.
    pub(crate) len: u64,
    /// Where; `None` for a hole.
    pub(crate) physical: Option<Block>,
    /// Allocated, reads as zeroes.
    pub(crate) unwritten: bool,
}

/// A checked node of an extent tree.
pub(crate) struct Node {
    /// 0 for a leaf.
    pub(crate) depth: u16,
    /// First block number and child of each entry, of an inner node.
    pub(crate) children: Vec<(u64, Block)>,
    /// Of a leaf.
    pub(crate) extents: Vec<Extent>,
}

impl Node {
    /// Read a node whose keys must lie in `keys`.
    fn parse(
        bytes: &[u8],
        depth: Option<u16>,
        keys: &std::ops::Range<u64>,
        whose: &str,
    ) -> Result<Self> {
        let lie = |field: &str, expected: String, found: u64| {
            corrupt(format!(
                "{whose}: {field}: expected {expected}, found {found}"
            ))
        };
        let magic = le16(bytes, 0);
        if magic != EXTENT_MAGIC {
            return Err(corrupt(format!(
                "{whose}: extent header: expected {EXTENT_MAGIC:#06x}, found {magic:#06x}"
            )));
        }
        let (entries, max, found_depth) = (le16(bytes, 2), le16(bytes, 4), le16(bytes, 6));
        let room = (bytes.len() - 12) / 12;
        if usize::from(max) > room {
            return Err(lie("eh_max", format!("at most {room}"), max.into()));
        }
        if entries > max {
            return Err(lie("eh_entries", format!("at most {max}"), entries.into()));
        }
        match depth {
            Some(depth) if depth != found_depth => {
                return Err(lie("eh_depth", depth.to_string(), found_depth.into()));
            }
            None if found_depth > MOST_DEPTH => {
                return Err(lie(
                    "eh_depth",
                    format!("at most {MOST_DEPTH}"),
                    found_depth.into(),
                ));
            }
            _ => {}
        }
        // Only the root may be empty: were others, a tree could visit one block for ever.
        if entries == 0 && (depth.is_some() || found_depth > 0) {
            return Err(lie("eh_entries", "at least 1".to_owned(), 0));
        }
        let mut node = Self {
            depth: found_depth,
            children: Vec::new(),
            extents: Vec::new(),
        };
        let mut next = keys.start;
        for entry in slice(bytes, 12, usize::from(entries) * 12).chunks_exact(12) {
            let logical = u64::from(le32(entry, 0));
            if logical < next || logical >= keys.end {
                let expected = format!("from {next} to {}", keys.end - 1);
                return Err(lie("first block of an entry", expected, logical));
            }
            if found_depth > 0 {
                let child = u64::from(le32(entry, 4)) | u64::from(le16(entry, 8)) << 32;
                node.children.push((logical, child));
                next = logical + 1;
                continue;
            }
            let len = u64::from(le16(entry, 4));
            let unwritten = len > LONGEST_EXTENT;
            let len = if unwritten { len - LONGEST_EXTENT } else { len };
            if len == 0 || logical + len > MOST_BLOCKS {
                return Err(lie("length of an extent", "at least 1".to_owned(), len));
            }
            node.extents.push(Extent {
                logical,
                len,
                physical: u64::from(le32(entry, 8)) | u64::from(le16(entry, 6)) << 32,
                unwritten,
            });
            next = logical + len;
        }
        Ok(node)
    }
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn extent_root(&self, inode: &Inode) -> Result<Node> {
        let whose = format!("inode {}, extent tree", inode.number);
        let node = Node::parse(inode.block(), None, &(0..MOST_BLOCKS), &whose)?;
        self.check_extents(&node, &whose)?;
        Ok(node)
    }

    /// The node in `block`, which must have `depth` and keys in `keys`.
    pub(crate) fn extent_node(
        &self,
        inode: &Inode,
        block: Block,
        depth: u16,
        keys: std::ops::Range<u64>,
    ) -> Result<Node> {
        let whose = format!("inode {}, extent block {block}", inode.number);
        let bytes = self.block(block, &whose)?;
        let node = Node::parse(&bytes, Some(depth), &keys, &whose)?;
        if self.sb.has_metadata_csum() {
            let tail = 12 + usize::from(le16(&bytes, 4)) * 12;
            let expected = crc32c(inode.seed(self.sb.seed), slice(&bytes, 0, tail));
            let found = le32(&bytes, tail);
            if expected != found {
                return Err(corrupt(format!(
                    "{whose}: checksum: expected {expected:#010x}, found {found:#010x}"
                )));
            }
        }
        self.check_extents(&node, &whose)?;
        Ok(node)
    }

    fn check_extents(&self, node: &Node, whose: &str) -> Result<()> {
        for extent in &node.extents {
            self.check_blocks(extent.physical, extent.len, whose)?;
        }
        for (_, child) in &node.children {
            self.check_blocks(*child, 1, whose)?;
        }
        Ok(())
    }

    /// Where block `logical` of an extent-mapped file lies, and how far the run goes on.
    pub(crate) fn extent_run(&self, inode: &Inode, logical: u64) -> Result<Run> {
        let mut node = self.extent_root(inode)?;
        let mut end = MOST_BLOCKS;
        let mut start = 0;
        while node.depth > 0 {
            let after = node
                .children
                .partition_point(|(first, _)| *first <= logical);
            if let Some((next, _)) = node.children.get(after) {
                end = *next;
            }
            let Some((first, child)) = after.checked_sub(1).and_then(|i| node.children.get(i))
            else {
                return Ok(hole(logical, end));
            };
            start = start.max(*first);
            node = self.extent_node(inode, *child, node.depth - 1, start..end)?;
        }
        let after = node
            .extents
            .partition_point(|extent| extent.logical <= logical);
        if let Some(next) = node.extents.get(after) {
            end = next.logical;
        }
        match after.checked_sub(1).and_then(|i| node.extents.get(i)) {
            Some(extent) if logical < extent.end() => Ok(Run {
                len: extent.end() - logical,
                physical: Some(extent.physical + (logical - extent.logical)),
                unwritten: extent.unwritten,
            }),
            _ => Ok(hole(logical, end)),
        }
    }

    /// All extents of a file in order, at most `most`, and the blocks of the tree.
    pub(crate) fn all_extents(
        &self,
        inode: &Inode,
        most: usize,
    ) -> Result<(Vec<Extent>, Vec<Block>)> {
        let root = self.extent_root(inode)?;
        let (mut extents, mut blocks) = (Vec::new(), Vec::new());
        self.gather(inode, root, MOST_BLOCKS, most, &mut extents, &mut blocks)?;
        Ok((extents, blocks))
    }

    fn gather(
        &self,
        inode: &Inode,
        node: Node,
        end: u64,
        most: usize,
        extents: &mut Vec<Extent>,
        blocks: &mut Vec<Block>,
    ) -> Result<()> {
        if extents.len() + node.extents.len() > most {
            return Err(super::volume::unsupported(format!(
                "inode {} has more than {most} extents",
                inode.number
            )));
        }
        extents.extend(&node.extents);
        for (at, (first, child)) in node.children.iter().enumerate() {
            let end = node.children.get(at + 1).map_or(end, |(next, _)| *next);
            let below = self.extent_node(inode, *child, node.depth - 1, *first..end)?;
            blocks.push(*child);
            self.gather(inode, below, end, most, extents, blocks)?;
        }
        Ok(())
    }
}

fn hole(logical: u64, end: u64) -> Run {
    Run {
        len: end.saturating_sub(logical).max(1),
        physical: None,
        unwritten: false,
    }
}
