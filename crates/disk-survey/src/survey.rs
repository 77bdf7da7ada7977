//! Looking at a disk once.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockError, BlockErrorKind, BlockRead, Window};
use disk_layout::{Layout, LayoutError, Severity, TableKind, read_layout};
use filesystems::probe::{Probe, probe};
use filesystems::used::{Findings as FsFindings, used_ranges_noting};

use crate::map::UsedMap;
use crate::signatures::{find_firmware_raid, find_stranger};
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
/// records of file systems, nothing else.
///
/// # Errors
/// [`SurveyError`] where the disk fails otherwise than by bad sectors. Damage is findings.
pub fn survey(disk: &dyn BlockRead) -> Result<Survey, SurveyError> {
    let layout = read_layout(disk)?;
    let mut surveyor = Surveyor {
        disk,
        findings: layout.findings.iter().map(of_table).collect(),
        used: UsedMap::none(disk.size()),
    };
    let all_used = surveyor.find_doubt(&layout)?;
    let mut volumes = Vec::new();
    if !has_partitions(&layout) {
        // A table that names no partition says nothing: the boot code of a disk that is one file
        // system as a whole ends in the same magic number.
        volumes.push(surveyor.look_at(None, 0..disk.size(), !all_used)?);
    }
    for partition in layout.partitions.iter().filter(|p| !p.is_extended()) {
        let number = Some(partition.number);
        // A partition of a dynamic disk is a piece of volumes, not one.
        let free_wanted = !all_used && !partition.kind.is_dynamic_disk();
        volumes.push(surveyor.look_at(number, partition.range.clone(), free_wanted)?);
    }
    for range in &layout.metadata {
        surveyor.used.add(range.clone());
    }
    if all_used {
        surveyor.used = UsedMap::all(disk.size());
    }
    surveyor.used.finish();
    Ok(Survey {
        layout,
        volumes,
        findings: surveyor.findings,
        used: Arc::new(surveyor.used),
    })
}

fn has_partitions(layout: &Layout) -> bool {
    layout.partitions.iter().any(|p| !p.is_extended())
}

fn of_table(finding: &disk_layout::Finding) -> Finding {
    Finding {
        about: About::Table,
        severity: finding.severity,
        text: finding.to_string(),
    }
}

struct Surveyor<'a> {
    disk: &'a dyn BlockRead,
    findings: Vec<Finding>,
    used: UsedMap,
}

impl Surveyor<'_> {
    fn note(&mut self, about: About, severity: Severity, text: impl Into<String>) {
        self.findings.push(Finding {
            about,
            severity,
            text: text.into(),
        });
    }

    /// Whether anything makes every byte of the disk count as used.
    fn find_doubt(&mut self, layout: &Layout) -> Result<bool, BlockError> {
        if !layout.is_certain() {
            let text = "the partition table is doubtful: every byte counts as used";
            self.note(About::Disk, Severity::Doubtful, text);
            return Ok(true);
        }
        if let Some(raid) = find_firmware_raid(self.disk)? {
            let text = format!(
                "the disk is a member of {raid}: its partitions may belong to the whole array; \
                 every byte counts as used"
            );
            self.note(About::Disk, Severity::Doubtful, text);
            return Ok(true);
        }
        if !has_partitions(layout) {
            return Ok(false);
        }
        // A table and a file system in each other's place: one of them is left over, or the disk is
        // a member of an array whose content begins with the table.
        let other = match probe(self.disk)? {
            Some(found) => Some(found.kind.to_string()),
            None => find_stranger(self.disk)?.map(str::to_owned),
        };
        if let Some(other) = other {
            let text = format!(
                "the disk has a partition table and, as a whole, holds {other}: every byte counts \
                 as used"
            );
            self.note(About::Disk, Severity::Doubtful, text);
            return Ok(true);
        }
        Ok(false)
    }

    /// Look at one volume, and add its used ranges; its free bytes are asked for only if `free_wanted`.
    fn look_at(
        &mut self,
        partition: Option<u32>,
        range: Range<u64>,
        free_wanted: bool,
    ) -> Result<Volume, BlockError> {
        let about = partition.map_or(About::Disk, About::Partition);
        let window = Window::new(self.disk, range.clone())?;
        let found = match probe(&window) {
            Err(error) if error.kind() == BlockErrorKind::Unreadable => {
                let text = format!("{error}; not recognised");
                self.note(about, Severity::Warning, text);
                None
            }
            found => found?,
        };
        let mut volume = Volume {
            partition,
            range: range.clone(),
            probe: found,
            free_known: false,
            used_bytes: range.end - range.start,
        };
        if free_wanted {
            self.add_used(&window, &mut volume, about)?;
        }
        if !volume.free_known {
            self.used.add(range);
        }
        Ok(volume)
    }

    /// Add the used ranges of a volume whose file system is understood.
    fn add_used(
        &mut self,
        window: &Window<&dyn BlockRead>,
        volume: &mut Volume,
        about: About,
    ) -> Result<(), BlockError> {
        let Some(kind) = volume.probe.as_ref().map(|probe| probe.kind) else {
            return Ok(());
        };
        if let Some(stranger) = find_stranger(window)? {
            let text = format!("looks like {kind} and like {stranger}: every byte counts as used");
            self.note(about, Severity::Doubtful, text);
            return Ok(());
        }
        let notes = FsFindings::default();
        let summed = self.sum_ranges(window, kind, volume.range.start, &notes);
        for text in notes.list() {
            self.note(about, Severity::Warning, text);
        }
        match summed {
            Ok(Some(used_bytes)) => {
                volume.free_known = true;
                volume.used_bytes = used_bytes;
            }
            Ok(None) => {}
            Err(error) if error.kind() == BlockErrorKind::Unreadable => {
                let text = format!("{error}; every byte counts as used");
                self.note(about, Severity::Doubtful, text);
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Add the used ranges of a file system that begins at `start`, and sum them. `None` where they
    /// are not known.
    fn sum_ranges(
        &mut self,
        window: &Window<&dyn BlockRead>,
        kind: filesystems::probe::FsKind,
        start: u64,
        notes: &FsFindings,
    ) -> Result<Option<u64>, BlockError> {
        let Some(ranges) = used_ranges_noting(window, kind, notes)? else {
            return Ok(None);
        };
        let mut sum = 0;
        for range in ranges {
            let range = range?;
            let len = range.end.min(window.size()).saturating_sub(range.start);
            sum += len;
            let from = start.saturating_add(range.start);
            self.used.add(from..from.saturating_add(len));
        }
        Ok(Some(sum))
    }
}
