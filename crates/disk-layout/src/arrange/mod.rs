//! A new layout for a disk: partitions grown, shrunk, moved and left out, the table rewritten for it.
//!
//! [`plan_layout`] is pure: it takes the [`Layout`] of today, what each partition may be ([`Limits`], told by whoever
//! knows its contents) and what is wanted ([`Request`]), and answers a [`NewLayout`]: where each partition goes, what
//! size it gets, and the [`Patch`]es of the table. No byte is read or written.
//!
//! What is promised: a partition for which nothing asks keeps its place; whatever moves is aligned; numbers, types,
//! names, flags, the disk's and the partitions' identifiers stay. Only logical partitions get new numbers, where one
//! before them is left out: the kernel counts them, no table stores their numbers.

mod place;
mod request;
mod table;

use std::ops::Range;

use block_io::SectorSize;

pub use request::{ArrangeError, DiskSize, Limits, NewTable, Request, Wish};

use crate::kinds::PartitionKind;
use crate::layout::{Layout, TableKind};
use crate::patch::Patch;
use place::{Item, Plan};

/// What partitions that move are aligned to, unless the request says otherwise.
pub const ALIGNMENT: u64 = 1 << 20;

/// The number of what lies on a disk without partitions.
pub const WHOLE_DISK: u32 = 0;

/// A disk as it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayout {
    /// Its size in bytes.
    pub size: u64,
    /// The sector size its table counts in.
    pub sector_size: SectorSize,
    /// Its table.
    pub table: TableKind,
    /// Its partitions in their order on the disk, the extended one before those inside it.
    pub parts: Vec<Placed>,
    /// Numbers of partitions that are not on it any more.
    pub left_out: Vec<u32>,
    /// Bytes outside partitions that are kept: where they are today, at the same place.
    pub kept: Vec<Range<u64>>,
    /// The new table, to be written over what is kept.
    pub patches: Vec<Patch>,
    /// The smallest disk everything would fit when each partition is as small as it can be.
    pub smallest: u64,
}

/// A partition in its new place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Its number today.
    pub number: u32,
    /// Its number in the new table.
    pub new_number: u32,
    /// Its bytes today.
    pub old: Range<u64>,
    /// Its bytes on the new disk.
    pub new: Range<u64>,
    /// What the new table says it is for.
    pub kind: PartitionKind,
    /// An extended partition, which holds the logical ones: nothing of it is copied as such.
    pub extended: bool,
}

impl Placed {
    /// Whether it begins elsewhere than today: FAT, NTFS and exFAT have to be told.
    #[must_use]
    pub fn is_moved(&self) -> bool {
        self.old.start != self.new.start
    }

    /// How it changes its size.
    #[must_use]
    pub fn resize(&self) -> Resize {
        let (old, new) = (length(&self.old), length(&self.new));
        match new.cmp(&old) {
            std::cmp::Ordering::Less => Resize::Shrink { to: new },
            std::cmp::Ordering::Equal => Resize::Keep,
            std::cmp::Ordering::Greater => Resize::Grow { to: new },
        }
    }
}

/// How a partition changes its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resize {
    /// Not at all.
    Keep,
    /// Its contents are made smaller before it is moved.
    Shrink {
        /// New size in bytes.
        to: u64,
    },
    /// Its contents are made larger after it was moved.
    Grow {
        /// New size in bytes.
        to: u64,
    },
}

impl NewLayout {
    /// Whether anything is different from today.
    #[must_use]
    pub fn is_change(&self, today: &Layout, size: u64) -> bool {
        self.size != size
            || self.table != today.table
            || self.sector_size != today.sector_size
            || !self.left_out.is_empty()
            || self.parts.iter().any(|part| part.old != part.new)
    }
}

/// Plan a new layout for a disk of `size` bytes that is divided as `today` says.
///
/// # Errors
/// [`ArrangeError`] where the request cannot be met, with the smallest size that could.
pub fn plan_layout(
    today: &Layout,
    size: u64,
    limits: &[Limits],
    request: &Request,
) -> Result<NewLayout, ArrangeError> {
    request::check(today, size, request)?;
    let sector_size = request.sector_size.unwrap_or(today.sector_size);
    let kind = match (request.table, today.table) {
        (Some(NewTable::Gpt), _) => TableKind::Gpt,
        (_, kind) => kind,
    };
    let items = place::items(today, size, limits, request)?;
    let plan = Plan {
        align: request.align.unwrap_or(ALIGNMENT).max(sector_size.bytes()),
        realign: request.align.is_some(),
        sector: sector_size.bytes(),
        first: first_byte(today, kind, sector_size),
        behind: bytes_behind(today, kind, sector_size),
        limit: match kind {
            TableKind::Mbr => sector_size.bytes() << 32,
            _ => u64::MAX,
        },
        extended: place::container(today, request),
    };
    let smallest = plan.disk_for(&items.iter().map(Item::at_smallest).collect::<Vec<_>>());
    let placing = plan.place(items, request.disk_size, size, smallest)?;
    table::write(today, size, placing, (kind, sector_size, smallest))
}

pub(crate) fn length(range: &Range<u64>) -> u64 {
    range.end.saturating_sub(range.start)
}

/// The first byte partitions may lie at: where the first one does today, so that what lies before it
/// (boot loaders) keeps its room; behind the array of a GPT.
fn first_byte(today: &Layout, kind: TableKind, sector_size: SectorSize) -> u64 {
    let first = today.partitions.iter().map(|p| p.range.start).min();
    match kind {
        TableKind::None => 0,
        TableKind::Gpt | TableKind::HybridGpt => {
            let usable = table::gpt_head(today, sector_size);
            first.unwrap_or(ALIGNMENT).max(usable)
        }
        _ => first.unwrap_or(ALIGNMENT).max(sector_size.bytes()),
    }
}

/// Bytes at the end of the disk that belong to the table.
fn bytes_behind(today: &Layout, kind: TableKind, sector_size: SectorSize) -> u64 {
    match kind {
        TableKind::Gpt | TableKind::HybridGpt => table::gpt_tail(today, sector_size),
        _ => 0,
    }
}
