//! What the bytes of ext2, ext3 and ext4 mean: the superblock and its geometry. No I/O.
//!
//! // [ext4 disk layout]: <https://docs.kernel.org/filesystems/ext4/>

use block_io::{BlockError, BlockErrorKind};

use super::{checksum, feature};
use crate::bytes::{array, le16, le32, put_le16, put_le32, u8_at};

/// Where the superblock lies.
pub(crate) const SUPERBLOCK_OFFSET: u64 = 1024;
/// How long it is.
pub(crate) const SUPERBLOCK_LEN: usize = 1024;

/// A block number of the file system.
pub(crate) type Block = u64;

/// The superblock: its bytes, and the geometry read from them once and checked.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    /// The 1024 bytes as they lie on the disk.
    pub(crate) raw: Vec<u8>,
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) first_data_block: u64,
    pub(crate) blocks_per_group: u64,
    pub(crate) clusters_per_group: u64,
    /// Blocks per cluster; 1 without bigalloc.
    pub(crate) cluster_ratio: u64,
    pub(crate) inodes: u32,
    pub(crate) inodes_per_group: u32,
    pub(crate) inode_size: usize,
    pub(crate) desc_size: usize,
    pub(crate) groups: u64,
    /// What crc32c checksums of metadata begin with.
    pub(crate) seed: u32,
}

/// What can be wrong with a superblock: which field, at which byte of it, what it says.
fn lie(offset: u64, field: &str, expected: &str, found: impl std::fmt::Display) -> BlockError {
    BlockError::new(BlockErrorKind::Corrupt, SUPERBLOCK_OFFSET + offset, 4).detail(format!(
        "ext superblock: {field}: expected {expected}, found {found}"
    ))
}

impl Superblock {
    /// Read and check the 1024 bytes of a superblock on a disk of `disk_size` bytes.
    ///
    /// # Errors
    /// `Corrupt`, naming the field, when it cannot be one.
    pub(crate) fn parse(raw: Vec<u8>, disk_size: u64) -> Result<Self, BlockError> {
        let magic = le16(&raw, 0x38);
        if magic != 0xEF53 {
            return Err(lie(0x38, "s_magic", "0xef53", format!("{magic:#06x}")));
        }
        let shift = le32(&raw, 0x18);
        if shift > 6 {
            return Err(lie(0x18, "s_log_block_size", "at most 6", shift));
        }
        let block_size = 1024_u64 << shift;
        let mut sb = Self {
            block_size,
            blocks: 0,
            first_data_block: u64::from(le32(&raw, 0x14)),
            blocks_per_group: u64::from(le32(&raw, 0x20)),
            clusters_per_group: u64::from(le32(&raw, 0x20)),
            cluster_ratio: 1,
            inodes: le32(&raw, 0x00),
            inodes_per_group: le32(&raw, 0x28),
            inode_size: 128,
            desc_size: 32,
            groups: 0,
            seed: 0,
            raw,
        };
        sb.blocks = u64::from(le32(&sb.raw, 0x04));
        if sb.has_incompat(feature::B64) {
            sb.blocks |= u64::from(le32(&sb.raw, 0x150)) << 32;
        }
        sb.check_checksum()?;
        sb.check_sizes()?;
        sb.check_counts(disk_size)?;
        sb.seed = if sb.has_incompat(feature::CSUM_SEED) {
            le32(&sb.raw, 0x270)
        } else {
            checksum::crc32c(!0, &sb.uuid())
        };
        Ok(sb)
    }

    fn check_checksum(&self) -> Result<(), BlockError> {
        if !self.has_metadata_csum() {
            return Ok(());
        }
        let kind = u8_at(&self.raw, 0x175);
        if kind != 1 {
            return Err(lie(0x175, "s_checksum_type", "1 (crc32c)", kind));
        }
        let (expected, found) = (self.checksum(), le32(&self.raw, 0x3FC));
        if expected != found {
            let expected = format!("{expected:#010x}");
            return Err(lie(
                0x3FC,
                "s_checksum",
                &expected,
                format!("{found:#010x}"),
            ));
        }
        Ok(())
    }

    fn check_sizes(&mut self) -> Result<(), BlockError> {
        if le32(&self.raw, 0x4C) > 0 {
            self.inode_size = usize::from(le16(&self.raw, 0x58));
        }
        let fits = self.inode_size.is_power_of_two()
            && (128..=self.block_size as usize).contains(&self.inode_size);
        if !fits {
            let expected = format!("a power of two from 128 to {}", self.block_size);
            return Err(lie(0x58, "s_inode_size", &expected, self.inode_size));
        }
        if self.has_incompat(feature::B64) {
            self.desc_size = usize::from(le16(&self.raw, 0xFE));
            let fits = self.desc_size.is_power_of_two()
                && (64..=1024.min(self.block_size as usize)).contains(&self.desc_size);
            if !fits {
                let expected = "a power of two from 64 to 1024";
                return Err(lie(0xFE, "s_desc_size", expected, self.desc_size));
            }
        }
        if self.has_ro_compat(feature::BIGALLOC) {
            let shift = le32(&self.raw, 0x1C).wrapping_sub(le32(&self.raw, 0x18));
            if shift > 20 {
                let found = le32(&self.raw, 0x1C);
                return Err(lie(0x1C, "s_log_cluster_size", "block size or more", found));
            }
            self.cluster_ratio = 1 << shift;
            self.clusters_per_group = u64::from(le32(&self.raw, 0x24));
        }
        Ok(())
    }

    fn check_counts(&mut self, disk_size: u64) -> Result<(), BlockError> {
        let bits = self.block_size * 8;
        let first = u64::from(self.block_size == 1024 && self.cluster_ratio == 1);
        if self.first_data_block != first && self.first_data_block != 0 {
            let found = self.first_data_block;
            return Err(lie(0x14, "s_first_data_block", &first.to_string(), found));
        }
        let clusters = self.clusters_per_group;
        if clusters == 0 || clusters > bits || !clusters.is_multiple_of(8) {
            let expected = format!("a multiple of 8 from 8 to {bits}");
            return Err(lie(0x20, "s_blocks_per_group", &expected, clusters));
        }
        if self.blocks_per_group != clusters * self.cluster_ratio {
            let expected = (clusters * self.cluster_ratio).to_string();
            let found = self.blocks_per_group;
            return Err(lie(0x20, "s_blocks_per_group", &expected, found));
        }
        let per_block = self.block_size / self.inode_size as u64;
        let inodes = u64::from(self.inodes_per_group);
        if inodes < per_block.min(8) || inodes > bits {
            let expected = format!("from {per_block} to {bits}");
            return Err(lie(0x28, "s_inodes_per_group", &expected, inodes));
        }
        let room = disk_size / self.block_size;
        if self.blocks <= self.first_data_block || self.blocks > room {
            let expected = format!("from 1 to the {room} the disk holds");
            return Err(lie(0x04, "s_blocks_count", &expected, self.blocks));
        }
        self.groups = (self.blocks - self.first_data_block).div_ceil(self.blocks_per_group);
        let expected = self.groups * inodes;
        if u64::from(self.inodes) != expected {
            return Err(lie(
                0x00,
                "s_inodes_count",
                &expected.to_string(),
                self.inodes,
            ));
        }
        Ok(())
    }

    pub(crate) fn has_compat(&self, bit: u32) -> bool {
        le32(&self.raw, 0x5C) & bit != 0
    }

    pub(crate) fn incompat(&self) -> u32 {
        le32(&self.raw, 0x60)
    }

    pub(crate) fn has_incompat(&self, bit: u32) -> bool {
        self.incompat() & bit != 0
    }

    pub(crate) fn ro_compat(&self) -> u32 {
        le32(&self.raw, 0x64)
    }

    pub(crate) fn has_ro_compat(&self, bit: u32) -> bool {
        self.ro_compat() & bit != 0
    }

    pub(crate) fn has_metadata_csum(&self) -> bool {
        self.has_ro_compat(feature::METADATA_CSUM)
    }

    /// Whether group descriptors carry a checksum and uninit flags mean something.
    pub(crate) fn has_group_csum(&self) -> bool {
        self.has_ro_compat(feature::METADATA_CSUM | feature::GDT_CSUM)
    }

    pub(crate) fn uuid(&self) -> [u8; 16] {
        array(&self.raw, 0x68)
    }

    /// State: 1 is cleanly unmounted, 2 is errors detected.
    pub(crate) fn state(&self) -> u16 {
        le16(&self.raw, 0x3A)
    }

    pub(crate) fn set_state(&mut self, state: u16) {
        put_le16(&mut self.raw, 0x3A, state);
    }

    pub(crate) fn set_compat(&mut self, bits: u32) {
        let bits = le32(&self.raw, 0x5C) | bits;
        put_le32(&mut self.raw, 0x5C, bits);
    }

    pub(crate) fn set_incompat(&mut self, bits: u32) {
        put_le32(&mut self.raw, 0x60, bits);
    }

    pub(crate) fn set_ro_compat(&mut self, bits: u32) {
        put_le32(&mut self.raw, 0x64, bits);
    }

    pub(crate) fn journal_inode(&self) -> u32 {
        le32(&self.raw, 0xE0)
    }

    pub(crate) fn last_orphan(&self) -> u32 {
        le32(&self.raw, 0xE8)
    }

    pub(crate) fn set_last_orphan(&mut self, inode: u32) {
        put_le32(&mut self.raw, 0xE8, inode);
    }

    pub(crate) fn hash_seed(&self) -> [u32; 4] {
        [0xEC, 0xF0, 0xF4, 0xF8].map(|at| le32(&self.raw, at))
    }

    /// Whether directory hashes take names as unsigned bytes. // s_flags
    pub(crate) fn hash_unsigned(&self) -> bool {
        le32(&self.raw, 0x160) & 0x2 != 0
    }

    pub(crate) fn default_hash_version(&self) -> u8 {
        u8_at(&self.raw, 0xFC)
    }

    pub(crate) fn first_inode(&self) -> u32 {
        if le32(&self.raw, 0x4C) == 0 {
            11
        } else {
            le32(&self.raw, 0x54).max(11)
        }
    }

    pub(crate) fn want_extra_isize(&self) -> usize {
        let room = self.inode_size.saturating_sub(128);
        match usize::from(le16(&self.raw, 0x15E)) {
            n if n >= 28 && n <= room && n % 4 == 0 => n,
            _ => 32.min(room),
        }
    }

    pub(crate) fn orphan_file_inode(&self) -> u32 {
        le32(&self.raw, 0x280)
    }

    pub(crate) fn first_meta_bg(&self) -> u64 {
        u64::from(le32(&self.raw, 0x104))
    }

    pub(crate) fn reserved_gdt_blocks(&self) -> u64 {
        u64::from(le16(&self.raw, 0xCE))
    }

    pub(crate) fn last_write_time(&self) -> u32 {
        le32(&self.raw, 0x30)
    }

    pub(crate) fn free_blocks(&self) -> u64 {
        let high = if self.has_incompat(feature::B64) {
            le32(&self.raw, 0x158)
        } else {
            0
        };
        u64::from(le32(&self.raw, 0x0C)) | u64::from(high) << 32
    }

    pub(crate) fn set_free_blocks(&mut self, count: u64) {
        put_le32(&mut self.raw, 0x0C, count as u32);
        if self.has_incompat(feature::B64) {
            put_le32(&mut self.raw, 0x158, (count >> 32) as u32);
        }
    }

    pub(crate) fn free_inodes(&self) -> u32 {
        le32(&self.raw, 0x10)
    }

    pub(crate) fn set_free_inodes(&mut self, count: u32) {
        put_le32(&mut self.raw, 0x10, count);
    }

    /// The checksum its bytes should carry.
    pub(crate) fn checksum(&self) -> u32 {
        checksum::crc32c(!0, self.raw.get(..0x3FC).unwrap_or_default())
    }

    /// Put the right checksum into its bytes.
    pub(crate) fn seal(&mut self) {
        if self.has_metadata_csum() {
            let sum = self.checksum();
            put_le32(&mut self.raw, 0x3FC, sum);
        }
    }

    pub(crate) fn group_start(&self, group: u64) -> Block {
        self.first_data_block + group * self.blocks_per_group
    }

    /// Blocks of `group`; fewer in the last one.
    pub(crate) fn group_len(&self, group: u64) -> u64 {
        (self.blocks - self.group_start(group)).min(self.blocks_per_group)
    }

    pub(crate) fn group_of(&self, block: Block) -> u64 {
        block.saturating_sub(self.first_data_block) / self.blocks_per_group
    }

    pub(crate) fn inode_table_blocks(&self) -> u64 {
        (u64::from(self.inodes_per_group) * self.inode_size as u64).div_ceil(self.block_size)
    }

    pub(crate) fn descs_per_block(&self) -> u64 {
        self.block_size / self.desc_size as u64
    }

    pub(crate) fn desc_blocks(&self) -> u64 {
        self.groups.div_ceil(self.descs_per_block())
    }

    /// Whether `group` begins with a copy of the superblock.
    pub(crate) fn has_super(&self, group: u64) -> bool {
        if group == 0 {
            return true;
        }
        if self.has_compat(feature::SPARSE_SUPER2) {
            return [0x24C, 0x250]
                .iter()
                .any(|at| u64::from(le32(&self.raw, *at)) == group);
        }
        if !self.has_ro_compat(feature::SPARSE_SUPER) || group == 1 {
            return true;
        }
        [3, 5, 7].iter().any(|base| is_power(group, *base))
    }

    /// The block that holds part `index` of the primary group descriptor table.
    pub(crate) fn desc_block(&self, index: u64) -> Block {
        if !self.has_incompat(feature::META_BG) || index < self.first_meta_bg() {
            return self.first_data_block + 1 + index;
        }
        let group = index * self.descs_per_block();
        // A 1 KiB file system with bigalloc begins at block 0 and has its superblock in block 1.
        let odd = self.block_size == 1024 && group == 0 && self.first_data_block == 0;
        self.group_start(group) + u64::from(self.has_super(group)) + u64::from(odd)
    }

    /// How many blocks at the start of `group` are superblock, descriptor table and the space kept for
    /// its growth.
    pub(crate) fn group_head(&self, group: u64) -> u64 {
        let sb = u64::from(self.has_super(group));
        let odd = u64::from(self.block_size == 1024 && group == 0 && self.first_data_block == 0);
        let per_block = self.descs_per_block();
        let meta_from = self.first_meta_bg() * per_block;
        if self.has_incompat(feature::META_BG) && group >= meta_from {
            let place = group % per_block;
            let table = place == 0 || place == 1 || place == per_block - 1;
            return sb + u64::from(table) + odd;
        }
        if sb == 0 {
            return 0;
        }
        let table = if self.has_incompat(feature::META_BG) {
            self.first_meta_bg().min(self.desc_blocks())
        } else {
            self.desc_blocks() + self.reserved_gdt_blocks()
        };
        sb + table + odd
    }
}

fn is_power(mut n: u64, base: u64) -> bool {
    while n > 1 && n.is_multiple_of(base) {
        n /= base;
    }
    n == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_the_superblock_lie_in_powers_of_3_5_and_7() {
        let yes = [1, 3, 5, 7, 9, 25, 27, 49, 343];
        assert!(
            yes.iter()
                .all(|n| is_power(*n, 3) || is_power(*n, 5) || is_power(*n, 7))
        );
        assert!(
            ![2, 6, 15, 21, 35]
                .iter()
                .any(|n| is_power(*n, 3) || is_power(*n, 5) || is_power(*n, 7))
        );
    }
}
