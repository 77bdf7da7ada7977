//! A disk looked at on its own, before what its partitions are members of is known.

use std::ops::Range;
use std::sync::Arc;

use block_io::{BlockError, BlockRead, Window};
use disk_layout::{Layout, Severity, read_layout};
use filesystems::probe::{FsKind, probe};

use crate::content::{LeaveOut, Remarks, find_used, identify, is_ambiguous};
use crate::map::UsedMap;
use crate::signatures::{find_firmware_raid, find_stranger};
use crate::survey::{About, Finding, Survey, SurveyError, Volume};

/// A survey in the making.
pub(crate) struct Draft {
    pub(crate) layout: Layout,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) used: UsedMap,
    findings: Vec<Finding>,
    /// Something makes every byte of the disk count as used.
    all_used: bool,
    leave_out: LeaveOut,
}

/// Whether this content is a member of something else, whose used bytes are found from above.
pub(crate) fn is_member(kind: FsKind) -> bool {
    matches!(kind, FsKind::Lvm2Pv | FsKind::MdMember)
}

impl Draft {
    /// Look at `disk`. Members of volume groups and arrays are neither used nor free yet. Which bytes of
    /// file systems are free is not asked where `leave_out` is `None`: all are used then.
    pub(crate) fn of(
        disk: &dyn BlockRead,
        leave_out: Option<LeaveOut>,
    ) -> Result<Self, SurveyError> {
        let layout = read_layout(disk)?;
        let mut draft = Self {
            volumes: Vec::new(),
            used: UsedMap::none(disk.size()),
            findings: layout.findings.iter().map(of_table).collect(),
            all_used: false,
            leave_out: leave_out.unwrap_or_default(),
            layout,
        };
        draft.all_used = draft.find_doubt(disk)? || leave_out.is_none();
        let mut places: Vec<(Option<u32>, Range<u64>, bool)> = Vec::new();
        if !has_partitions(&draft.layout) {
            // A table that names no partition says nothing: the boot code of a disk that is one file
            // system as a whole ends in the same magic number.
            places.push((None, 0..disk.size(), !draft.all_used));
        }
        for partition in draft.layout.partitions.iter().filter(|p| !p.is_extended()) {
            // A partition of a dynamic disk is a piece of volumes, not one.
            let free_wanted = !draft.all_used && !partition.kind.is_dynamic_disk();
            places.push((Some(partition.number), partition.range.clone(), free_wanted));
        }
        for (number, range, free_wanted) in places {
            let volume = draft.look_at(disk, number, range, free_wanted)?;
            draft.volumes.push(volume);
        }
        for range in &draft.layout.metadata {
            draft.used.add(range.clone());
        }
        Ok(draft)
    }

    /// Take `range` for used.
    pub(crate) fn take(&mut self, range: Range<u64>) {
        self.used.add(range);
    }

    /// The members of volume groups and arrays, by their place among the volumes.
    pub(crate) fn members(&self) -> Vec<usize> {
        let member = |volume: &Volume| volume.probe.as_ref().is_some_and(|p| is_member(p.kind));
        (0..self.volumes.len())
            .filter(|at| self.volumes.get(*at).is_some_and(member))
            .collect()
    }

    /// The survey; all that is in use has been taken. `followed` are the members whose free bytes are
    /// known now.
    pub(crate) fn finish(mut self, followed: &[usize]) -> Survey {
        for at in self.members() {
            if !followed.contains(&at)
                && let Some(volume) = self.volumes.get(at)
            {
                self.used.add(volume.range.clone());
            }
        }
        if self.all_used {
            self.used = UsedMap::all(self.used.size());
        }
        self.used.finish();
        for at in followed {
            if let Some(volume) = self.volumes.get_mut(*at)
                && !self.all_used
            {
                volume.free_known = true;
                volume.used_bytes = self.used.used_bytes_in(volume.range.clone());
            }
        }
        Survey {
            layout: self.layout,
            volumes: self.volumes,
            findings: self.findings,
            used: Arc::new(self.used),
        }
    }

    fn note(&mut self, about: About, severity: Severity, text: impl Into<String>) {
        self.findings.push(Finding {
            about,
            severity,
            text: text.into(),
        });
    }

    /// Whether anything makes every byte of the disk count as used.
    fn find_doubt(&mut self, disk: &dyn BlockRead) -> Result<bool, BlockError> {
        if !self.layout.is_certain() {
            let text = "the partition table is doubtful: every byte counts as used";
            self.note(About::Disk, Severity::Doubtful, text);
            return Ok(true);
        }
        if let Some(raid) = find_firmware_raid(disk)? {
            let text = format!(
                "the disk is a member of {raid}: its partitions may belong to the whole array; \
                 every byte counts as used"
            );
            self.note(About::Disk, Severity::Doubtful, text);
            return Ok(true);
        }
        if !has_partitions(&self.layout) {
            return Ok(false);
        }
        // A table and a file system in each other's place: one of them is left over, or the disk is
        // a member of an array whose content begins with the table.
        let other = match probe(disk)? {
            Some(found) => Some(found.kind.to_string()),
            None => find_stranger(disk)?.map(str::to_owned),
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

    /// Look at one volume, and take its used ranges; its free bytes are asked for only if `free_wanted`.
    fn look_at(
        &mut self,
        disk: &dyn BlockRead,
        partition: Option<u32>,
        range: Range<u64>,
        free_wanted: bool,
    ) -> Result<Volume, BlockError> {
        let window = Window::new(disk, range.clone())?;
        let mut remarks = Remarks::new();
        let found = identify(&window, &mut remarks)?;
        let mut volume = Volume {
            partition,
            range: range.clone(),
            probe: found,
            free_known: false,
            used_bytes: range.end - range.start,
        };
        let kind = volume.probe.as_ref().map(|probe| probe.kind);
        match kind.filter(|_| free_wanted) {
            Some(kind) if is_member(kind) => {
                if is_ambiguous(&window, kind, &mut remarks)? {
                    self.used.add(range);
                }
            }
            Some(kind) => {
                let used = &mut self.used;
                let start = range.start;
                let sum = find_used(&window, kind, self.leave_out, &mut remarks, &mut |part| {
                    used.add(start + part.start..start + part.end);
                })?;
                volume.free_known = sum.is_some();
                match sum {
                    Some(sum) => volume.used_bytes = sum,
                    None => self.used.add(range),
                }
            }
            None => self.used.add(range),
        }
        let about = partition.map_or(About::Disk, About::Partition);
        for (severity, text) in remarks {
            self.note(about, severity, text);
        }
        Ok(volume)
    }
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
