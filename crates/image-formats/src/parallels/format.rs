//! What the bytes of a Parallels expanding image mean. All numbers are little-endian. // parallels.rst

use crate::bytes::{le32, le64};

/// The older magic, with places in sectors, and the newer, with places in clusters.
pub(crate) const MAGICS: [&[u8; 16]; 2] = [b"WithoutFreeSpace", b"WithouFreSpacExt"];
/// Bytes of the header; the BAT follows.
pub(crate) const HEADER_LEN: usize = 64;
/// The only version. // parallels.rst, "Header"
pub(crate) const VERSION: u32 = 2;
/// `in_use` of an image that is open, and of one that was closed.
pub(crate) const IN_USE: u32 = 0x746F_6E59;
pub(crate) const CLOSED: u32 = 0x312E_3276;
/// Places and sizes are counted in these.
pub(crate) const SECTOR: u64 = 512;
/// The cluster that today's versions write: 1 MiB. // parallels.rst, "Definitions"
pub(crate) const CLUSTER: u64 = 1 << 20;
/// Bytes of a BAT entry.
pub(crate) const ENTRY: u64 = 4;

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    /// Whether places are clusters.
    pub(crate) extended: bool,
    pub(crate) version: u32,
    /// Sectors of a cluster.
    pub(crate) cluster_sectors: u64,
    pub(crate) entries: u64,
    pub(crate) sectors: u64,
    pub(crate) in_use: u32,
    /// In sectors; zero is "behind the BAT" in older images.
    pub(crate) data_offset: u64,
    pub(crate) extension: u64,
}

impl Header {
    /// What the first 64 bytes of a file say; `None` without the magic.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let extended = match MAGICS.map(|magic| bytes.starts_with(magic)) {
            [true, _] => false,
            [_, true] => true,
            _ => return None,
        };
        Some(Self {
            extended,
            version: le32(bytes, 16),
            cluster_sectors: u64::from(le32(bytes, 28)),
            entries: u64::from(le32(bytes, 32)),
            sectors: le64(bytes, 36),
            in_use: le32(bytes, 44),
            data_offset: u64::from(le32(bytes, 48)),
            extension: le64(bytes, 56),
        })
    }

    /// The header as it is written.
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let (cylinders, heads, _) = geometry(self.sectors);
        let mut bytes = MAGICS[usize::from(self.extended)].to_vec(); // 0
        bytes.extend(self.version.to_le_bytes()); // 16
        bytes.extend(heads.to_le_bytes()); // 20
        bytes.extend((cylinders as u32).to_le_bytes()); // 24
        bytes.extend((self.cluster_sectors as u32).to_le_bytes()); // 28
        bytes.extend((self.entries as u32).to_le_bytes()); // 32
        bytes.extend(self.sectors.to_le_bytes()); // 36
        bytes.extend(self.in_use.to_le_bytes()); // 44
        bytes.extend((self.data_offset as u32).to_le_bytes()); // 48
        bytes.extend(0u32.to_le_bytes()); // 52: flags
        bytes.extend(self.extension.to_le_bytes()); // 56
        bytes
    }

    /// Bytes of a cluster.
    pub(crate) fn cluster(&self) -> u64 {
        self.cluster_sectors * SECTOR
    }

    /// The byte where the data start. // parallels.rst, "Header", data_off
    pub(crate) fn data_start(&self) -> u64 {
        match self.data_offset {
            0 => self.table_end().next_multiple_of(SECTOR),
            sectors => sectors * SECTOR,
        }
    }

    /// The byte behind the BAT.
    pub(crate) fn table_end(&self) -> u64 {
        HEADER_LEN as u64 + self.entries * ENTRY
    }

    /// The byte a BAT entry that is not zero points to. // parallels.rst, "BAT"
    pub(crate) fn place(&self, entry: u32) -> u64 {
        let unit = if self.extended {
            self.cluster()
        } else {
            SECTOR
        };
        u64::from(entry).saturating_mul(unit)
    }
}

/// Cylinders, heads and sectors whose product is exactly the size, which a bundle's descriptor wants.
/// // prl-xml.rst, "Disk_Parameters element"
pub(crate) fn geometry(sectors: u64) -> (u64, u32, u32) {
    let part = |of: u64, most: u32| 1 << of.trailing_zeros().min(most);
    let track = part(sectors, 5);
    let heads = part(sectors / track, 4);
    (sectors / track / heads, heads as u32, track as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn geometries_multiply_to_the_size() {
        for (sectors, expected) in [
            (1 << 21, (4096, 16, 32)),
            (1, (1, 1, 1)),
            (2047, (2047, 1, 1)),
            (96, (3, 1, 32)),
            (1 << 40, (1 << 31, 16, 32)),
        ] {
            let (cylinders, heads, track) = geometry(sectors);
            assert_eq!((cylinders, heads, track), expected);
            assert_eq!(cylinders * u64::from(heads) * u64::from(track), sectors);
        }
    }

    #[test]
    fn a_header_reads_back() {
        let header = Header {
            extended: true,
            version: VERSION,
            cluster_sectors: 2048,
            entries: 10,
            sectors: 20_000,
            in_use: CLOSED,
            data_offset: 2048,
            extension: 0,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes.len(), HEADER_LEN);
        assert_eq!(Header::parse(&bytes), Some(header));
        assert_eq!(header.place(3), 3 << 20);
        assert_eq!(
            Header {
                extended: false,
                ..header
            }
            .place(3),
            1536
        );
    }
}
