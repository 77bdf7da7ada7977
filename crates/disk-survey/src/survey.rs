//! Looking at a disk once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockError, BlockRead};
use disk_layout::{Layout, LayoutError, Severity, TableKind};
use filesystems::probe::Probe;

use crate::content::LeaveOut;
use crate::map::UsedMap;
use crate::stack::survey_all_but;
use crate::used_only::UsedOnly;

/// What a disk holds.
#[derive(Debug, Clone)]
pub struct Survey {
    /// Its partition table.
    pub layout: Layout,
    /// What lies in its partitions, in their order in the table; or on the whole disk, where there is
    /// no table or an empty one. Extended partitions are no volumes.
    pub volumes: Vec<Volume>,
    /// What was noticed, the table's findings first.
    pub findings: Vec<Finding>,
    /// Which bytes are in use.
    pub used: Arc<UsedMap>,
}

/// Something that may hold a file system.
#[derive(Debug, Clone)]
pub struct Volume {
    /// The number of its partition; `None` for the whole disk.
    pub partition: Option<u32>,
    /// The bytes it covers.
    pub range: Range<u64>,
    /// What it holds, where that is known.
    pub probe: Option<Probe>,
    /// Whether its free bytes are known. Otherwise all of it counts as used.
    pub free_known: bool,
    /// Bytes in use.
    pub used_bytes: u64,
}

/// What a finding is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum About {
    /// The disk as a whole.
    Disk,
    /// Its partition table.
    Table,
    /// The partition with this number.
    Partition(u32),
}

/// Something noticed while looking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What it is about.
    pub about: About,
    /// How much it matters. `Doubtful`: all of what it is about counts as used.
    pub severity: Severity,
    /// A sentence for the user.
    pub text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.about {
            About::Disk => f.write_str("disk: ")?,
            About::Table => f.write_str("partition table: ")?,
            About::Partition(number) => write!(f, "partition {number}: ")?,
        }
        f.write_str(&self.text)
    }
}

/// Why a disk cannot be surveyed.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The table cannot be read.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// The disk fails otherwise than by bad sectors.
    #[error("looking at what the disk holds")]
    Disk(#[from] BlockError),
}

impl Survey {
    /// `disk`, the one that was surveyed, with what is not in use as zeroes.
    pub fn used_only<D: BlockRead>(&self, disk: D) -> UsedOnly<D> {
        UsedOnly::new(disk, Arc::clone(&self.used))
    }

    /// How many bytes are in use.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.used.used_bytes()
    }

    /// Whether nothing at all is known to be on the disk: no table and no content that probing knows.
    /// It may still be full of something.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.layout.table == TableKind::None && self.volumes.iter().all(|v| v.probe.is_none())
    }
}

/// Look at `disk`: table, volumes, and the bytes in use. Reads tables, signatures and the allocation
/// records of file systems, nothing else. Volume groups and arrays are followed as far as this disk alone
/// tells; [`survey_all`](crate::survey_all) follows them over several.
///
/// # Errors
/// [`SurveyError`] where the disk fails otherwise than by bad sectors. Damage is findings.
pub fn survey(disk: &dyn BlockRead) -> Result<Survey, SurveyError> {
    survey_but(disk, LeaveOut::default())
}

/// As [`survey`]; what `leave_out` names counts as free.
///
/// # Errors
/// As [`survey`].
pub fn survey_but(disk: &dyn BlockRead, leave_out: LeaveOut) -> Result<Survey, SurveyError> {
    let mut surveys = survey_all_but(&[disk], leave_out)?.into_surveys();
    Ok(surveys.swap_remove(0))
}
