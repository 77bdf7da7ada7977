//! What was seen, as it is printed as JSON. `docs/inspect.schema.json` describes it; a test holds the
//! two together. Bytes are numbers, identifiers are text as `blkid` and `lsblk` print them.

use disk_layout::TableKind;
use serde::Serialize;

/// Version of the JSON.
pub const VERSION: u32 = 1;

/// A machine's disks and what they hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Version of this description, 1.
    pub p2v_inspect: u32,
    /// What wrote it.
    pub p2v_version: &'static str,
    /// The machine's name.
    pub name: String,
    /// Its disks, the boot disk first.
    pub disks: Vec<Disk>,
    /// Logical volumes and arrays, those first that others lie on.
    pub logical_volumes: Vec<LogicalVolume>,
    /// The operating systems found.
    pub systems: Vec<System>,
    /// What was noticed.
    pub findings: Vec<Finding>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Disk {
    /// What the user knows it by.
    pub label: String,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are in use.
    pub used: u64,
    /// Its sector size.
    pub sector_size: u64,
    /// Its partition table.
    pub table: Table,
    /// Disk signature or disk GUID.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What lies on it, in the order of its table: the extended partition among them.
    pub volumes: Vec<Volume>,
}

/// Kind of a partition table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Table {
    /// None.
    None,
    /// MBR.
    Mbr,
    /// GPT.
    Gpt,
    /// GPT with a hybrid MBR.
    HybridGpt,
    /// Protective MBR whose GPT is lost.
    ProtectiveOnly,
}

impl From<TableKind> for Table {
    fn from(kind: TableKind) -> Self {
        match kind {
            TableKind::None => Self::None,
            TableKind::Mbr => Self::Mbr,
            TableKind::Gpt => Self::Gpt,
            TableKind::HybridGpt => Self::HybridGpt,
            TableKind::ProtectiveOnly => Self::ProtectiveOnly,
        }
    }
}

impl Table {
    /// Its name in a narrow column.
    #[must_use]
    pub fn short(self) -> &'static str {
        match self {
            Self::None => "no table",
            Self::Mbr => "MBR",
            Self::Gpt => "GPT",
            Self::HybridGpt => "GPT+MBR",
            Self::ProtectiveOnly => "GPT lost",
        }
    }
}

/// A partition, or what lies on a whole disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// The number of its partition; absent for a whole disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Where it starts, in bytes.
    pub start: u64,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are in use; absent where that is not known and all of it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What its partition says it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The name of its partition (GPT).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The identifier of its partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partuuid: Option<String>,
    /// Whether its partition is marked as bootable.
    pub bootable: bool,
    /// Whether it is an extended partition, which holds the logical ones.
    pub extended: bool,
    /// Whether it is a logical partition.
    pub logical: bool,
    /// What it holds, as `blkid` names it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// Version of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Label of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UUID of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What the guests' fstab uses it for: mount points, `[SWAP]`.
    pub mount_points: Vec<String>,
    /// The system whose root it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
}

/// A logical volume of LVM2, or an array of Linux md.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogicalVolume {
    /// What it is called: `vg/root`, `md/0`.
    pub name: String,
    /// `lvm` or `md`.
    pub manager: &'static str,
    /// Its size in bytes.
    pub size: u64,
    /// Bytes of it that are in use; absent where that is not known and all of it counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What it holds, as `blkid` names it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub holds: Option<String>,
    /// Label of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// UUID of that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What the guests' fstab uses it for: mount points, `[SWAP]`.
    pub mount_points: Vec<String>,
    /// The system whose root it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Whether all that it lies on is there.
    pub complete: bool,
    /// What it lies on.
    pub on: Vec<On>,
}

/// What a logical volume lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum On {
    /// A partition, or a whole disk.
    Partition {
        /// The disk, from 0.
        disk: usize,
        /// The number of the partition; absent for the whole disk.
        #[serde(skip_serializing_if = "Option::is_none")]
        partition: Option<u32>,
    },
    /// Another logical volume.
    Volume {
        /// Its name.
        volume: String,
    },
}

/// An operating system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct System {
    /// Its name for people.
    pub name: String,
    /// The number that `--root` takes.
    pub root: usize,
    /// What its fstab uses which volume for, the root first.
    pub mounts: Vec<Mount>,
}

/// What a system uses a volume for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// Mount point, or `[SWAP]`.
    pub at: String,
    /// What is mounted, in words.
    pub volume: String,
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// Damage, or something not understood.
    Warning,
    /// What it is about counts as used as a whole.
    Doubtful,
}

/// Something noticed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What it is about.
    pub about: String,
    /// A sentence.
    pub text: String,
}
