//! Inodes: where they lie, what their fields mean, their checksums.

use block_io::BlockRead;

use super::checksum::crc32c;
use super::feature;
use super::format::Block;
use super::volume::{Volume, corrupt};
use crate::bytes::{self, le16, le32, put_le16, put_le32, slice};
use crate::tree::{Attributes, FileKind, Result};

pub(crate) const ROOT_INODE: u32 = 2;

/// Flags of an inode.
pub(crate) mod flag {
    pub(crate) const ENCRYPT: u32 = 0x800;
    pub(crate) const INDEX: u32 = 0x1000;
    pub(crate) const HUGE_FILE: u32 = 0x4_0000;
    pub(crate) const EXTENTS: u32 = 0x8_0000;
    pub(crate) const VERITY: u32 = 0x10_0000;
    pub(crate) const EA_INODE: u32 = 0x20_0000;
    pub(crate) const INLINE_DATA: u32 = 0x1000_0000;
    pub(crate) const CASEFOLD: u32 = 0x4000_0000;
    /// What a new file takes over from its directory, as Linux does (EXT4_FL_INHERITED), less what
    /// we refuse: secrm, unrm, compr, sync, nodump, noatime, journal_data, notail, dirsync, topdir.
    pub(crate) const INHERITED: u32 = 0x1 | 0x2 | 0x8 | 0x40 | 0x80 | 0x4000 | 0x8000;
}

/// An inode: its number and its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Inode {
    pub(crate) number: u32,
    pub(crate) raw: Vec<u8>,
}

impl Inode {
    pub(crate) fn mode(&self) -> u16 {
        le16(&self.raw, 0)
    }

    pub(crate) fn set_mode(&mut self, mode: u16) {
        put_le16(&mut self.raw, 0, mode);
    }

    /// `None` when the type bits mean nothing.
    pub(crate) fn kind(&self) -> Option<FileKind> {
        match self.mode() >> 12 {
            0x8 => Some(FileKind::File),
            0x4 => Some(FileKind::Directory),
            0xA => Some(FileKind::Symlink),
            0x1 | 0x2 | 0x6 | 0xC => Some(FileKind::Special),
            _ => None,
        }
    }

    pub(crate) fn is_dir(&self) -> bool {
        self.kind() == Some(FileKind::Directory)
    }

    pub(crate) fn uid(&self) -> u32 {
        u32::from(le16(&self.raw, 0x02)) | u32::from(le16(&self.raw, 0x78)) << 16
    }

    pub(crate) fn gid(&self) -> u32 {
        u32::from(le16(&self.raw, 0x18)) | u32::from(le16(&self.raw, 0x7A)) << 16
    }

    pub(crate) fn set_owner(&mut self, uid: u32, gid: u32) {
        put_le16(&mut self.raw, 0x02, uid as u16);
        put_le16(&mut self.raw, 0x78, (uid >> 16) as u16);
        put_le16(&mut self.raw, 0x18, gid as u16);
        put_le16(&mut self.raw, 0x7A, (gid >> 16) as u16);
    }

    pub(crate) fn size(&self) -> u64 {
        u64::from(le32(&self.raw, 0x04)) | u64::from(le32(&self.raw, 0x6C)) << 32
    }

    pub(crate) fn set_size(&mut self, size: u64) {
        put_le32(&mut self.raw, 0x04, size as u32);
        put_le32(&mut self.raw, 0x6C, (size >> 32) as u32);
    }

    pub(crate) fn links(&self) -> u16 {
        le16(&self.raw, 0x1A)
    }

    pub(crate) fn set_links(&mut self, links: u16) {
        put_le16(&mut self.raw, 0x1A, links);
    }

    pub(crate) fn dtime(&self) -> u32 {
        le32(&self.raw, 0x14)
    }

    pub(crate) fn set_dtime(&mut self, time: u32) {
        put_le32(&mut self.raw, 0x14, time);
    }

    pub(crate) fn flags(&self) -> u32 {
        le32(&self.raw, 0x20)
    }

    pub(crate) fn set_flags(&mut self, flags: u32) {
        put_le32(&mut self.raw, 0x20, flags);
    }

    pub(crate) fn has(&self, flag: u32) -> bool {
        self.flags() & flag != 0
    }

    pub(crate) fn generation(&self) -> u32 {
        le32(&self.raw, 0x64)
    }

    /// The 60 bytes that hold block numbers, the root of an extent tree, a short link or data.
    pub(crate) fn block(&self) -> &[u8] {
        slice(&self.raw, 0x28, 60)
    }

    pub(crate) fn set_block(&mut self, block: &[u8; 60]) {
        bytes::put(&mut self.raw, 0x28, block);
    }

    /// The block of extended attributes, 0 for none.
    pub(crate) fn xattr_block(&self) -> Block {
        u64::from(le32(&self.raw, 0x68)) | u64::from(le16(&self.raw, 0x76)) << 32
    }

    pub(crate) fn set_xattr_block(&mut self, block: Block) {
        put_le32(&mut self.raw, 0x68, block as u32);
        put_le16(&mut self.raw, 0x76, (block >> 32) as u16);
    }

    /// i_blocks: 512-byte units, or blocks with the huge_file flag.
    pub(crate) fn blocks_field(&self) -> u64 {
        u64::from(le32(&self.raw, 0x1C)) | u64::from(le16(&self.raw, 0x74)) << 32
    }

    pub(crate) fn set_blocks_field(&mut self, count: u64) {
        put_le32(&mut self.raw, 0x1C, count as u32);
        put_le16(&mut self.raw, 0x74, (count >> 32) as u16);
    }

    pub(crate) fn extra_isize(&self) -> usize {
        if self.raw.len() > 128 {
            usize::from(le16(&self.raw, 0x80))
        } else {
            0
        }
    }

    /// A time field: seconds, widened to 34 bits where the inode has room. // [ext4 disk layout]
    /// Inode Timestamps
    fn time(&self, at: usize, extra_at: usize) -> i64 {
        let low = i64::from(le32(&self.raw, at) as i32);
        if self.extra_isize() + 128 >= extra_at + 4 {
            low + (i64::from(le32(&self.raw, extra_at) & 3) << 32)
        } else {
            low
        }
    }

    fn set_time(&mut self, at: usize, extra_at: usize, time: i64) {
        let wide = self.extra_isize() + 128 >= extra_at + 4;
        let time = if wide {
            time.clamp(i64::from(i32::MIN), i64::from(i32::MAX) + (3 << 32))
        } else {
            time.clamp(i64::from(i32::MIN), i64::from(i32::MAX))
        };
        put_le32(&mut self.raw, at, time as u32);
        if wide {
            let epoch = (time - i64::from(time as i32)) >> 32;
            put_le32(&mut self.raw, extra_at, epoch as u32 & 3);
        }
    }

    pub(crate) fn mtime(&self) -> i64 {
        self.time(0x10, 0x88)
    }

    /// Set the times of change of contents and of the inode.
    pub(crate) fn touch(&mut self, time: i64) {
        self.set_time(0x10, 0x88, time);
        self.set_time(0x0C, 0x84, time);
    }

    /// A fresh inode of type bits `kind` (0x8000 and so on).
    pub(crate) fn fresh(
        number: u32,
        size: usize,
        extra: usize,
        kind: u16,
        new: Attributes,
    ) -> Self {
        let mut inode = Self {
            number,
            raw: vec![0; size],
        };
        if size > 128 {
            put_le16(&mut inode.raw, 0x80, extra as u16);
        }
        inode.set_mode(kind | new.mode & 0o7777);
        inode.set_owner(new.uid, new.gid);
        inode.touch(new.mtime);
        inode.set_time(0x08, 0x8C, new.mtime);
        if extra + 128 >= 0x98 {
            inode.set_time(0x90, 0x94, new.mtime);
        }
        inode
    }

    /// What checksums of this inode's metadata begin with.
    pub(crate) fn seed(&self, fs_seed: u32) -> u32 {
        let sum = crc32c(fs_seed, &self.number.to_le_bytes());
        crc32c(sum, &self.generation().to_le_bytes())
    }

    fn checksum(&self, fs_seed: u32) -> u32 {
        let mut raw = self.raw.clone();
        put_le16(&mut raw, 0x7C, 0);
        if self.has_high_checksum() {
            put_le16(&mut raw, 0x82, 0);
        }
        let sum = crc32c(self.seed(fs_seed), &raw);
        if self.has_high_checksum() {
            sum
        } else {
            sum & 0xFFFF
        }
    }

    fn has_high_checksum(&self) -> bool {
        self.raw.len() > 128 && self.extra_isize() >= 4
    }

    fn stored_checksum(&self) -> u32 {
        let high = if self.has_high_checksum() {
            le16(&self.raw, 0x82)
        } else {
            0
        };
        u32::from(le16(&self.raw, 0x7C)) | u32::from(high) << 16
    }

    fn seal(&mut self, fs_seed: u32) {
        let sum = self.checksum(fs_seed);
        put_le16(&mut self.raw, 0x7C, sum as u16);
        if self.has_high_checksum() {
            put_le16(&mut self.raw, 0x82, (sum >> 16) as u16);
        }
    }
}

impl<D: BlockRead> Volume<D> {
    /// Block and byte in it where inode `number` lies.
    pub(crate) fn inode_place(&self, number: u32) -> Result<(Block, usize)> {
        if number == 0 || number > self.sb.inodes {
            return Err(corrupt(format!(
                "inode number: expected 1 to {}, found {number}",
                self.sb.inodes
            )));
        }
        let group = u64::from((number - 1) / self.sb.inodes_per_group);
        let index = u64::from((number - 1) % self.sb.inodes_per_group);
        let byte = index * self.sb.inode_size as u64;
        let table = self.desc(group)?.inode_table();
        Ok((
            table + byte / self.sb.block_size,
            (byte % self.sb.block_size) as usize,
        ))
    }

    /// Inode `number`, its checksum checked.
    pub(crate) fn inode(&self, number: u32) -> Result<Inode> {
        let (block, at) = self.inode_place(number)?;
        let table = self.block(block, "inode table")?;
        let inode = Inode {
            number,
            raw: slice(&table, at, self.sb.inode_size).to_vec(),
        };
        if self.sb.has_metadata_csum() {
            let (expected, found) = (inode.checksum(self.sb.seed), inode.stored_checksum());
            if expected != found {
                return Err(corrupt(format!(
                    "inode {number} (block {block}, byte {at}): checksum: expected {expected:#010x}, found {found:#010x}"
                )));
            }
        }
        let extra = inode.extra_isize();
        if inode.raw.len() > 128 && (extra > inode.raw.len() - 128 || !extra.is_multiple_of(4)) {
            return Err(corrupt(format!(
                "inode {number} (block {block}, byte {at}): i_extra_isize: expected at most {}, found {extra}",
                inode.raw.len() - 128
            )));
        }
        Ok(inode)
    }

    /// An inode that something names: it must be in use and of a known type.
    pub(crate) fn live_inode(&self, number: u32) -> Result<Inode> {
        let inode = self.inode(number)?;
        if inode.links() == 0 || inode.kind().is_none() {
            return Err(corrupt(format!(
                "inode {number}: expected one in use, found mode {:#06x} and {} links",
                inode.mode(),
                inode.links()
            )));
        }
        Ok(inode)
    }

    /// Put a changed inode, with its checksum, into the transaction.
    pub(crate) fn put_inode(&mut self, inode: &mut Inode) -> Result<()> {
        if self.sb.has_metadata_csum() {
            inode.seal(self.sb.seed);
        }
        let (block, at) = self.inode_place(inode.number)?;
        let mut table = self.block(block, "inode table")?.to_vec();
        bytes::put(&mut table, at, &inode.raw);
        self.put_block(block, table);
        Ok(())
    }

    /// Add `blocks` (may be negative) to the blocks `inode` is charged for.
    pub(crate) fn charge(&self, inode: &mut Inode, blocks: i64) {
        let unit = if inode.has(flag::HUGE_FILE) && self.sb.has_ro_compat(feature::HUGE_FILE) {
            1
        } else {
            self.sb.block_size as i64 / 512
        };
        let count = inode.blocks_field() as i64 + blocks * unit;
        inode.set_blocks_field(count.max(0) as u64);
    }
}
