//! Directories: inside the inode, in one block, in many. Names are looked for in the entries
//! themselves; the hash index is not needed for reading.

use block_io::BlockRead;

use super::format::{Extent, ForkFormat, Inode};
use super::volume::{DIR_DATA, Volume, corrupt};
use crate::bytes::{be16, be32, be64, slice, u8_at};
use crate::tree::{FileKind, Result};

/// Entries lie in the first 32 GiB of a directory; its index behind. // XFS_DIR2_LEAF_OFFSET
const DATA_END: u64 = 1 << 35;

/// A name in a directory.
#[derive(Debug)]
pub(crate) struct Name<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u64,
    /// From the directory, where it says so.
    pub(crate) kind: Option<FileKind>,
}

/// Kind of file as directories write it. // XFS_DIR3_FT_*
fn kind_of(byte: u8) -> Option<FileKind> {
    match byte {
        1 => Some(FileKind::File),
        2 => Some(FileKind::Directory),
        3..=6 => Some(FileKind::Special),
        7 => Some(FileKind::Symlink),
        _ => None,
    }
}

impl<D: BlockRead> Volume<D> {
    /// Show every name but `.` and `..` to `see`, until it answers false.
    pub(crate) fn names(&self, dir: &Inode, see: &mut dyn FnMut(&Name) -> bool) -> Result<()> {
        let fork = dir.data_fork();
        if fork.format == ForkFormat::Local {
            let size = usize::try_from(dir.size()).unwrap_or(usize::MAX);
            return self.short_names(
                slice(fork.bytes, 0, size.min(fork.bytes.len())),
                dir.number,
                see,
            );
        }
        let extents = self.mapped(dir)?;
        let blocks = 1_u64 << self.sb.dir_block_log;
        let mut next = 0;
        for extent in extents
            .iter()
            .take_while(|e| e.offset < DATA_END / self.sb.block_size)
        {
            // A directory block may be put together from several extents.
            let end = (extent.offset + extent.count).min(DATA_END / self.sb.block_size);
            let mut at = (extent.offset / blocks * blocks).max(next);
            while at < end {
                if !self.block_names(&extents, at, dir.number, see)? {
                    return Ok(());
                }
                at += blocks;
            }
            next = at;
        }
        Ok(())
    }

    /// xfs_dir2_sf: count, count of wide numbers, parent, then the entries.
    fn short_names(&self, raw: &[u8], dir: u64, see: &mut dyn FnMut(&Name) -> bool) -> Result<()> {
        let wide = u8_at(raw, 1) != 0;
        let number_len = if wide { 8 } else { 4 };
        // With wide numbers it is these that are counted.
        let count = if wide {
            u8_at(raw, 1).max(u8_at(raw, 0))
        } else {
            u8_at(raw, 0)
        };
        let mut at = 2 + number_len;
        let kind_len = usize::from(self.sb.has_ftype);
        for _ in 0..count {
            let len = usize::from(u8_at(raw, at));
            let name = slice(raw, at + 3, len);
            let after = at + 3 + len;
            if name.is_empty() || after + kind_len + number_len > raw.len() {
                return Err(corrupt(format!(
                    "directory {dir}: entry at byte {at} of its inode"
                )));
            }
            let number = after + kind_len;
            let inode = if wide {
                be64(raw, number)
            } else {
                be32(raw, number).into()
            };
            let kind = if self.sb.has_ftype {
                kind_of(u8_at(raw, after))
            } else {
                None
            };
            if is_component(name) && !see(&Name { name, inode, kind }) {
                return Ok(());
            }
            at = number + number_len;
        }
        Ok(())
    }

    /// The names in the directory block that begins with block `block` of the directory. False when
    /// enough was seen.
    fn block_names(
        &self,
        extents: &[Extent],
        block: u64,
        dir: u64,
        see: &mut dyn FnMut(&Name) -> bool,
    ) -> Result<bool> {
        let mut raw = vec![0; self.sb.dir_block_size()];
        self.read_mapped(extents, dir, block * self.sb.block_size, &mut raw)?;
        let bad = |what: String| Err(corrupt(format!("directory {dir}: block {block}: {what}")));
        let header = if self.sb.is_v5 { 64 } else { 16 };
        let end = match (slice(&raw, 0, 4), self.sb.is_v5) {
            (b"XD2D", false) | (b"XDD3", true) => raw.len(),
            // The only block: it ends with the index.
            (b"XD2B", false) | (b"XDB3", true) => {
                let count = be32(&raw, raw.len() - 8) as usize;
                match count
                    .checked_mul(8)
                    .and_then(|len| (raw.len() - 8).checked_sub(len))
                {
                    Some(end) if end >= header => end,
                    _ => return bad(format!("{count} index entries")),
                }
            }
            (magic, _) => return bad(format!("magic: found {magic:02x?}")),
        };
        if self.sb.is_v5 {
            let first = extents
                .iter()
                .find(|e| (e.offset..e.offset + e.count).contains(&block));
            let at = match first {
                Some(e) => self.place(e.start + (block - e.offset), 1, dir)?,
                None => 0,
            };
            if let Some(fault) = DIR_DATA.fault(&raw, at) {
                return bad(fault);
            }
        }
        let mut at = header;
        while at < end {
            if be16(&raw, at) == 0xFFFF {
                // xfs_dir2_data_unused
                let len = usize::from(be16(&raw, at + 2));
                if len < 8 || len % 8 != 0 {
                    return bad(format!("unused entry of {len} bytes at {at}"));
                }
                at += len;
                continue;
            }
            // xfs_dir2_data_entry: number, length, name, kind, tag; padded to 8.
            let len = usize::from(u8_at(&raw, at + 8));
            let kind_len = usize::from(self.sb.has_ftype);
            let whole = (8 + 1 + len + kind_len + 2).next_multiple_of(8);
            if len == 0 || at + whole > end {
                return bad(format!("entry at {at} with a name of {len} bytes"));
            }
            let name = slice(&raw, at + 9, len);
            let kind = if self.sb.has_ftype {
                kind_of(u8_at(&raw, at + 9 + len))
            } else {
                None
            };
            let inode = be64(&raw, at);
            if is_component(name) && !see(&Name { name, inode, kind }) {
                return Ok(false);
            }
            at += whole;
        }
        Ok(true)
    }
}

/// Whether a name can be part of a path; `.` and `..` are not shown.
fn is_component(name: &[u8]) -> bool {
    name != b"." && name != b".." && !name.contains(&b'/') && !name.contains(&0)
}
