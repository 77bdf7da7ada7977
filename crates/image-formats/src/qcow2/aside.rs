//! What a qcow2 file holds beside the disk: internal snapshots and bitmaps. Their clusters are in use too.

use super::check::Walk;
use super::format::{AUTOCLEAR_BITMAPS, OFFSET_MASK};
use super::rules;
use crate::bytes::{array, be32, be64};
use crate::check::{Mark, Tally};
use crate::error::ParseError;

/// QEMU keeps at most this many snapshots (`QCOW_MAX_SNAPSHOTS`), and bitmaps (`QCOW2_MAX_BITMAPS`).
const MAX_SNAPSHOTS: u64 = 65_536;
const MAX_BITMAPS: u64 = 65_535;
/// An entry's variable part is at most this long: two texts of 64 KiB and the extra data.
const MAX_ENTRY: u64 = 256 << 10;

/// Walk snapshots and bitmaps.
pub(super) fn walk_aside(walk: &mut Walk, tally: &mut Tally) -> Result<(), ParseError> {
    walk_snapshots(walk, tally)?;
    walk_bitmaps(walk, tally)
}

// qcow2.rst, "Snapshots"
fn walk_snapshots(walk: &mut Walk, tally: &mut Tally) -> Result<(), ParseError> {
    let count = u64::from(walk.header.snapshots);
    if count == 0 {
        return Ok(());
    }
    let head = walk.read(64, 8)?;
    let start = be64(&head, 0);
    let size = walk.header.geometry.cluster_size();
    if !start.is_multiple_of(size) || start >= walk.file.size() || count > MAX_SNAPSHOTS {
        let found = format!("{count} at {start}");
        let expected = "at most 65536, cluster aligned, inside the file";
        walk.tell(rules::SNAPSHOT_TABLE, 60, expected, found, tally);
        return Ok(());
    }
    let mut at = start;
    for _ in 0..count {
        // 0 L1 table, 8 its entries, 12 length of the identifier, 14 of the name, 36 of the extra data.
        let entry = walk.read(at, 40)?;
        let (l1, entries) = (be64(&entry, 0), u64::from(be32(&entry, 8)));
        let texts = u64::from(u16::from_be_bytes(array(&entry, 12)))
            + u64::from(u16::from_be_bytes(array(&entry, 14)));
        let extra = u64::from(be32(&entry, 36));
        let fits = l1
            .checked_add(entries * 8)
            .is_some_and(|end| end <= walk.file.size());
        let end = at + 40 + texts + extra;
        if extra > MAX_ENTRY || end > walk.file.size() || !fits || !l1.is_multiple_of(size) {
            let found = format!("an L1 table of {entries} entries at {l1}, an entry up to {end}");
            walk.tell(
                rules::SNAPSHOT_TABLE,
                at,
                "both inside the file",
                found,
                tally,
            );
            return Ok(());
        }
        walk.walk_l1(l1, entries, false, tally)?;
        // Entries are padded to 8 bytes.
        at = end.next_multiple_of(8);
    }
    walk.refer(start, at - start, Mark::Exclusive, 64, tally);
    Ok(())
}

// qcow2.rst, "Bitmaps"
fn walk_bitmaps(walk: &mut Walk, tally: &mut Tally) -> Result<(), ParseError> {
    // Without the bit the extension is stale: a program that did not know it has written to the file.
    let fresh = walk.header.autoclear & AUTOCLEAR_BITMAPS != 0;
    let Some(place) = walk.header.bitmaps.filter(|_| fresh) else {
        return Ok(());
    };
    // 0 number, 8 bytes of the directory, 16 its place.
    let extension = walk.read(place, 24)?;
    let (count, len, start) = (
        u64::from(be32(&extension, 0)),
        be64(&extension, 8),
        be64(&extension, 16),
    );
    let size = walk.header.geometry.cluster_size();
    let inside = start
        .checked_add(len)
        .is_some_and(|end| end <= walk.file.size());
    if count > MAX_BITMAPS || !inside || !start.is_multiple_of(size) {
        let found = format!("{count} bitmaps, {len} bytes at {start}");
        let expected = "a directory inside the file, cluster aligned";
        walk.tell(rules::BITMAP_DIRECTORY, place, expected, found, tally);
        return Ok(());
    }
    walk.refer(start, len, Mark::Exclusive, place + 16, tally);
    let mut at = start;
    for _ in 0..count {
        if at + 24 > start + len {
            let found = "more bitmaps than entries".to_owned();
            walk.tell(rules::BITMAP_DIRECTORY, at, "an entry", found, tally);
            return Ok(());
        }
        // 0 table, 8 its entries, 18 length of the name, 20 of the extra data.
        let entry = walk.read(at, 24)?;
        let (table, entries) = (be64(&entry, 0), u64::from(be32(&entry, 8)));
        let extra = u64::from(be32(&entry, 20));
        let name = u64::from(u16::from_be_bytes(array(&entry, 18)));
        walk_bitmap_table(walk, table, entries, at, tally)?;
        at += (24 + name + extra).next_multiple_of(8);
    }
    Ok(())
}

fn walk_bitmap_table(
    walk: &mut Walk,
    table: u64,
    entries: u64,
    place: u64,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let size = walk.header.geometry.cluster_size();
    let inside = table
        .checked_add(entries * 8)
        .is_some_and(|end| end <= walk.file.size());
    if !inside || !table.is_multiple_of(size) {
        let found = format!("{entries} entries at {table}");
        let expected = "a table inside the file, cluster aligned";
        walk.tell(rules::BITMAP_TABLE, place, expected, found, tally);
        return Ok(());
    }
    walk.refer(table, entries * 8, Mark::Exclusive, place, tally);
    let bytes = walk.read(table, entries * 8)?;
    for (index, entry) in bytes.chunks_exact(8).enumerate() {
        let (entry, place) = (be64(entry, 0), table + index as u64 * 8);
        let cluster = entry & OFFSET_MASK;
        // Bit 0 without an offset says all ones; the others are reserved. // qcow2.rst, "Bitmap table"
        let reserved = entry & !(OFFSET_MASK | 1) != 0 || (cluster != 0 && entry & 1 != 0);
        if reserved || !cluster.is_multiple_of(size) {
            let found = format!("{entry:#018x}");
            walk.tell(
                rules::BITMAP_TABLE,
                place,
                "aligned, reserved bits 0",
                found,
                tally,
            );
        } else if cluster != 0 {
            walk.refer(cluster, size, Mark::Exclusive, place, tally);
        }
    }
    Ok(())
}
