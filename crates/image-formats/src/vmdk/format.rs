//! What the bytes of a VMDK sparse extent mean. All numbers are little-endian.
//! // [Virtual Disk Format 5.0] Hosted Sparse Extent Header

/// The first bytes of a hosted sparse extent.
pub(crate) const SPARSE_MAGIC: &[u8; 4] = b"KDMV";
/// The first bytes of an ESX copy-on-write extent.
pub(crate) const COWD_MAGIC: &[u8; 4] = b"COWD";
/// The first bytes of a space-efficient sparse extent, which no public document describes.
pub(crate) const SESPARSE_MAGIC: [u8; 8] = 0xcafe_babe_u64.to_le_bytes();
/// VMDK counts in sectors of this size.
pub(crate) const SECTOR: u64 = 512;
/// Entries of a grain table of a hosted extent.
pub(crate) const TABLE_ENTRIES: u64 = 512;
/// The grain written here, as VMware's own tools do: 128 sectors.
pub(crate) const GRAIN: u64 = 64 << 10;
/// Sectors set aside for the embedded descriptor.
pub(crate) const DESCRIPTOR_SECTORS: u64 = 20;
/// `gdOffset` of a stream: the directory's place stands in the footer.
pub(crate) const DIRECTORY_AT_END: u64 = u64::MAX;

/// Flags: the newline bytes are valid; the second grain directory is used; an entry of 1 is a grain of
/// zeroes; grains are compressed; there are markers.
pub(crate) const FLAG_NEWLINES: u32 = 1 << 0;
pub(crate) const FLAG_REDUNDANT: u32 = 1 << 1;
pub(crate) const FLAG_ZERO_GRAINS: u32 = 1 << 2;
pub(crate) const FLAG_COMPRESSED: u32 = 1 << 16;
pub(crate) const FLAG_MARKERS: u32 = 1 << 17;

/// Types of metadata markers. // [Virtual Disk Format 5.0] Metadata Marker
pub(crate) const MARKER_END: u32 = 0;
pub(crate) const MARKER_TABLE: u32 = 1;
pub(crate) const MARKER_DIRECTORY: u32 = 2;
pub(crate) const MARKER_FOOTER: u32 = 3;

/// The header of a hosted sparse extent, 512 bytes. Places and sizes are sectors.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SparseHeader {
    pub(crate) version: u32,
    pub(crate) flags: u32,
    pub(crate) capacity: u64,
    /// Of the embedded descriptor, which follows the header; 0 where there is none.
    pub(crate) descriptor_sectors: u64,
    pub(crate) redundant_directory: u64,
    pub(crate) directory: u64,
    pub(crate) overhead: u64,
}

impl SparseHeader {
    pub(crate) fn to_bytes(self) -> Vec<u8> {
        let compressed = self.flags & FLAG_COMPRESSED != 0;
        let mut bytes = SPARSE_MAGIC.to_vec(); // 0
        bytes.extend(self.version.to_le_bytes()); // 4
        bytes.extend(self.flags.to_le_bytes()); // 8
        bytes.extend(self.capacity.to_le_bytes()); // 12
        bytes.extend((GRAIN / SECTOR).to_le_bytes()); // 20: grain size
        let descriptor = u64::from(self.descriptor_sectors > 0);
        bytes.extend(descriptor.to_le_bytes()); // 28
        bytes.extend(self.descriptor_sectors.to_le_bytes()); // 36
        bytes.extend((TABLE_ENTRIES as u32).to_le_bytes()); // 44
        bytes.extend(self.redundant_directory.to_le_bytes()); // 48
        bytes.extend(self.directory.to_le_bytes()); // 56
        bytes.extend(self.overhead.to_le_bytes()); // 64
        bytes.push(0); // 72: unclean shutdown
        bytes.extend(b"\n \r\n"); // 73: newline bytes
        bytes.extend(u16::from(compressed).to_le_bytes()); // 77: 1 is deflate
        bytes.resize(SECTOR as usize, 0);
        bytes
    }
}

/// A metadata marker: so many sectors of `kind` follow.
pub(crate) fn marker(sectors: u64, kind: u32) -> Vec<u8> {
    let mut bytes = sectors.to_le_bytes().to_vec(); // 0
    bytes.extend(0u32.to_le_bytes()); // 8: no data
    bytes.extend(kind.to_le_bytes()); // 12
    bytes.resize(SECTOR as usize, 0);
    bytes
}

/// The head of a grain marker; `len` compressed bytes follow. // [Virtual Disk Format 5.0] Grain Marker
pub(crate) fn grain_marker(sector: u64, len: u32) -> Vec<u8> {
    let mut bytes = sector.to_le_bytes().to_vec();
    bytes.extend(len.to_le_bytes());
    bytes
}

pub(crate) fn le_bytes_32(values: &[u32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}
