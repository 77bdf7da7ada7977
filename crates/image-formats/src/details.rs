//! What only one format says of itself: more than a reader of the disk needs, and what users, hypervisors
//! and checks ask about.

/// What only one format says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Details {
    /// Nothing more.
    #[default]
    None,
    /// Of a qcow2 file.
    Qcow2(Qcow2Details),
    /// Of a VMDK disk.
    Vmdk(VmdkDetails),
    /// Of a VHD file.
    Vhd(VhdDetails),
    /// Of a VHDX file.
    Vhdx(VhdxDetails),
}

/// What a qcow2 header says. // qcow2.rst, "Header"
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Qcow2Details {
    /// 2 or 3.
    pub version: u32,
    /// Bits of a refcount.
    pub refcount_bits: u32,
    /// Whether compressed clusters are zstd; otherwise deflate.
    pub zstd: bool,
    /// L2 entries of 16 bytes.
    pub extended_l2: bool,
    /// Compatible bit 0.
    pub lazy_refcounts: bool,
    /// Incompatible bit 0: it was not closed.
    pub dirty: bool,
    /// Incompatible bit 1: a program found it broken.
    pub corrupt: bool,
    /// Internal snapshots.
    pub snapshots: u32,
    /// The name of the backing file, as the header gives it.
    pub backing: Option<String>,
    /// The format it names for it.
    pub backing_format: Option<String>,
    /// The name of the external data file.
    pub data_file: Option<String>,
    /// Whether the external data file is a raw image by itself.
    pub data_file_raw: bool,
}

/// What a VMDK's descriptor and extents say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmdkDetails {
    /// `createType`.
    pub create_type: String,
    /// `CID`.
    pub cid: u32,
    /// `parentCID`; all ones without a parent.
    pub parent_cid: u32,
    /// `ddb.adapterType`.
    pub adapter: Option<String>,
    /// `ddb.virtualHWVersion`.
    pub hardware_version: Option<String>,
    /// The version of the first sparse extent's header.
    pub sparse_version: Option<u32>,
    /// The extents in order.
    pub extents: Vec<VmdkExtent>,
}

/// One extent of a VMDK.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VmdkExtent {
    /// Its file, where it has one of its own or is the only one.
    pub file: Option<std::path::PathBuf>,
    /// `FLAT`, `SPARSE`, …; empty where the whole disk is one sparse file.
    pub kind: String,
    /// Bytes of the disk it maps.
    pub size: u64,
    /// Bytes of a grain, of a sparse one.
    pub grain: Option<u64>,
    /// Whether its grains are compressed.
    pub compressed: bool,
}

/// What a VHD's footer and header say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VhdDetails {
    /// The disk type: 2 fixed, 3 dynamic, 4 differencing.
    pub kind: u32,
    /// The creator application, four bytes of text.
    pub creator: String,
    /// Bytes of a block; none of a fixed disk.
    pub block_size: Option<u64>,
    /// Cylinders, heads and sectors per track.
    pub geometry: (u16, u8, u8),
}

/// What a VHDX's metadata say.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VhdxDetails {
    /// Blocks stay allocated.
    pub fixed: bool,
    /// Bytes of a payload block.
    pub block_size: u64,
    /// Bytes of a logical sector.
    pub logical_sector: u64,
    /// Whether the log held changes, which were replayed for reading.
    pub log_replayed: bool,
}
