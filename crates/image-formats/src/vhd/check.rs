//! Checks a VHD: footer and its copy, dynamic header, table, bitmaps, and where the blocks lie.

use block_io::BlockRead;

use super::format::{
    COOKIE, DIFFERENCING, DYNAMIC, DYNAMIC_COOKIE, DYNAMIC_LEN, DYNAMIC_SUM, FIXED, MAX_SIZE,
    SECTOR, UNUSED, geometry, is_sealed,
};
use super::rules;
use crate::bytes::{be32, be64};
use crate::check::{Space, Tally, first_set, note, unclaimed, warning};
use crate::error::ParseError;
use crate::finding::Finding;
use crate::image::ImageFile;

/// The table is read in pieces of this size.
const PIECE: u64 = 64 << 10;

/// Check `file`.
pub(crate) fn check(file: &ImageFile, tally: &mut Tally) -> Result<(), ParseError> {
    let disk: &dyn BlockRead = &file.disk;
    let Some(place) = disk.size().checked_sub(SECTOR) else {
        let found = disk.size().to_string();
        return Err(Finding::error(rules::FOOTER, 0, "512 bytes or more", found).into());
    };
    let mut footer = vec![0; SECTOR as usize];
    disk.read_at(place, &mut footer)?;
    if !footer.starts_with(COOKIE) {
        // The reader falls back to older places, and says so.
        return Ok(());
    }
    check_footer(&footer, place, tally);
    match be32(&footer, 60) {
        FIXED => check_fixed(&footer, place, tally),
        DYNAMIC | DIFFERENCING => check_dynamic(disk, &footer, place, tally)?,
        // The reader refuses it.
        _ => {}
    }
    Ok(())
}

// [VHD 1.0] Hard Disk Footer Format
fn check_footer(footer: &[u8], place: u64, tally: &mut Tally) {
    let features = be32(footer, 8);
    if features & 2 == 0 {
        let found = format!("{features:#x}");
        tally.tell(warning(rules::FEATURES, place + 8, "bit 1 set", found));
    }
    if features & !3 != 0 {
        let found = format!("{features:#x}");
        tally.tell(warning(
            rules::FEATURES,
            place + 8,
            "no unknown bits",
            found,
        ));
    }
    let (size, original) = (be64(footer, 48), be64(footer, 40));
    if size > MAX_SIZE {
        let expected = format!("at most {MAX_SIZE}");
        tally.tell(warning(
            rules::LARGEST,
            place + 48,
            expected,
            size.to_string(),
        ));
    }
    if !size.is_multiple_of(SECTOR) || size == 0 {
        tally.tell(warning(
            rules::SECTORS,
            place + 48,
            "whole sectors",
            size.to_string(),
        ));
    }
    if original != size {
        let found = format!("{original}, the current size is {size}");
        tally.tell(note(rules::RESIZED, place + 40, "the same size", found));
    }
    let expected = geometry(size / SECTOR);
    let cylinders = be32(footer, 56) >> 16;
    let (heads, track) = (be32(footer, 56) >> 8 & 0xff, be32(footer, 56) & 0xff);
    let found = (cylinders as u16, heads as u8, track as u8);
    if found != expected {
        let [expected, found] =
            [expected, found].map(|(c, h, s)| format!("{c} cylinders, {h} heads, {s} sectors"));
        tally.tell(note(rules::GEOMETRY, place + 56, expected, found));
    }
    if footer.get(68..84).is_none_or(|id| first_set(id).is_none()) {
        tally.tell(warning(
            rules::IDENTITY,
            place + 68,
            "an identifier",
            "zeroes",
        ));
    }
    if footer.get(84).is_some_and(|saved| *saved > 1) {
        let found = footer.get(84).copied().unwrap_or(0).to_string();
        tally.tell(warning(rules::SAVED_STATE, place + 84, "0 or 1", found));
    }
    if footer.get(84) == Some(&1) {
        let found = "1: the machine was suspended".to_owned();
        tally.tell(note(rules::SAVED_STATE, place + 84, "0", found));
    }
    if let Some(at) = footer.get(85..).and_then(first_set) {
        let at = place + 85 + at as u64;
        tally.tell(note(rules::RESERVED, at, "zeroes", "other bytes"));
    }
}

fn check_fixed(footer: &[u8], place: u64, tally: &mut Tally) {
    let (offset, size) = (be64(footer, 16), be64(footer, 48));
    if offset != u64::MAX {
        let found = format!("{offset:#x}");
        tally.tell(warning(rules::DATA_OFFSET, place + 16, "all ones", found));
    }
    // The reader refuses a file that is too short.
    if size < place {
        let expected = format!("a footer at {size}");
        let found = format!("{} bytes before it", place - size);
        tally.leak(0, Finding::error(rules::SIZE, place, expected, found));
    }
    tally.total_units = Some(size / SECTOR);
    tally.allocated_units = Some(size / SECTOR);
    tally.end = Some(place + SECTOR);
}

// [VHD 1.0] Dynamic Disk Header Format
fn check_dynamic(
    disk: &dyn BlockRead,
    footer: &[u8],
    place: u64,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut copy = vec![0; SECTOR as usize];
    disk.read_at(0, &mut copy)?;
    if copy != *footer {
        let at = copy
            .iter()
            .zip(footer)
            .position(|(a, b)| a != b)
            .unwrap_or(0);
        let found = format!("another byte at {at}");
        tally.tell(warning(
            rules::COPY,
            at as u64,
            "the bytes of the footer",
            found,
        ));
    }
    let start = be64(footer, 16);
    let inside = start
        .checked_add(DYNAMIC_LEN)
        .is_some_and(|end| end <= place);
    let mut head = vec![0; DYNAMIC_LEN as usize];
    if inside {
        disk.read_at(start, &mut head)?;
    }
    if !inside || !head.starts_with(DYNAMIC_COOKIE) || !is_sealed(&head, DYNAMIC_SUM) {
        let expected = "cxsparse and its checksum";
        return Err(
            Finding::error(rules::DYNAMIC_HEADER, start, expected, "something else").into(),
        );
    }
    if be64(&head, 8) != u64::MAX {
        let found = format!("{:#x}", be64(&head, 8));
        tally.tell(note(rules::DYNAMIC_RESERVED, start + 8, "all ones", found));
    }
    if be32(&head, 24) >> 16 != 1 {
        let found = format!("{:#x}", be32(&head, 24));
        tally.tell(warning(rules::VERSION, start + 24, "0x10000", found));
    }
    if let Some(at) = head.get(768..).and_then(first_set) {
        let at = start + 768 + at as u64;
        tally.tell(note(rules::DYNAMIC_RESERVED, at, "zeroes", "other bytes"));
    }
    let block = u64::from(be32(&head, 32));
    let size = be64(footer, 48);
    let (table, entries) = (be64(&head, 16), u64::from(be32(&head, 28)));
    let inside = table
        .checked_add(entries * 4)
        .is_some_and(|end| end <= place);
    if !block.is_power_of_two() || block < SECTOR || !inside {
        // The reader refuses both, with the rule.
        return Ok(());
    }
    let mut space = Space::default();
    space.claim(0, SECTOR, "the copy of the footer", 0);
    space.claim(start, DYNAMIC_LEN, "the dynamic header", 16);
    space.claim(place, SECTOR, "the footer", place);
    let table_len = (entries * 4).next_multiple_of(SECTOR);
    space.claim(table, table_len, "the table", start + 16);
    for index in 0..8 {
        let at = 576 + index * 24;
        // 0 code, 4 sectors set aside, 8 bytes, 16 place.
        let (code, len) = (be32(&head, at), u64::from(be32(&head, at + 8)));
        if code != 0 {
            let from = start + at as u64;
            space.claim(be64(&head, at + 16), len, "a parent locator", from);
        }
    }
    let layout = Layout {
        size,
        block,
        bitmap: (block / SECTOR).div_ceil(8).next_multiple_of(SECTOR),
        needed: size.div_ceil(block),
        place,
        dynamic: be32(footer, 60) == DYNAMIC,
    };
    walk_table(disk, table, entries, &layout, &mut space, tally)?;
    settle(space, &layout, tally);
    Ok(())
}

struct Layout {
    size: u64,
    block: u64,
    bitmap: u64,
    /// Entries the disk needs.
    needed: u64,
    /// Where the footer lies.
    place: u64,
    dynamic: bool,
}

// [VHD 1.0] Block Allocation Table
fn walk_table(
    disk: &dyn BlockRead,
    table: u64,
    entries: u64,
    layout: &Layout,
    space: &mut Space,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let (mut at, mut allocated) = (0, 0);
    while at < entries * 4 {
        let mut piece = vec![0; PIECE.min(entries * 4 - at) as usize];
        disk.read_at(table + at, &mut piece)?;
        for (index, entry) in piece.chunks_exact(4).enumerate() {
            let entry = be32(entry, 0);
            let (block, from) = (at / 4 + index as u64, table + at + index as u64 * 4);
            if entry == UNUSED {
                continue;
            }
            if block >= layout.needed {
                let found = format!("block {block} of a disk of {}", layout.needed);
                tally.tell(warning(rules::BEYOND, from, "all ones", found));
                continue;
            }
            allocated += 1;
            let start = u64::from(entry) * SECTOR;
            let held = layout.block.min(layout.size - block * layout.block);
            if start + layout.bitmap + held > layout.place {
                let expected = format!("an end before the footer at {}", layout.place);
                tally.corrupt(Finding::error(
                    rules::BLOCK,
                    from,
                    expected,
                    start.to_string(),
                ));
                continue;
            }
            // The block of a disk's end is whole too, where the file goes on.
            let whole = (layout.bitmap + layout.block).min(layout.place - start);
            space.claim(start, whole, "a block", from);
            if layout.dynamic {
                check_bitmap(disk, start, held, layout, tally)?;
            }
        }
        at += piece.len() as u64;
    }
    tally.total_units = Some(layout.needed);
    tally.allocated_units = Some(allocated);
    Ok(())
}

/// A sector whose bit is clear reads as zeroes for a reader that honours the bitmap, and as what stands
/// there for one that does not, such as QEMU: both must be the same. // [VHD 1.0] Data Blocks
fn check_bitmap(
    disk: &dyn BlockRead,
    start: u64,
    held: u64,
    layout: &Layout,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut bitmap = vec![0; layout.bitmap as usize];
    disk.read_at(start, &mut bitmap)?;
    let sectors = held.div_ceil(SECTOR);
    let whole = (sectors / 8) as usize;
    if bitmap.iter().take(whole).all(|byte| *byte == 0xff) {
        return Ok(());
    }
    let mut sector = [0; SECTOR as usize];
    for index in 0..sectors {
        let byte = bitmap.get((index / 8) as usize).copied().unwrap_or(0xff);
        if byte >> (7 - index % 8) & 1 == 1 {
            continue;
        }
        let at = start + layout.bitmap + index * SECTOR;
        let len = SECTOR.min(held - index * SECTOR) as usize;
        let Some(part) = sector.get_mut(..len) else {
            continue;
        };
        disk.read_at(at, part)?;
        if first_set(part).is_some() {
            let found = format!("data in sector {index} of the block");
            let finding = Finding::error(rules::BITMAP, start + index / 8, "its bit set", found);
            tally.tell(finding.with(crate::finding::Severity::Warning));
            return Ok(());
        }
    }
    Ok(())
}

fn settle(space: Space, layout: &Layout, tally: &mut Tally) {
    let unit = layout.block + layout.bitmap;
    let end = space.tell(
        unit,
        layout.place,
        rules::OVERLAP,
        tally,
        |from, to, tally| {
            let finding = unclaimed(rules::LEAK, from, to, "a block");
            tally.leak((to - from) / unit, finding);
        },
    );
    tally.end = Some(end);
}

#[cfg(test)]
mod tests {
    use super::super::format::{FOOTER_SUM, new_footer};
    use super::*;

    #[test]
    fn a_footer_of_our_own_breaks_no_rule() {
        let mut tally = Tally::default();
        let footer = new_footer(5 << 20, FIXED);
        assert!(is_sealed(&footer, FOOTER_SUM));
        check_footer(&footer, 5 << 20, &mut tally);
        check_fixed(&footer, 5 << 20, &mut tally);
        let path = std::path::Path::new("x");
        let report = tally.report(path, crate::detect::ImageFormat::Vhd, false, 0, None);
        assert_eq!(report.findings, []);
    }
}
