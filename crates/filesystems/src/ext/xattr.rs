//! Extended attributes: in the inode, and in one block per file. // [ext4 disk layout] Extended
//! Attributes

use block_io::BlockRead;

use super::checksum::crc32c;
use super::format::Block;
use super::inode::Inode;
use super::volume::{Volume, corrupt, unsupported};
use crate::bytes::{self, le16, le32, put_le16, put_le32, slice, u8_at};
use crate::tree::{Result, Xattr};

pub(crate) const XATTR_MAGIC: u32 = 0xEA02_0000;
/// Header of an attribute block.
pub(crate) const BLOCK_HEADER: usize = 32;

/// Name prefixes by their number on disk.
const PREFIXES: [(u8, &[u8]); 7] = [
    (1, b"user."),
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (4, b"trusted."),
    (6, b"security."),
    (8, b"system.richacl"),
    (7, b"system."),
];

/// One attribute as it lies on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) index: u8,
    pub(crate) name: Vec<u8>,
    pub(crate) value: Vec<u8>,
    /// Inode that holds the value (feature ea_inode), 0 for none.
    pub(crate) value_inode: u32,
}

impl Entry {
    /// The attribute `full_name`, `None` when no prefix of ext4 begins it.
    pub(crate) fn new(full_name: &[u8], value: &[u8]) -> Option<Self> {
        let (index, prefix) = PREFIXES.iter().find(|(index, prefix)| match index {
            2 | 3 | 8 => full_name == *prefix,
            _ => full_name.starts_with(prefix) && full_name.len() > prefix.len(),
        })?;
        Some(Self {
            index: *index,
            name: full_name.get(prefix.len()..)?.to_vec(),
            value: value.to_vec(),
            value_inode: 0,
        })
    }

    pub(crate) fn full_name(&self) -> Vec<u8> {
        let prefix = PREFIXES.iter().find(|(index, _)| *index == self.index);
        let mut name = match prefix {
            Some((_, prefix)) => prefix.to_vec(),
            None => format!("unknown{}.", self.index).into_bytes(),
        };
        name.extend_from_slice(&self.name);
        name
    }

    pub(crate) fn same_name(&self, other: &Entry) -> bool {
        self.index == other.index && self.name == other.name
    }

    /// The value of inline data: kept here, but not an attribute anyone asked for.
    pub(crate) fn is_inline_data(&self) -> bool {
        self.index == 7 && self.name == b"data"
    }

    /// e_hash: over the name and the value's words.
    fn hash(&self) -> u32 {
        let name = self
            .name
            .iter()
            .fold(0_u32, |h, b| h.rotate_left(5) ^ u32::from(*b));
        self.value.chunks(4).fold(name, |h, word| {
            let mut padded = [0; 4];
            bytes::put(&mut padded, 0, word);
            h.rotate_left(16) ^ u32::from_le_bytes(padded)
        })
    }

    fn entry_len(&self) -> usize {
        (16 + self.name.len()).next_multiple_of(4)
    }
}

/// Read the entries that begin at `at` of `region`; value offsets count from its start.
fn parse(region: &[u8], mut at: usize, whose: &str) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while at + 4 <= region.len() && le32(region, at) != 0 {
        let name_len = usize::from(u8_at(region, at));
        let (offset, size) = (
            usize::from(le16(region, at + 2)),
            le32(region, at + 8) as usize,
        );
        let value_inode = le32(region, at + 4);
        let end = at + (16 + name_len).next_multiple_of(4);
        if end > region.len() {
            return Err(corrupt(format!(
                "{whose}: attribute at byte {at}: expected to end by {}, found {end}",
                region.len()
            )));
        }
        let in_place = value_inode == 0 && size > 0;
        let value = if in_place {
            slice(region, offset, size)
        } else {
            &[]
        };
        if in_place && value.len() != size {
            return Err(corrupt(format!(
                "{whose}: value of attribute at byte {at}: expected to end by {}, found {size} bytes at {offset}",
                region.len()
            )));
        }
        entries.push(Entry {
            index: u8_at(region, at + 1),
            name: slice(region, at + 16, name_len).to_vec(),
            value: value.to_vec(),
            value_inode,
        });
        at = end;
    }
    Ok(entries)
}

/// Lay `entries` out in `region` from `at` on, values from its end; `None` when they do not fit.
/// Hashes are for blocks only: Linux writes 0 in inodes.
pub(crate) fn lay_out(
    region: &mut [u8],
    mut at: usize,
    entries: &[Entry],
    hashes: bool,
) -> Option<()> {
    region.get_mut(at..)?.fill(0);
    let mut end = region.len() & !3;
    for entry in entries {
        let padded = entry.value.len().next_multiple_of(4);
        let next = at + entry.entry_len();
        // Four zero bytes end the list.
        if next + 4 + padded > end {
            return None;
        }
        end -= padded;
        let offset = if entry.value.is_empty() { 0 } else { end };
        *region.get_mut(at)? = u8::try_from(entry.name.len()).ok()?;
        *region.get_mut(at + 1)? = entry.index;
        put_le16(region, at + 2, u16::try_from(offset).ok()?);
        put_le32(region, at + 8, entry.value.len() as u32);
        put_le32(region, at + 12, if hashes { entry.hash() } else { 0 });
        bytes::put(region, at + 16, &entry.name);
        bytes::put(region, end, &entry.value);
        at = next;
    }
    Some(())
}

/// Build an attribute block of `size` bytes at block `place`; `None` when they do not fit.
pub(crate) fn build_block(
    size: usize,
    mut entries: Vec<Entry>,
    references: u32,
) -> Option<Vec<u8>> {
    // Linux looks names up in a block in this order.
    entries.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    let mut block = vec![0; size];
    lay_out(&mut block, BLOCK_HEADER, &entries, true)?;
    let hashes = entries.iter().map(Entry::hash);
    let hash = if entries.iter().any(|e| e.hash() == 0) {
        0
    } else {
        hashes.fold(0_u32, |all, hash| all.rotate_left(16) ^ hash)
    };
    put_le32(&mut block, 0, XATTR_MAGIC);
    put_le32(&mut block, 4, references);
    put_le32(&mut block, 8, 1);
    put_le32(&mut block, 12, hash);
    Some(block)
}

/// The checksum an attribute block should carry.
pub(crate) fn block_checksum(fs_seed: u32, place: Block, block: &[u8]) -> u32 {
    let sum = crc32c(fs_seed, &place.to_le_bytes());
    let sum = crc32c(sum, slice(block, 0, 16));
    let sum = crc32c(sum, &[0; 4]);
    crc32c(sum, block.get(20..).unwrap_or_default())
}

impl<D: BlockRead> Volume<D> {
    /// Where attributes inside `inode` begin, behind their magic number.
    pub(crate) fn body_region(&self, inode: &Inode) -> Option<usize> {
        let magic = 128 + inode.extra_isize();
        let room = inode.raw.len() > 128 && inode.extra_isize() > 0 && magic + 8 <= inode.raw.len();
        room.then_some(magic + 4)
    }

    /// Attributes inside the inode, inline data included.
    pub(crate) fn body_entries(&self, inode: &Inode) -> Result<Vec<Entry>> {
        match self.body_region(inode) {
            Some(at) if le32(&inode.raw, at - 4) == XATTR_MAGIC => {
                let whose = format!("inode {}, attributes in the inode", inode.number);
                parse(inode.raw.get(at..).unwrap_or_default(), 0, &whose)
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Attributes in the inode's block, and how many inodes share it.
    pub(crate) fn block_entries(&self, inode: &Inode) -> Result<(Vec<Entry>, u32)> {
        let place = inode.xattr_block();
        if place == 0 {
            return Ok((Vec::new(), 0));
        }
        let whose = format!("inode {}, attribute block {place}", inode.number);
        let block = self.block(place, &whose)?;
        let magic = le32(&block, 0);
        if magic != XATTR_MAGIC || le32(&block, 8) != 1 {
            return Err(corrupt(format!(
                "{whose}: header: expected {XATTR_MAGIC:#x} and 1 block, found {magic:#x} and {}",
                le32(&block, 8)
            )));
        }
        if self.sb.has_metadata_csum() {
            let expected = block_checksum(self.sb.seed, place, &block);
            let found = le32(&block, 16);
            if expected != found {
                return Err(corrupt(format!(
                    "{whose}: checksum: expected {expected:#010x}, found {found:#010x}"
                )));
            }
        }
        Ok((parse(&block, BLOCK_HEADER, &whose)?, le32(&block, 4).max(1)))
    }

    /// The attributes of a file by their full names.
    pub(crate) fn xattrs(&self, inode: &Inode) -> Result<Vec<Xattr>> {
        let mut entries = self.body_entries(inode)?;
        entries.extend(self.block_entries(inode)?.0);
        refuse_value_inodes(inode, &entries)?;
        Ok(entries
            .into_iter()
            .filter(|entry| !entry.is_inline_data())
            .map(|entry| Xattr {
                name: entry.full_name(),
                value: entry.value,
            })
            .collect())
    }

    /// The contents of a file or directory kept in its inode: 60 bytes and the attribute `data`.
    pub(crate) fn inline_contents(&self, inode: &Inode) -> Result<Vec<u8>> {
        let mut contents = inode.block().to_vec();
        let entries = self.body_entries(inode)?;
        if let Some(entry) = entries.into_iter().find(Entry::is_inline_data) {
            contents.extend(entry.value);
        }
        Ok(contents)
    }
}

/// Refuse attributes whose values lie in inodes of their own.
pub(crate) fn refuse_value_inodes(inode: &Inode, entries: &[Entry]) -> Result<()> {
    match entries.iter().find(|entry| entry.value_inode != 0) {
        None => Ok(()),
        Some(entry) => Err(unsupported(format!(
            "ea_inode: a large attribute of inode {} lies in inode {}",
            inode.number, entry.value_inode
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_split_into_prefix_and_rest_and_back() {
        for name in [
            "user.a",
            "security.selinux",
            "system.posix_acl_access",
            "trusted.x.y",
            "system.x",
        ] {
            let entry = Entry::new(name.as_bytes(), b"v").unwrap();
            assert_eq!(entry.full_name(), name.as_bytes());
        }
        assert!(Entry::new(b"user.", b"").is_none());
        assert!(Entry::new(b"nonsense", b"").is_none());
    }

    #[test]
    fn what_does_not_fit_is_not_laid_out() {
        let entry = |n: usize| Entry::new(b"user.abc", &vec![7; n]).unwrap();
        let mut region = [0; 64];
        // 20 bytes of entry, 4 of end, 40 left.
        assert!(lay_out(&mut region, 0, &[entry(40)], false).is_some());
        assert_eq!(parse(&region, 0, "test").unwrap(), [entry(40)]);
        assert!(lay_out(&mut region, 0, &[entry(41)], false).is_none());
    }
}
