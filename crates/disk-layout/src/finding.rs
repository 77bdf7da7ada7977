//! What is wrong with a table, where, and what was done about it.

use std::fmt;

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Unusual and harmless.
    Note,
    /// Damage; the list of partitions is certain all the same.
    Warning,
    /// The list of partitions may be wrong or incomplete: every byte of the disk must be taken for
    /// used, and nothing may be written by it unasked.
    Doubtful,
}

/// What was found, for matching. The text is the first half of a finding's sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// Sector 0 cannot be read.
    #[error("unreadable boot sector")]
    BootSectorUnreadable,
    /// A boot sector with the magic number and entries, one of whose status bytes no table has.
    #[error("entry of the boot sector with a status that is none")]
    StatusByte,
    /// The table counts in another sector size than the disk.
    #[error("partition table in another sector size")]
    SectorSize,
    /// A GPT without its protective MBR.
    #[error("no protective MBR in front of a GPT")]
    ProtectiveMbrMissing,
    /// The protective entry does not start at sector 1 or has another length than the disk.
    #[error("protective MBR entry does not cover the disk")]
    ProtectiveMbrExtent,
    /// A protective MBR, and no GPT that can be read.
    #[error("protective MBR without a usable GPT")]
    GptMissing,
    /// A valid GPT, or its backup, that nothing at the start of the disk mentions: left over.
    #[error("GPT that the boot sector does not mention")]
    StaleGpt,
    /// MBR entries beside the protective one.
    #[error("hybrid MBR")]
    HybridMbr,
    /// A hybrid MBR entry that is no partition of the GPT.
    #[error("hybrid MBR entry that is no GPT partition")]
    HybridMismatch,
    /// A GPT header cannot be read, or lacks its signature.
    #[error("no GPT header")]
    GptHeaderMissing,
    /// A GPT header whose own checksum is wrong.
    #[error("bad checksum of the GPT header")]
    GptHeaderChecksum,
    /// A GPT header with a field out of bounds.
    #[error("GPT header field out of bounds")]
    GptHeaderField,
    /// The array of GPT entries cannot be read or its checksum is wrong.
    #[error("bad checksum of the GPT partition array")]
    GptArrayChecksum,
    /// The backup GPT is not at the end of the disk.
    #[error("backup GPT not at the end of the disk")]
    GptBackupPlace,
    /// Both copies are valid, and differ.
    #[error("primary and backup GPT differ")]
    GptCopiesDiffer,
    /// Two partitions have one GUID.
    #[error("partition GUID used twice")]
    GuidTwice,
    /// A partition ends before it starts.
    #[error("partition ends before it starts")]
    Reversed,
    /// A partition reaches past the end of the disk.
    #[error("partition reaches past the end of the disk")]
    PastEnd,
    /// A partition lies outside the sectors its GPT calls usable.
    #[error("partition outside the usable sectors")]
    OutsideUsable,
    /// Two partitions overlap.
    #[error("partitions overlap")]
    Overlap,
    /// A partition covers sectors of the table itself.
    #[error("partition covers the partition table")]
    CoversTable,
    /// More than one extended partition.
    #[error("more than one extended partition")]
    SecondExtended,
    /// An extended boot record cannot be read or lacks its signature.
    #[error("no extended boot record")]
    EbrMissing,
    /// A chain of extended boot records comes back to one it has been at.
    #[error("circle of extended boot records")]
    EbrCircle,
    /// A chain of extended boot records is longer than anybody makes them.
    #[error("endless chain of extended boot records")]
    EbrEndless,
    /// A link or a logical partition beyond 2^32 sectors: Windows and many tools cannot reach it.
    #[error("logical partition beyond 2^32 sectors")]
    EbrBeyond32Bits,
    /// A logical partition or a link lies outside the extended partition.
    #[error("logical partition outside the extended one")]
    OutsideExtended,
    /// An extended boot record describes more than one partition.
    #[error("extended boot record with more than one partition")]
    EbrCrowded,
}

/// One thing wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How much it matters.
    pub severity: Severity,
    /// What it is.
    pub what: Damage,
    /// The byte of the disk it stands at.
    pub at: u64,
    /// What should stand there.
    pub expected: String,
    /// What does.
    pub found: String,
    /// What was done about it.
    pub done: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} at byte {}: expected {}, found {}; {}",
            self.what, self.at, self.expected, self.found, self.done
        )
    }
}

/// The findings of one reading, as they gather.
#[derive(Debug, Default)]
pub(crate) struct Findings(pub(crate) Vec<Finding>);

/// No damage makes more findings than this: a table of 32,768 broken entries says enough with these.
const MOST_FINDINGS: usize = 200;

impl Findings {
    pub(crate) fn add(
        &mut self,
        severity: Severity,
        what: Damage,
        at: u64,
        (expected, found): (impl Into<String>, impl Into<String>),
        done: impl Into<String>,
    ) {
        // One doubt must never be lost behind many notes: the last place is kept for it.
        let doubt_known = self.0.iter().any(|f| f.severity == Severity::Doubtful);
        let first_doubt = severity == Severity::Doubtful && !doubt_known;
        if self.0.len() >= MOST_FINDINGS && !first_doubt {
            return;
        }
        self.0.push(Finding {
            severity,
            what,
            at,
            expected: expected.into(),
            found: found.into(),
            done: done.into(),
        });
    }
}
