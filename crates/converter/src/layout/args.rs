//! The flags.

use std::path::PathBuf;

use clap::ValueEnum;

use super::names::{Bytes, DiskSizeOf, Grow, Of, Part, Shrink, Weight};

/// How the disks are to be laid out; nothing said changes nothing.
///
/// PART is a partition's number (2), with several disks DISK:NUMBER (2:1), or where the guest mounts it (/srv).
#[derive(Debug, Clone, Default, clap::Args)]
#[command(
    next_help_heading = "Disk layout (PART: 2, 2:1 for partition 1 of disk 2, or a mount point)"
)]
pub struct LayoutArgs {
    /// Size of a disk: 120G, +20G, or `fit` for as small as its partitions allow
    #[arg(long, value_name = "[DISK:]SIZE")]
    pub disk_size: Vec<DiskSizeOf>,

    /// Give free space to a partition and its file system: PART, `largest` or `all`; may be repeated
    #[arg(long, value_name = "PART")]
    pub grow: Vec<Grow>,

    /// Make a partition and its file system smaller: to 10G, to `used+2G`, to `smallest`
    #[arg(long, value_name = "PART=SIZE")]
    pub shrink: Vec<Of<Shrink>>,

    /// Leave a partition out
    #[arg(long, value_name = "PART")]
    pub leave_out: Vec<Part>,

    /// Partitions in the order they are to lie on the disk
    #[arg(long, value_name = "PART,PART", value_delimiter = ',')]
    pub order: Vec<Part>,

    /// Align every partition to this size; without it those that move are aligned to 1M
    #[arg(long, value_name = "SIZE")]
    pub align: Option<Bytes>,

    /// Turn the disks' MBR into a GPT
    #[arg(long, value_name = "TABLE")]
    pub table: Option<TableArg>,

    /// A partition's least size
    #[arg(long, value_name = "PART=SIZE")]
    pub min: Vec<Of<Bytes>>,

    /// A partition's largest size
    #[arg(long, value_name = "PART=SIZE")]
    pub max: Vec<Of<Bytes>>,

    /// A growing partition's share of free space, against the others' weights
    #[arg(long, value_name = "PART=N")]
    pub weight: Vec<Of<Weight>>,

    /// Read the same from a TOML file (docs/layout.md); flags go before it
    #[arg(long, value_name = "FILE")]
    pub layout: Option<PathBuf>,
}

/// A partition table to change to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TableArg {
    /// GPT.
    Gpt,
    /// MBR, where the disk has one already.
    Mbr,
}
