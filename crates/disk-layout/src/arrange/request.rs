//! What is wanted, and why it cannot be.

use block_io::SectorSize;

use crate::layout::{Layout, TableKind};
use crate::patch::PlanError;

/// What a partition may be, by what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The partition.
    pub number: u32,
    /// The fewest bytes its contents can be made to fit. Its size today where they cannot shrink.
    pub smallest: u64,
    /// The most bytes its contents can use.
    pub largest: u64,
}

/// How large the disk is to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DiskSize {
    /// As today.
    #[default]
    Same,
    /// This many bytes.
    Bytes(u64),
    /// Just large enough for its partitions, in whole MiB.
    Fit,
}

/// What is wanted of one partition. What is not said stays as it is today.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// The partition.
    pub number: u32,
    /// It is not to be on the new disk.
    pub leave_out: bool,
    /// Its size in bytes, rounded up to whole sectors.
    pub size: Option<u64>,
    /// It is to have at least this many bytes.
    pub min: Option<u64>,
    /// It is to have at most this many bytes.
    pub max: Option<u64>,
    /// Its share of the space that is left, against the other weights. 0: none.
    pub weight: u32,
}

/// Which table the new disk is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewTable {
    /// MBR.
    Mbr,
    /// GPT.
    Gpt,
}

/// What is wanted of a disk. The default changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    /// Its size.
    pub disk_size: DiskSize,
    /// What is wanted of its partitions.
    pub wishes: Vec<Wish>,
    /// Partitions in the order they are to lie in; those not named follow in today's order.
    pub order: Vec<u32>,
    /// Align every partition to this many bytes. Without it, partitions that move are aligned to
    /// [`super::ALIGNMENT`] and the others stay where they are.
    pub align: Option<u64>,
    /// The table it is to have, where that is not today's.
    pub table: Option<NewTable>,
    /// The sector size its table is to count in, where that is not today's.
    pub sector_size: Option<SectorSize>,
}

impl Request {
    /// Whether nothing is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(super) fn wish(&self, number: u32) -> Wish {
        let wish = self.wishes.iter().find(|wish| wish.number == number);
        wish.copied().unwrap_or(Wish {
            number,
            ..Wish::default()
        })
    }
}

/// Why a disk cannot be laid out as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArrangeError {
    /// Today's table cannot be relied on.
    #[error("the partition table is doubtful, so nothing is laid out by it: {why}")]
    Doubtful {
        /// The first finding that says so.
        why: String,
    },
    /// A Windows dynamic disk: its partitions are pieces of volumes its own database describes.
    #[error(
        "partition {number} belongs to a Windows dynamic disk, whose database says where its volumes lie: \
         it can only be copied as it is"
    )]
    DynamicDisk {
        /// One of its partitions.
        number: u32,
    },
    /// There is no such partition.
    #[error("there is no partition {number}")]
    NoSuchPartition {
        /// The number.
        number: u32,
    },
    /// Today's table is of a kind that cannot be laid out anew.
    #[error("a disk with {table} cannot be laid out anew: {why}")]
    Table {
        /// Today's table.
        table: TableKind,
        /// Why not.
        why: &'static str,
    },
    /// Larger than an MBR can describe.
    #[error(
        "a disk of {size} bytes is more than an MBR can describe ({limit} bytes, 2^32 sectors); \
         --table gpt makes it a GPT"
    )]
    MbrTooLarge {
        /// The size asked for.
        size: u64,
        /// The most an MBR can.
        limit: u64,
    },
    /// A partition cannot be made that small.
    #[error(
        "partition {number} cannot be made {asked} bytes: the smallest possible size is {smallest}"
    )]
    TooSmall {
        /// The partition.
        number: u32,
        /// What was asked for.
        asked: u64,
        /// The least that is possible.
        smallest: u64,
    },
    /// A partition's contents cannot use that much.
    #[error(
        "partition {number} cannot be made {asked} bytes: its contents can use at most {largest}"
    )]
    TooLarge {
        /// The partition.
        number: u32,
        /// What was asked for.
        asked: u64,
        /// The most that is possible.
        largest: u64,
    },
    /// The smallest size asked for is above the largest.
    #[error("partition {number}: a least size of {min} bytes is above its largest of {max}")]
    Bounds {
        /// The partition.
        number: u32,
        /// What it is to have at least.
        min: u64,
        /// What it is to have at most.
        max: u64,
    },
    /// The partitions do not fit the disk.
    #[error(
        "the partitions as asked for need a disk of {needed} bytes, not {size}; with every partition as small \
         as it can be, {smallest} is the smallest possible size"
    )]
    DiskTooSmall {
        /// The disk's size as asked for.
        size: u64,
        /// What it would have to be.
        needed: u64,
        /// What it would have to be with every partition shrunk.
        smallest: u64,
    },
    /// Something cannot be aligned so.
    #[error("{align} is no alignment: a power of two from {least} bytes to 1 GiB is")]
    Alignment {
        /// What was asked for.
        align: u64,
        /// The sector size.
        least: u64,
    },
    /// A partition does not begin or end at a whole sector of the new size.
    #[error("partition {number} begins at byte {at}, which is no whole sector of {sector} bytes")]
    Sector {
        /// The partition.
        number: u32,
        /// Where it begins.
        at: u64,
        /// The new sector size.
        sector: u64,
    },
    /// An order that would tear the extended partition apart.
    #[error(
        "the logical partitions must stay together: partition {number} cannot lie between them"
    )]
    Order {
        /// The partition that stands between them.
        number: u32,
    },
    /// The new table cannot be written.
    #[error("writing the new partition table")]
    Plan(#[from] PlanError),
}

/// Whether the request makes sense for this disk at all.
pub(super) fn check(today: &Layout, size: u64, request: &Request) -> Result<(), ArrangeError> {
    if !today.is_certain() {
        let doubt = today
            .findings
            .iter()
            .find(|finding| finding.severity == crate::Severity::Doubtful);
        let why = doubt.map(ToString::to_string).unwrap_or_default();
        return Err(ArrangeError::Doubtful { why });
    }
    if let Some(part) = today.partitions.iter().find(|p| p.kind.is_dynamic_disk()) {
        return Err(ArrangeError::DynamicDisk {
            number: part.number,
        });
    }
    let refuse = |why| {
        Err(ArrangeError::Table {
            table: today.table,
            why,
        })
    };
    match (today.table, request.table) {
        (TableKind::ProtectiveOnly, _) => return refuse("its partitions are lost"),
        (TableKind::HybridGpt, _) => {
            return refuse("both of its tables would have to be kept alike");
        }
        (TableKind::Gpt, Some(NewTable::Mbr)) => return refuse("a GPT is not turned into an MBR"),
        (TableKind::None, Some(_)) => return refuse("there are no partitions to put into a table"),
        _ => {}
    }
    let known = |number: u32| match today.table {
        TableKind::None => number == super::WHOLE_DISK,
        _ => today.partition(number).is_some(),
    };
    let named = request
        .wishes
        .iter()
        .map(|wish| wish.number)
        .chain(request.order.iter().copied());
    if let Some(number) = named.into_iter().find(|number| !known(*number)) {
        return Err(ArrangeError::NoSuchPartition { number });
    }
    let sector = request.sector_size.unwrap_or(today.sector_size).bytes();
    if let Some(align) = request.align
        && !(align.is_power_of_two() && (sector..=1 << 30).contains(&align))
    {
        return Err(ArrangeError::Alignment {
            align,
            least: sector,
        });
    }
    check_mbr(today, size, request, sector)
}

/// A disk that is as large today already is left to what its table can say of it.
fn check_mbr(
    today: &Layout,
    size: u64,
    request: &Request,
    sector: u64,
) -> Result<(), ArrangeError> {
    let stays = today.table == TableKind::Mbr && request.table != Some(NewTable::Gpt);
    let limit = sector << 32;
    match request.disk_size {
        DiskSize::Bytes(asked) if stays && asked > limit && asked != size => {
            Err(ArrangeError::MbrTooLarge { size: asked, limit })
        }
        _ => Ok(()),
    }
}
