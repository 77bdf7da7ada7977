//! What the bytes of a qcow2 file mean. All numbers are big-endian. // qcow2.rst

/// `QFI\xfb`, the first four bytes. // qcow2.rst, "Header"
pub(crate) const MAGIC: [u8; 4] = *b"QFI\xfb";

/// Bytes of a version 3 header as written here: up to and including the compression type, padded
/// to a multiple of 8. // qcow2.rst, "Additional fields"
pub(crate) const HEADER_LEN: u32 = 112;

/// The refcount is exactly one, so that a write may go in place. Bit 63 of L1 and plain L2 entries.
pub(crate) const COPIED: u64 = 1 << 63;
/// The cluster is compressed. Bit 62 of L2 entries.
pub(crate) const COMPRESSED: u64 = 1 << 62;

/// The cluster reads as zeroes. Bit 0 of plain L2 entries, version 3.
pub(crate) const ZERO: u64 = 1;
/// The offset in L1 and plain L2 entries: bits 9 to 55. // qcow2.rst, "Cluster mapping"
pub(crate) const OFFSET_MASK: u64 = 0x00ff_ffff_ffff_fe00;

/// Incompatible feature bit 0: refcounts may be wrong.
pub(crate) const INCOMPATIBLE_DIRTY: u64 = 1 << 0;
/// Incompatible feature bit 1: tables may be wrong.
pub(crate) const INCOMPATIBLE_CORRUPT: u64 = 1 << 1;
/// Incompatible feature bit 2: data lie in another file.
pub(crate) const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Incompatible feature bit 4: L2 entries of 16 bytes, clusters in 32 parts.
pub(crate) const INCOMPATIBLE_EXTENDED_L2: u64 = 1 << 4;
/// Incompatible feature bit 3: byte 104 names the compression. // qcow2.rst, "incompatible_features"
pub(crate) const INCOMPATIBLE_COMPRESSION_TYPE: u64 = 1 << 3;

/// Compatible feature bit 0: refcounts may lag behind while the dirty bit is set.
pub(crate) const COMPATIBLE_LAZY_REFCOUNTS: u64 = 1 << 0;
/// Autoclear feature bit 0: the bitmaps extension is right.
pub(crate) const AUTOCLEAR_BITMAPS: u64 = 1 << 0;
/// Autoclear feature bit 1: the external data file is a raw image by itself.
pub(crate) const AUTOCLEAR_RAW_DATA: u64 = 1 << 1;

/// `compression_type`: raw deflate. // qcow2.rst, "compression_type"
pub(crate) const COMPRESSION_ZLIB: u8 = 0;
/// `compression_type`: Zstandard.
pub(crate) const COMPRESSION_ZSTD: u8 = 1;

/// The window of deflate clusters: 4 KiB. The specification says only "deflate"; QEMU reads and
/// writes `windowBits` -12 (qemu block/qcow2-threads.c).
pub(crate) const DEFLATE_WINDOW_BITS: u8 = 12;

/// The units compressed clusters are counted in. // qcow2.rst, "Compressed Clusters Descriptor"
pub(crate) const COMPRESSED_SECTOR: u64 = 512;

/// QEMU refuses an L1 table of more bytes (`QCOW_MAX_L1_SIZE`).
pub(crate) const MAX_L1_BYTES: u64 = 32 << 20;
/// QEMU refuses a refcount table of more bytes (`QCOW_MAX_REFTABLE_SIZE`).
pub(crate) const MAX_REFCOUNT_TABLE_BYTES: u64 = 8 << 20;
/// A backing file's name has at most this many bytes. // qcow2.rst, "backing_file_size"
pub(crate) const MAX_BACKING_NAME: usize = 1023;

/// Header extension: the format of the backing file. // qcow2.rst, "Header extensions"
pub(crate) const EXTENSION_BACKING_FORMAT: u32 = 0xE279_2ACA;
/// Header extension: the name of the external data file.
pub(crate) const EXTENSION_DATA_FILE: u32 = 0x4441_5441;
/// Header extension: where the bitmaps are.
pub(crate) const EXTENSION_BITMAPS: u32 = 0x2385_2875;
const EXTENSION_FEATURE_NAMES: u32 = 0x6803_F857;

/// The features by type (0 incompatible, 1 compatible, 2 autoclear), bit and name.
/// // qcow2.rst, "Feature name table"
const FEATURE_NAMES: [(u8, u8, &str); 8] = [
    (0, 0, "dirty bit"),
    (0, 1, "corrupt bit"),
    (0, 2, "external data file"),
    (0, 3, "compression type"),
    (0, 4, "extended L2 entries"),
    (1, 0, "lazy refcounts"),
    (2, 0, "bitmaps"),
    (2, 1, "raw external data"),
];

/// The sizes that follow from the cluster size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Geometry {
    cluster_bits: u32,
}

impl Geometry {
    /// For clusters of `1 << cluster_bits` bytes; 9 to 21. // qcow2.rst, "cluster_bits"
    pub(crate) fn new(cluster_bits: u32) -> Option<Self> {
        (9..=21)
            .contains(&cluster_bits)
            .then_some(Self { cluster_bits })
    }

    pub(crate) fn cluster_bits(self) -> u32 {
        self.cluster_bits
    }

    pub(crate) fn cluster_size(self) -> u64 {
        1 << self.cluster_bits
    }

    /// Clusters that hold `bytes`.
    pub(crate) fn clusters(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_size())
    }

    /// Entries of an L2 table with 8-byte entries, which fills a cluster. // qcow2.rst, "Cluster mapping"
    pub(crate) fn l2_entries(self) -> u64 {
        self.cluster_size() / 8
    }

    /// Entries of a refcount block of 16-bit counts. // qcow2.rst, "Host cluster management"
    pub(crate) fn refcounts_per_block(self) -> u64 {
        self.cluster_size() / 2
    }

    /// How many bits of a compressed cluster's L2 entry are its offset.
    /// // qcow2.rst, "Compressed Clusters Descriptor"
    pub(crate) fn compressed_offset_bits(self) -> u32 {
        62 - (self.cluster_bits - 8)
    }
}

/// The L2 entry of `len` compressed bytes at `offset` of the file; `None` where the offset has too
/// many bits.
pub(crate) fn compressed_entry(geometry: Geometry, offset: u64, len: u64) -> Option<u64> {
    let bits = geometry.compressed_offset_bits();
    let last = offset.checked_add(len)?.checked_sub(1)?;
    // Sectors beyond the first, counted from the sector the data starts in.
    let further_sectors = last / COMPRESSED_SECTOR - offset / COMPRESSED_SECTOR;
    (last < 1 << bits).then_some(COMPRESSED | further_sectors << bits | offset)
}

/// Where the data of a compressed cluster lie: offset, and bytes at most.
pub(crate) fn compressed_range(geometry: Geometry, entry: u64) -> (u64, u64) {
    let bits = geometry.compressed_offset_bits();
    let offset = entry & ((1 << bits) - 1);
    let sectors = ((entry & (COMPRESSED - 1)) >> bits) + 1;
    (
        offset,
        sectors * COMPRESSED_SECTOR - offset % COMPRESSED_SECTOR,
    )
}

/// What a version 3 header says, as far as this project writes it.
#[derive(Debug, Clone)]
pub(crate) struct NewHeader<'a> {
    pub(crate) geometry: Geometry,
    pub(crate) virtual_size: u64,
    pub(crate) l1_entries: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) compression_type: u8,
    /// Name and format of the image below.
    pub(crate) backing: Option<(&'a str, &'a str)>,
}

impl NewHeader<'_> {
    /// The header, its extensions and the backing file's name; `None` when they do not fit into a
    /// cluster.
    pub(crate) fn to_bytes(&self) -> Option<Vec<u8>> {
        let backing_format = self.backing.map(|(_, format)| format);
        let mut extensions = Vec::new();
        if let Some(format) = backing_format {
            push_extension(&mut extensions, EXTENSION_BACKING_FORMAT, format.as_bytes());
        }
        let names = feature_names();
        let name_len = self.backing.map_or(0, |(name, _)| name.len());
        let without_names = HEADER_LEN as usize + extensions.len() + 8 + name_len;
        // The names are for error messages of older readers only: clusters of 512 bytes go without.
        if without_names + 8 + names.len() <= self.geometry.cluster_size() as usize {
            push_extension(&mut extensions, EXTENSION_FEATURE_NAMES, &names);
        }
        // Type and length 0 end the extensions. // qcow2.rst, "Header extensions"
        extensions.extend([0; 8]);
        let name_offset = u64::from(HEADER_LEN) + extensions.len() as u64;

        let mut bytes = Vec::with_capacity(1024);
        bytes.extend(MAGIC); // 0
        bytes.extend(3u32.to_be_bytes()); // 4: version
        bytes.extend(self.backing.map_or(0, |_| name_offset).to_be_bytes()); // 8
        bytes.extend((name_len as u32).to_be_bytes()); // 16
        bytes.extend(self.geometry.cluster_bits().to_be_bytes()); // 20
        bytes.extend(self.virtual_size.to_be_bytes()); // 24
        bytes.extend(0u32.to_be_bytes()); // 32: crypt_method
        bytes.extend(self.l1_entries.to_be_bytes()); // 36
        bytes.extend(self.l1_offset.to_be_bytes()); // 40
        bytes.extend(self.refcount_table_offset.to_be_bytes()); // 48
        bytes.extend(self.refcount_table_clusters.to_be_bytes()); // 56
        bytes.extend(0u32.to_be_bytes()); // 60: nb_snapshots
        bytes.extend(0u64.to_be_bytes()); // 64: snapshots_offset
        let incompatible = match self.compression_type {
            COMPRESSION_ZLIB => 0,
            _ => INCOMPATIBLE_COMPRESSION_TYPE,
        };
        bytes.extend(incompatible.to_be_bytes()); // 72
        bytes.extend(0u64.to_be_bytes()); // 80: compatible_features
        bytes.extend(0u64.to_be_bytes()); // 88: autoclear_features
        bytes.extend(4u32.to_be_bytes()); // 96: refcount_order, 16 bits
        bytes.extend(HEADER_LEN.to_be_bytes()); // 100
        bytes.extend([self.compression_type, 0, 0, 0, 0, 0, 0, 0]); // 104
        bytes.extend(extensions);
        bytes.extend(self.backing.map_or("", |(name, _)| name).as_bytes());
        (bytes.len() as u64 <= self.geometry.cluster_size()).then_some(bytes)
    }
}

fn push_extension(extensions: &mut Vec<u8>, kind: u32, data: &[u8]) {
    extensions.extend(kind.to_be_bytes());
    extensions.extend((data.len() as u32).to_be_bytes());
    extensions.extend(data);
    extensions.resize(extensions.len().next_multiple_of(8), 0);
}

/// Entries of 48 bytes: type, bit, name padded with zeroes. // qcow2.rst, "Feature name table"
fn feature_names() -> Vec<u8> {
    let mut table = Vec::with_capacity(FEATURE_NAMES.len() * 48);
    for (kind, bit, name) in FEATURE_NAMES {
        let end = table.len() + 48;
        table.extend([kind, bit]);
        table.extend(name.as_bytes());
        table.resize(end, 0);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_fields_lie_where_the_specification_puts_them() {
        let header = NewHeader {
            geometry: Geometry::new(16).unwrap(),
            virtual_size: 0x1122_3344_5566,
            l1_entries: 7,
            l1_offset: 0x30000,
            refcount_table_offset: 0x10000,
            refcount_table_clusters: 1,
            compression_type: COMPRESSION_ZSTD,
            backing: Some(("base.raw", "raw")),
        };
        let bytes = header.to_bytes().unwrap();
        assert_eq!(bytes[0..8], *b"QFI\xfb\0\0\0\x03");
        assert_eq!(bytes[24..32], 0x1122_3344_5566u64.to_be_bytes());
        assert_eq!(bytes[72..80], 8u64.to_be_bytes());
        assert_eq!(bytes[100..105], [0, 0, 0, 112, 1]);
        let name_at = u64::from_be_bytes(bytes[8..16].try_into().unwrap()) as usize;
        assert_eq!(&bytes[name_at..], b"base.raw");
    }

    #[test]
    fn a_compressed_entry_counts_the_sectors_it_touches() {
        let geometry = Geometry::new(16).unwrap();
        assert_eq!(geometry.compressed_offset_bits(), 54);
        let entry = |offset, len| compressed_entry(geometry, offset, len).unwrap();
        assert_eq!(entry(0x10000, 1), COMPRESSED | 0x10000);
        assert_eq!(entry(0x10000, 512), COMPRESSED | 0x10000);
        assert_eq!(entry(0x101ff, 2), COMPRESSED | 1 << 54 | 0x101ff);
        for (offset, len) in [(0x10000, 1), (0x101ff, 2), (0x10001, 70_000)] {
            let (at, most) = compressed_range(geometry, entry(offset, len));
            assert_eq!(at, offset);
            assert!(most >= len && most < len + 512, "{offset} {len}: {most}");
        }
        assert_eq!(entry(0x10001, 512), COMPRESSED | 1 << 54 | 0x10001);
        assert_eq!(compressed_entry(geometry, 1 << 54, 1), None);
        assert_eq!(compressed_entry(geometry, u64::MAX, 2), None);
    }
}
