//! Checks a VHDX file: both headers, both region tables, metadata, and where every block lies.

use block_io::BlockRead;

use super::format::{
    BLOCK_FULLY_PRESENT, BLOCK_NOT_PRESENT, BLOCK_PARTIALLY_PRESENT, BLOCK_UNDEFINED,
    BLOCK_UNMAPPED, BLOCK_ZERO, Guid, HEADER_LEN, HEADER_OFFSETS, Header, ITEM_DISK_ID,
    ITEM_FILE_PARAMETERS, ITEM_LOGICAL_SECTOR, ITEM_PARENT_LOCATOR, ITEM_PHYSICAL_SECTOR,
    ITEM_VIRTUAL_SIZE, META_REQUIRED, META_VIRTUAL_DISK, METADATA_TABLE_LEN, MIB, REGION_BAT,
    REGION_METADATA, REGION_TABLE_LEN, REGION_TABLE_OFFSETS, checksum, chunk_ratio,
    split_bat_entry,
};
use super::metadata::{Metadata, read_metadata};
use super::rules;
use crate::bytes::{le16, le32, le64};
use crate::check::{Space, Tally, first_set, note, unclaimed, warning};
use crate::error::ParseError;
use crate::finding::Finding;
use crate::image::ImageFile;

/// The BAT is read in pieces of this size.
const PIECE: u64 = 64 << 10;

/// Check `file`.
pub(crate) fn check(file: &ImageFile, tally: &mut Tally) -> Result<(), ParseError> {
    let read = read_metadata(&file.disk)?;
    let mut space = Space::default();
    // Identifier, headers and region tables. // [MS-VHDX] 2.2
    space.claim(0, MIB, "the header section", 0);
    check_headers(&file.disk, &mut space, tally)?;
    let metadata = check_regions(&read, &mut space, tally)?;
    if let Some(place) = metadata {
        check_items(&read, place, tally)?;
    }
    walk_bat(&read, &mut space, tally)?;
    settle(&read, space, tally);
    Ok(())
}

// [MS-VHDX] 2.2.2
fn check_headers(
    file: &dyn BlockRead,
    space: &mut Space,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let mut valid: Vec<(Header, u64)> = Vec::new();
    for offset in HEADER_OFFSETS {
        let mut bytes = [0; HEADER_LEN];
        if file.size() >= offset + HEADER_LEN as u64 {
            file.read_at(offset, &mut bytes)?;
        }
        // One that is not valid the reader tells.
        let Some(header) = Header::parse(&bytes) else {
            continue;
        };
        if let Some(at) = bytes.get(80..).and_then(first_set) {
            let at = offset + 80 + at as u64;
            tally.tell(warning(rules::HEADER_RESERVED, at, "zeroes", "other bytes"));
        }
        if header.version != 1 || header.log_version != 0 {
            let found = format!("{} and {}", header.version, header.log_version);
            tally.tell(warning(rules::VERSION, offset + 64, "1 and 0", found));
        }
        valid.push((header, offset));
    }
    if let [(first, _), (second, place)] = valid.as_slice()
        && first.sequence == second.sequence
        && first.to_bytes() != second.to_bytes()
    {
        let found = format!("{} in both", first.sequence);
        tally.corrupt(Finding::error(
            rules::HEADER_SEQUENCE,
            *place + 8,
            "two numbers",
            found,
        ));
    }
    if let Some((header, place)) = valid.iter().max_by_key(|(header, _)| header.sequence) {
        let len = u64::from(header.log_len);
        let lies = len.is_multiple_of(MIB)
            && header.log_offset.is_multiple_of(MIB)
            && header.log_offset >= MIB
            && header
                .log_offset
                .checked_add(len)
                .is_some_and(|end| end <= file.size());
        match lies {
            true => space.claim(header.log_offset, len, "the log", place + 72),
            // For a log in use the reader refuses the file.
            false => {
                let found = format!("{len} bytes at {}", header.log_offset);
                let expected = "whole MiB inside the file";
                tally.tell(warning(rules::LOG_PLACE, place + 68, expected, found));
            }
        }
    }
    Ok(())
}

/// Gives the metadata region's place. // [MS-VHDX] 2.2.3
fn check_regions(
    read: &Metadata,
    space: &mut Space,
    tally: &mut Tally,
) -> Result<Option<u64>, ParseError> {
    let mut tables = Vec::new();
    for offset in REGION_TABLE_OFFSETS {
        let mut table = vec![0; REGION_TABLE_LEN];
        if read.file.size() >= offset + REGION_TABLE_LEN as u64 {
            read.file.read_at(offset, &mut table)?;
        }
        let valid = table.starts_with(b"regi") && le32(&table, 4) == checksum(&table, 4);
        match valid {
            true => tables.push((table, offset)),
            false => {
                let expected = "a region table with its checksum";
                tally.tell(warning(rules::REGION_TABLE_LOST, offset, expected, "none"));
            }
        }
    }
    if let [(first, _), (second, place)] = tables.as_slice()
        && let Some(at) = first.iter().zip(second).position(|(a, b)| a != b)
    {
        let found = "another byte".to_owned();
        let at = place + at as u64;
        tally.corrupt(Finding::error(
            rules::REGION_TABLES_DIFFER,
            at,
            "the first table",
            found,
        ));
    }
    let Some((table, place)) = tables.first() else {
        return Ok(None);
    };
    if le32(table, 12) != 0 {
        let found = le32(table, 12).to_string();
        tally.tell(warning(rules::REGION_RESERVED, place + 12, "0", found));
    }
    let mut metadata = None;
    let mut seen = Vec::new();
    for index in 0..le32(table, 8) as usize {
        let at = 16 + index * 32;
        let (id, offset) = (Guid::at(table, at), le64(table, at + 16));
        let (len, flags) = (u64::from(le32(table, at + 24)), le32(table, at + 28));
        let from = place + at as u64;
        if seen.contains(&id) {
            let found = format!("{id} again");
            tally.corrupt(Finding::error(
                rules::REGION_TWICE,
                from,
                "another region",
                found,
            ));
        }
        seen.push(id);
        if flags & !1 != 0 {
            let found = format!("{flags:#x}");
            tally.tell(warning(rules::REGION_RESERVED, from + 28, "0 or 1", found));
        }
        let by = match id {
            REGION_BAT => "the BAT",
            REGION_METADATA => {
                metadata = Some(offset);
                "the metadata"
            }
            _ => "a region",
        };
        space.claim(offset, len, by, from);
    }
    Ok(metadata)
}

// [MS-VHDX] 2.6
fn check_items(read: &Metadata, place: u64, tally: &mut Tally) -> Result<(), ParseError> {
    let mut table = vec![0; METADATA_TABLE_LEN];
    read.file.read_at(place, &mut table)?;
    let count = usize::from(le16(&table, 10));
    if le16(&table, 8) != 0
        || table
            .get(12..32)
            .is_some_and(|rest| first_set(rest).is_some())
    {
        let found = "other bytes";
        tally.tell(warning(
            rules::METADATA_RESERVED,
            place + 8,
            "zeroes",
            found,
        ));
    }
    let mut space = Space::default();
    let mut seen = Vec::new();
    for index in 0..count {
        let at = 32 + index * 32;
        let (id, offset) = (Guid::at(&table, at), u64::from(le32(&table, at + 16)));
        let (len, flags) = (u64::from(le32(&table, at + 20)), le32(&table, at + 24));
        let from = place + at as u64;
        if flags & !7 != 0 || le32(&table, at + 28) != 0 {
            let found = format!("flags {flags:#x}, then {:#x}", le32(&table, at + 28));
            tally.tell(warning(
                rules::METADATA_RESERVED,
                from + 24,
                "flags 0 to 7, then 0",
                found,
            ));
        }
        if seen.contains(&id) {
            let found = format!("{id} again");
            tally.corrupt(Finding::error(
                rules::METADATA_TWICE,
                from,
                "another item",
                found,
            ));
        }
        seen.push(id);
        space.claim(offset, len, "a metadata item", from);
        let disk = META_VIRTUAL_DISK | META_REQUIRED;
        let (right_len, right_flags) = match id {
            ITEM_FILE_PARAMETERS => (8, META_REQUIRED),
            ITEM_VIRTUAL_SIZE => (8, disk),
            ITEM_DISK_ID => (16, disk),
            ITEM_LOGICAL_SECTOR | ITEM_PHYSICAL_SECTOR => (4, disk),
            ITEM_PARENT_LOCATOR => (len, META_REQUIRED),
            _ => continue,
        };
        if len != right_len || flags & 7 != right_flags {
            let expected = format!("{right_len} bytes, flags {right_flags}");
            let found = format!("{len} bytes, flags {flags}");
            tally.tell(warning(rules::METADATA_SHAPE, from, expected, found));
        }
        if id == ITEM_PHYSICAL_SECTOR && offset + 4 <= MIB {
            let mut value = [0; 4];
            read.file.read_at(place + offset, &mut value)?;
            let value = le32(&value, 0);
            if !matches!(value, 512 | 4096) {
                let at = place + offset;
                let found = value.to_string();
                tally.tell(warning(rules::PHYSICAL_SECTOR, at, "512 or 4096", found));
            }
        }
    }
    for (id, what) in [
        (ITEM_DISK_ID, "disk identifier"),
        (ITEM_PHYSICAL_SECTOR, "physical sector size"),
    ] {
        if !seen.contains(&id) {
            tally.tell(warning(rules::METADATA_ABSENT, place, what, "none"));
        }
    }
    let mut overlaps = Vec::new();
    space.settle(u64::MAX, 0, |_, claim| overlaps.push(claim), |_, _| {});
    for claim in overlaps {
        let expected = "bytes of its own";
        let found = format!("an overlap at {}", claim.start);
        tally.corrupt(Finding::error(
            rules::METADATA_OVERLAP,
            claim.from,
            expected,
            found,
        ));
    }
    Ok(())
}

// [MS-VHDX] 2.5
fn walk_bat(read: &Metadata, space: &mut Space, tally: &mut Tally) -> Result<(), ParseError> {
    let blocks = read.virtual_size.div_ceil(read.block_size);
    let ratio = chunk_ratio(read.logical_sector, read.block_size);
    let chunks = blocks.div_ceil(ratio);
    let slots = match read.parent {
        Some(_) => chunks * (ratio + 1),
        None => blocks + blocks.saturating_sub(1) / ratio,
    };
    // The reader tells a BAT that is too short.
    let slots = slots.min(read.bat_len / 8);
    let mut bat = Bat {
        read,
        blocks,
        ratio,
        allocated: 0,
        partial: false,
    };
    let mut at = 0;
    while at < slots * 8 {
        let mut piece = vec![0; PIECE.min(slots * 8 - at) as usize];
        read.file.read_at(read.bat_offset + at, &mut piece)?;
        for (index, entry) in piece.chunks_exact(8).enumerate() {
            bat.check_slot(at / 8 + index as u64, le64(entry, 0), space, tally);
        }
        at += piece.len() as u64;
    }
    tally.total_units = Some(blocks);
    tally.allocated_units = Some(bat.allocated);
    Ok(())
}

struct Bat<'a> {
    read: &'a Metadata,
    blocks: u64,
    ratio: u64,
    allocated: u64,
    /// Whether the chunk so far has a partly present block.
    partial: bool,
}

impl Bat<'_> {
    fn check_slot(&mut self, slot: u64, entry: u64, space: &mut Space, tally: &mut Tally) {
        let from = self.read.bat_offset + slot * 8;
        let (state, offset) = split_bat_entry(entry);
        // Bits 3 to 19. // [MS-VHDX] 2.5.1
        if entry & (MIB - 1) & !7 != 0 {
            let found = format!("{entry:#x}");
            let expected = "bits 3 to 19 clear";
            tally.corrupt(Finding::error(rules::BAT_RESERVED, from, expected, found));
            return;
        }
        if slot % (self.ratio + 1) == self.ratio {
            self.check_bitmap_slot(state, offset, from, space, tally);
            return;
        }
        let block = slot - slot / (self.ratio + 1);
        if block >= self.blocks {
            if entry != 0 {
                let found = format!("{entry:#x} for block {block} of {}", self.blocks);
                tally.tell(warning(rules::BAT_BEYOND, from, "0", found));
            }
            return;
        }
        let present = match state {
            BLOCK_FULLY_PRESENT => true,
            BLOCK_PARTIALLY_PRESENT if self.read.parent.is_some() => {
                self.partial = true;
                true
            }
            BLOCK_NOT_PRESENT | BLOCK_UNDEFINED | BLOCK_ZERO | BLOCK_UNMAPPED => false,
            other => {
                let (rule, expected) = match other {
                    BLOCK_PARTIALLY_PRESENT => (rules::NO_PARENT, "another state"),
                    _ => (rules::BAT_STATE, "0 to 3, 6 or 7"),
                };
                tally.corrupt(Finding::error(rule, from, expected, other.to_string()));
                return;
            }
        };
        if !present {
            if self.read.fixed {
                let found = state.to_string();
                tally.tell(warning(rules::FIXED_ABSENT, from, "6", found));
            }
            return;
        }
        self.allocated += 1;
        self.claim(offset, self.read.block_size, "a block", from, space, tally);
    }

    /// The slot behind every chunk. // [MS-VHDX] 2.5.1.2
    fn check_bitmap_slot(
        &mut self,
        state: u64,
        offset: u64,
        from: u64,
        space: &mut Space,
        tally: &mut Tally,
    ) {
        let partial = std::mem::take(&mut self.partial);
        match state {
            BLOCK_FULLY_PRESENT if self.read.parent.is_some() => {
                self.claim(offset, MIB, "a sector bitmap", from, space, tally);
            }
            BLOCK_NOT_PRESENT if !partial => {}
            other => {
                let expected = if partial {
                    "6"
                } else {
                    "0, or 6 with a parent"
                };
                let found = other.to_string();
                tally.corrupt(Finding::error(rules::BITMAP_STATE, from, expected, found));
            }
        }
    }

    fn claim(
        &self,
        offset: u64,
        len: u64,
        by: &'static str,
        from: u64,
        space: &mut Space,
        tally: &mut Tally,
    ) {
        let end = self.read.file.size();
        if offset < MIB || offset.checked_add(len).is_none_or(|last| last > end) {
            let expected = format!("{len} bytes between 1 MiB and {end}");
            tally.corrupt(Finding::error(
                rules::BAT_PLACE,
                from,
                expected,
                offset.to_string(),
            ));
            return;
        }
        space.claim(offset, len, by, from);
    }
}

fn settle(read: &Metadata, space: Space, tally: &mut Tally) {
    let end = read.file.size();
    let end = space.tell(MIB, end, rules::OVERLAP, tally, |from, to, tally| {
        let finding = unclaimed(rules::LEAK, from, to, "a block");
        // Less than a block is room that programs leave between structures.
        match (to - from) / read.block_size {
            0 => tally.tell(note(rules::LEAK, from, "a block", finding.found)),
            blocks => tally.leak(blocks, finding),
        }
    });
    let size = read.file.size();
    if !size.is_multiple_of(MIB) {
        tally.tell(note(rules::FILE_SIZE, size, "whole MiB", size.to_string()));
    }
    tally.end = Some(end);
}
