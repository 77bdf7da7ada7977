//! Directories: adding, removing and redirecting names.

use block_io::BlockRead;

use super::{
    Found, NAME_MAX, TAIL_LEN, TAIL_TYPE, encode_rec_len, entry_len, htree, parse_entries,
};
use crate::bytes::{self, put_le16, put_le32, slice};
use crate::ext::checksum::crc32c;
use crate::ext::feature;
use crate::ext::format::Block;
use crate::ext::inode::{Inode, flag};
use crate::ext::volume::{Volume, corrupt, unsupported};
use crate::tree::{Result, TreeError, TreeErrorKind};

/// What a new entry of a directory says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewEntry<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) inode: u32,
    /// As in the entry; 0 where the file system has no types there.
    pub(crate) file_type: u8,
}

/// Put an entry of length `rec_len` at byte `at`.
pub(crate) fn put_entry(
    block: &mut [u8],
    at: usize,
    rec_len: usize,
    entry: NewEntry,
    block_size: usize,
) {
    put_le32(block, at, entry.inode);
    put_le16(block, at + 4, encode_rec_len(rec_len, block_size));
    bytes::put(block, at + 6, &[entry.name.len() as u8, entry.file_type]);
    bytes::put(block, at + 8, entry.name);
}

/// Put `entry` into a free place of `block` (whose entries end at `end`); whether there was one.
fn insert_into(block: &mut [u8], end: usize, entry: NewEntry, whose: &str) -> Result<bool> {
    let need = entry_len(entry.name.len());
    let size = block.len();
    let place = parse_entries(slice(block, 0, size), whose)?
        .iter()
        .filter(|old| old.at < end && old.rec_len - old.need() >= need)
        .map(|old| (old.at, old.rec_len, old.need()))
        .next();
    let Some((at, rec_len, used)) = place else {
        return Ok(false);
    };
    if used > 0 {
        put_le16(block, at + 4, encode_rec_len(used, size));
    }
    put_entry(block, at + used, rec_len - used, entry, size);
    Ok(true)
}

/// Entries packed one behind the other up to `end`, the last one taking what is left.
pub(crate) fn pack(block: &mut [u8], end: usize, entries: &[(u32, u8, Vec<u8>)]) {
    let size = block.len();
    let mut at = 0;
    if entries.is_empty() {
        let none = NewEntry {
            name: b"",
            inode: 0,
            file_type: 0,
        };
        put_entry(block, 0, end, none, size);
    }
    for (n, (inode, file_type, name)) in entries.iter().enumerate() {
        let last = n + 1 == entries.len();
        let len = if last {
            end - at
        } else {
            entry_len(name.len())
        };
        let entry = NewEntry {
            name,
            inode: *inode,
            file_type: *file_type,
        };
        put_entry(block, at, len, entry, size);
        at += len;
    }
}

impl<D: BlockRead> Volume<D> {
    /// The type byte entries of `kind` carry here.
    pub(crate) fn type_byte(&self, inode: &Inode) -> u8 {
        if !self.sb.has_incompat(feature::FILETYPE) {
            return 0;
        }
        match inode.mode() >> 12 {
            0x8 => 1,
            0x4 => 2,
            0x2 => 3,
            0x6 => 4,
            0x1 => 5,
            0xC => 6,
            0xA => 7,
            _ => 0,
        }
    }

    /// Refuse directories whose entries mean more than we know.
    pub(crate) fn check_editable(&self, dir: &Inode) -> Result<()> {
        for (bit, name) in [(flag::ENCRYPT, "encrypt"), (flag::CASEFOLD, "casefold")] {
            if dir.has(bit) {
                return Err(unsupported(format!(
                    "changing directory inode {} with feature {name}",
                    dir.number
                )));
            }
        }
        Ok(())
    }

    /// Where entries of a leaf block end.
    pub(crate) fn leaf_end(&self) -> usize {
        self.block_size()
            - if self.sb.has_metadata_csum() {
                TAIL_LEN
            } else {
                0
            }
    }

    /// Put a changed directory block, with its checksum, into the transaction.
    pub(crate) fn put_leaf(&mut self, dir: &Inode, place: Block, mut block: Vec<u8>) {
        if self.sb.has_metadata_csum() {
            let tail = block.len() - TAIL_LEN;
            put_le32(&mut block, tail, 0);
            put_le16(&mut block, tail + 4, TAIL_LEN as u16);
            bytes::put(&mut block, tail + 6, &[0, TAIL_TYPE]);
            let sum = crc32c(dir.seed(self.sb.seed), slice(&block, 0, tail));
            put_le32(&mut block, tail + 8, sum);
        }
        self.put_block(place, block);
    }

    /// Append a block to a directory: its number in the directory and on the disk.
    pub(crate) fn append_dir_block(&mut self, dir: &mut Inode) -> Result<(u64, Block)> {
        let size = self.sb.block_size;
        let logical = dir.size() / size;
        let goal = match logical.checked_sub(1) {
            Some(last) => self.run(dir, last)?.physical.map_or(0, |place| place + 1),
            None => self.goal_of(dir.number),
        };
        let (place, _) = self.allocate(goal, 1)?;
        self.charge(dir, 1);
        if dir.has(flag::EXTENTS) {
            let mut list = self.extent_list(dir)?;
            list.insert(crate::ext::extents::Extent {
                logical,
                len: 1,
                physical: place,
                unwritten: false,
            });
            self.put_extents(dir, list)?;
        } else {
            self.map_block(dir, logical, place)?;
        }
        dir.set_size((logical + 1) * size);
        Ok((logical, place))
    }

    /// Give a fresh directory its first block.
    pub(crate) fn init_dir(&mut self, dir: &mut Inode, parent: u32) -> Result<()> {
        let own = self.type_byte(dir);
        self.fill_dir(dir, parent, own, Vec::new())
    }

    fn fill_dir(
        &mut self,
        dir: &mut Inode,
        parent: u32,
        own: u8,
        more: Vec<(u32, u8, Vec<u8>)>,
    ) -> Result<()> {
        let (_, place) = self.append_dir_block(dir)?;
        let mut entries = vec![
            (dir.number, own, b".".to_vec()),
            (parent, own, b"..".to_vec()),
        ];
        entries.extend(more);
        let mut block = vec![0; self.block_size()];
        pack(&mut block, self.leaf_end(), &entries);
        self.put_leaf(dir, place, block);
        Ok(())
    }

    /// Add a name that is not there yet.
    pub(crate) fn add_entry(&mut self, dir: &mut Inode, entry: NewEntry) -> Result<()> {
        self.check_editable(dir)?;
        let bad = |b: &u8| matches!(b, b'/' | 0);
        if entry.name.is_empty() || entry.name.len() > NAME_MAX || entry.name.iter().any(bad) {
            return Err(TreeError::of(
                TreeErrorKind::BadName,
                "names have 1 to 255 bytes",
            ));
        }
        if dir.has(flag::INLINE_DATA) {
            if self.add_inline(dir, entry)? {
                return Ok(());
            }
            self.leave_inline_dir(dir)?;
        }
        if dir.has(flag::INDEX) {
            return self.add_hashed(dir, entry);
        }
        let (blocks, end) = (self.dir_len(dir)?, self.leaf_end());
        // Most often there is room at the end.
        for logical in (0..blocks).rev() {
            let (place, block) = self.dir_block(dir, logical)?;
            let mut block = block.to_vec();
            let whose = format!("directory inode {}, block {logical}", dir.number);
            if insert_into(&mut block, end, entry, &whose)? {
                self.put_leaf(dir, place, block);
                return Ok(());
            }
        }
        if blocks == 1 && self.sb.has_compat(feature::DIR_INDEX) && self.make_index(dir)? {
            return self.add_hashed(dir, entry);
        }
        let (_, place) = self.append_dir_block(dir)?;
        let mut block = vec![0; self.block_size()];
        put_entry(&mut block, 0, end, entry, self.block_size());
        self.put_leaf(dir, place, block);
        Ok(())
    }

    /// Put an entry into a leaf if it has room.
    pub(crate) fn add_to_leaf(
        &mut self,
        dir: &Inode,
        logical: u64,
        entry: NewEntry,
    ) -> Result<bool> {
        let (place, block) = self.dir_block(dir, logical)?;
        let mut block = block.to_vec();
        let whose = format!("directory inode {}, block {logical}", dir.number);
        let fits = insert_into(&mut block, self.leaf_end(), entry, &whose)?;
        if fits {
            self.put_leaf(dir, place, block);
        }
        Ok(fits)
    }

    fn add_inline(&mut self, dir: &mut Inode, entry: NewEntry) -> Result<bool> {
        let [mut near, mut far] = self.inline_parts(dir)?;
        let whose = format!("inline directory inode {}", dir.number);
        let end = near.len();
        if insert_into(&mut near, end, entry, &whose)? {
            self.put_inline_dir(dir, &near, &far)?;
            return Ok(true);
        }
        let end = far.len();
        if insert_into(&mut far, end, entry, &whose)? {
            self.put_inline_dir(dir, &near, &far)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn put_inline_dir(&mut self, dir: &mut Inode, near: &[u8], far: &[u8]) -> Result<()> {
        let mut whole = [0; 60];
        bytes::put(&mut whole, 0, slice(dir.block(), 0, 4));
        bytes::put(&mut whole, 4, near);
        dir.set_block(&whole);
        let mut entries = self.body_entries(dir)?;
        for entry in entries.iter_mut().filter(|entry| entry.is_inline_data()) {
            entry.value = far.to_vec();
        }
        self.put_body_entries(dir, &entries)
    }

    /// Give an inline directory that is full a block.
    fn leave_inline_dir(&mut self, dir: &mut Inode) -> Result<()> {
        let parent = bytes::le32(dir.block(), 0);
        let mut entries = Vec::new();
        self.each_entry(dir, |_, entry| {
            entries.push((entry.inode, entry.file_type, entry.name.to_vec()));
            Ok(true)
        })?;
        self.drop_inline(dir)?;
        let own = self.type_byte(dir);
        self.fill_dir(dir, parent, own, entries)
    }

    /// Change the place a name was found at: `None` removes it, else it names another inode.
    pub(crate) fn change_entry(
        &mut self,
        dir: &mut Inode,
        found: &Found,
        to: Option<(u32, u8)>,
    ) -> Result<()> {
        self.check_editable(dir)?;
        let whose = format!("directory inode {}", dir.number);
        let Some(logical) = found.logical else {
            let mut parts = self.inline_parts(dir)?;
            // Byte positions of both parts begin at 0: the right one holds this inode there.
            let part = parts
                .iter_mut()
                .find(|part| bytes::le32(part, found.at) == found.inode);
            if let Some(part) = part {
                change_in(part, found, to, &whose)?;
            }
            let [near, far] = parts;
            return self.put_inline_dir(dir, &near, &far);
        };
        let (place, block) = self.dir_block(dir, logical)?;
        let mut block = block.to_vec();
        change_in(&mut block, found, to, &whose)?;
        self.put_leaf(dir, place, block);
        Ok(())
    }

    /// Say that the parent of a directory is another one.
    pub(crate) fn set_parent(&mut self, dir: &mut Inode, parent: u32) -> Result<()> {
        self.check_editable(dir)?;
        if dir.has(flag::INLINE_DATA) {
            put_le32(&mut dir.raw, 0x28, parent);
            return Ok(());
        }
        let (place, block) = self.dir_block(dir, 0)?;
        let mut block = block.to_vec();
        let whose = format!("directory inode {}, block 0", dir.number);
        let dots = parse_entries(&block, &whose)?
            .get(1)
            .filter(|e| e.name == b"..")
            .map(|e| e.at);
        let Some(at) = dots else {
            return Err(corrupt(format!(
                "{whose}: second entry: expected .., found another"
            )));
        };
        put_le32(&mut block, at, parent);
        match htree::count_place(&block).filter(|_| dir.has(flag::INDEX)) {
            Some(count_at) => self.put_index_block(dir, place, block, count_at),
            None => self.put_leaf(dir, place, block),
        }
        Ok(())
    }

    pub(crate) fn is_empty_dir(&self, dir: &Inode) -> Result<bool> {
        let mut empty = true;
        self.each_entry(dir, |_, _| {
            empty = false;
            Ok(false)
        })?;
        Ok(empty)
    }

    /// One more or one less directory in `dir` names it as parent.
    pub(crate) fn count_child(&self, dir: &mut Inode, change: i32) -> Result<()> {
        // Linux gives up counting at 65,000 and writes 1. // feature dir_nlink
        const MOST: u16 = 65_000;
        let links = dir.links();
        match (links, change) {
            (1, _) => {}
            (_, 1) if links >= MOST && self.sb.has_ro_compat(feature::DIR_NLINK) => {
                dir.set_links(1)
            }
            (_, 1) if links >= MOST => {
                return Err(TreeError::of(
                    TreeErrorKind::NoSpace,
                    "a directory cannot hold more than 64,998 others (feature dir_nlink is off)",
                ));
            }
            (_, 1) => dir.set_links(links + 1),
            (0..=2, _) => {}
            _ => dir.set_links(links - 1),
        }
        Ok(())
    }
}

fn change_in(block: &mut [u8], found: &Found, to: Option<(u32, u8)>, whose: &str) -> Result<()> {
    if let Some((inode, file_type)) = to {
        put_le32(block, found.at, inode);
        bytes::put(block, found.at + 7, &[file_type]);
        return Ok(());
    }
    let size = block.len();
    let entries = parse_entries(slice(block, 0, size), whose)?;
    let Some(n) = entries.iter().position(|entry| entry.at == found.at) else {
        return Err(corrupt(format!(
            "{whose}: byte {}: expected an entry, found none",
            found.at
        )));
    };
    let gone = entries.get(n).map_or(0, |entry| entry.rec_len);
    let before = n
        .checked_sub(1)
        .and_then(|n| entries.get(n))
        .map(|e| (e.at, e.rec_len));
    match before {
        Some((at, len)) => put_le16(block, at + 4, encode_rec_len(len + gone, size)),
        None => put_le32(block, found.at, 0),
    }
    Ok(())
}
