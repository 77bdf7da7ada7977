//! Group descriptors: what their bytes mean. No I/O. // [ext4 disk layout] Block Group Descriptors

use super::checksum;
use super::format::{Block, Superblock};
use crate::bytes::{le16, le32, put_le16, put_le32};

/// Flags of a group descriptor.
pub(crate) const INODE_UNINIT: u16 = 1;
pub(crate) const BLOCK_UNINIT: u16 = 2;
/// The inode table holds zeroes where no inode was ever written.
pub(crate) const INODE_ZEROED: u16 = 4;

/// One group descriptor: its bytes, 32 or `desc_size` of them.
#[derive(Debug, Clone)]
pub(crate) struct GroupDesc {
    pub(crate) raw: Vec<u8>,
}

impl GroupDesc {
    fn wide(&self, low: usize, high: usize) -> u64 {
        let high = if self.raw.len() >= 64 {
            le32(&self.raw, high)
        } else {
            0
        };
        u64::from(le32(&self.raw, low)) | u64::from(high) << 32
    }

    fn half(&self, low: usize, high: usize) -> u32 {
        let high = if self.raw.len() >= 64 {
            le16(&self.raw, high)
        } else {
            0
        };
        u32::from(le16(&self.raw, low)) | u32::from(high) << 16
    }

    fn set_half(&mut self, low: usize, high: usize, value: u32) {
        put_le16(&mut self.raw, low, value as u16);
        if self.raw.len() >= 64 {
            put_le16(&mut self.raw, high, (value >> 16) as u16);
        }
    }

    pub(crate) fn block_bitmap(&self) -> Block {
        self.wide(0x00, 0x20)
    }

    pub(crate) fn inode_bitmap(&self) -> Block {
        self.wide(0x04, 0x24)
    }

    pub(crate) fn inode_table(&self) -> Block {
        self.wide(0x08, 0x28)
    }

    fn set_wide(&mut self, low: usize, high: usize, value: u64) {
        put_le32(&mut self.raw, low, value as u32);
        if self.raw.len() >= 64 {
            put_le32(&mut self.raw, high, (value >> 32) as u32);
        }
    }

    pub(crate) fn set_block_bitmap(&mut self, block: Block) {
        self.set_wide(0x00, 0x20, block);
    }

    pub(crate) fn set_inode_bitmap(&mut self, block: Block) {
        self.set_wide(0x04, 0x24, block);
    }

    pub(crate) fn set_inode_table(&mut self, block: Block) {
        self.set_wide(0x08, 0x28, block);
    }

    pub(crate) fn free_blocks(&self) -> u32 {
        self.half(0x0C, 0x2C)
    }

    pub(crate) fn set_free_blocks(&mut self, count: u32) {
        self.set_half(0x0C, 0x2C, count);
    }

    pub(crate) fn free_inodes(&self) -> u32 {
        self.half(0x0E, 0x2E)
    }

    pub(crate) fn set_free_inodes(&mut self, count: u32) {
        self.set_half(0x0E, 0x2E, count);
    }

    pub(crate) fn used_dirs(&self) -> u32 {
        self.half(0x10, 0x30)
    }

    pub(crate) fn set_used_dirs(&mut self, count: u32) {
        self.set_half(0x10, 0x30, count);
    }

    pub(crate) fn flags(&self) -> u16 {
        le16(&self.raw, 0x12)
    }

    pub(crate) fn set_flags(&mut self, flags: u16) {
        put_le16(&mut self.raw, 0x12, flags);
    }

    pub(crate) fn block_bitmap_csum(&self) -> u32 {
        self.half(0x18, 0x38)
    }

    pub(crate) fn set_block_bitmap_csum(&mut self, sum: u32) {
        self.set_half(0x18, 0x38, sum);
    }

    pub(crate) fn inode_bitmap_csum(&self) -> u32 {
        self.half(0x1A, 0x3A)
    }

    pub(crate) fn set_inode_bitmap_csum(&mut self, sum: u32) {
        self.set_half(0x1A, 0x3A, sum);
    }

    /// Inodes at the end of the table that were never used.
    pub(crate) fn itable_unused(&self) -> u32 {
        self.half(0x1C, 0x32)
    }

    pub(crate) fn set_itable_unused(&mut self, count: u32) {
        self.set_half(0x1C, 0x32, count);
    }

    /// How many low bits of a bitmap checksum are kept.
    pub(crate) fn bitmap_csum_mask(&self) -> u32 {
        if self.raw.len() >= 64 { !0 } else { 0xFFFF }
    }

    pub(crate) fn checksum(&self) -> u16 {
        le16(&self.raw, 0x1E)
    }

    /// The checksum the descriptor of `group` should carry.
    pub(crate) fn right_checksum(&self, sb: &Superblock, group: u64) -> u16 {
        let number = (group as u32).to_le_bytes();
        let before = self.raw.get(..0x1E).unwrap_or_default();
        let after = self.raw.get(0x20..).unwrap_or_default();
        if sb.has_metadata_csum() {
            let sum = checksum::crc32c(sb.seed, &number);
            let sum = checksum::crc32c(sum, before);
            return checksum::crc32c(checksum::crc32c(sum, &[0, 0]), after) as u16;
        }
        let sum = checksum::crc16(!0, &sb.uuid());
        let sum = checksum::crc16(checksum::crc16(sum, &number), before);
        checksum::crc16(sum, after)
    }

    pub(crate) fn seal(&mut self, sb: &Superblock, group: u64) {
        if sb.has_group_csum() {
            let sum = self.right_checksum(sb, group);
            put_le16(&mut self.raw, 0x1E, sum);
        }
    }

    /// What is wrong with the descriptor of `group`, if anything is.
    pub(crate) fn fault(&self, sb: &Superblock, group: u64) -> Option<String> {
        if sb.has_group_csum() {
            let (expected, found) = (self.right_checksum(sb, group), self.checksum());
            if expected != found {
                return Some(format!(
                    "descriptor of group {group}: checksum: expected {expected:#06x}, found {found:#06x}"
                ));
            }
        }
        let places = [
            ("block bitmap", self.block_bitmap(), 1),
            ("inode bitmap", self.inode_bitmap(), 1),
            ("inode table", self.inode_table(), sb.inode_table_blocks()),
        ];
        for (what, at, len) in places {
            let end = at.checked_add(len);
            if at < sb.first_data_block || end.is_none_or(|end| end > sb.blocks) {
                return Some(format!(
                    "descriptor of group {group}: {what}: expected a block below {}, found {at}",
                    sb.blocks
                ));
            }
        }
        None
    }
}
