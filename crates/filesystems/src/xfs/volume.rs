//! The blocks and inodes of an open XFS, read and checked.

use std::cell::RefCell;
use std::sync::Arc;

use block_io::BlockRead;

use super::format::{Extent, FsBlock, Inode, Superblock, checksum};
use crate::bytes::{be64, le32};
use crate::tree::{Result, TreeError, TreeErrorKind};

pub(crate) fn corrupt(detail: impl Into<String>) -> TreeError {
    TreeError::of(TreeErrorKind::Corrupt, detail)
}

/// Where a version 5 block keeps its checksum and its own place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SelfDescription {
    pub(crate) checksum: usize,
    pub(crate) place: usize,
}

/// Of tree blocks with short and long pointers. // xfs_btree_sblock, xfs_btree_lblock
pub(crate) const SHORT_TREE: SelfDescription = SelfDescription {
    checksum: 52,
    place: 16,
};
pub(crate) const LONG_TREE: SelfDescription = SelfDescription {
    checksum: 64,
    place: 24,
};
/// Of directory blocks and index blocks. // xfs_dir3_blk_hdr, xfs_da3_blkinfo
pub(crate) const DIR_DATA: SelfDescription = SelfDescription {
    checksum: 4,
    place: 8,
};
pub(crate) const INDEX: SelfDescription = SelfDescription {
    checksum: 12,
    place: 16,
};
/// Of remote symbolic links and attribute values. // xfs_dsymlink_hdr, xfs_attr3_rmt_hdr
pub(crate) const REMOTE: SelfDescription = SelfDescription {
    checksum: 12,
    place: 40,
};

impl SelfDescription {
    /// What contradicts itself in a block that lies at byte `at`.
    pub(crate) fn fault(self, block: &[u8], at: u64) -> Option<String> {
        let (expected, found) = (checksum(block, self.checksum), le32(block, self.checksum));
        if expected != found {
            return Some(format!(
                "checksum: expected {expected:#x}, found {found:#x}"
            ));
        }
        // Places are counted in units of 512 bytes.
        let (expected, found) = (at / 512, be64(block, self.place));
        (expected != found).then(|| format!("place: expected {expected}, found {found}"))
    }
}

pub(crate) struct Volume<D> {
    pub(crate) disk: D,
    pub(crate) sb: Superblock,
    /// Extents of the inode last read from.
    pub(crate) mapped: RefCell<Option<(u64, Arc<Vec<Extent>>)>>,
}

impl<D: BlockRead> Volume<D> {
    pub(crate) fn open(disk: D) -> Result<Self> {
        let mut raw = vec![0; 512];
        disk.read_at(0, &mut raw)?;
        // The checksum covers the sector, which may be larger.
        let sector = usize::from(crate::bytes::be16(&raw, 102)).clamp(512, 32_768);
        raw.resize(sector, 0);
        disk.read_at(0, &mut raw)?;
        let sb = Superblock::parse(&raw, disk.size()).map_err(corrupt)?;
        if let Some(why) = &sb.refusal {
            return Err(TreeError::of(TreeErrorKind::Unsupported, why.clone()));
        }
        Ok(Self {
            disk,
            sb,
            mapped: RefCell::new(None),
        })
    }

    pub(crate) fn block_size(&self) -> usize {
        self.sb.block_size as usize
    }

    /// Where block `block` of inode `whose` begins, in bytes; `count` blocks from it lie in one group.
    pub(crate) fn place(&self, block: FsBlock, count: u64, whose: u64) -> Result<u64> {
        let last = block
            .checked_add(count.saturating_sub(1))
            .and_then(|last| self.sb.block_of(last));
        match (self.sb.block_of(block), last) {
            (Some(first), Some(last)) if last >= first && last - first < count.max(1) => {
                Ok(first * self.sb.block_size)
            }
            _ => Err(corrupt(format!(
                "inode {whose}: no {count} blocks at {block:#x}"
            ))),
        }
    }

    /// A block of metadata of inode `whose`, held against its own description on version 5.
    pub(crate) fn block(
        &self,
        block: FsBlock,
        own: SelfDescription,
        whose: u64,
    ) -> Result<Vec<u8>> {
        let at = self.place(block, 1, whose)?;
        let mut bytes = vec![0; self.block_size()];
        self.disk.read_at(at, &mut bytes)?;
        if self.sb.is_v5
            && let Some(fault) = own.fault(&bytes, at)
        {
            return Err(corrupt(format!("inode {whose}: block {block:#x}: {fault}")));
        }
        Ok(bytes)
    }

    pub(crate) fn inode(&self, number: u64) -> Result<Inode> {
        let Some(at) = self.sb.inode_at(number) else {
            return Err(corrupt(format!("inode {number}: no such place")));
        };
        let mut raw = vec![0; self.sb.inode_size];
        self.disk.read_at(at, &mut raw)?;
        Inode::parse(raw, number, &self.sb).map_err(corrupt)
    }
}
