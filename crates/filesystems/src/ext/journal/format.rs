//! What the bytes of a journal mean. No I/O. All numbers are big-endian.

use crate::bytes::{array, be16, be32, be64, put_be32, slice, u8_at};
use crate::ext::checksum::crc32c;
use crate::ext::volume::{corrupt, unsupported};
use crate::tree::Result;

pub(super) const MAGIC: u32 = 0xC03B_3998;
pub(super) const DESCRIPTOR: u32 = 1;
pub(super) const COMMIT: u32 = 2;
pub(super) const REVOKE: u32 = 5;

const COMPAT_CHECKSUM: u32 = 0x1;
const REVOKES: u32 = 0x1;
const WIDE: u32 = 0x2;
const ASYNC_COMMIT: u32 = 0x4;
const CSUM_V2: u32 = 0x8;
const CSUM_V3: u32 = 0x10;
const FAST_COMMIT: u32 = 0x20;

/// The journal's superblock.
#[derive(Debug, Clone, Default)]
pub(crate) struct JournalSuperblock {
    pub(super) raw: Vec<u8>,
    /// First block of the log.
    pub(super) first: u32,
    /// One behind the last block of the journal.
    pub(super) end: u32,
    /// Sequence number of the first transaction in the log.
    pub(super) sequence: u32,
    /// Where it begins; 0 when the log is empty.
    pub(super) start: u32,
    /// Error the kernel noted.
    pub(super) error: u32,
    incompat: u32,
    compat: u32,
}

impl JournalSuperblock {
    pub(super) fn parse(block: &[u8], fs_block_size: u64) -> Result<Self> {
        let raw = slice(block, 0, 1024).to_vec();
        let lie = |field: &str, expected: &str, found: u32| {
            corrupt(format!(
                "journal superblock: {field}: expected {expected}, found {found:#x}"
            ))
        };
        if be32(&raw, 0) != MAGIC {
            return Err(lie("h_magic", "0xc03b3998", be32(&raw, 0)));
        }
        let version = be32(&raw, 4);
        if !(3..=4).contains(&version) {
            return Err(lie("h_blocktype", "3 or 4", version));
        }
        let mut sb = Self {
            first: be32(&raw, 0x14),
            end: be32(&raw, 0x10),
            sequence: be32(&raw, 0x18),
            start: be32(&raw, 0x1C),
            error: be32(&raw, 0x20),
            incompat: 0,
            compat: 0,
            raw,
        };
        if version == 4 {
            (sb.compat, sb.incompat) = (be32(&sb.raw, 0x24), be32(&sb.raw, 0x28));
        }
        let known = REVOKES | WIDE | ASYNC_COMMIT | CSUM_V2 | CSUM_V3 | FAST_COMMIT;
        if sb.incompat & !known != 0 {
            let bits = sb.incompat & !known;
            return Err(unsupported(format!("journal feature {bits:#x}")));
        }
        if sb.checksums() {
            let kind = u8_at(&sb.raw, 0x50);
            if kind != 4 {
                return Err(lie("s_checksum_type", "4 (crc32c)", kind.into()));
            }
            let (expected, found) = (sb.right_checksum(), be32(&sb.raw, 0xFC));
            if expected != found {
                return Err(lie("s_checksum", &format!("{expected:#x}"), found));
            }
        }
        if u64::from(be32(&sb.raw, 0x0C)) != fs_block_size {
            return Err(lie(
                "s_blocksize",
                &fs_block_size.to_string(),
                be32(&sb.raw, 0x0C),
            ));
        }
        if sb.first == 0 || sb.first >= sb.log_end() {
            return Err(lie("s_first", &format!("1 to {}", sb.log_end()), sb.first));
        }
        if sb.start != 0 && !(sb.first..sb.log_end()).contains(&sb.start) {
            return Err(lie("s_start", "a block of the log", sb.start));
        }
        Ok(sb)
    }

    /// One behind the last block of the log proper; fast commits lie behind.
    pub(super) fn log_end(&self) -> u32 {
        if !self.has_fast_commits() {
            return self.end;
        }
        let blocks = match be32(&self.raw, 0x54) {
            0 => 256,
            n => n,
        };
        self.end.saturating_sub(blocks)
    }

    pub(super) fn has_fast_commits(&self) -> bool {
        self.incompat & FAST_COMMIT != 0
    }

    /// Whether blocks carry checksums of version 2 or 3.
    pub(super) fn checksums(&self) -> bool {
        self.incompat & (CSUM_V2 | CSUM_V3) != 0
    }

    /// Whether commit blocks carry a CRC-32 of their whole transaction (version 1).
    pub(super) fn old_checksums(&self) -> bool {
        self.compat & COMPAT_CHECKSUM != 0 && !self.checksums()
    }

    pub(super) fn seed(&self) -> u32 {
        crc32c(!0, &array::<16>(&self.raw, 0x30))
    }

    fn right_checksum(&self) -> u32 {
        let sum = crc32c(!0, slice(&self.raw, 0, 0xFC));
        let sum = crc32c(sum, &[0; 4]);
        crc32c(sum, slice(&self.raw, 0x100, 0x300))
    }

    /// Make it say: nothing to replay, `next` is the next transaction.
    pub(super) fn set_empty(&mut self, next: u32) {
        put_be32(&mut self.raw, 0x18, next);
        put_be32(&mut self.raw, 0x1C, 0);
        put_be32(&mut self.raw, 0x20, 0);
        if self.checksums() {
            let sum = self.right_checksum();
            put_be32(&mut self.raw, 0xFC, sum);
        }
    }

    /// Bytes at the end of descriptor and revoke blocks that are their checksum.
    pub(super) fn tail(&self) -> usize {
        if self.checksums() { 4 } else { 0 }
    }

    /// Whether the checksum at `at` of `block` holds: expected and found when not.
    pub(super) fn block_fault(&self, block: &[u8], at: usize) -> Option<(u32, u32)> {
        if !self.checksums() {
            return None;
        }
        let sum = crc32c(self.seed(), slice(block, 0, at));
        let sum = crc32c(sum, &[0; 4]);
        let expected = crc32c(sum, block.get(at + 4..).unwrap_or_default());
        let found = be32(block, at);
        (expected != found).then_some((expected, found))
    }

    /// The tags of a descriptor block.
    pub(super) fn tags(&self, block: &[u8]) -> Vec<Tag> {
        let v3 = self.incompat & CSUM_V3 != 0;
        let wide = self.incompat & WIDE != 0;
        let len = match (v3, self.incompat & CSUM_V2 != 0, wide) {
            (true, ..) => 16,
            (_, true, true) => 14,
            (_, true, false) => 10,
            (_, false, true) => 12,
            (_, false, false) => 8,
        };
        let end = block.len() - self.tail();
        let (mut at, mut tags) = (12, Vec::new());
        while at + len <= end {
            let flags = if v3 {
                be32(block, at + 4)
            } else {
                be16(block, at + 6).into()
            };
            let high = if wide { be32(block, at + 8) } else { 0 };
            let checksum = match (v3, self.checksums()) {
                (true, _) => Some(be32(block, at + 12)),
                (false, true) => Some(be16(block, at + 4).into()),
                _ => None,
            };
            tags.push(Tag {
                block: u64::from(be32(block, at)) | u64::from(high) << 32,
                escaped: flags & 1 != 0,
                checksum,
                short_checksum: !v3,
            });
            at += len + if flags & 2 == 0 { 16 } else { 0 };
            if flags & 8 != 0 {
                break;
            }
        }
        tags
    }

    /// The blocks a revoke block names, and how many bytes it claims.
    pub(super) fn revoked(&self, block: &[u8]) -> Result<Vec<u64>, usize> {
        let used = be32(block, 12) as usize;
        if used < 16 || used > block.len() - self.tail() {
            return Err(used);
        }
        let list = slice(block, 16, used - 16);
        Ok(if self.incompat & WIDE != 0 {
            list.chunks_exact(8).map(|b| be64(b, 0)).collect()
        } else {
            list.chunks_exact(4).map(|b| be32(b, 0).into()).collect()
        })
    }
}

/// What a descriptor says of one block of its transaction.
#[derive(Debug, Clone)]
pub(super) struct Tag {
    /// Where the block belongs.
    pub(super) block: u64,
    /// Its first four bytes were the magic number and are kept as zeroes.
    pub(super) escaped: bool,
    pub(super) checksum: Option<u32>,
    /// Only the low 16 bits of the checksum are kept.
    pub(super) short_checksum: bool,
}

/// CRC-32, most significant bit first, no inversions: version 1 checksums. // [ext4 disk layout]
/// commit block, h_chksum_type 1
pub(super) fn crc32_be(seed: u32, data: &[u8]) -> u32 {
    data.iter().fold(seed, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| {
            (sum << 1) ^ if sum >> 31 != 0 { 0x04C1_1DB7 } else { 0 }
        })
    })
}
