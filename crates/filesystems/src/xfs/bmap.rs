//! Where the blocks of a file lie: lists of extents, and trees of them.

use std::sync::Arc;

use block_io::BlockRead;

use super::format::{Extent, Fork, ForkFormat, Inode};
use super::volume::{LONG_TREE, Volume, corrupt};
use crate::bytes::{be16, be64, slice};
use crate::tree::{Result, TreeError, TreeErrorKind};

/// Most extents of one file that are kept in memory (32 bytes each).
const MOST_EXTENTS: usize = 4 << 20;
/// Deepest tree of extents: XFS_BM_MAXLEVELS is 9 for 4 KiB blocks, more for smaller ones.
const MOST_LEVELS: u16 = 16;

impl<D: BlockRead> Volume<D> {
    /// All extents of a fork, in the order of the file.
    pub(crate) fn extents(&self, fork: &Fork) -> Result<Vec<Extent>> {
        let mut found = Found {
            extents: Vec::new(),
            inode: fork.inode,
        };
        match fork.format {
            ForkFormat::Extents => {
                let count = usize::try_from(fork.extents).unwrap_or(usize::MAX);
                if count.saturating_mul(16) > fork.bytes.len() {
                    return Err(corrupt(format!(
                        "inode {}: {count} extents in {} bytes",
                        fork.inode,
                        fork.bytes.len()
                    )));
                }
                for raw in fork.bytes.chunks_exact(16).take(count) {
                    found.add(Extent::parse(raw))?;
                }
            }
            ForkFormat::Btree => self.add_root(fork, &mut found)?,
            _ => return Err(corrupt(format!("inode {}: has no extents", fork.inode))),
        }
        for extent in &found.extents {
            self.place(extent.start, extent.count, fork.inode)?;
        }
        Ok(found.extents)
    }

    /// xfs_bmdr_block: level, number of records, keys, pointers.
    fn add_root(&self, fork: &Fork, found: &mut Found) -> Result<()> {
        let (level, count) = (be16(fork.bytes, 0), usize::from(be16(fork.bytes, 2)));
        let most = fork.bytes.len().saturating_sub(4) / 16;
        if level == 0 || level > MOST_LEVELS || count > most {
            return Err(corrupt(format!(
                "inode {}: root of level {level} with {count} records, expected at most {most}",
                fork.inode
            )));
        }
        for index in 0..count {
            let child = be64(fork.bytes, 4 + most * 8 + index * 8);
            self.add_node(child, level - 1, found)?;
        }
        Ok(())
    }

    /// A block of the tree at `level`; extents must come in order, so that no circle is followed.
    fn add_node(&self, at: u64, level: u16, found: &mut Found) -> Result<()> {
        let inode = found.inode;
        let block = self.block(at, LONG_TREE, inode)?;
        let (magic, header) = if self.sb.is_v5 {
            (b"BMA3", 72)
        } else {
            (b"BMAP", 24)
        };
        let count = usize::from(be16(&block, 6));
        let most = (block.len() - header) / 16;
        if slice(&block, 0, 4) != magic || be16(&block, 4) != level || count == 0 || count > most {
            return Err(corrupt(format!(
                "inode {inode}: block {at:#x}: expected an extent tree of level {level} with 1 to {most} \
                 records, found level {} with {count}",
                be16(&block, 4)
            )));
        }
        if level == 0 {
            for raw in slice(&block, header, count * 16).chunks_exact(16) {
                found.add(Extent::parse(raw))?;
            }
            return Ok(());
        }
        for index in 0..count {
            let before = found.extents.len();
            self.add_node(
                be64(&block, header + most * 8 + index * 8),
                level - 1,
                found,
            )?;
            // Every block below holds something, so walking ends.
            if found.extents.len() == before {
                return Err(corrupt(format!(
                    "inode {inode}: block {at:#x}: empty child"
                )));
            }
        }
        Ok(())
    }

    /// The extents of an inode's data, kept for the next question about the same inode.
    pub(crate) fn mapped(&self, inode: &Inode) -> Result<Arc<Vec<Extent>>> {
        if let Some((number, extents)) = &*self.mapped.borrow()
            && *number == inode.number
        {
            return Ok(Arc::clone(extents));
        }
        let extents = Arc::new(self.extents(&inode.data_fork())?);
        *self.mapped.borrow_mut() = Some((inode.number, Arc::clone(&extents)));
        Ok(extents)
    }

    /// Fill `buf` from `offset` of a file with these extents; holes and unwritten runs are zeroes.
    pub(crate) fn read_mapped(
        &self,
        extents: &[Extent],
        whose: u64,
        mut offset: u64,
        mut buf: &mut [u8],
    ) -> Result<()> {
        let size = self.sb.block_size;
        while !buf.is_empty() {
            let block = offset / size;
            let next = extents.partition_point(|e| e.offset + e.count <= block);
            let found = extents.get(next);
            let (from, end) = match found {
                Some(e) if e.offset <= block => {
                    let place = self.place(e.start, e.count, whose)?;
                    let from = place + (block - e.offset) * size + offset % size;
                    (
                        (!e.unwritten).then_some(from),
                        (e.offset + e.count).saturating_mul(size),
                    )
                }
                Some(e) => (None, e.offset.saturating_mul(size)),
                None => (None, u64::MAX),
            };
            let len = (end - offset).min(buf.len() as u64) as usize;
            let (head, tail) = std::mem::take(&mut buf).split_at_mut(len);
            match from {
                Some(from) => self.disk.read_at(from, head)?,
                None => head.fill(0),
            }
            offset += len as u64;
            buf = tail;
        }
        Ok(())
    }
}

struct Found {
    extents: Vec<Extent>,
    inode: u64,
}

impl Found {
    fn add(&mut self, extent: Extent) -> Result<()> {
        let after = self
            .extents
            .last()
            .map_or(0, |last| last.offset + last.count);
        if extent.offset < after || extent.count == 0 {
            return Err(corrupt(format!(
                "inode {}: extent: expected from block {after} on, found {} blocks at {}",
                self.inode, extent.count, extent.offset
            )));
        }
        if self.extents.len() >= MOST_EXTENTS {
            return Err(TreeError::of(
                TreeErrorKind::TooLarge,
                format!("inode {}: more than {MOST_EXTENTS} extents", self.inode),
            ));
        }
        self.extents.push(extent);
        Ok(())
    }
}
