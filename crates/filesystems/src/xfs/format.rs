//! What the bytes of XFS mean. No I/O. All numbers are big-endian, checksums little-endian.
//!
//! After "XFS Filesystem Structure" (xfs-documentation), named below by its data types.

use crate::bytes::{be16, be32, be64, le32, slice, u8_at};

/// Bytes of the superblock that mean something.
pub(crate) const SUPERBLOCK_LEN: usize = 512;

/// Features of version 5 without which its blocks cannot be understood. // xfs_sb, sb_features_incompat
pub(crate) const INCOMPAT_NAMES: &[(u32, &str)] = &[
    (0x01, "ftype"),
    (0x02, "sparse inodes"),
    (0x04, "meta_uuid"),
    (0x08, "bigtime"),
    (0x10, "needsrepair"),
    (0x20, "nrext64"),
    (0x40, "exchange-range"),
    (0x80, "parent pointers"),
    (0x100, "metadir"),
    (0x200, "zoned"),
];
/// Those under which free space and files are found as without them.
const INCOMPAT_KNOWN: u32 = 0x01 | 0x02 | 0x04 | 0x08 | 0x20 | 0x40 | 0x80;
const INCOMPAT_FTYPE: u32 = 0x01;
const NEEDS_REPAIR: u32 = 0x10;

/// A block within its allocation group.
pub(crate) type AgBlock = u32;
/// A block as inodes name it: group and block within it, in one number.
pub(crate) type FsBlock = u64;

/// The superblock (xfs_dsb).
/// Offsets: 0 magic, 4 block size, 8 blocks, 48 log start, 56 root inode, 84 blocks of a group, 88
/// groups, 96 blocks of the log, 100 version, 102 sector size, 104 inode size, 120.. logarithms, 126 in
/// progress, 144 free blocks, 192 directory block log, 200 features2, 216 incompat, 224 checksum.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) block_size: u64,
    pub(crate) blocks: u64,
    pub(crate) ag_blocks: u64,
    pub(crate) ag_count: u64,
    pub(crate) ag_block_log: u32,
    pub(crate) sector: u64,
    pub(crate) inode_size: usize,
    pub(crate) inodes_per_block_log: u32,
    pub(crate) root: u64,
    pub(crate) dir_block_log: u32,
    /// Where the log begins; 0 when it is on another device.
    pub(crate) log_start: FsBlock,
    pub(crate) log_blocks: u64,
    pub(crate) is_v5: bool,
    pub(crate) has_ftype: bool,
    pub(crate) free_blocks: u64,
    pub(crate) free_inodes: u64,
    /// Why the file system cannot be understood as a whole.
    pub(crate) refusal: Option<String>,
}

fn check(what: &str, ok: bool, found: impl std::fmt::Display) -> Result<(), String> {
    if ok {
        return Ok(());
    }
    Err(format!("XFS superblock: {what}, found {found}"))
}

impl Superblock {
    /// The superblock in `raw`, or how it contradicts itself or a disk of `disk_size` bytes.
    pub(crate) fn parse(raw: &[u8], disk_size: u64) -> Result<Self, String> {
        check(
            "expected magic XFSB",
            slice(raw, 0, 4) == b"XFSB",
            "other bytes",
        )?;
        let version = be16(raw, 100);
        let number = version & 0xF;
        check("expected version 4 or 5", matches!(number, 4 | 5), number)?;
        let is_v5 = number == 5;
        let sector = u64::from(be16(raw, 102));
        let sector_ok = sector.is_power_of_two() && (512..=32_768).contains(&sector);
        check("expected sectors of 512 to 32768 bytes", sector_ok, sector)?;
        if is_v5 {
            // Growing leaves old bytes behind the superblock's 512; the checksum covers the sector.
            let found = le32(raw, 224);
            let expected = checksum(slice(raw, 0, sector as usize), 224);
            check(
                &format!("expected checksum {expected:#x}"),
                expected == found,
                format!("{found:#x}"),
            )?;
        }
        let block_size = u64::from(be32(raw, 4));
        let block_log = u32::from(u8_at(raw, 120));
        let block_ok = (512..=65_536).contains(&block_size) && block_size.is_power_of_two();
        check(
            "expected blocks of 512 to 65536 bytes",
            block_ok && block_size >= sector,
            block_size,
        )?;
        check(
            "expected the block size's logarithm",
            block_log == block_size.trailing_zeros(),
            block_log,
        )?;
        let (blocks, ag_blocks) = (be64(raw, 8), u64::from(be32(raw, 84)));
        let ag_count = u64::from(be32(raw, 88));
        let most = disk_size / block_size;
        check(
            &format!("expected at most {most} blocks"),
            (64..=most).contains(&blocks),
            blocks,
        )?;
        let bytes = ag_blocks.saturating_mul(block_size);
        check(
            "expected groups of 64 blocks to 1 TiB",
            ag_blocks >= 64 && bytes <= 1 << 40,
            ag_blocks,
        )?;
        let expected = blocks.div_ceil(ag_blocks);
        check(
            &format!("expected {expected} groups"),
            ag_count == expected,
            ag_count,
        )?;
        let ag_block_log = u32::from(u8_at(raw, 124));
        let log_ok = ag_block_log == ag_blocks.next_power_of_two().trailing_zeros();
        check("expected the group size's logarithm", log_ok, ag_block_log)?;
        let inode_size = usize::from(be16(raw, 104));
        let inode_ok = inode_size.is_power_of_two() && (256..=2048).contains(&inode_size);
        check(
            "expected inodes of 256 to 2048 bytes",
            inode_ok && inode_size as u64 <= block_size,
            inode_size,
        )?;
        let inodes_per_block_log = u32::from(u8_at(raw, 123));
        let expected = (block_size / inode_size as u64).trailing_zeros();
        check(
            &format!("expected {expected} as inode logarithm"),
            inodes_per_block_log == expected,
            inodes_per_block_log,
        )?;
        let dir_block_log = u32::from(u8_at(raw, 192));
        check(
            "expected directory blocks up to 64 KiB",
            dir_block_log + block_log <= 16,
            dir_block_log,
        )?;
        let (log_start, log_blocks) = (be64(raw, 48), u64::from(be32(raw, 96)));
        let incompat = if is_v5 { be32(raw, 216) } else { 0 };
        // Version 4 says by bit 0x200 of features2 that directories name the kinds of files.
        let v4_ftype = version & 0x8000 != 0 && be32(raw, 200) & 0x200 != 0;
        let sb = Self {
            block_size,
            blocks,
            ag_blocks,
            ag_count,
            ag_block_log,
            sector,
            inode_size,
            inodes_per_block_log,
            root: be64(raw, 56),
            dir_block_log,
            log_start,
            log_blocks,
            is_v5,
            has_ftype: if is_v5 {
                incompat & INCOMPAT_FTYPE != 0
            } else {
                v4_ftype
            },
            free_blocks: be64(raw, 144),
            free_inodes: be64(raw, 136),
            refusal: refusal(version, incompat, u8_at(raw, 126)),
        };
        let log_end = sb
            .block_of(log_start)
            .and_then(|at| at.checked_add(log_blocks));
        let log_ok = log_start == 0 || log_end.is_some_and(|end| end <= blocks);
        check(
            "expected the log inside the disk",
            log_ok && log_blocks > 0,
            log_start,
        )?;
        Ok(sb)
    }

    /// Blocks of group `ag`.
    pub(crate) fn ag_len(&self, ag: u64) -> u64 {
        self.blocks
            .saturating_sub(ag * self.ag_blocks)
            .min(self.ag_blocks)
    }

    /// The block counted from the start of the disk that `block` names; `None` when there is none.
    pub(crate) fn block_of(&self, block: FsBlock) -> Option<u64> {
        let (ag, within) = (
            block >> self.ag_block_log,
            block & ((1 << self.ag_block_log) - 1),
        );
        (ag < self.ag_count && within < self.ag_len(ag)).then(|| ag * self.ag_blocks + within)
    }

    /// Where inode `number` lies, in bytes; `None` when it cannot be there.
    pub(crate) fn inode_at(&self, number: u64) -> Option<u64> {
        let block = self.block_of(number >> self.inodes_per_block_log)?;
        let index = number & ((1 << self.inodes_per_block_log) - 1);
        Some(block * self.block_size + index * self.inode_size as u64)
    }

    /// Bytes of a directory block.
    pub(crate) fn dir_block_size(&self) -> usize {
        (self.block_size << self.dir_block_log) as usize
    }
}

/// What of the features is not understood.
fn refusal(version: u16, incompat: u32, in_progress: u8) -> Option<String> {
    if in_progress != 0 {
        return Some("XFS was being made when it was left".to_owned());
    }
    if incompat & NEEDS_REPAIR != 0 {
        return Some("XFS needs repair: xfs_repair did not finish".to_owned());
    }
    let unknown = incompat & !INCOMPAT_KNOWN;
    if unknown != 0 {
        let names: Vec<String> = (0..32)
            .map(|bit| 1 << bit)
            .filter(|bit| unknown & bit != 0)
            .map(|bit| {
                let known = INCOMPAT_NAMES.iter().find(|(b, _)| *b == bit);
                known.map_or_else(
                    || format!("incompat {bit:#x}"),
                    |(_, name)| (*name).to_owned(),
                )
            })
            .collect();
        return Some(format!("XFS feature not supported: {}", names.join(", ")));
    }
    // XFS_SB_VERSION_DIRV2BIT: directories of version 1 went with IRIX.
    (version & 0x2000 == 0)
        .then(|| "XFS feature not supported: directories of version 1".to_owned())
}

/// CRC-32C of a block whose checksum field at `field` counts as zero.
pub(crate) fn checksum(block: &[u8], field: usize) -> u32 {
    let head = slice(block, 0, field.min(block.len()));
    let tail = block.get(field.saturating_add(4)..).unwrap_or_default();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(head), &[0; 4]), tail)
}

/// The header of a group's free-space records (xfs_agf).
/// Offsets: 0 magic, 4 version, 8 number, 12 length, 16 roots, 28 levels, 52 free blocks, 216 checksum.
#[derive(Debug)]
pub(crate) struct Agf {
    pub(crate) root: AgBlock,
    pub(crate) level: u32,
    pub(crate) free: u64,
}

impl Agf {
    pub(crate) fn parse(raw: &[u8], sb: &Superblock, ag: u64) -> Result<Self, String> {
        let fault = |what: &str, expected: u64, found: u64| {
            Err(format!(
                "AGF {ag}: {what}: expected {expected:#x}, found {found:#x}"
            ))
        };
        if slice(raw, 0, 4) != b"XAGF" {
            return fault("magic", 0x5841_4746, be32(raw, 0).into());
        }
        if sb.is_v5 && checksum(raw, 216) != le32(raw, 216) {
            return fault("checksum", checksum(raw, 216).into(), le32(raw, 216).into());
        }
        if be32(raw, 4) != 1 {
            return fault("version", 1, be32(raw, 4).into());
        }
        if u64::from(be32(raw, 8)) != ag {
            return fault("number", ag, be32(raw, 8).into());
        }
        if u64::from(be32(raw, 12)) != sb.ag_len(ag) {
            return fault("length", sb.ag_len(ag), be32(raw, 12).into());
        }
        Ok(Self {
            root: be32(raw, 16),
            level: be32(raw, 28),
            free: be32(raw, 52).into(),
        })
    }
}

/// A run of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Extent {
    /// First block within the file.
    pub(crate) offset: u64,
    pub(crate) start: FsBlock,
    pub(crate) count: u64,
    /// Allocated but never written: reads as zeroes.
    pub(crate) unwritten: bool,
}

impl Extent {
    /// xfs_bmbt_rec: 1 bit unwritten, 54 offset, 52 start, 21 count.
    pub(crate) fn parse(raw: &[u8]) -> Self {
        let (high, low) = (be64(raw, 0), be64(raw, 8));
        Self {
            offset: high >> 9 & ((1 << 54) - 1),
            start: (high & 0x1FF) << 43 | low >> 21,
            count: low & 0x1F_FFFF,
            unwritten: high >> 63 != 0,
        }
    }
}

/// How a fork of an inode keeps its contents. // xfs_dinode_fmt
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ForkFormat {
    /// In the inode itself.
    Local,
    /// As a list of extents in the inode.
    Extents,
    /// As a tree of extents with its root in the inode.
    Btree,
    /// Nothing that can be read: devices.
    Other,
}

impl ForkFormat {
    fn of(byte: u8) -> Self {
        match byte {
            1 => Self::Local,
            2 => Self::Extents,
            3 => Self::Btree,
            _ => Self::Other,
        }
    }
}

/// An inode (xfs_dinode).
/// Offsets: 0 magic "IN", 2 mode, 4 version, 5 format, 6 links of version 1, 8 uid, 12 gid, 16 links, 24
/// wide extent count, 40 mtime, 56 size, 76 extents, 80 attribute extents, 82 fork offset, 83 attribute
/// format; version 3: 100 checksum, 120 flags, 152 number.
#[derive(Debug, Clone)]
pub(crate) struct Inode {
    pub(crate) number: u64,
    raw: Vec<u8>,
}

/// Length of the fixed part of inodes of versions 1 and 2, and of version 3.
const CORE_V2: usize = 100;
const CORE_V3: usize = 176;

impl Inode {
    pub(crate) fn parse(raw: Vec<u8>, number: u64, sb: &Superblock) -> Result<Self, String> {
        let fault = |what: String| Err(format!("inode {number}: {what}"));
        if slice(&raw, 0, 2) != b"IN" {
            return fault(format!("expected magic 0x494e, found {:#x}", be16(&raw, 0)));
        }
        let version = u8_at(&raw, 4);
        if (version == 3) != sb.is_v5 || !(1..=3).contains(&version) {
            return fault(format!("version {version} does not fit the file system"));
        }
        if version == 3 {
            let (expected, found) = (checksum(&raw, 100), le32(&raw, 100));
            if expected != found {
                return fault(format!(
                    "checksum: expected {expected:#x}, found {found:#x}"
                ));
            }
            if be64(&raw, 152) != number {
                return fault(format!("says it is inode {}", be64(&raw, 152)));
            }
        }
        if be16(&raw, 2) == 0 {
            return fault("is not in use".to_owned());
        }
        let inode = Self { number, raw };
        if inode.fork_offset() >= inode.literal().len() {
            return fault(format!("fork offset: found {}", inode.fork_offset()));
        }
        if inode.size() > i64::MAX as u64 {
            return fault(format!("size: found {}", inode.size()));
        }
        Ok(inode)
    }

    fn version(&self) -> u8 {
        u8_at(&self.raw, 4)
    }

    /// File type and permissions, as in `stat`.
    pub(crate) fn mode(&self) -> u16 {
        be16(&self.raw, 2)
    }

    pub(crate) fn uid(&self) -> u32 {
        be32(&self.raw, 8)
    }

    pub(crate) fn gid(&self) -> u32 {
        be32(&self.raw, 12)
    }

    pub(crate) fn links(&self) -> u32 {
        match self.version() {
            1 => be16(&self.raw, 6).into(),
            _ => be32(&self.raw, 16),
        }
    }

    pub(crate) fn size(&self) -> u64 {
        be64(&self.raw, 56)
    }

    fn flags2(&self) -> u64 {
        if self.version() == 3 {
            be64(&self.raw, 120)
        } else {
            0
        }
    }

    /// Seconds since 1970. With "bigtime" (bit 3) nanoseconds since 1901.
    pub(crate) fn mtime(&self) -> i64 {
        match self.flags2() & 0x08 {
            0 => i64::from(be32(&self.raw, 40) as i32),
            _ => (be64(&self.raw, 40) / 1_000_000_000) as i64 - (1 << 31),
        }
    }

    fn literal(&self) -> &[u8] {
        let core = if self.version() == 3 {
            CORE_V3
        } else {
            CORE_V2
        };
        self.raw.get(core..).unwrap_or_default()
    }

    fn fork_offset(&self) -> usize {
        usize::from(u8_at(&self.raw, 82)) * 8
    }

    pub(crate) fn data_fork(&self) -> Fork<'_> {
        let end = match self.fork_offset() {
            0 => self.literal().len(),
            at => at,
        };
        // With "nrext64" (bit 4) the counts are wider and lie elsewhere.
        let extents = match self.flags2() & 0x10 {
            0 => be32(&self.raw, 76).into(),
            _ => be64(&self.raw, 24),
        };
        Fork {
            inode: self.number,
            format: ForkFormat::of(u8_at(&self.raw, 5)),
            bytes: slice(self.literal(), 0, end),
            extents,
        }
    }

    /// The fork of extended attributes, if there is one.
    pub(crate) fn attr_fork(&self) -> Option<Fork<'_>> {
        let at = self.fork_offset();
        let extents = match self.flags2() & 0x10 {
            0 => be16(&self.raw, 80).into(),
            _ => be32(&self.raw, 76).into(),
        };
        (at != 0).then(|| Fork {
            inode: self.number,
            format: ForkFormat::of(u8_at(&self.raw, 83)),
            bytes: self.literal().get(at..).unwrap_or_default(),
            extents,
        })
    }
}

/// One of the two things an inode keeps: its data, or its extended attributes.
#[derive(Debug)]
pub(crate) struct Fork<'a> {
    pub(crate) inode: u64,
    pub(crate) format: ForkFormat,
    /// Its bytes in the inode.
    pub(crate) bytes: &'a [u8],
    /// Number of extents the inode claims.
    pub(crate) extents: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_is_cut_out_of_its_128_bits() {
        let high = 1_u64 << 63 | 0x0012_3456_789A << 9 | 0x1FF;
        let low = 5_u64 << 21 | 0x1F_FFFF;
        let raw = [high.to_be_bytes(), low.to_be_bytes()].concat();
        assert_eq!(
            Extent::parse(&raw),
            Extent {
                offset: 0x0012_3456_789A,
                start: 0x1FF << 43 | 5,
                count: 0x1F_FFFF,
                unwritten: true
            }
        );
    }
}
