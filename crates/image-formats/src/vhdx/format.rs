//! What the bytes of a VHDX file mean. All numbers are little-endian. // [MS-VHDX] 2

use std::fmt;

use crate::bytes::{array, le16, le32, le64};

/// The first eight bytes. // [MS-VHDX] 2.2.1
pub(crate) const SIGNATURE: &[u8; 8] = b"vhdxfile";
/// Everything is laid out in multiples of this. // [MS-VHDX] 2.1
pub(crate) const MIB: u64 = 1 << 20;
/// The two headers. // [MS-VHDX] 2.2
pub(crate) const HEADER_OFFSETS: [u64; 2] = [64 << 10, 128 << 10];
/// Bytes of a header that its checksum covers. // [MS-VHDX] 2.2.2
pub(crate) const HEADER_LEN: usize = 4096;
/// The two region tables. // [MS-VHDX] 2.2.3
pub(crate) const REGION_TABLE_OFFSETS: [u64; 2] = [192 << 10, 256 << 10];
/// Bytes of a region table.
pub(crate) const REGION_TABLE_LEN: usize = 64 << 10;
/// A region table has at most this many entries. // [MS-VHDX] 2.2.3.1
pub(crate) const MAX_REGIONS: u32 = 2047;
/// A metadata table has at most this many entries. // [MS-VHDX] 2.6.1.1
pub(crate) const MAX_METADATA: u16 = 2047;
/// Metadata items lie behind the table's 64 KiB. // [MS-VHDX] 2.6.1.2
pub(crate) const METADATA_TABLE_LEN: usize = 64 << 10;
/// The largest disk. // [MS-VHDX] 2.6.2.2
pub(crate) const MAX_VIRTUAL_SIZE: u64 = 64 << 40;
/// The unit of the log. // [MS-VHDX] 2.3
pub(crate) const LOG_SECTOR: usize = 4096;

/// Sixteen bytes as a file keeps them.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Guid(pub(crate) [u8; 16]);

impl Guid {
    /// `{a-b-c-d}` in the order of bytes that Microsoft stores it in.
    pub(crate) const fn new(a: u32, b: u16, c: u16, d: u64) -> Self {
        let (a, b, c, d) = (
            a.to_le_bytes(),
            b.to_le_bytes(),
            c.to_le_bytes(),
            d.to_be_bytes(),
        );
        Self([
            a[0], a[1], a[2], a[3], b[0], b[1], c[0], c[1], d[0], d[1], d[2], d[3], d[4], d[5],
            d[6], d[7],
        ])
    }

    pub(crate) fn random() -> Self {
        Self(uuid::Uuid::new_v4().to_bytes_le())
    }

    pub(crate) fn at(bytes: &[u8], offset: usize) -> Self {
        Self(array(bytes, offset))
    }

    pub(crate) fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        uuid::Uuid::from_bytes_le(self.0).fmt(f)
    }
}

impl fmt::Debug for Guid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Regions. // [MS-VHDX] 2.2.3.2
pub(crate) const REGION_BAT: Guid = Guid::new(0x2DC2_7766, 0xF623, 0x4200, 0x9D64_115E_9BFD_4A08);
pub(crate) const REGION_METADATA: Guid =
    Guid::new(0x8B7C_A206, 0x4790, 0x4B9A, 0xB8FE_575F_050F_886E);
/// Metadata items. // [MS-VHDX] 2.6.2
pub(crate) const ITEM_FILE_PARAMETERS: Guid =
    Guid::new(0xCAA1_6737, 0xFA36, 0x4D43, 0xB3B6_33F0_AA44_E76B);
pub(crate) const ITEM_VIRTUAL_SIZE: Guid =
    Guid::new(0x2FA5_4224, 0xCD1B, 0x4876, 0xB211_5DBE_D83B_F4B8);
pub(crate) const ITEM_DISK_ID: Guid = Guid::new(0xBECA_12AB, 0xB2E6, 0x4523, 0x93EF_C309_E000_C746);
pub(crate) const ITEM_LOGICAL_SECTOR: Guid =
    Guid::new(0x8141_BF1D, 0xA96F, 0x4709, 0xBA47_F233_A8FA_AB5F);
pub(crate) const ITEM_PHYSICAL_SECTOR: Guid =
    Guid::new(0xCDA3_48C7, 0x445D, 0x4471, 0x9CC9_E988_5251_C556);
pub(crate) const ITEM_PARENT_LOCATOR: Guid =
    Guid::new(0xA8D3_5F2D, 0xB30B, 0x454D, 0xABF7_D3D8_4834_AB0C);

/// Metadata flags: the item belongs to the virtual disk; it must be understood. // [MS-VHDX] 2.6.1.2
pub(crate) const META_VIRTUAL_DISK: u32 = 1 << 1;
pub(crate) const META_REQUIRED: u32 = 1 << 2;
/// File parameters flags. // [MS-VHDX] 2.6.2.1
pub(crate) const LEAVE_BLOCKS_ALLOCATED: u32 = 1 << 0;
pub(crate) const HAS_PARENT: u32 = 1 << 1;

/// States of a payload block. // [MS-VHDX] 2.5.1.1
pub(crate) const BLOCK_NOT_PRESENT: u64 = 0;
pub(crate) const BLOCK_UNDEFINED: u64 = 1;
pub(crate) const BLOCK_ZERO: u64 = 2;
pub(crate) const BLOCK_UNMAPPED: u64 = 3;
pub(crate) const BLOCK_FULLY_PRESENT: u64 = 6;
pub(crate) const BLOCK_PARTIALLY_PRESENT: u64 = 7;

/// A BAT entry's state, and where its block lies. // [MS-VHDX] 2.5.1
pub(crate) fn split_bat_entry(entry: u64) -> (u64, u64) {
    (entry & 7, entry & !(MIB - 1))
}

/// Payload blocks between two sector bitmap blocks. // [MS-VHDX] 2.5
pub(crate) fn chunk_ratio(logical_sector: u64, block_size: u64) -> u64 {
    ((1 << 23) * logical_sector / block_size).max(1)
}

/// Where the BAT keeps payload block `block`.
pub(crate) fn bat_index(block: u64, chunk_ratio: u64) -> u64 {
    block + block / chunk_ratio
}

/// Entries of a BAT with `blocks` payload blocks and no parent. // [MS-VHDX] 2.5
pub(crate) fn bat_entries(blocks: u64, chunk_ratio: u64) -> u64 {
    blocks + blocks.saturating_sub(1) / chunk_ratio
}

/// The CRC-32C of `bytes` with the four bytes at `field` taken as zero. // [MS-VHDX] 2.2.2
pub(crate) fn checksum(bytes: &[u8], field: usize) -> u32 {
    let (before, rest) = bytes.split_at(field.min(bytes.len()));
    let after = rest.get(4..).unwrap_or_default();
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]),
        after,
    )
}

/// Put the checksum of `bytes` into its field.
pub(crate) fn seal(bytes: &mut [u8], field: usize) {
    let sum = checksum(bytes, field).to_le_bytes();
    if let Some(slot) = bytes.get_mut(field..field + 4) {
        slot.copy_from_slice(&sum);
    }
}

/// A header. // [MS-VHDX] 2.2.2
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) sequence: u64,
    pub(crate) file_write: Guid,
    pub(crate) data_write: Guid,
    pub(crate) log: Guid,
    pub(crate) log_version: u16,
    pub(crate) version: u16,
    pub(crate) log_len: u32,
    pub(crate) log_offset: u64,
}

impl Header {
    /// The header in `bytes`, if signature and checksum are right.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let valid = bytes.starts_with(b"head") && le32(bytes, 4) == checksum(bytes, 4);
        valid.then(|| Self {
            sequence: le64(bytes, 8),
            file_write: Guid::at(bytes, 16),
            data_write: Guid::at(bytes, 32),
            log: Guid::at(bytes, 48),
            log_version: le16(bytes, 64),
            version: le16(bytes, 66),
            log_len: le32(bytes, 68),
            log_offset: le64(bytes, 72),
        })
    }

    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend(b"head\0\0\0\0"); // 0: signature; 4: checksum
        bytes.extend(self.sequence.to_le_bytes()); // 8
        bytes.extend(self.file_write.0); // 16
        bytes.extend(self.data_write.0); // 32
        bytes.extend(self.log.0); // 48
        bytes.extend(self.log_version.to_le_bytes()); // 64
        bytes.extend(self.version.to_le_bytes()); // 66
        bytes.extend(self.log_len.to_le_bytes()); // 68
        bytes.extend(self.log_offset.to_le_bytes()); // 72
        bytes.resize(HEADER_LEN, 0); // 80: reserved
        seal(&mut bytes, 4);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guids_are_stored_in_microsofts_order() {
        assert_eq!(
            REGION_BAT.to_string(),
            "2dc27766-f623-4200-9d64-115e9bfd4a08"
        );
        assert_eq!(REGION_BAT.0[..4], [0x66, 0x77, 0xc2, 0x2d]);
    }

    #[test]
    fn the_bat_leaves_a_slot_after_every_chunk() {
        let ratio = chunk_ratio(512, 1 << 20);
        assert_eq!(ratio, 4096);
        assert_eq!(bat_index(4095, ratio), 4095);
        assert_eq!(bat_index(4096, ratio), 4097);
        assert_eq!(bat_entries(4096, ratio), 4096);
        assert_eq!(bat_entries(4097, ratio), 4098);
    }

    #[test]
    fn a_header_survives_and_a_changed_one_does_not() {
        let header = Header {
            sequence: 5,
            file_write: Guid::random(),
            data_write: Guid::random(),
            log: Guid::default(),
            log_version: 0,
            version: 1,
            log_len: 1 << 20,
            log_offset: 1 << 20,
        };
        let mut bytes = header.to_bytes();
        assert_eq!(Header::parse(&bytes).unwrap().data_write, header.data_write);
        bytes[4000] = 1;
        assert!(Header::parse(&bytes).is_none());
    }
}
