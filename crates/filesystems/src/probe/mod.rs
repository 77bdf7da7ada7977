//! Which file system, or other known content, is this?
//!
//! By signature only: a few KiB are read at fixed places, nothing is judged sound. Kinds, labels and
//! UUIDs are those `blkid -p` prints, so that they can be put into fstab and kernel command lines.
//!
//! What holds others (md, LUKS, LVM) is asked for first: a member of an md mirror with its superblock
//! at the end also looks like the file system inside it.

mod dos;
mod linux;
mod raid;

use block_io::{BlockErrorKind, BlockRead, Result};

/// What a disk range holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum FsKind {
    Ext2,
    Ext3,
    Ext4,
    /// An external journal of ext3 or ext4.
    ExtJournal,
    Swap,
    /// Swap space that holds the memory of a hibernated system: every byte of it counts.
    SwapHibernated,
    Xfs,
    Btrfs,
    Ntfs,
    Fat12,
    Fat16,
    Fat32,
    ExFat,
    ReFs,
    Luks1,
    Luks2,
    BitLocker,
    Lvm2Pv,
    MdMember,
    ReiserFs,
    Jfs,
    SquashFs,
    Iso9660,
}

impl FsKind {
    /// The name blkid and fstab use (`ext4`, `vfat`, `crypto_LUKS`).
    #[must_use]
    pub fn blkid_name(self) -> &'static str {
        match self {
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::ExtJournal => "jbd",
            Self::Swap => "swap",
            Self::SwapHibernated => "swsuspend",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Ntfs => "ntfs",
            Self::Fat12 | Self::Fat16 | Self::Fat32 => "vfat",
            Self::ExFat => "exfat",
            Self::ReFs => "ReFS",
            Self::Luks1 | Self::Luks2 => "crypto_LUKS",
            Self::BitLocker => "BitLocker",
            Self::Lvm2Pv => "LVM2_member",
            Self::MdMember => "linux_raid_member",
            Self::ReiserFs => "reiserfs",
            Self::Jfs => "jfs",
            Self::SquashFs => "squashfs",
            Self::Iso9660 => "iso9660",
        }
    }

    /// Whether it is ext2, ext3 or ext4.
    #[must_use]
    pub fn is_ext(self) -> bool {
        matches!(self, Self::Ext2 | Self::Ext3 | Self::Ext4)
    }
}

impl std::fmt::Display for FsKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
            Self::Luks1 => "LUKS1",
            Self::Luks2 => "LUKS2",
            Self::Lvm2Pv => "LVM2 physical volume",
            Self::MdMember => "md RAID member",
            Self::SwapHibernated => "swap with a hibernated system",
            Self::ExtJournal => "external ext journal",
            other => other.blkid_name(),
        })
    }
}

/// What was found on a disk range.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What it is.
    pub kind: FsKind,
    /// Its label, if it has one.
    pub label: Option<String>,
    /// Its UUID or serial number as blkid prints it.
    pub uuid: Option<String>,
    /// Version as blkid prints it (`1.0`, `FAT32`, `LVM2 001`).
    pub version: Option<String>,
    /// Block or cluster size in bytes, where cheaply known.
    pub block_size: Option<u64>,
    /// Size in bytes its own header claims, where cheaply known. Not checked against the disk.
    pub size: Option<u64>,
}

impl Probe {
    fn new(kind: FsKind) -> Self {
        Self {
            kind,
            label: None,
            uuid: None,
            version: None,
            block_size: None,
            size: None,
        }
    }
}

/// What `disk` (a whole disk or one partition) holds; `None` when no known signature is there.
///
/// # Errors
/// When the disk fails while its signatures are read.
pub fn probe(disk: &dyn BlockRead) -> Result<Option<Probe>> {
    type Test = fn(&Disk) -> Result<Option<Probe>>;
    const TESTS: [Test; 17] = [
        raid::md,
        raid::luks,
        raid::lvm2,
        dos::bitlocker,
        dos::ntfs,
        dos::exfat,
        dos::refs,
        linux::ext,
        linux::xfs,
        linux::btrfs,
        linux::reiserfs,
        linux::jfs,
        // Before swap: it leaves swap's own signature standing.
        linux::tux_on_ice,
        linux::swap,
        linux::squashfs,
        linux::iso9660,
        // FAT last: its signature is the weakest, and others begin with a FAT-like boot sector.
        dos::fat,
    ];
    let disk = Disk { disk };
    for test in TESTS {
        if let Some(found) = test(&disk)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The disk, as the tests ask it.
struct Disk<'a> {
    disk: &'a dyn BlockRead,
}

impl Disk<'_> {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    /// `len` bytes at `offset`; `None` where the disk ends earlier or the sectors are unreadable: a
    /// bad sector where JFS would keep its superblock must not hide the ext4 that is there.
    fn read(&self, offset: u64, len: usize) -> Result<Option<Vec<u8>>> {
        let mut buf = vec![0; len];
        match self.disk.read_at(offset, &mut buf) {
            Ok(()) => Ok(Some(buf)),
            Err(e) => match e.kind() {
                BlockErrorKind::OutOfBounds | BlockErrorKind::Unreadable => Ok(None),
                _ => Err(e),
            },
        }
    }

    /// As [`Disk::read`], if the bytes at `at` of it are `magic`.
    fn read_if(&self, offset: u64, len: usize, at: usize, magic: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self
            .read(offset, len)?
            .filter(|b| crate::bytes::slice(b, at, magic.len()) == magic))
    }
}

/// A UUID in the usual writing, unless it is all zero.
fn uuid(bytes: &[u8], at: usize) -> Option<String> {
    let raw: [u8; 16] = crate::bytes::array(bytes, at);
    (raw != [0; 16]).then(|| uuid::Uuid::from_bytes(raw).to_string())
}
