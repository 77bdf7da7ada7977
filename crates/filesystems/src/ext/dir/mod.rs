//! Directories: lists of names, as blocks of entries, with or without a hash tree over them.
//! // [ext4 disk layout] Directory Entries

pub(crate) mod edit;
pub(crate) mod hash;
pub(crate) mod htree;
mod htree_edit;

use block_io::BlockRead;

use super::checksum::crc32c;
use super::feature;
use super::format::Block;
use super::inode::{Inode, flag};
use super::volume::{Bytes, Volume, corrupt, unsupported};
use crate::bytes::{le16, le32, slice, u8_at};
use crate::tree::{DirEntry, FileKind, Result};

/// Most names of one directory that are listed: what a real one holds, and what memory stands.
const MOST_NAMES: usize = 16 << 20;
/// Longest name.
pub(crate) const NAME_MAX: usize = 255;
/// File type of the entry that is really a checksum.
pub(crate) const TAIL_TYPE: u8 = 0xDE;
/// Length of that entry.
pub(crate) const TAIL_LEN: usize = 12;

/// One entry of a directory block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dirent<'a> {
    /// Where in the block.
    pub(crate) at: usize,
    /// How far the next one is.
    pub(crate) rec_len: usize,
    /// 0 for an unused entry.
    pub(crate) inode: u32,
    pub(crate) name: &'a [u8],
    pub(crate) file_type: u8,
}

impl Dirent<'_> {
    pub(crate) fn is_dots(&self) -> bool {
        matches!(self.name, b"." | b"..")
    }

    /// Bytes it needs.
    pub(crate) fn need(&self) -> usize {
        if self.inode == 0 {
            0
        } else {
            entry_len(self.name.len())
        }
    }
}

/// Bytes an entry of a name of `len` bytes needs.
pub(crate) fn entry_len(len: usize) -> usize {
    (8 + len).next_multiple_of(4)
}

/// The length field of an entry: with 64 KiB blocks the two low bits are the high ones.
pub(crate) fn decode_rec_len(raw: u16, block_size: usize) -> usize {
    let raw = usize::from(raw);
    if block_size < 65_536 {
        raw
    } else if raw == 65_535 || raw == 0 {
        block_size
    } else {
        raw & 65_532 | (raw & 3) << 16
    }
}

pub(crate) fn encode_rec_len(len: usize, block_size: usize) -> u16 {
    if len < 65_536 {
        len as u16
    } else if len == block_size && block_size == 65_536 {
        65_535
    } else {
        ((len & 65_532) | (len >> 16 & 3)) as u16
    }
}

/// The entries of `block`, checked one by one.
pub(crate) fn parse_entries<'a>(block: &'a [u8], whose: &str) -> Result<Vec<Dirent<'a>>> {
    let mut entries = Vec::new();
    let mut at = 0;
    while at < block.len() {
        let rec_len = decode_rec_len(le16(block, at + 4), block.len());
        let name_len = usize::from(u8_at(block, at + 6));
        let inode = le32(block, at);
        let least = if inode == 0 { 8 } else { entry_len(name_len) };
        if rec_len < least || !rec_len.is_multiple_of(4) || rec_len > block.len() - at {
            return Err(corrupt(format!(
                "{whose}: rec_len at byte {at}: expected a multiple of 4 from {least} to {}, found {rec_len}",
                block.len() - at
            )));
        }
        if inode != 0 && name_len == 0 {
            return Err(corrupt(format!(
                "{whose}: name_len at byte {at}: expected at least 1, found 0"
            )));
        }
        entries.push(Dirent {
            at,
            rec_len,
            inode,
            name: slice(block, at + 8, if inode == 0 { 0 } else { name_len }),
            file_type: u8_at(block, at + 7),
        });
        at += rec_len;
    }
    Ok(entries)
}

/// What is wrong with a name, if anything: it would lead elsewhere.
fn name_fault(name: &[u8]) -> bool {
    name.iter().any(|b| matches!(b, b'/' | 0))
}

/// Where an entry of a directory was found.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) inode: u32,
    /// Block of the directory, `None` in an inline directory.
    pub(crate) logical: Option<u64>,
    /// Byte in it.
    pub(crate) at: usize,
}

impl<D: BlockRead> Volume<D> {
    /// How many blocks a directory has.
    pub(crate) fn dir_len(&self, dir: &Inode) -> Result<u64> {
        let len = dir.size() / self.sb.block_size;
        if !dir.size().is_multiple_of(self.sb.block_size) || len > self.sb.blocks || len == 0 {
            return Err(corrupt(format!(
                "directory inode {}: size: expected a multiple of {} that the file system can hold, found {}",
                dir.number,
                self.sb.block_size,
                dir.size()
            )));
        }
        Ok(len)
    }

    /// Block `logical` of a directory, and where it lies; its checksum is checked.
    pub(crate) fn dir_block(&self, dir: &Inode, logical: u64) -> Result<(Block, Bytes)> {
        let whose = format!("directory inode {}, block {logical}", dir.number);
        let run = self.run(dir, logical)?;
        let Some(place) = run.physical.filter(|_| !run.unwritten) else {
            return Err(corrupt(format!("{whose}: expected a block, found a hole")));
        };
        let bytes = self.block(place, &whose)?;
        if self.sb.has_metadata_csum() {
            self.check_dir_checksum(dir, &bytes, &whose)?;
        }
        Ok((place, bytes))
    }

    fn check_dir_checksum(&self, dir: &Inode, bytes: &[u8], whose: &str) -> Result<()> {
        let seed = dir.seed(self.sb.seed);
        let (expected, found) = match htree::count_place(bytes).filter(|_| dir.has(flag::INDEX)) {
            Some(at) => htree::checksum(seed, bytes, at),
            None => {
                let tail = bytes.len() - TAIL_LEN;
                let sound = le32(bytes, tail) == 0
                    && le16(bytes, tail + 4) == TAIL_LEN as u16
                    && u8_at(bytes, tail + 7) == TAIL_TYPE;
                if !sound {
                    return Err(corrupt(format!(
                        "{whose}: expected a checksum entry at byte {tail}, found none"
                    )));
                }
                (crc32c(seed, slice(bytes, 0, tail)), le32(bytes, tail + 8))
            }
        };
        if expected != found {
            return Err(corrupt(format!(
                "{whose}: checksum: expected {expected:#010x}, found {found:#010x}"
            )));
        }
        Ok(())
    }

    /// The parts of an inline directory that hold entries: in the block field behind the parent's
    /// number, and in the attribute.
    pub(crate) fn inline_parts(&self, dir: &Inode) -> Result<[Vec<u8>; 2]> {
        let contents = self.inline_contents(dir)?;
        let size = dir.size();
        if size > contents.len() as u64 || size < 60 {
            return Err(corrupt(format!(
                "directory inode {}: inline size: expected from 60 to {}, found {size}",
                dir.number,
                contents.len()
            )));
        }
        Ok([
            slice(&contents, 4, 56).to_vec(),
            contents.get(60..).unwrap_or_default().to_vec(),
        ])
    }

    fn check_listable(&self, dir: &Inode) -> Result<()> {
        if dir.has(flag::ENCRYPT) {
            return Err(unsupported(format!(
                "directory inode {} is encrypted (fscrypt, feature encrypt)",
                dir.number
            )));
        }
        Ok(())
    }

    /// Show `each` every entry but `.` and `..`, with the block it is in, until it says `false`.
    pub(crate) fn each_entry(
        &self,
        dir: &Inode,
        mut each: impl FnMut(Option<u64>, &Dirent) -> Result<bool>,
    ) -> Result<()> {
        self.check_listable(dir)?;
        let mut show = |logical: Option<u64>, block: &[u8], whose: &str| -> Result<bool> {
            for entry in parse_entries(block, whose)? {
                if entry.inode == 0 || entry.is_dots() {
                    continue;
                }
                if entry.inode > self.sb.inodes {
                    return Err(corrupt(format!(
                        "{whose}: inode number at byte {}: expected at most {}, found {}",
                        entry.at, self.sb.inodes, entry.inode
                    )));
                }
                if name_fault(entry.name) {
                    return Err(corrupt(format!(
                        "{whose}: name at byte {}: expected no slash and no NUL, found one",
                        entry.at
                    )));
                }
                if !each(logical, &entry)? {
                    return Ok(false);
                }
            }
            Ok(true)
        };
        if dir.has(flag::INLINE_DATA) {
            for part in self.inline_parts(dir)? {
                let whose = format!("inline directory inode {}", dir.number);
                if !show(None, &part, &whose)? {
                    break;
                }
            }
            return Ok(());
        }
        for logical in 0..self.dir_len(dir)? {
            let (_, block) = self.dir_block(dir, logical)?;
            let whose = format!("directory inode {}, block {logical}", dir.number);
            if !show(Some(logical), &block, &whose)? {
                break;
            }
        }
        Ok(())
    }

    /// All names of a directory.
    pub(crate) fn list(&self, dir: &Inode) -> Result<Vec<DirEntry>> {
        let mut names = Vec::new();
        self.each_entry(dir, |_, entry| {
            if names.len() >= MOST_NAMES {
                return Err(unsupported(format!(
                    "directories of more than {MOST_NAMES} names"
                )));
            }
            let kind = match entry.file_type {
                _ if !self.sb.has_incompat(feature::FILETYPE) => None,
                1 => Some(FileKind::File),
                2 => Some(FileKind::Directory),
                3..=6 => Some(FileKind::Special),
                7 => Some(FileKind::Symlink),
                _ => None,
            };
            let kind = match kind {
                Some(kind) => kind,
                None => self
                    .live_inode(entry.inode)?
                    .kind()
                    .unwrap_or(FileKind::Special),
            };
            names.push(DirEntry {
                name: entry.name.to_vec(),
                kind,
                inode: u64::from(entry.inode),
            });
            Ok(true)
        })?;
        Ok(names)
    }

    /// The entry called `name`, if there is one.
    pub(crate) fn find(&self, dir: &Inode, name: &[u8]) -> Result<Option<Found>> {
        if dir.has(flag::INDEX) && !dir.has(flag::INLINE_DATA | flag::ENCRYPT | flag::CASEFOLD) {
            return self.find_hashed(dir, name);
        }
        let mut found = None;
        self.each_entry(dir, |logical, entry| {
            if entry.name == name {
                found = Some(Found {
                    inode: entry.inode,
                    logical,
                    at: entry.at,
                });
            }
            Ok(found.is_none())
        })?;
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_64k_blocks_fit_16_bits() {
        for len in [12, 4096, 65_532, 65_536] {
            assert_eq!(decode_rec_len(encode_rec_len(len, 65_536), 65_536), len);
        }
        assert_eq!(encode_rec_len(4096, 4096), 4096);
    }

    #[test]
    fn an_entry_of_length_0_is_an_error_and_not_an_endless_loop() {
        let error = parse_entries(&[0; 1024], "test").unwrap_err();
        assert!(error.to_string().contains("rec_len at byte 0"), "{error}");
    }
}
