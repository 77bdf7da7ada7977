//! What the bytes of a VDI file mean. All numbers are little-endian. // [VDICore.h] VDIHEADER1PLUS

use crate::bytes::{array, le32, le64};

/// The signature and where it stands, behind a line of text for people.
pub(crate) const SIGNATURE: [u8; 4] = 0xbeda_107f_u32.to_le_bytes();
pub(crate) const SIGNATURE_AT: usize = 64;
/// The version that every VirtualBox since 1.6 writes: 1.1.
pub(crate) const VERSION: u32 = 0x0001_0001;
/// Bytes of everything before the block table, as far as it has meaning.
pub(crate) const HEADER_LEN: usize = 512;
/// What the header says of its own length: with and without the logical geometry at its end.
pub(crate) const HEADER_LENS: [u32; 2] = [0x180, 0x190];
/// Image types. // [VDICore.h] VDIIMAGETYPE
pub(crate) const DYNAMIC: u32 = 1;
pub(crate) const FIXED: u32 = 2;
pub(crate) const UNDO: u32 = 3;
pub(crate) const DIFFERENCING: u32 = 4;
/// A block that is not there: the parent's, or zeroes. // [VDICore.h] VDI_IMAGE_BLOCK_FREE
pub(crate) const FREE: u32 = u32::MAX;
/// A block of zeroes. // [VDICore.h] VDI_IMAGE_BLOCK_ZERO
pub(crate) const ZERO: u32 = u32::MAX - 1;
/// The block of every VirtualBox disk; QEMU opens no other.
pub(crate) const BLOCK: u64 = 1 << 20;
/// Where VirtualBox puts the table and the data: on whole MiB.
pub(crate) const TABLE: u64 = 1 << 20;
/// Bytes of an entry of the table.
pub(crate) const ENTRY: u64 = 4;
/// Sectors of this size only.
pub(crate) const SECTOR: u64 = 512;

/// What the header says.
#[derive(Debug, Clone)]
pub(crate) struct Header {
    pub(crate) len: u32,
    pub(crate) kind: u32,
    pub(crate) table: u64,
    pub(crate) data: u64,
    pub(crate) sector: u32,
    pub(crate) size: u64,
    pub(crate) block: u64,
    pub(crate) block_extra: u64,
    pub(crate) blocks: u64,
    pub(crate) allocated: u64,
    pub(crate) id: uuid::Uuid,
    pub(crate) modification: uuid::Uuid,
    pub(crate) parent: uuid::Uuid,
    pub(crate) parent_modification: uuid::Uuid,
}

impl Header {
    /// What the first 512 bytes of a file of version 1.1 say.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let id = |at| uuid::Uuid::from_bytes_le(array(bytes, at));
        Self {
            len: le32(bytes, 72),
            kind: le32(bytes, 76),
            table: u64::from(le32(bytes, 340)),
            data: u64::from(le32(bytes, 344)),
            sector: le32(bytes, 360),
            size: le64(bytes, 368),
            block: u64::from(le32(bytes, 376)),
            block_extra: u64::from(le32(bytes, 380)),
            blocks: u64::from(le32(bytes, 384)),
            allocated: u64::from(le32(bytes, 388)),
            id: id(392),
            modification: id(408),
            parent: id(424),
            parent_modification: id(440),
        }
    }

    /// The header as it is written.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = b"<<< Oracle VM VirtualBox Disk Image >>>\n".to_vec(); // 0
        bytes.resize(SIGNATURE_AT, 0);
        bytes.extend(SIGNATURE); // 64
        bytes.extend(VERSION.to_le_bytes()); // 68
        bytes.extend(self.len.to_le_bytes()); // 72
        bytes.extend(self.kind.to_le_bytes()); // 76
        bytes.extend([0; 4 + 256]); // 80: flags; 84: comment
        bytes.extend((self.table as u32).to_le_bytes()); // 340
        bytes.extend((self.data as u32).to_le_bytes()); // 344
        // 348: the old geometry's place, which VirtualBox leaves at zero but for the sector.
        bytes.extend([0; 12]);
        bytes.extend(self.sector.to_le_bytes()); // 360
        bytes.extend([0; 4]); // 364: unused
        bytes.extend(self.size.to_le_bytes()); // 368
        bytes.extend((self.block as u32).to_le_bytes()); // 376
        bytes.extend((self.block_extra as u32).to_le_bytes()); // 380
        bytes.extend((self.blocks as u32).to_le_bytes()); // 384
        bytes.extend((self.allocated as u32).to_le_bytes()); // 388
        for id in [
            self.id,                  // 392
            self.modification,        // 408
            self.parent,              // 424
            self.parent_modification, // 440
        ] {
            bytes.extend(id.to_bytes_le());
        }
        let (cylinders, heads, sectors) = geometry(self.size / SECTOR);
        for number in [cylinders, heads, sectors, SECTOR as u32] {
            bytes.extend(number.to_le_bytes()); // 456
        }
        bytes.resize(HEADER_LEN, 0);
        bytes
    }
}

/// The logical geometry a BIOS gives a disk: 63 sectors a track, at most 1024 cylinders and 255 heads.
fn geometry(sectors: u64) -> (u32, u32, u32) {
    let heads = [16u64, 32, 64, 128]
        .into_iter()
        .find(|heads| sectors / 63 / heads <= 1024)
        .unwrap_or(255);
    let cylinders = (sectors / 63 / heads).clamp(1, 1024);
    (cylinders as u32, heads as u32, 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_reads_back() {
        let header = Header {
            len: HEADER_LENS[1],
            kind: DYNAMIC,
            table: TABLE,
            data: 2 << 20,
            sector: 512,
            size: 5 << 30,
            block: BLOCK,
            block_extra: 0,
            blocks: 5120,
            allocated: 17,
            id: uuid::Uuid::from_u128(1),
            modification: uuid::Uuid::from_u128(2),
            parent: uuid::Uuid::nil(),
            parent_modification: uuid::Uuid::nil(),
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(
            format!("{:?}", Header::parse(&bytes)),
            format!("{header:?}")
        );
    }

    #[test]
    fn geometries_stay_within_what_a_bios_can_say() {
        assert_eq!(geometry(2048), (2, 16, 63));
        assert_eq!(geometry(u64::MAX), (1024, 255, 63));
        assert_eq!(geometry(0), (1, 16, 63));
    }
}
