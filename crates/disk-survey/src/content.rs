//! What a partition or a volume holds, and which bytes of that are in use.

use std::ops::Range;

use block_io::{BlockError, BlockErrorKind, BlockRead};
use disk_layout::Severity;
use filesystems::ntfs::system_files;
use filesystems::probe::{FsKind, Probe, probe};
use filesystems::used::{Findings, used_ranges_noting};

use crate::signatures::find_stranger;

/// What counts as free although a file system uses it. The default: nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeaveOut {
    /// Windows' page and swap files, and its hibernation file, of file systems none of whose systems
    /// sleeps: Windows makes them anew, whatever is in them.
    pub page_files: bool,
}

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
    leave_out: LeaveOut,
    remarks: &mut Remarks,
    sink: &mut dyn FnMut(Range<u64>),
) -> Result<Option<u64>, BlockError> {
    if is_ambiguous(disk, kind, remarks)? {
        return Ok(None);
    }
    let left_out = match (leave_out.page_files, kind) {
        (true, FsKind::Ntfs) => page_files(disk, remarks),
        _ => Vec::new(),
    };
    let notes = Findings::default();
    let summed = sum_ranges(disk, kind, &left_out, &notes, sink);
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
    left_out: &[Range<u64>],
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
        each_outside(range, left_out, &mut |part| {
            sum += part.end - part.start;
            sink(part);
        });
    }
    Ok(Some(sum))
}

/// The parts of `range` that lie outside of `left_out`, whose ranges are sorted and apart.
fn each_outside(range: Range<u64>, left_out: &[Range<u64>], sink: &mut dyn FnMut(Range<u64>)) {
    let mut start = range.start;
    let first = left_out.partition_point(|out| out.end <= range.start);
    for out in left_out.get(first..).unwrap_or_default() {
        if out.start >= range.end {
            break;
        }
        if start < out.start {
            sink(start..out.start);
        }
        start = start.max(out.end);
    }
    if start < range.end {
        sink(start..range.end);
    }
}

/// Where the page, swap and hibernation files of the NTFS on `disk` lie, sorted; nothing, and why, where
/// they must be kept.
fn page_files(disk: &dyn BlockRead, remarks: &mut Remarks) -> Vec<Range<u64>> {
    let kept = |why: String| (Severity::Warning, format!("page files are kept: {why}"));
    let files = match system_files(disk) {
        Ok(files) => files,
        // A disk that fails is met again when the used clusters are read.
        Err(error) => {
            remarks.push(kept(error.to_string()));
            return Vec::new();
        }
    };
    if files.iter().any(|file| file.is_hibernated) {
        let why = "hiberfil.sys holds a system that sleeps; start it and shut it down fully \
                   (shutdown /s /f /t 0) to leave them out";
        remarks.push(kept(why.to_owned()));
        return Vec::new();
    }
    let mut ranges = Vec::new();
    for file in files {
        let len: u64 = file
            .ranges
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        if len > 0 {
            let text = format!("{} is left out: {len} bytes", file.name);
            remarks.push((Severity::Note, text));
        }
        ranges.extend(file.ranges);
    }
    ranges.sort_by_key(|range| range.start);
    ranges
}
