//! Used clusters of a FAT file system: those whose entry is not free in any copy of the table.
//!
//! A cluster marked bad counts as used: Linux ends a chain at such a mark and still reads the cluster.

use std::collections::VecDeque;
use std::ops::Range;

use block_io::{BlockRead, ExtentKind, Result};

use super::format::{Geometry, Width};
use crate::used::{Batched, Findings, Joined, UsedRanges, all, all_noting, read_or_note};

/// Bytes of a table looked at in one go: a multiple of three, for entries of 12 bits.
const PIECE: u64 = 3 << 18;

/// The used ranges of the file system on `disk`, in bytes.
pub(crate) fn used_ranges<'a>(
    disk: &'a dyn BlockRead,
    findings: &Findings,
) -> Result<UsedRanges<'a>> {
    let all_used = |why: String| Ok(all_noting(disk, why, findings));
    let mut boot = [0; 512];
    if !read_or_note(disk, 0, &mut boot, "FAT boot sector", findings)? {
        return Ok(all(disk));
    }
    let geometry = match Geometry::parse(&boot) {
        Ok(geometry) => geometry,
        Err(why) => return all_used(format!("FAT boot sector: {why}")),
    };
    if geometry.sectors * geometry.sector > disk.size() {
        return all_used(format!(
            "FAT boot sector: expected at most {} sectors, found {}",
            disk.size() / geometry.sector,
            geometry.sectors
        ));
    }
    // fatgen103 "FAT[0]": its low byte is the media byte. Where it is not, the boot sector may be left
    // over from what was here before.
    let mut first = [0];
    let media = crate::bytes::u8_at(&boot, 21);
    if !read_or_note(disk, geometry.fat_start, &mut first, "FAT 1", findings)? || first != [media] {
        return all_used(format!(
            "first FAT entry: expected {media:#x}, found {:#x}",
            first[0]
        ));
    }
    let mut next = 0;
    let findings = findings.clone();
    let end = geometry.data_start + geometry.clusters * geometry.cluster;
    let mut started = false;
    let batches = Batched::new(move |ready: &mut VecDeque<Range<u64>>| {
        if !started {
            started = true;
            // Boot sector, tables, and the root directory of FAT12 and FAT16.
            ready.push_back(0..geometry.data_start);
            return Ok(true);
        }
        let piece = next..(next + PIECE).min(geometry.fat_len);
        next = piece.end;
        add_piece(disk, &geometry, piece, &findings, ready)?;
        if next < geometry.fat_len {
            return Ok(true);
        }
        // Sectors behind the last cluster, and what lies behind the file system.
        ready.push_back(end..disk.size());
        Ok(false)
    });
    Ok(Box::new(Joined::new(batches)))
}

/// Add the used clusters whose entries lie in `piece` of the tables.
fn add_piece(
    disk: &dyn BlockRead,
    geometry: &Geometry,
    piece: Range<u64>,
    findings: &Findings,
    ready: &mut VecDeque<Range<u64>>,
) -> Result<()> {
    let len = (piece.end - piece.start) as usize;
    let (mut joined, mut table) = (Vec::new(), Vec::new());
    let mut was_read = false;
    for copy in 0..geometry.fats {
        let at = geometry.fat_start + copy * geometry.fat_len + piece.start;
        if is_hole(disk, at, len as u64)? {
            was_read = true;
            continue;
        }
        table.resize(len, 0);
        if !read_or_note(disk, at, &mut table, &format!("FAT {}", copy + 1), findings)? {
            continue;
        }
        was_read = true;
        if joined.is_empty() {
            std::mem::swap(&mut joined, &mut table);
        } else if joined != table {
            findings.note("the copies of the FAT differ: what either calls used counts as used");
            for (byte, other) in joined.iter_mut().zip(&table) {
                *byte |= other;
            }
        }
    }
    let entry = |byte: u64| match geometry.width {
        Width::Fat12 => byte * 2 / 3,
        Width::Fat16 => byte / 2,
        Width::Fat32 => byte / 4,
    };
    let last = geometry.clusters + 2;
    let entries = entry(piece.start).clamp(2, last)..entry(piece.end).clamp(2, last);
    let bytes = |run: Range<u64>| {
        let at = |n: u64| geometry.data_start + (n - 2) * geometry.cluster;
        at(run.start)..at(run.end)
    };
    if !was_read {
        ready.push_back(bytes(entries));
        return Ok(());
    }
    if joined.is_empty() {
        return Ok(());
    }
    let is_used = |n: u64| {
        let (at, _) = geometry.entry_place(n as u32);
        let raw = crate::bytes::array(&joined, (at - piece.start) as usize);
        geometry.entry_value(n as u32, raw) != 0
    };
    let mut run: Option<Range<u64>> = None;
    for n in entries {
        match (&mut run, is_used(n)) {
            (Some(run), true) => run.end = n + 1,
            (None, true) => run = Some(n..n + 1),
            (_, false) => ready.extend(run.take().map(bytes)),
        }
    }
    ready.extend(run.map(bytes));
    Ok(())
}

/// Whether the disk knows, without reading, that these bytes are zeroes: then all entries are free.
fn is_hole(disk: &dyn BlockRead, at: u64, len: u64) -> Result<bool> {
    let extent = match disk.extent_at(at) {
        Ok(extent) => extent,
        Err(_) => return Ok(false),
    };
    Ok(extent.kind == ExtentKind::Zero && extent.start + extent.len >= at.saturating_add(len))
}
