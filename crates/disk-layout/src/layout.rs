//! The result of reading a table.

use std::fmt;
use std::ops::Range;

use block_io::{BlockError, SectorSize};
use uuid::Uuid;

use crate::finding::{Finding, Severity};
use crate::gpt::format::{Attributes, GptTable};
use crate::kinds::PartitionKind;
use crate::mbr::format::MbrTable;

/// Which table a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TableKind {
    /// None: blank, or one file system on the whole disk.
    None,
    /// MBR ("DOS", "msdos").
    Mbr,
    /// GPT behind a protective MBR.
    Gpt,
    /// GPT whose MBR names some of the partitions as well.
    HybridGpt,
    /// A protective MBR whose GPT is lost.
    ProtectiveOnly,
}

impl fmt::Display for TableKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            TableKind::None => "no partition table",
            TableKind::Mbr => "MBR",
            TableKind::Gpt => "GPT",
            TableKind::HybridGpt => "GPT with hybrid MBR",
            TableKind::ProtectiveOnly => "protective MBR without GPT",
        })
    }
}

/// What tells this disk from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DiskId {
    /// The disk signature of an MBR.
    Mbr(u32),
    /// The disk GUID of a GPT.
    Gpt(Uuid),
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskId::Mbr(signature) => write!(f, "0x{signature:08x}"),
            DiskId::Gpt(guid) => write!(f, "{guid}"),
        }
    }
}

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as the Linux kernel gives it: the slot in the table; logical ones from 5 on.
    pub number: u32,
    /// The bytes it covers, clipped to the disk.
    pub range: Range<u64>,
    /// What it says it is for.
    pub kind: PartitionKind,
    /// The active flag of an MBR entry, "legacy BIOS bootable" of a GPT entry.
    pub bootable: bool,
    /// Name, GPT only.
    pub name: Option<String>,
    /// Unique GUID, GPT only.
    pub guid: Option<Uuid>,
    /// Attributes, GPT only (none set otherwise).
    pub attributes: Attributes,
    /// A logical partition inside an extended one.
    pub logical: bool,
}

impl Partition {
    /// An extended partition holds logical ones and no file system.
    #[must_use]
    pub fn is_extended(&self) -> bool {
        self.kind.is_extended()
    }
}

/// How a disk is divided.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Which table it has.
    pub table: TableKind,
    /// The sector size the table counts in (the disk's, unless a finding says otherwise).
    pub sector_size: SectorSize,
    /// What tells this disk from others.
    pub disk_id: Option<DiskId>,
    /// Its partitions by number, the extended one among them.
    pub partitions: Vec<Partition>,
    /// Bytes outside partitions that must be kept, in order, not touching each other: boot code and
    /// what follows it (where GRUB keeps its core image), table sectors, extended boot records, GPT
    /// headers and arrays, and the end of the disk (where RAID firmware and Windows dynamic disks
    /// keep their records).
    pub metadata: Vec<Range<u64>>,
    /// What is wrong with the table.
    pub findings: Vec<Finding>,
    /// The MBR, protective ones included, as it is written.
    pub mbr: Option<MbrTable>,
    /// The GPT as it is written.
    pub gpt: Option<GptTable>,
}

impl Layout {
    /// Whether the list of partitions can be relied on: bytes outside of partitions and metadata are
    /// then free.
    #[must_use]
    pub fn is_certain(&self) -> bool {
        self.findings
            .iter()
            .all(|finding| finding.severity < Severity::Doubtful)
    }

    /// The partition with this number.
    #[must_use]
    pub fn partition(&self, number: u32) -> Option<&Partition> {
        self.partitions.iter().find(|p| p.number == number)
    }
}

/// Why the table of a disk cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The disk fails in a way that is not a bad sector.
    #[error("reading {what} of the partition table")]
    Disk {
        /// What was being read.
        what: &'static str,
        /// What the disk answered.
        source: BlockError,
    },
}
