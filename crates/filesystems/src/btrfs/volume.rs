//! Chunks and trees of btrfs.

use std::collections::BTreeMap;
use std::ops::Range;

use block_io::BlockRead;

use super::format::{
    CHUNK_ITEM, Chunk, Key, ROOT_ITEM, Root, SUPERBLOCK_LEN, SUPERBLOCKS, Superblock, checksum,
    root_item,
};
use crate::bytes::{array, le32, le64, slice, u8_at};
use crate::fault::{Fault, Result};

/// Most chunks: at 256 MiB each, 256 TiB.
const MOST_CHUNKS: usize = 1 << 20;
/// BTRFS_MAX_LEVEL
const MOST_LEVELS: u8 = 8;
/// Length of a node's header.
const HEADER: usize = 101;

/// What a walk shows: items, with their bytes, and the nodes they are found in.
pub(crate) trait Visitor {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<()>;

    /// A node at this logical address was entered.
    fn node(&mut self, _at: u64) -> Result<()> {
        Ok(())
    }
}

impl<F: FnMut(Key, &[u8]) -> Result<()>> Visitor for F {
    fn item(&mut self, key: Key, data: &[u8]) -> Result<()> {
        self(key, data)
    }
}

pub(crate) struct Volume<'a> {
    pub(crate) disk: &'a dyn BlockRead,
    pub(crate) sb: Superblock,
    pub(crate) chunks: BTreeMap<u64, Chunk>,
}

impl<'a> Volume<'a> {
    pub(crate) fn open(disk: &'a dyn BlockRead) -> Result<Self> {
        let mut raw = vec![0; SUPERBLOCK_LEN as usize];
        disk.read_at(SUPERBLOCKS[0], &mut raw)?;
        let sb = Superblock::parse(&raw, disk.size())?;
        let mut volume = Self {
            disk,
            sb,
            chunks: BTreeMap::new(),
        };
        volume.add_system_chunks()?;
        let mut found = Vec::new();
        volume.walk(
            volume.sb.chunk_root,
            Key::MIN..Key::MAX,
            &mut |key: Key, data: &[u8]| {
                if key.kind == CHUNK_ITEM {
                    found.push(Chunk::parse(data, key.offset, &volume.sb)?);
                }
                if found.len() > MOST_CHUNKS {
                    return Err(Fault::Damage(format!("more than {MOST_CHUNKS} chunks")));
                }
                Ok(())
            },
        )?;
        for chunk in found {
            volume.add_chunk(chunk)?;
        }
        Ok(volume)
    }

    /// The chunks the superblock names, so that the chunk tree can be read.
    fn add_system_chunks(&mut self) -> Result<()> {
        let array = std::mem::take(&mut self.sb.system_chunks);
        let mut at = 0;
        while at < array.len() {
            let key = Key::parse(&array, at);
            let item = array.get(at + Key::LEN..).unwrap_or_default();
            if key.kind != CHUNK_ITEM || item.len() < Chunk::FIXED {
                return Err(Fault::Damage(format!(
                    "system chunks: no chunk at byte {at}"
                )));
            }
            let chunk = Chunk::parse(item, key.offset, &self.sb)?;
            at += Key::LEN + Chunk::FIXED + chunk.places.len() * Chunk::STRIPE;
            self.add_chunk(chunk)?;
        }
        Ok(())
    }

    fn add_chunk(&mut self, chunk: Chunk) -> Result<()> {
        let end = chunk.logical + chunk.len;
        let before = self.chunks.range(..end).next_back().map(|(_, other)| other);
        match before {
            Some(other) if *other == chunk => return Ok(()),
            Some(other) if other.logical + other.len > chunk.logical => {
                return Err(Fault::Damage(format!(
                    "chunks at {:#x} and {:#x} overlap",
                    other.logical, chunk.logical
                )));
            }
            _ => {}
        }
        self.chunks.insert(chunk.logical, chunk);
        Ok(())
    }

    /// Where `len` bytes at a logical address lie: all places of them.
    pub(crate) fn places(&self, logical: u64, len: u64) -> Result<Vec<Range<u64>>> {
        let chunk = self
            .chunks
            .range(..=logical)
            .next_back()
            .map(|(_, chunk)| chunk);
        let inside = |chunk: &&Chunk| {
            logical
                .checked_add(len)
                .is_some_and(|end| end <= chunk.logical + chunk.len)
        };
        match chunk.filter(inside) {
            Some(chunk) => {
                let from = logical - chunk.logical;
                Ok(chunk
                    .places
                    .iter()
                    .map(|at| at + from..at + from + len)
                    .collect())
            }
            None => Err(Fault::Damage(format!(
                "{len:#x} bytes at logical {logical:#x}: in no chunk"
            ))),
        }
    }

    /// A node, from whichever of its copies is sound.
    fn node(&self, at: u64, level: u8) -> Result<Vec<u8>> {
        let mut fault = Fault::Damage(format!("node {at:#x}: nowhere"));
        for place in self.places(at, self.sb.node)? {
            let mut raw = vec![0; self.sb.node as usize];
            match self
                .disk
                .read_at(place.start, &mut raw)
                .map_err(Fault::from)
            {
                Ok(()) => {}
                Err(Fault::Disk(error)) => return Err(Fault::Disk(error)),
                Err(damage) => {
                    fault = damage;
                    continue;
                }
            }
            match self.node_fault(&raw, at, level) {
                None => return Ok(raw),
                Some(why) => fault = Fault::Damage(format!("node {at:#x}: {why}")),
            }
        }
        Err(fault)
    }

    /// Header. Offsets: 0 checksum, 32 fsid, 48 own address, 96 items, 100 level.
    fn node_fault(&self, raw: &[u8], at: u64, level: u8) -> Option<String> {
        let expected = checksum(raw);
        if le32(raw, 0) != expected {
            return Some(format!(
                "checksum: expected {expected:#x}, found {:#x}",
                le32(raw, 0)
            ));
        }
        if array::<16>(raw, 32) != self.sb.fsid {
            return Some("belongs to another file system".to_owned());
        }
        if le64(raw, 48) != at {
            return Some(format!("says it is at {:#x}", le64(raw, 48)));
        }
        if u8_at(raw, 100) != level {
            return Some(format!(
                "level: expected {level}, found {}",
                u8_at(raw, 100)
            ));
        }
        let most = (raw.len() - HEADER) / if level == 0 { 25 } else { 33 };
        let count = le32(raw, 96) as usize;
        (count > most).then(|| format!("{count} items, expected at most {most}"))
    }

    /// Show all items of a tree whose keys lie in `keys` to `see`, in order.
    pub(crate) fn walk(&self, root: Root, keys: Range<Key>, see: &mut dyn Visitor) -> Result<()> {
        if root.level >= MOST_LEVELS {
            return Err(Fault::Damage(format!(
                "tree at {:#x}: level {}",
                root.at, root.level
            )));
        }
        let mut last = None;
        self.walk_node(root.at, root.level, &keys, &mut last, see)
    }

    /// Keys must grow from item to item over the whole walk, and no node but a root is empty, so that
    /// no node is shown twice and no circle followed.
    fn walk_node(
        &self,
        at: u64,
        level: u8,
        keys: &Range<Key>,
        last: &mut Option<Key>,
        see: &mut dyn Visitor,
    ) -> Result<()> {
        let raw = self.node(at, level)?;
        see.node(at)?;
        let count = le32(&raw, 96) as usize;
        if level == 0 {
            for index in 0..count {
                let item = HEADER + index * 25;
                let key = Key::parse(&raw, item);
                if last.is_some_and(|last| key <= last) {
                    return Err(Fault::Damage(format!(
                        "node {at:#x}: item {index} is out of order"
                    )));
                }
                *last = Some(key);
                let (from, len) = (
                    le32(&raw, item + 17) as usize,
                    le32(&raw, item + 21) as usize,
                );
                let data = slice(&raw, HEADER.saturating_add(from), len);
                if data.len() != len {
                    return Err(Fault::Damage(format!(
                        "node {at:#x}: item {index} lies outside"
                    )));
                }
                if keys.contains(&key) {
                    see.item(key, data)?;
                }
            }
            return Ok(());
        }
        for index in 0..count {
            let pointer = HEADER + index * 33;
            let first = Key::parse(&raw, pointer);
            let next = (index + 1 < count).then(|| Key::parse(&raw, pointer + 33));
            if next.is_some_and(|next| next <= first) {
                return Err(Fault::Damage(format!(
                    "node {at:#x}: pointer {index} is out of order"
                )));
            }
            if first >= keys.end || next.is_some_and(|next| next <= keys.start) {
                continue;
            }
            let before = *last;
            self.walk_node(le64(&raw, pointer + 17), level - 1, keys, last, see)?;
            if *last == before {
                return Err(Fault::Damage(format!(
                    "node {at:#x}: child {index} is empty"
                )));
            }
        }
        Ok(())
    }

    /// The root of the tree `object` in the root tree.
    pub(crate) fn tree(&self, object: u64) -> Result<Root> {
        let keys = Key {
            object,
            kind: ROOT_ITEM,
            offset: 0,
        }..Key {
            object,
            kind: ROOT_ITEM + 1,
            offset: 0,
        };
        let mut found = None;
        self.walk(self.sb.root, keys, &mut |_: Key, data: &[u8]| {
            found = Some(root_item(data));
            Ok(())
        })?;
        found.ok_or_else(|| Fault::Damage(format!("root tree: no tree {object}")))
    }
}
