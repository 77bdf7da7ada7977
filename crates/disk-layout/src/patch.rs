//! Plans: bytes to be written, listed before anything is.

use block_io::{BlockError, BlockRead, BlockWrite};

/// Bytes of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patch {
    /// The byte of the disk they go to.
    pub at: u64,
    /// The bytes.
    pub bytes: Vec<u8>,
    /// What they are, for the reader of a plan.
    pub what: &'static str,
}

/// Why a table cannot be written as it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The disk is too small for the table.
    #[error("the table needs {needed} bytes, the disk has {size}")]
    TooSmall {
        /// Size of the disk.
        size: u64,
        /// Bytes needed.
        needed: u64,
    },
    /// A partition reaches past where it may.
    #[error("partition {number} ends at sector {found}, the last usable one is {limit}")]
    PastEnd {
        /// Its number.
        number: u32,
        /// The last sector allowed.
        limit: u64,
        /// Its last sector.
        found: u64,
    },
    /// A partition begins before it may, or ends before it begins.
    #[error("partition {number} begins at sector {found}, expected {expected} or more")]
    TooEarly {
        /// Its number.
        number: u32,
        /// The first sector allowed.
        expected: u64,
        /// Its first sector.
        found: u64,
    },
    /// Two partitions overlap.
    #[error("partitions {first} and {second} overlap at sector {at}")]
    Overlap {
        /// The one that begins first.
        first: u32,
        /// The one that begins inside it.
        second: u32,
        /// Where the second begins.
        at: u64,
    },
    /// A number is 0, used twice, or beyond the entries of the table.
    #[error("partition number {number} is used twice or not in 1..={most}")]
    Number {
        /// The number.
        number: u32,
        /// The highest one of the table.
        most: u32,
    },
    /// A sector number does not fit its field of 32 bits.
    #[error("partition {number}: {found} sectors do not fit the 32 bits of its field")]
    Beyond32Bits {
        /// Its number.
        number: u32,
        /// The value that does not fit.
        found: u64,
    },
    /// The chain of extended boot records is not one that can be written back as it is.
    #[error("the chain of extended boot records cannot be kept: {why}")]
    Chain {
        /// What is unusual about it.
        why: &'static str,
    },
    /// There is no table of that kind to write.
    #[error("no valid copy of the GPT to repair from")]
    NothingToRepairFrom,
    /// Reading the disk or its table.
    #[error("reading the disk")]
    Read(#[source] BlockError),
    /// Reading the layout.
    #[error(transparent)]
    Layout(#[from] crate::layout::LayoutError),
}

/// Write a plan, in its order.
///
/// # Errors
/// As the disk answers; what came before is written then.
pub fn apply(disk: &dyn BlockWrite, plan: &[Patch]) -> Result<(), BlockError> {
    for patch in plan {
        disk.write_at(patch.at, &patch.bytes)?;
    }
    disk.flush()
}

/// Those patches of a plan that would change something on `disk`. None: the plan is done already.
///
/// # Errors
/// As the disk answers.
pub fn pending(disk: &dyn BlockRead, plan: Vec<Patch>) -> Result<Vec<Patch>, BlockError> {
    let mut changes = Vec::new();
    for patch in plan {
        let mut there = vec![0; patch.bytes.len()];
        disk.read_at(patch.at, &mut there)?;
        if there != patch.bytes {
            changes.push(patch);
        }
    }
    Ok(changes)
}
