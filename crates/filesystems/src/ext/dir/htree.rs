//! Hash trees over directories: finding the leaf a name belongs to. // [ext4 disk layout] Hash Tree
//! Directories

use block_io::BlockRead;

use super::hash::HashKind;
use super::{Found, decode_rec_len, parse_entries};
use crate::bytes::{le16, le32, slice, u8_at};
use crate::ext::checksum::crc32c;
use crate::ext::feature;
use crate::ext::inode::Inode;
use crate::ext::volume::{Volume, corrupt, unsupported};
use crate::tree::Result;

/// Where limit and count lie in the root block.
pub(crate) const ROOT_COUNT: usize = 0x20;
/// Where they lie in other index blocks.
pub(crate) const NODE_COUNT: usize = 8;

/// Where limit and count of an index block lie; `None` when it is a leaf.
pub(crate) fn count_place(block: &[u8]) -> Option<usize> {
    let first = decode_rec_len(le16(block, 4), block.len());
    if first == block.len() && le32(block, 0) == 0 {
        return Some(NODE_COUNT);
    }
    let second = decode_rec_len(le16(block, 16), block.len());
    let root = first == 12
        && second == block.len() - 12
        && le32(block, 0x18) == 0
        && u8_at(block, 0x1D) == 8;
    root.then_some(ROOT_COUNT)
}

/// The checksum an index block should carry, and the one it carries.
pub(crate) fn checksum(seed: u32, block: &[u8], count_at: usize) -> (u32, u32) {
    let limit = usize::from(le16(block, count_at));
    let count = usize::from(le16(block, count_at + 2));
    let tail = count_at + limit * 8;
    let sum = crc32c(seed, slice(block, 0, count_at + count * 8));
    let sum = crc32c(sum, slice(block, tail, 4));
    (crc32c(sum, &[0; 4]), le32(block, tail + 4))
}

/// How many entries an index block has room for.
pub(crate) fn limit(block_size: usize, count_at: usize, with_checksum: bool) -> usize {
    (block_size - count_at - if with_checksum { 8 } else { 0 }) / 8
}

/// One index block on the way to a leaf.
#[derive(Debug, Clone)]
pub(crate) struct Level {
    /// Which block of the directory.
    pub(crate) logical: u64,
    /// Where limit and count lie in it.
    pub(crate) count_at: usize,
    /// Hash and block of each entry; the first one's hash is 0.
    pub(crate) entries: Vec<(u32, u64)>,
    /// Which entry the way follows.
    pub(crate) at: usize,
}

impl Level {
    pub(crate) fn child(&self) -> u64 {
        self.entries.get(self.at).map_or(0, |(_, block)| *block)
    }
}

/// What the root of a hash tree says.
pub(crate) struct Root {
    pub(crate) kind: HashKind,
    /// Levels of index blocks below the root.
    pub(crate) levels: u8,
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn hash_root(&self, dir: &Inode) -> Result<Root> {
        let whose = format!("directory inode {}, hash tree root", dir.number);
        let (_, block) = self.dir_block(dir, 0)?;
        if count_place(&block) != Some(ROOT_COUNT) {
            return Err(corrupt(format!(
                "{whose}: expected entries . and .. and a root, found none"
            )));
        }
        let (version, levels) = (u8_at(&block, 0x1C), u8_at(&block, 0x1E));
        let most = if self.sb.has_incompat(feature::LARGEDIR) {
            3
        } else {
            2
        };
        if levels >= most {
            return Err(corrupt(format!(
                "{whose}: indirect_levels: expected less than {most}, found {levels}"
            )));
        }
        match HashKind::new(version, self.sb.hash_unsigned()) {
            Some(kind) => Ok(Root { kind, levels }),
            None => Err(unsupported(format!("{whose}: hash version {version}"))),
        }
    }

    /// Read index block `logical`.
    pub(crate) fn index_block(&self, dir: &Inode, logical: u64) -> Result<Level> {
        let whose = format!("directory inode {}, index block {logical}", dir.number);
        let (_, block) = self.dir_block(dir, logical)?;
        let expected_at = if logical == 0 { ROOT_COUNT } else { NODE_COUNT };
        let Some(count_at) = count_place(&block).filter(|at| *at == expected_at) else {
            return Err(corrupt(format!(
                "{whose}: expected an index block, found a leaf"
            )));
        };
        let limit = limit(block.len(), count_at, self.sb.has_metadata_csum());
        let (found, count) = (
            usize::from(le16(&block, count_at)),
            le16(&block, count_at + 2),
        );
        if found != limit {
            return Err(corrupt(format!(
                "{whose}: limit: expected {limit}, found {found}"
            )));
        }
        if count == 0 || usize::from(count) > limit {
            return Err(corrupt(format!(
                "{whose}: count: expected from 1 to {limit}, found {count}"
            )));
        }
        let blocks = self.dir_len(dir)?;
        let mut entries = Vec::with_capacity(usize::from(count));
        for (n, entry) in slice(&block, count_at, usize::from(count) * 8)
            .chunks_exact(8)
            .enumerate()
        {
            let hash = if n == 0 { 0 } else { le32(entry, 0) };
            let child = u64::from(le32(entry, 4) & 0x0FFF_FFFF);
            if child == 0 || child >= blocks || child == logical {
                return Err(corrupt(format!(
                    "{whose}: entry {n}: expected a block from 1 to {}, found {child}",
                    blocks - 1
                )));
            }
            if entries.last().is_some_and(|(before, _)| *before > hash) {
                return Err(corrupt(format!(
                    "{whose}: entry {n}: expected ascending hashes, found {hash:#x}"
                )));
            }
            entries.push((hash, child));
        }
        Ok(Level {
            logical,
            count_at,
            entries,
            at: 0,
        })
    }

    /// The way through the tree to the leaf of `hash`.
    pub(crate) fn hash_way(&self, dir: &Inode, root: &Root, hash: u32) -> Result<Vec<Level>> {
        let mut way: Vec<Level> = Vec::new();
        for _ in 0..=root.levels {
            let logical = way.last().map_or(0, Level::child);
            let mut level = self.index_block(dir, logical)?;
            level.at = level
                .entries
                .partition_point(|(first, _)| *first <= hash)
                .max(1)
                - 1;
            way.push(level);
        }
        Ok(way)
    }

    /// Go on to the next leaf if it may also hold names of `hash`: its own hash then has the low bit.
    fn next_leaf(&self, dir: &Inode, way: &mut Vec<Level>, hash: u32) -> Result<bool> {
        let depth = way.len();
        while let Some(level) = way.last_mut() {
            if level.at + 1 < level.entries.len() {
                level.at += 1;
                break;
            }
            way.pop();
        }
        let Some((first, _)) = way.last().and_then(|level| level.entries.get(level.at)) else {
            return Ok(false);
        };
        if first & 1 == 0 || first & !1 != hash {
            return Ok(false);
        }
        while way.len() < depth {
            let child = way.last().map_or(0, Level::child);
            way.push(self.index_block(dir, child)?);
        }
        Ok(true)
    }

    /// Find `name` through the hash tree.
    pub(crate) fn find_hashed(&self, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
        let root = self.hash_root(dir)?;
        let hash = root.kind.hash(name, self.sb.hash_seed());
        let mut way = self.hash_way(dir, &root, hash)?;
        let most = self.dir_len(dir)?;
        for _ in 0..most {
            let leaf = way.last().map_or(0, Level::child);
            let (_, block) = self.dir_block(dir, leaf)?;
            let whose = format!("directory inode {}, block {leaf}", dir.number);
            let entries = parse_entries(&block, &whose)?;
            if let Some(entry) = entries.iter().find(|e| e.inode != 0 && e.name == name) {
                if entry.inode > self.sb.inodes {
                    return Err(corrupt(format!(
                        "{whose}: inode number at byte {}: expected at most {}, found {}",
                        entry.at, self.sb.inodes, entry.inode
                    )));
                }
                return Ok(Some(Found {
                    inode: entry.inode,
                    logical: Some(leaf),
                    at: entry.at,
                }));
            }
            if !self.next_leaf(dir, &mut way, hash)? {
                break;
            }
        }
        Ok(None)
    }
}
