//! Checks a VDI: header, block table, and where the blocks lie.

use block_io::BlockRead;

use super::format::{DIFFERENCING, FIXED, FREE, HEADER_LEN, Header, SECTOR, ZERO};
use super::reader::{check_header, read_header};
use super::rules;
use crate::bytes::le32;
use crate::check::{Space, Tally, first_set, note, unclaimed, walk_entries, warning};
use crate::error::ParseError;
use crate::finding::Finding;
use crate::image::ImageFile;

/// Check `file`.
pub(crate) fn check(file: &ImageFile, tally: &mut Tally) -> Result<(), ParseError> {
    let disk: &dyn BlockRead = &file.disk;
    let header = read_header(disk)?;
    // What it notes the reader notes again.
    check_header(&header, disk)?;
    check_fields(&header, disk, tally)?;
    let mut space = Space::default();
    space.claim(0, header.table, "the header", 0);
    let head = header.data - header.table;
    space.claim(header.table, head, "the table", 340);
    walk_table(&header, disk, &mut space, tally)?;
    let stride = header.block + header.block_extra;
    let end = space.tell(
        stride,
        disk.size(),
        rules::SHARED,
        tally,
        |from, to, tally| {
            let finding = unclaimed(rules::LEAK, from, to, "a block");
            tally.leak((to - from) / stride, finding);
        },
    );
    if disk.size() > end && disk.size() - end < stride {
        let found = format!("{} bytes behind it", disk.size() - end);
        tally.tell(note(rules::LENGTH, end, "the file's end", found));
    }
    tally.end = Some(end);
    Ok(())
}

// [VDICore.h] VDIHEADER1PLUS
fn check_fields(
    header: &Header,
    disk: &dyn BlockRead,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut head = [0; HEADER_LEN];
    disk.read_at(0, &mut head)?;
    let flags = le32(&head, 80);
    // Bit 8 has blocks filled with zeroes when they are made; the others are not used in files.
    if flags & !0x100 != 0 {
        let found = format!("{flags:#x}");
        tally.tell(note(rules::FLAGS, 80, "0 or 0x100", found));
    }
    for (id, offset) in [(header.id, 392), (header.modification, 408)] {
        if id.is_nil() {
            tally.tell(warning(rules::ID, offset, "an identifier", "zeroes"));
        }
    }
    if header.kind != DIFFERENCING && !header.parent_modification.is_nil() {
        let found = header.parent_modification.to_string();
        tally.tell(warning(rules::LINK, 440, "no identifier", found));
    }
    let needed = header.size.div_ceil(header.block);
    if header.blocks != needed {
        let found = header.blocks.to_string();
        tally.tell(warning(rules::BLOCKS, 384, needed.to_string(), found));
    }
    if let Some(at) = head.get(472..).and_then(first_set) {
        let at = 472 + at as u64;
        tally.tell(note(rules::RESERVED, at, "zeroes", "other bytes"));
    }
    Ok(())
}

// [VDICore.h] VDIIMAGEBLOCKPOINTER
fn walk_table(
    header: &Header,
    disk: &dyn BlockRead,
    space: &mut Space,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let stride = header.block + header.block_extra;
    let needed = header.size.div_ceil(header.block);
    let (mut allocated, mut missing) = (0u64, 0u64);
    walk_entries::<4>(disk, header.table, header.blocks, |block, from, entry| {
        let number = u32::from_le_bytes(entry);
        if matches!(number, FREE | ZERO) {
            missing += u64::from(block < needed);
            return;
        }
        allocated += 1;
        let start = u64::from(number)
            .saturating_mul(stride)
            .saturating_add(header.data);
        let held = header
            .block
            .min(header.size.saturating_sub(block * header.block))
            .max(SECTOR);
        let end = start.saturating_add(header.block_extra + held);
        if u64::from(number) >= header.allocated || end > disk.size() {
            let expected = format!("below {}, inside the file", header.allocated);
            let found = number.to_string();
            tally.corrupt(Finding::error(rules::BLOCK, from, expected, found));
            return;
        }
        space.claim(start, stride.min(disk.size() - start), "a block", from);
    })?;
    if allocated != header.allocated {
        let expected = allocated.to_string();
        let found = header.allocated.to_string();
        // `qemu-img check` counts it as a corruption too: what is allocated next would be written
        // to a place that is taken.
        tally.corrupt(Finding::error(rules::ALLOCATED, 388, expected, found));
    }
    if header.kind == FIXED && missing > 0 {
        let found = format!("{missing} that are not");
        tally.tell(warning(
            rules::FIXED,
            header.table,
            "all blocks there",
            found,
        ));
    }
    tally.total_units = Some(needed);
    tally.allocated_units = Some(allocated);
    Ok(())
}
