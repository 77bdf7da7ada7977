//! The blocks of an open file system: read and checked, cached within bounds, changed in
//! transactions.
//!
//! A change is a set of whole blocks that waits in memory until the operation has succeeded. Only then
//! is it written; an operation that fails leaves nothing behind.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockRead, BlockWrite};

use super::format::{Block, SUPERBLOCK_LEN, SUPERBLOCK_OFFSET, Superblock};
use super::group::GroupDesc;
use crate::bytes;
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Bytes of clean blocks kept.
const CACHE_BYTES: u64 = 16 << 20;

/// An error about bytes that contradict themselves: where, what was expected, what was found.
pub(crate) fn corrupt(detail: impl Into<String>) -> TreeError {
    TreeError::of(TreeErrorKind::Corrupt, detail)
}

/// A refusal that names a feature.
pub(crate) fn unsupported(detail: impl Into<String>) -> TreeError {
    TreeError::of(TreeErrorKind::Unsupported, detail)
}

pub(crate) type Bytes = Arc<Vec<u8>>;

/// Bytes of a file to be written past the metadata: where on the disk, and what.
#[derive(Debug, Clone)]
pub(crate) enum Contents {
    /// A part of the bytes the operation was given.
    Given { at: u64, from: Range<usize> },
    /// Zeroes.
    Zeroes { at: u64, len: u64 },
}

pub(crate) struct Volume<D> {
    pub(crate) disk: D,
    pub(crate) sb: Superblock,
    clean: RefCell<HashMap<Block, Bytes>>,
    pending: BTreeMap<Block, Bytes>,
    /// The superblock as it was when the transaction began.
    before: Option<Superblock>,
    /// Blocks that no file may own, sorted and joined; filled when opened for writing.
    pub(crate) system: Vec<Range<Block>>,
    /// Time of changes the caller gives no time for, in seconds since 1970.
    pub(crate) clock: i64,
    /// Contents of files to be written when the transaction ends, behind all that can fail.
    contents: Vec<Contents>,
}

impl<D: BlockRead> Volume<D> {
    /// Read the superblock of `disk`.
    pub(crate) fn open(disk: D) -> Result<Self> {
        let mut raw = vec![0; SUPERBLOCK_LEN];
        disk.read_at(SUPERBLOCK_OFFSET, &mut raw)?;
        let sb = Superblock::parse(raw, disk.size()).map_err(from_parse)?;
        Ok(Self::with_superblock(disk, sb))
    }

    /// The blocks of `disk` as `sb` counts them.
    pub(crate) fn with_superblock(disk: D, sb: Superblock) -> Self {
        let clock = i64::from(sb.last_write_time()).max(946_684_800);
        Self {
            disk,
            sb,
            clean: RefCell::default(),
            pending: BTreeMap::new(),
            before: None,
            system: Vec::new(),
            clock,
            contents: Vec::new(),
        }
    }

    pub(crate) fn block_size(&self) -> usize {
        self.sb.block_size as usize
    }

    /// Check that `len` blocks at `start` lie in the file system; `whose` names who says so.
    pub(crate) fn check_blocks(&self, start: Block, len: u64, whose: &str) -> Result<()> {
        let end = start.checked_add(len);
        if start < self.sb.first_data_block.max(1) || end.is_none_or(|end| end > self.sb.blocks) {
            return Err(corrupt(format!(
                "{whose}: expected blocks from 1 to {}, found {len} at {start}",
                self.sb.blocks - 1
            )));
        }
        Ok(())
    }

    /// One block of metadata, from the transaction, the cache or the disk.
    pub(crate) fn block(&self, block: Block, whose: &str) -> Result<Bytes> {
        if let Some(bytes) = self.pending.get(&block) {
            return Ok(Arc::clone(bytes));
        }
        if let Some(bytes) = self.clean.borrow().get(&block) {
            return Ok(Arc::clone(bytes));
        }
        self.check_blocks(block, 1, whose)?;
        let mut bytes = vec![0; self.block_size()];
        self.disk.read_at(block * self.sb.block_size, &mut bytes)?;
        let bytes = Arc::new(bytes);
        self.keep(block, Arc::clone(&bytes));
        Ok(bytes)
    }

    fn keep(&self, block: Block, bytes: Bytes) {
        let mut clean = self.clean.borrow_mut();
        if clean.len() as u64 * self.sb.block_size >= CACHE_BYTES {
            clean.clear();
        }
        clean.insert(block, bytes);
    }

    /// Forget every cached block: the disk was changed underneath.
    pub(crate) fn forget_all(&mut self) {
        self.clean.borrow_mut().clear();
        self.pending.clear();
    }

    /// The descriptor of `group`, checked.
    pub(crate) fn desc(&self, group: u64) -> Result<GroupDesc> {
        let (block, at) = self.desc_place(group);
        let table = self.block(block, "group descriptor table")?;
        let desc = GroupDesc {
            raw: bytes::slice(&table, at, self.sb.desc_size).to_vec(),
        };
        match desc.fault(&self.sb, group) {
            None => Ok(desc),
            Some(fault) => Err(corrupt(format!("{fault} (block {block}, byte {at})"))),
        }
    }

    fn desc_place(&self, group: u64) -> (Block, usize) {
        let per_block = self.sb.descs_per_block();
        let at = (group % per_block) as usize * self.sb.desc_size;
        (self.sb.desc_block(group / per_block), at)
    }

    /// Put a changed block into the transaction.
    pub(crate) fn put_block(&mut self, block: Block, bytes: Vec<u8>) {
        debug_assert_eq!(bytes.len(), self.block_size());
        self.pending.insert(block, Arc::new(bytes));
    }

    /// A block of metadata to be changed in place, as part of the transaction.
    pub(crate) fn edit_block(&mut self, block: Block, whose: &str) -> Result<&mut Vec<u8>> {
        let bytes = self.block(block, whose)?;
        self.clean.borrow_mut().remove(&block);
        Ok(Arc::make_mut(self.pending.entry(block).or_insert(bytes)))
    }

    /// Write these contents when the transaction ends.
    pub(crate) fn queue(&mut self, contents: Contents) {
        self.contents.push(contents);
    }

    /// Put a changed descriptor, with its checksum, into the transaction.
    pub(crate) fn put_desc(&mut self, group: u64, mut desc: GroupDesc) -> Result<()> {
        desc.seal(&self.sb, group);
        let (block, at) = self.desc_place(group);
        let mut table = self.block(block, "group descriptor table")?.to_vec();
        bytes::put(&mut table, at, &desc.raw);
        self.put_block(block, table);
        Ok(())
    }

    /// Forget a block that metadata no longer owns: file contents written to it past the cache must
    /// not be written over when the transaction ends.
    pub(crate) fn forget(&mut self, block: Block) {
        self.pending.remove(&block);
        self.clean.borrow_mut().remove(&block);
    }

    pub(crate) fn begin(&mut self) {
        self.before = Some(self.sb.clone());
    }

    /// Drop what waits: the disk stays as it was when the transaction began.
    pub(crate) fn roll_back(&mut self) {
        self.pending.clear();
        self.contents.clear();
        if let Some(before) = self.before.take() {
            self.sb = before;
        }
    }
}

impl<D: BlockWrite> Volume<D> {
    /// Write what waits; `given` are the bytes queued contents are parts of.
    pub(crate) fn commit(&mut self, given: &[u8]) -> Result<()> {
        let size = self.sb.block_size;
        for (block, bytes) in std::mem::take(&mut self.pending) {
            self.disk.write_at(block * size, &bytes)?;
            self.keep(block, bytes);
        }
        // After the blocks: a file that leaves its inode has its first block among them.
        for contents in std::mem::take(&mut self.contents) {
            match contents {
                Contents::Given { at, from } => {
                    self.disk
                        .write_at(at, given.get(from).unwrap_or_default())?;
                }
                Contents::Zeroes { at, len } => {
                    self.disk.write_at(at, &vec![0; len as usize])?;
                }
            }
        }
        let changed = self
            .before
            .take()
            .is_none_or(|before| before.raw != self.sb.raw);
        if changed {
            self.sb.seal();
            self.disk.write_at(SUPERBLOCK_OFFSET, &self.sb.raw)?;
        }
        Ok(())
    }
}

fn from_parse(error: block_io::BlockError) -> TreeError {
    corrupt(error.to_string())
}
