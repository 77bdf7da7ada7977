//! What a partition or a volume holds, and which bytes of that are in use.

use std::ops::Range;

use block_io::{BlockError, BlockErrorKind, BlockRead};
use disk_layout::Severity;
use filesystems::probe::{FsKind, Probe, probe};
use filesystems::used::{Findings, used_ranges_noting};

use crate::signatures::find_stranger;

/// What was noticed, and how much it matters.
pub(crate) type Remarks = Vec<(Severity, String)>;

/// What `disk` holds, where that is known.
pub(crate) fn identify(
    disk: &dyn BlockRead,
    remarks: &mut Remarks,
) -> Result<Option<Probe>, BlockError> {
    match probe(disk) {
        Err(error) if error.kind() == BlockErrorKind::Unreadable => {
            remarks.push((Severity::Warning, format!("{error}; not recognised")));
            Ok(None)
        }
        found => found,
    }
}

/// Whether `disk` looks like something else than `kind` as well, so that neither is believed.
pub(crate) fn is_ambiguous(
    disk: &dyn BlockRead,
    kind: FsKind,
    remarks: &mut Remarks,
) -> Result<bool, BlockError> {
    let Some(stranger) = find_stranger(disk)? else {
        return Ok(false);
    };
    let text = format!("looks like {kind} and like {stranger}: every byte counts as used");
    remarks.push((Severity::Doubtful, text));
    Ok(true)
}

/// Give the used ranges of `disk`, which holds `kind`, to `sink`, and sum them. `None` where they are
/// not known: all of it counts as used, whatever was given before.
pub(crate) fn find_used(
    disk: &dyn BlockRead,
    kind: FsKind,
    remarks: &mut Remarks,
    sink: &mut dyn FnMut(Range<u64>),
) -> Result<Option<u64>, BlockError> {
    if is_ambiguous(disk, kind, remarks)? {
        return Ok(None);
    }
    let notes = Findings::default();
    let summed = sum_ranges(disk, kind, &notes, sink);
    remarks.extend(
        notes
            .list()
            .into_iter()
            .map(|text| (Severity::Warning, text)),
    );
    match summed {
        Err(error) if error.kind() == BlockErrorKind::Unreadable => {
            let text = format!("{error}; every byte counts as used");
            remarks.push((Severity::Doubtful, text));
            Ok(None)
        }
        summed => summed,
    }
}

fn sum_ranges(
    disk: &dyn BlockRead,
    kind: FsKind,
    notes: &Findings,
    sink: &mut dyn FnMut(Range<u64>),
) -> Result<Option<u64>, BlockError> {
    let Some(ranges) = used_ranges_noting(disk, kind, notes)? else {
        return Ok(None);
    };
    let mut sum = 0;
    for range in ranges {
        let range = range?;
        let range = range.start..range.end.min(disk.size());
        if range.start < range.end {
            sum += range.end - range.start;
            sink(range);
        }
    }
    Ok(Some(sum))
}
