//! Extended attributes: inside the inode, in leaves, with values in blocks of their own.

use block_io::BlockRead;

use super::format::{Extent, ForkFormat, Inode};
use super::volume::{INDEX, REMOTE, Volume, corrupt};
use crate::bytes::{be16, be32, slice, u8_at};
use crate::tree::{Result, Xattr};

/// The value is beside the name.
const LOCAL: u8 = 0x01;
const ROOT: u8 = 0x02;
const SECURE: u8 = 0x04;
/// A pointer to the parent directory, not an attribute anyone set.
const PARENT: u8 = 0x08;
/// Being made or removed when the system stopped.
const INCOMPLETE: u8 = 0x80;
/// Largest value. // XFS_XATTR_SIZE_MAX
const MOST_VALUE: u32 = 65_536;
/// Most bytes of values given for one inode: a hostile fork may name one value many times.
const MOST_BYTES: usize = 16 << 20;

impl<D: BlockRead> Volume<D> {
    pub(crate) fn attributes(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let Some(fork) = inode.attr_fork() else {
            return Ok(Vec::new());
        };
        match fork.format {
            ForkFormat::Local => short_attributes(fork.bytes, inode.number),
            ForkFormat::Extents if fork.extents == 0 => Ok(Vec::new()),
            _ => {
                let extents = self.extents(&fork)?;
                self.leaf_attributes(&extents, inode.number)
            }
        }
    }

    /// Walk the leaves from the first one on.
    fn leaf_attributes(&self, extents: &[Extent], inode: u64) -> Result<Vec<Xattr>> {
        let blocks: u64 = extents.iter().map(|e| e.count).sum();
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut at = 0;
        // A leaf or node is entered at most once, so a circle ends.
        for _ in 0..blocks {
            let block = self.attr_block(extents, at, inode)?;
            let magic = be16(&block, 8);
            let (node, leaf) = if self.sb.is_v5 {
                (0x3EBE, 0x3BEE)
            } else {
                (0xFEBE, 0xFBEE)
            };
            if magic == node {
                // xfs_da_node_entry: hash, block before it. The first one leads to the first leaf.
                let first = if self.sb.is_v5 { 64 } else { 16 };
                at = u64::from(be32(&block, first + 4));
                continue;
            }
            if magic != leaf {
                return Err(corrupt(format!(
                    "inode {inode}: attribute block {at}: magic: expected {leaf:#x}, found {magic:#x}"
                )));
            }
            self.add_leaf(&block, extents, inode, &mut found, &mut bytes)?;
            at = u64::from(be32(&block, 0));
            if at == 0 {
                return Ok(found);
            }
        }
        Err(corrupt(format!(
            "inode {inode}: attribute leaves lead in a circle"
        )))
    }

    fn attr_block(&self, extents: &[Extent], block: u64, inode: u64) -> Result<Vec<u8>> {
        match extents
            .iter()
            .find(|e| (e.offset..e.offset + e.count).contains(&block))
        {
            Some(e) => self.block(e.start + (block - e.offset), INDEX, inode),
            None => Err(corrupt(format!(
                "inode {inode}: no attribute block {block}"
            ))),
        }
    }

    /// xfs_attr_leafblock: header, entries (hash, place, flags), names and values from the end.
    fn add_leaf(
        &self,
        block: &[u8],
        extents: &[Extent],
        inode: u64,
        found: &mut Vec<Xattr>,
        bytes: &mut usize,
    ) -> Result<()> {
        let (count, first) = if self.sb.is_v5 {
            (be16(block, 56), 80)
        } else {
            (be16(block, 12), 32)
        };
        for index in 0..usize::from(count) {
            let entry = first + index * 8;
            let (at, flags) = (usize::from(be16(block, entry + 4)), u8_at(block, entry + 6));
            if entry + 8 > block.len() {
                return Err(corrupt(format!(
                    "inode {inode}: {count} attributes in one leaf"
                )));
            }
            if flags & (INCOMPLETE | PARENT) != 0 {
                continue;
            }
            let (name, value) = if flags & LOCAL != 0 {
                // xfs_attr_leaf_name_local: value length, name length, name, value.
                let len = usize::from(be16(block, at));
                let name = slice(block, at + 3, usize::from(u8_at(block, at + 2)));
                (name, slice(block, at + 3 + name.len(), len).to_vec())
            } else {
                // xfs_attr_leaf_name_remote: first block, value length, name length, name.
                let name = slice(block, at + 9, usize::from(u8_at(block, at + 8)));
                let value =
                    self.remote_value(extents, be32(block, at), be32(block, at + 4), inode)?;
                (name, value)
            };
            if name.is_empty() {
                return Err(corrupt(format!(
                    "inode {inode}: attribute without a name at byte {at}"
                )));
            }
            *bytes += value.len();
            if *bytes > MOST_BYTES {
                return Err(corrupt(format!(
                    "inode {inode}: more than {MOST_BYTES} bytes of attributes"
                )));
            }
            found.push(Xattr {
                name: full_name(flags, name),
                value,
            });
        }
        Ok(())
    }

    fn remote_value(
        &self,
        extents: &[Extent],
        block: u32,
        len: u32,
        inode: u64,
    ) -> Result<Vec<u8>> {
        if len > MOST_VALUE {
            return Err(corrupt(format!(
                "inode {inode}: attribute value of {len} bytes"
            )));
        }
        let len = len as usize;
        let size = self.block_size();
        let mut value = Vec::with_capacity(len);
        let mut at = u64::from(block);
        while value.len() < len {
            let mut raw = vec![0; size];
            self.read_mapped(extents, inode, at * self.sb.block_size, &mut raw)?;
            let left = len - value.len();
            if self.sb.is_v5 {
                let place = extents
                    .iter()
                    .find(|e| (e.offset..e.offset + e.count).contains(&at));
                let place =
                    place.map_or(Ok(0), |e| self.place(e.start + (at - e.offset), 1, inode))?;
                if slice(&raw, 0, 4) != b"XARM" {
                    return Err(corrupt(format!(
                        "inode {inode}: attribute value block {at}: magic"
                    )));
                }
                if let Some(fault) = REMOTE.fault(&raw, place) {
                    return Err(corrupt(format!(
                        "inode {inode}: attribute value block {at}: {fault}"
                    )));
                }
                value.extend_from_slice(slice(&raw, 56, left.min(size - 56)));
            } else {
                value.extend_from_slice(slice(&raw, 0, left.min(size)));
            }
            at += 1;
        }
        Ok(value)
    }
}

/// xfs_attr_shortform: total size, count; entries of name length, value length, flags, name, value.
fn short_attributes(raw: &[u8], inode: u64) -> Result<Vec<Xattr>> {
    let mut found = Vec::new();
    let mut at = 4;
    for _ in 0..u8_at(raw, 2) {
        let (name_len, value_len) = (usize::from(u8_at(raw, at)), usize::from(u8_at(raw, at + 1)));
        let flags = u8_at(raw, at + 2);
        let name = slice(raw, at + 3, name_len);
        let value = slice(raw, at + 3 + name_len, value_len);
        if name.is_empty() || value.len() != value_len {
            return Err(corrupt(format!("inode {inode}: attribute at byte {at}")));
        }
        if flags & (INCOMPLETE | PARENT) == 0 {
            found.push(Xattr {
                name: full_name(flags, name),
                value: value.to_vec(),
            });
        }
        at += 3 + name_len + value_len;
    }
    Ok(found)
}

/// The name as programs know it.
fn full_name(flags: u8, name: &[u8]) -> Vec<u8> {
    let prefix: &[u8] = match flags & (ROOT | SECURE) {
        0 => b"user.",
        SECURE => b"security.",
        _ => b"trusted.",
    };
    [prefix, name].concat()
}
