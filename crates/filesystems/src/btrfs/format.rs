//! What the bytes of btrfs mean. No I/O. All numbers are little-endian.
//!
//! After "On-disk Format" of the btrfs documentation; the names are its.

use crate::bytes::{array, le16, le32, le64, slice, u8_at};

/// Where the superblock and its copies lie. // btrfs_sb_offset
pub(crate) const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
pub(crate) const SUPERBLOCK_LEN: u64 = 4096;
/// Nothing is allocated before this; boot loaders live there. // BTRFS_DEVICE_RANGE_RESERVED
pub(crate) const RESERVED: u64 = 1 << 20;

/// Objects of the root tree.
pub(crate) const EXTENT_TREE: u64 = 2;
pub(crate) const BLOCK_GROUP_TREE: u64 = 11;
pub(crate) const TREE_LOG: u64 = u64::MAX - 5;

/// Types of items.
pub(crate) const EXTENT_DATA: u8 = 108;
pub(crate) const ROOT_ITEM: u8 = 132;
pub(crate) const EXTENT_ITEM: u8 = 168;
pub(crate) const METADATA_ITEM: u8 = 169;
pub(crate) const BLOCK_GROUP_ITEM: u8 = 192;
pub(crate) const CHUNK_ITEM: u8 = 228;

/// Incompatible features that change nothing about what is used on a single device: mixed backrefs,
/// default subvolume, mixed groups, LZO, zstd, big metadata, extended references, RAID56 and RAID1C34
/// (of which a single device has none), skinny metadata, no holes, metadata UUID, simple quotas.
const INCOMPAT_KNOWN: u64 = 0xFFF | 0x1_0000;
const INCOMPAT_NAMES: [(u64, &str); 3] = [
    (0x1000, "zoned"),
    (0x2000, "extent tree v2"),
    (0x4000, "raid stripe tree"),
];
const METADATA_UUID: u64 = 0x400;
/// Block groups are told in a tree of their own.
const COMPAT_RO_BLOCK_GROUP_TREE: u64 = 0x8;
/// Free-space tree, that it is valid, verity, block group tree.
const COMPAT_RO_KNOWN: u64 = 0xF;
/// Superblock flags: written, relocating.
const FLAGS_KNOWN: u64 = 0x3;

/// Profiles that keep everything on one device: none, and DUP.
const PROFILES: u64 = 0x7F8;
const DUP: u64 = 0x20;

/// The superblock.
/// Offsets: 0 checksum, 0x20 fsid, 0x30 own place, 0x38 flags, 0x40 magic, 0x50 root, 0x58 chunk root,
/// 0x60 log root, 0x70 bytes, 0x88 devices, 0x90 sector size, 0x94 node size, 0xA0 length of the system
/// chunks, 0xB4 compat_ro, 0xBC incompat, 0xC4 checksum type, 0xC6 levels, 0xC9 device item, 0x23B
/// metadata UUID, 0x32B system chunks.
#[derive(Debug, Clone)]
pub(crate) struct Superblock {
    pub(crate) root: Root,
    pub(crate) chunk_root: Root,
    /// Of the log of what was last made durable by `fsync`, if there is one.
    pub(crate) log_root: Option<Root>,
    pub(crate) sector: u64,
    pub(crate) node: u64,
    pub(crate) device: u64,
    pub(crate) device_bytes: u64,
    pub(crate) fsid: [u8; 16],
    pub(crate) has_block_group_tree: bool,
    pub(crate) system_chunks: Vec<u8>,
}

/// Where a tree begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Root {
    pub(crate) at: u64,
    pub(crate) level: u8,
}

impl Superblock {
    pub(crate) fn parse(raw: &[u8], disk_size: u64) -> Result<Self, String> {
        let fault = |what: &str, found: u64| Err(format!("superblock: {what}: found {found:#x}"));
        if slice(raw, 0x40, 8) != b"_BHRfS_M" {
            return fault("no magic", le64(raw, 0x40));
        }
        if le16(raw, 0xC4) != 0 {
            return fault(
                "checksums other than CRC-32C are not supported",
                le16(raw, 0xC4).into(),
            );
        }
        let expected = checksum(raw);
        if expected != le32(raw, 0) {
            return fault(
                &format!("checksum: expected {expected:#x}"),
                le32(raw, 0).into(),
            );
        }
        if le64(raw, 0x30) != SUPERBLOCKS[0] {
            return fault("place: expected 0x10000", le64(raw, 0x30));
        }
        if le64(raw, 0x88) != 1 {
            return Err(format!(
                "{} devices: only one is supported",
                le64(raw, 0x88)
            ));
        }
        if le64(raw, 0x38) & !FLAGS_KNOWN != 0 {
            return fault(
                "flags that are not understood (seed, dump, or being changed)",
                le64(raw, 0x38),
            );
        }
        let incompat = le64(raw, 0xBC);
        if incompat & !INCOMPAT_KNOWN != 0 {
            let names = INCOMPAT_NAMES.iter().filter(|(bit, _)| incompat & bit != 0);
            let names: Vec<&str> = names.map(|(_, name)| *name).collect();
            return Err(format!(
                "feature not supported: incompat {incompat:#x} {}",
                names.join(", ")
            ));
        }
        let compat_ro = le64(raw, 0xB4);
        if compat_ro & !COMPAT_RO_KNOWN != 0 {
            return fault("read-only features that are not understood", compat_ro);
        }
        let (sector, node) = (u64::from(le32(raw, 0x90)), u64::from(le32(raw, 0x94)));
        let ok = |n: u64| n.is_power_of_two() && (4096..=65_536).contains(&n);
        if !ok(sector) || !ok(node) || sector > node {
            return fault(
                "sector and node size: expected 4096 to 65536",
                sector << 32 | node,
            );
        }
        let device_bytes = le64(raw, 0xC9 + 8);
        if device_bytes > disk_size || device_bytes < RESERVED {
            return fault(
                &format!("device size: expected at most {disk_size:#x}"),
                device_bytes,
            );
        }
        let array_len = le32(raw, 0xA0) as usize;
        if array_len > 2048 {
            return fault(
                "system chunks: expected at most 2048 bytes",
                array_len as u64,
            );
        }
        let root = |at: usize, level: usize| Root {
            at: le64(raw, at),
            level: u8_at(raw, level),
        };
        let log_root = root(0x60, 0xC8);
        Ok(Self {
            root: root(0x50, 0xC6),
            chunk_root: root(0x58, 0xC7),
            log_root: (log_root.at != 0).then_some(log_root),
            sector,
            node,
            device: le64(raw, 0xC9),
            device_bytes,
            fsid: array(
                raw,
                if incompat & METADATA_UUID != 0 {
                    0x23B
                } else {
                    0x20
                },
            ),
            has_block_group_tree: compat_ro & COMPAT_RO_BLOCK_GROUP_TREE != 0,
            system_chunks: slice(raw, 0x32B, array_len).to_vec(),
        })
    }
}

/// CRC-32C of a superblock or node behind its 32 bytes of checksum.
pub(crate) fn checksum(block: &[u8]) -> u32 {
    crc32c::crc32c(block.get(32..).unwrap_or_default())
}

/// What items are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) object: u64,
    pub(crate) kind: u8,
    pub(crate) offset: u64,
}

impl Key {
    pub(crate) const LEN: usize = 17;
    pub(crate) const MIN: Key = Key {
        object: 0,
        kind: 0,
        offset: 0,
    };
    pub(crate) const MAX: Key = Key {
        object: u64::MAX,
        kind: u8::MAX,
        offset: u64::MAX,
    };

    pub(crate) fn parse(raw: &[u8], at: usize) -> Self {
        Self {
            object: le64(raw, at),
            kind: u8_at(raw, at + 8),
            offset: le64(raw, at + 9),
        }
    }
}

/// A run of logical addresses, and where it lies on the device: once, or twice (DUP).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) logical: u64,
    pub(crate) len: u64,
    pub(crate) places: Vec<u64>,
}

impl Chunk {
    /// Length of the fixed part of a chunk item, and of each stripe.
    pub(crate) const FIXED: usize = 48;
    pub(crate) const STRIPE: usize = 32;

    /// A chunk item. Offsets: 0 length, 24 type, 44 stripes, 48 them: device, place, device UUID.
    pub(crate) fn parse(raw: &[u8], logical: u64, sb: &Superblock) -> Result<Self, String> {
        let (len, kind) = (le64(raw, 0), le64(raw, 24));
        let stripes = usize::from(le16(raw, 44));
        let profile = kind & PROFILES;
        let expected = if profile == DUP { 2 } else { 1 };
        if profile & !DUP != 0
            || stripes != expected
            || raw.len() < Self::FIXED + stripes * Self::STRIPE
        {
            return Err(format!(
                "chunk at {logical:#x}: profile {profile:#x} with {stripes} stripes is not one of a single device"
            ));
        }
        let mut places = Vec::new();
        for stripe in 0..stripes {
            let at = Self::FIXED + stripe * Self::STRIPE;
            let (device, place) = (le64(raw, at), le64(raw, at + 8));
            if device != sb.device {
                return Err(format!(
                    "chunk at {logical:#x}: expected on device {}, found {device}",
                    sb.device
                ));
            }
            if place
                .checked_add(len)
                .is_none_or(|end| end > sb.device_bytes)
            {
                return Err(format!(
                    "chunk at {logical:#x}: {len:#x} bytes at {place:#x}: behind the device"
                ));
            }
            places.push(place);
        }
        if len == 0 || len % sb.sector != 0 || logical.checked_add(len).is_none() {
            return Err(format!("chunk at {logical:#x}: length {len:#x}"));
        }
        Ok(Self {
            logical,
            len,
            places,
        })
    }
}

/// A root item: 176 place of the tree, 238 its level.
pub(crate) fn root_item(raw: &[u8]) -> Root {
    Root {
        at: le64(raw, 176),
        level: u8_at(raw, 238),
    }
}
