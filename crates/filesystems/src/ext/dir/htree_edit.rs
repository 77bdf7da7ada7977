//! Hash trees: adding names, splitting leaves and index blocks, growing the tree.

use block_io::BlockRead;

use super::edit::{NewEntry, pack};
use super::hash::HashKind;
use super::htree::{self, Level, NODE_COUNT, ROOT_COUNT};
use super::{encode_rec_len, entry_len, parse_entries};
use crate::bytes::{self, put_le16, put_le32};
use crate::ext::feature;
use crate::ext::format::Block;
use crate::ext::inode::{Inode, flag};
use crate::ext::volume::Volume;
use crate::tree::{Result, TreeError, TreeErrorKind};

/// An entry of a leaf on its way to another.
type Moved = (u32, u8, Vec<u8>);

/// Sort entries by hash and cut them into two halves of about the same size: the first hash of the
/// second half comes with the low bit when names of the hash before it have the same.
fn halves(entries: Vec<Moved>, kind: HashKind, seed: [u32; 4]) -> (Vec<Moved>, Vec<Moved>, u32) {
    let mut hashed: Vec<(u32, Moved)> = entries
        .into_iter()
        .map(|entry| (kind.hash(&entry.2, seed), entry))
        .collect();
    hashed.sort_by_key(|(hash, _)| *hash);
    let total: usize = hashed
        .iter()
        .map(|(_, entry)| entry_len(entry.2.len()))
        .sum();
    let (mut size, mut cut) = (0, 0);
    for (n, (_, entry)) in hashed.iter().enumerate() {
        if size >= total / 2 {
            break;
        }
        size += entry_len(entry.2.len());
        cut = n + 1;
    }
    let cut = cut.clamp(1, hashed.len().saturating_sub(1).max(1));
    let upper = hashed.split_off(cut.min(hashed.len()));
    let first = upper.first().map_or(u32::MAX, |(hash, _)| *hash);
    let same = hashed.last().is_some_and(|(hash, _)| *hash == first);
    let plain = |half: Vec<(u32, Moved)>| half.into_iter().map(|(_, entry)| entry).collect();
    (plain(hashed), plain(upper), first | u32::from(same))
}

impl<D: BlockRead> Volume<D> {
    /// Put a changed index block, with its checksum, into the transaction.
    pub(crate) fn put_index_block(
        &mut self,
        dir: &Inode,
        place: Block,
        mut block: Vec<u8>,
        count_at: usize,
    ) {
        if self.sb.has_metadata_csum() {
            let (sum, _) = htree::checksum(dir.seed(self.sb.seed), &block, count_at);
            let limit = usize::from(bytes::le16(&block, count_at));
            put_le32(&mut block, count_at + limit * 8 + 4, sum);
        }
        self.put_block(place, block);
    }

    fn index_limit(&self, count_at: usize) -> usize {
        htree::limit(self.block_size(), count_at, self.sb.has_metadata_csum())
    }

    /// Write the entries of `level` back.
    fn put_level(&mut self, dir: &Inode, level: &Level) -> Result<()> {
        let (place, block) = self.dir_block(dir, level.logical)?;
        let mut block = block.to_vec();
        self.put_entries(&mut block, level.count_at, &level.entries);
        self.put_index_block(dir, place, block, level.count_at);
        Ok(())
    }

    fn put_entries(&self, block: &mut [u8], count_at: usize, entries: &[(u32, u64)]) {
        for (n, (hash, child)) in entries.iter().enumerate() {
            let at = count_at + n * 8;
            if n > 0 {
                put_le32(block, at, *hash);
            }
            put_le32(block, at + 4, *child as u32);
        }
        put_le16(block, count_at, self.index_limit(count_at) as u16);
        put_le16(block, count_at + 2, entries.len() as u16);
    }

    /// A fresh index block that is no root, appended to the directory.
    fn new_index_block(&mut self, dir: &mut Inode, entries: &[(u32, u64)]) -> Result<u64> {
        let (logical, place) = self.append_dir_block(dir)?;
        let size = self.block_size();
        let mut block = vec![0; size];
        put_le16(&mut block, 4, encode_rec_len(size, size));
        self.put_entries(&mut block, NODE_COUNT, entries);
        self.put_index_block(dir, place, block, NODE_COUNT);
        Ok(logical)
    }

    /// Put a hash tree over a directory of one full block. `false` when its hash is none we know:
    /// it stays a plain list, which is right too.
    pub(crate) fn make_index(&mut self, dir: &mut Inode) -> Result<bool> {
        let version = self.sb.default_hash_version();
        let Some(kind) = HashKind::new(version, self.sb.hash_unsigned()) else {
            return Ok(false);
        };
        let (place, block) = self.dir_block(dir, 0)?;
        let whose = format!("directory inode {}, block 0", dir.number);
        let mut names: Vec<Moved> = parse_entries(&block, &whose)?
            .iter()
            .filter(|entry| entry.inode != 0)
            .map(|entry| (entry.inode, entry.file_type, entry.name.to_vec()))
            .collect();
        let dots = names
            .get(..2)
            .is_some_and(|n| n[0].2 == b"." && n[1].2 == b"..");
        if !dots || names.len() < 4 {
            return Ok(false);
        }
        let rest = names.split_off(2);
        let mut root = vec![0; self.block_size()];
        pack(&mut root, self.block_size(), &names);
        // Root of the tree: reserved, version, length of this, levels, flags.
        bytes::put(&mut root, 0x18, &[0, 0, 0, 0, version % 3, 8, 0, 0]);
        dir.set_flags(dir.flags() | flag::INDEX);
        // The leaf takes all entries first, and is split when the next name comes.
        let (leaf, leaf_place) = self.append_dir_block(dir)?;
        let end = self.leaf_end();
        let (lower, upper, hash) = halves(rest, kind, self.sb.hash_seed());
        let mut block = vec![0; self.block_size()];
        pack(&mut block, end, &lower);
        self.put_leaf(dir, leaf_place, block);
        let (second, second_place) = self.append_dir_block(dir)?;
        let mut block = vec![0; self.block_size()];
        pack(&mut block, end, &upper);
        self.put_leaf(dir, second_place, block);
        self.put_entries(&mut root, ROOT_COUNT, &[(0, leaf), (hash, second)]);
        self.put_index_block(dir, place, root, ROOT_COUNT);
        Ok(true)
    }

    /// Add a name to a directory with a hash tree.
    pub(crate) fn add_hashed(&mut self, dir: &mut Inode, entry: NewEntry) -> Result<()> {
        let root = self.hash_root(dir)?;
        let hash = root.kind.hash(entry.name, self.sb.hash_seed());
        // Each round makes room for one more split; the tree has at most four levels.
        for _ in 0..8 {
            let root = self.hash_root(dir)?;
            let mut way = self.hash_way(dir, &root, hash)?;
            let Some(leaf) = way.last().map(Level::child) else {
                break;
            };
            if self.add_to_leaf(dir, leaf, entry)? {
                return Ok(());
            }
            if !self.make_way(dir, &mut way)? {
                continue;
            }
            self.split_leaf(dir, way, root.kind)?;
        }
        Err(TreeError::of(
            TreeErrorKind::NoSpace,
            "the directory's hash tree cannot take another name",
        ))
    }

    /// See that the lowest index block of `way` has room for one entry more. `false` when the tree
    /// was changed for it, and the way must be found anew.
    fn make_way(&mut self, dir: &mut Inode, way: &mut [Level]) -> Result<bool> {
        let full = |level: &Level, volume: &Self| {
            level.entries.len() >= volume.index_limit(level.count_at)
        };
        let Some(lowest) = way.iter().rposition(|level| !full(level, self)) else {
            self.deepen(dir, way)?;
            return Ok(false);
        };
        if lowest + 1 == way.len() {
            return Ok(true);
        }
        // Split the full block below the lowest one that has room.
        let Some(below) = way.get(lowest + 1) else {
            return Ok(false);
        };
        let mut lower = below.clone();
        let upper = lower.entries.split_off(lower.entries.len() / 2);
        let hash = upper.first().map_or(0, |(hash, _)| *hash);
        let logical = self.new_index_block(dir, &upper)?;
        self.put_level(dir, &lower)?;
        if let Some(parent) = way.get_mut(lowest) {
            parent.entries.insert(parent.at + 1, (hash, logical));
            let parent = parent.clone();
            self.put_level(dir, &parent)?;
        }
        Ok(false)
    }

    /// Put another level between the root and what is below it.
    fn deepen(&mut self, dir: &mut Inode, way: &[Level]) -> Result<()> {
        let most = if self.sb.has_incompat(feature::LARGEDIR) {
            3
        } else {
            2
        };
        let Some(root) = way.first().filter(|_| way.len() < most) else {
            return Err(TreeError::of(
                TreeErrorKind::NoSpace,
                "the directory's hash tree has as many levels as it may",
            ));
        };
        let logical = self.new_index_block(dir, &root.entries)?;
        let (place, block) = self.dir_block(dir, 0)?;
        let mut block = block.to_vec();
        bytes::put(&mut block, 0x1E, &[way.len() as u8]);
        self.put_entries(&mut block, ROOT_COUNT, &[(0, logical)]);
        self.put_index_block(dir, place, block, ROOT_COUNT);
        Ok(())
    }

    /// Split the leaf `way` leads to; its lowest index block has room.
    fn split_leaf(&mut self, dir: &mut Inode, mut way: Vec<Level>, kind: HashKind) -> Result<()> {
        let Some(mut level) = way.pop() else {
            return Ok(());
        };
        let leaf = level.child();
        let (place, block) = self.dir_block(dir, leaf)?;
        let whose = format!("directory inode {}, block {leaf}", dir.number);
        let names: Vec<Moved> = parse_entries(&block, &whose)?
            .iter()
            .filter(|entry| entry.inode != 0)
            .map(|entry| (entry.inode, entry.file_type, entry.name.to_vec()))
            .collect();
        let (lower, upper, hash) = halves(names, kind, self.sb.hash_seed());
        let end = self.leaf_end();
        let mut block = vec![0; self.block_size()];
        pack(&mut block, end, &lower);
        self.put_leaf(dir, place, block);
        if upper.is_empty() {
            // One name, or none, that left gaps: packed, it leaves room.
            return Ok(());
        }
        let (logical, place) = self.append_dir_block(dir)?;
        let mut block = vec![0; self.block_size()];
        pack(&mut block, end, &upper);
        self.put_leaf(dir, place, block);
        level.entries.insert(level.at + 1, (hash, logical));
        self.put_level(dir, &level)
    }
}
