//! Checks one hosted sparse extent: header, both directories, tables, grains, and the markers of a stream.

use std::collections::HashSet;

use block_io::BlockRead;

use super::format::{
    DIRECTORY_AT_END, FLAG_COMPRESSED, FLAG_MARKERS, FLAG_NEWLINES, FLAG_REDUNDANT,
    FLAG_ZERO_GRAINS, MARKER_DIRECTORY, MARKER_END, MARKER_FOOTER, MARKER_TABLE, SECTOR,
    SPARSE_MAGIC, TABLE_ENTRIES,
};
use super::rules;
use crate::bytes::{le16, le32, le64};
use crate::check::{Space, Tally, first_set, note, unclaimed, warning};
use crate::error::ParseError;
use crate::finding::Finding;
use crate::inflate::unzlib;

/// An embedded descriptor has at most this many bytes.
const MAX_DESCRIPTOR: u64 = 1 << 20;
/// Bytes of a grain table.
const TABLE_LEN: u64 = TABLE_ENTRIES * 4;
const KNOWN_FLAGS: u32 =
    FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZERO_GRAINS | FLAG_COMPRESSED | FLAG_MARKERS;

/// What the extent says of itself.
pub(super) struct Sparse {
    /// Sectors.
    pub(super) capacity: u64,
    pub(super) descriptor: Option<Vec<u8>>,
}

/// Check the sparse extent `disk`. What its header breaks so that nothing more can be read is left to the
/// reader, which refuses it with the rule.
pub(super) fn check_sparse(disk: &dyn BlockRead, tally: &mut Tally) -> Result<Sparse, ParseError> {
    let mut head = [0; SECTOR as usize];
    let there = disk.size().min(SECTOR) as usize;
    if let Some(part) = head.get_mut(..there) {
        disk.read_at(0, part)?;
    }
    let mut sparse = Sparse {
        capacity: le64(&head, 12),
        descriptor: None,
    };
    let grain = le64(&head, 20);
    let sound = head.starts_with(SPARSE_MAGIC)
        && grain.is_power_of_two()
        && (8..=4096).contains(&grain)
        && u64::from(le32(&head, 44)) == TABLE_ENTRIES
        && sparse.capacity < 1 << 54;
    if !sound {
        return Ok(sparse);
    }
    check_header(&head, tally);
    let mut space = Space::default();
    space.claim(0, SECTOR, "the header", 0);
    sparse.descriptor = read_descriptor(disk, &head, &mut space, tally)?;
    let mut walk = Walk {
        disk,
        flags: le32(&head, 8),
        capacity: sparse.capacity * SECTOR,
        grain: grain * SECTOR,
        overhead: le64(&head, 64),
        tables: HashSet::new(),
        space,
        allocated: 0,
        stream_end: None,
        packed: Vec::new(),
        plain: Vec::new(),
    };
    let mut directory = le64(&head, 56);
    if directory == DIRECTORY_AT_END {
        let Some(place) = check_footer(disk, &head, tally)? else {
            return Ok(sparse);
        };
        directory = place;
    }
    if walk.flags & FLAG_MARKERS != 0 {
        walk.walk_markers(tally)?;
    }
    walk.walk_directory(directory, tally)?;
    if walk.flags & FLAG_REDUNDANT != 0 {
        walk.compare_directories(directory, le64(&head, 48), tally)?;
    }
    walk.settle(tally);
    Ok(sparse)
}

// [Virtual Disk Format 5.0] Hosted Sparse Extent Header
fn check_header(head: &[u8], tally: &mut Tally) {
    let (version, flags) = (le32(head, 4), le32(head, 8));
    if flags & !KNOWN_FLAGS != 0 {
        let found = format!("{flags:#x}");
        tally.tell(warning(rules::FLAGS, 8, "no unknown flags", found));
    }
    let compressed = flags & FLAG_COMPRESSED != 0;
    if compressed != (flags & FLAG_MARKERS != 0) {
        let found = format!("{flags:#x}");
        tally.tell(warning(
            rules::FLAGS,
            8,
            "compression and markers together",
            found,
        ));
    }
    if flags & FLAG_ZERO_GRAINS != 0 && version < 2 {
        let found = format!("version {version} with the flag of zero grains");
        tally.tell(warning(rules::FLAGS, 8, "version 2 or 3", found));
    }
    if !compressed && le16(head, 77) != 0 {
        let found = le16(head, 77).to_string();
        tally.tell(warning(
            rules::COMPRESSION,
            77,
            "0 without compression",
            found,
        ));
    }
    let grain = le64(head, 20);
    if !le64(head, 12).is_multiple_of(grain) {
        let found = format!("{} sectors", le64(head, 12));
        tally.tell(note(
            rules::CAPACITY_GRAINS,
            12,
            format!("a multiple of {grain}"),
            found,
        ));
    }
    if !matches!(head.get(72), Some(0 | 1)) {
        tally.tell(warning(rules::UNCLEAN, 72, "0 or 1", "another value"));
    }
    if let Some(at) = head.get(79..).and_then(first_set) {
        tally.tell(note(
            rules::HEADER_PADDING,
            79 + at as u64,
            "zeroes",
            "other bytes",
        ));
    }
}

fn read_descriptor(
    disk: &dyn BlockRead,
    head: &[u8],
    space: &mut Space,
    tally: &mut Tally,
) -> Result<Option<Vec<u8>>, ParseError> {
    let (start, sectors) = (le64(head, 28), le64(head, 36));
    if start == 0 || sectors == 0 {
        return Ok(None);
    }
    let (place, len) = (start.saturating_mul(SECTOR), sectors.saturating_mul(SECTOR));
    let inside = place.checked_add(len).is_some_and(|end| end <= disk.size());
    if !inside || len > MAX_DESCRIPTOR {
        // The reader refuses it.
        return Ok(None);
    }
    space.claim(place, len, "the descriptor", 28);
    let mut text = vec![0; len as usize];
    disk.read_at(place, &mut text)?;
    if let Some(end) = text.iter().position(|byte| *byte == 0)
        && let Some(at) = text.get(end..).and_then(first_set)
    {
        let at = place + (end + at) as u64;
        tally.tell(note(rules::DESCRIPTOR_PADDING, at, "zeroes", "other bytes"));
    }
    Ok(Some(text))
}

/// The footer repeats the header, with the directory's place. // [Virtual Disk Format 5.0] Footer
fn check_footer(
    disk: &dyn BlockRead,
    head: &[u8],
    tally: &mut Tally,
) -> Result<Option<u64>, ParseError> {
    let size = disk.size();
    if !size.is_multiple_of(SECTOR) {
        tally.tell(warning(
            rules::STREAM_END,
            size,
            "whole sectors",
            size.to_string(),
        ));
    }
    let place = (size / SECTOR * SECTOR).saturating_sub(2 * SECTOR);
    let mut footer = [0; SECTOR as usize];
    if place > 0 {
        disk.read_at(place, &mut footer)?;
    }
    if !footer.starts_with(SPARSE_MAGIC) {
        return Ok(None);
    }
    let differs =
        (0..footer.len()).find(|at| !(56..64).contains(at) && footer.get(*at) != head.get(*at));
    if let Some(at) = differs {
        let at = place + at as u64;
        tally.tell(warning(
            rules::FOOTER_COPY,
            at,
            "the bytes of the header",
            "another",
        ));
    }
    Ok(Some(le64(&footer, 56)))
}

struct Walk<'a> {
    disk: &'a dyn BlockRead,
    flags: u32,
    capacity: u64,
    grain: u64,
    overhead: u64,
    /// The grain tables met.
    tables: HashSet<u32>,
    space: Space,
    allocated: u64,
    /// Where the stream ends by its own marker: what follows was told.
    stream_end: Option<u64>,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Walk<'_> {
    fn directory_len(&self) -> u64 {
        self.capacity.div_ceil(self.grain * TABLE_ENTRIES) * 4
    }

    /// The bytes of a directory, if they lie inside the file.
    fn read_directory(&self, sector: u64) -> Result<Option<Vec<u8>>, ParseError> {
        let (place, len) = (sector.saturating_mul(SECTOR), self.directory_len());
        if place
            .checked_add(len)
            .is_none_or(|end| end > self.disk.size())
        {
            return Ok(None);
        }
        let mut directory = vec![0; len as usize];
        self.disk.read_at(place, &mut directory)?;
        Ok(Some(directory))
    }

    fn read_table(&self, sector: u32) -> Result<Option<Vec<u8>>, ParseError> {
        let place = u64::from(sector) * SECTOR;
        if place + TABLE_LEN > self.disk.size() {
            return Ok(None);
        }
        let mut table = vec![0; TABLE_LEN as usize];
        self.disk.read_at(place, &mut table)?;
        Ok(Some(table))
    }

    // [Virtual Disk Format 5.0] Grain Directory
    fn walk_directory(&mut self, sector: u64, tally: &mut Tally) -> Result<(), ParseError> {
        // Outside the file: the reader refuses it.
        let Some(directory) = self.read_directory(sector)? else {
            return Ok(());
        };
        let len = (directory.len() as u64).next_multiple_of(SECTOR);
        self.space
            .claim(sector * SECTOR, len, "the grain directory", 56);
        for (index, entry) in directory.chunks_exact(4).enumerate() {
            let (entry, from) = (le32(entry, 0), sector * SECTOR + index as u64 * 4);
            if entry == 0 {
                continue;
            }
            if !self.tables.insert(entry) {
                let found = format!("sector {entry}, which another entry names");
                tally.corrupt(Finding::error(
                    rules::TABLE_TWICE,
                    from,
                    "a table of its own",
                    found,
                ));
                continue;
            }
            let Some(table) = self.read_table(entry)? else {
                let expected = format!("{TABLE_LEN} bytes below {}", self.disk.size());
                tally.corrupt(Finding::error(
                    rules::TABLE,
                    from,
                    expected,
                    format!("sector {entry}"),
                ));
                continue;
            };
            let place = u64::from(entry) * SECTOR;
            self.space.claim(place, TABLE_LEN, "a grain table", from);
            for (at, grain) in table.chunks_exact(4).enumerate() {
                let number = index as u64 * TABLE_ENTRIES + at as u64;
                self.check_grain(
                    le32(grain, 0),
                    number * self.grain,
                    place + at as u64 * 4,
                    tally,
                )?;
            }
        }
        tally.total_units =
            Some(tally.total_units.unwrap_or(0) + self.capacity.div_ceil(self.grain));
        tally.allocated_units = Some(tally.allocated_units.unwrap_or(0) + self.allocated);
        if self.flags & FLAG_COMPRESSED != 0 {
            tally.compressed_units = Some(tally.compressed_units.unwrap_or(0) + self.allocated);
        }
        Ok(())
    }

    // [Virtual Disk Format 5.0] Grain Table
    fn check_grain(
        &mut self,
        entry: u32,
        offset: u64,
        from: u64,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        if entry == 0 || (entry == 1 && self.flags & FLAG_ZERO_GRAINS != 0) {
            return Ok(());
        }
        if offset >= self.capacity {
            // libvmdk met such entries in images of QEMU.
            let found = format!("sector {entry} for byte {offset} of {}", self.capacity);
            tally.tell(warning(rules::GRAIN_BEYOND, from, "0", found));
            return Ok(());
        }
        self.allocated += 1;
        let place = u64::from(entry) * SECTOR;
        if self.flags & FLAG_COMPRESSED != 0 {
            return self.check_packed(place, offset, from, tally);
        }
        let held = self.grain.min(self.capacity - offset);
        if place + held > self.disk.size() {
            let expected = format!("{held} bytes below {}", self.disk.size());
            tally.corrupt(Finding::error(
                rules::GRAIN,
                from,
                expected,
                place.to_string(),
            ));
            return Ok(());
        }
        self.space.claim(place, self.grain, "a grain", from);
        Ok(())
    }

    // [Virtual Disk Format 5.0] Grain Marker
    fn check_packed(
        &mut self,
        place: u64,
        offset: u64,
        from: u64,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        if place + 12 > self.disk.size() {
            let expected = format!("a marker below {}", self.disk.size());
            tally.corrupt(Finding::error(
                rules::GRAIN,
                from,
                expected,
                place.to_string(),
            ));
            return Ok(());
        }
        let mut head = [0; 12];
        self.disk.read_at(place, &mut head)?;
        let (sector, len) = (le64(&head, 0), u64::from(le32(&head, 8)));
        if sector != offset / SECTOR {
            let expected = format!("sector {}", offset / SECTOR);
            tally.corrupt(Finding::error(
                rules::GRAIN_MARKER,
                place,
                expected,
                sector.to_string(),
            ));
            return Ok(());
        }
        if len > 2 * self.grain || place + 12 + len > self.disk.size() {
            let expected = format!("at most {} bytes inside the file", 2 * self.grain);
            tally.corrupt(Finding::error(
                rules::GRAIN_MARKER,
                place + 8,
                expected,
                len.to_string(),
            ));
            return Ok(());
        }
        self.space
            .claim(place, (12 + len).next_multiple_of(SECTOR), "a grain", from);
        self.packed.resize(len as usize, 0);
        self.plain.resize(self.grain as usize, 0);
        self.disk.read_at(place + 12, &mut self.packed)?;
        let needed = self.grain.min(self.capacity - offset);
        let wrong = match unzlib(&self.packed, &mut self.plain) {
            Ok(len) if len as u64 >= needed => return Ok(()),
            Ok(len) => format!("{len} bytes"),
            Err(why) => why,
        };
        let expected = format!("{needed} bytes");
        tally.corrupt(Finding::error(rules::GRAIN_DATA, place, expected, wrong));
        Ok(())
    }

    /// Follow the markers from the first to the last. // [Virtual Disk Format 5.0] Stream-Optimized
    fn walk_markers(&mut self, tally: &mut Tally) -> Result<(), ParseError> {
        let end = self.disk.size() / SECTOR;
        let mut at = self.overhead.max(1);
        let mut before: Option<u64> = None;
        let mut sector = [0; 16];
        while at < end {
            let place = at * SECTOR;
            self.disk.read_at(place, &mut sector)?;
            let (value, len, kind) = (
                le64(&sector, 0),
                u64::from(le32(&sector, 8)),
                le32(&sector, 12),
            );
            if len > 0 {
                if before.is_some_and(|before| value <= before) {
                    let expected = format!("a sector after {}", before.unwrap_or(0));
                    tally.tell(warning(
                        rules::GRAIN_ORDER,
                        place,
                        expected,
                        value.to_string(),
                    ));
                }
                before = Some(value);
                at += (12 + len).div_ceil(SECTOR);
                continue;
            }
            let follow = match kind {
                MARKER_END => {
                    self.space.claim(place, SECTOR, "the end marker", place);
                    self.stream_end = Some(place + SECTOR);
                    if at + 1 != end {
                        let found = format!("{} sectors more", end - at - 1);
                        tally.tell(warning(rules::STREAM_END, place + SECTOR, "nothing", found));
                    }
                    return Ok(());
                }
                MARKER_TABLE | MARKER_DIRECTORY => value,
                MARKER_FOOTER => {
                    self.space
                        .claim(place + SECTOR, SECTOR, "the footer", place);
                    1
                }
                other => {
                    let found = other.to_string();
                    tally.tell(warning(rules::MARKER, place + 12, "0 to 3", found));
                    return Ok(());
                }
            };
            self.space.claim(place, SECTOR, "a marker", place);
            at = at.saturating_add(1).saturating_add(follow);
        }
        let expected = "a marker of the end";
        tally.tell(warning(
            rules::STREAM_END,
            end * SECTOR,
            expected,
            "the end of the file",
        ));
        Ok(())
    }

    /// Both directories lead to the same grains. // [Virtual Disk Format 5.0] Redundant Grain Directory
    fn compare_directories(
        &mut self,
        first: u64,
        second: u64,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        let Some(one) = self.read_directory(first)? else {
            return Ok(());
        };
        let Some(other) = self.read_directory(second)? else {
            let expected = format!("a directory below {}", self.disk.size());
            tally.tell(warning(
                rules::REDUNDANT,
                48,
                expected,
                format!("sector {second}"),
            ));
            return Ok(());
        };
        let len = (other.len() as u64).next_multiple_of(SECTOR);
        self.space
            .claim(second * SECTOR, len, "the second grain directory", 48);
        for (index, (a, b)) in one.chunks_exact(4).zip(other.chunks_exact(4)).enumerate() {
            let (a, b, from) = (le32(a, 0), le32(b, 0), second * SECTOR + index as u64 * 4);
            if b == 0 && a == 0 {
                continue;
            }
            if !self.tables.insert(b) {
                let found = format!("sector {b}, which another entry names");
                tally.tell(warning(rules::REDUNDANT, from, "a table of its own", found));
                continue;
            }
            let (table, copy) = (self.read_table(a)?, self.read_table(b)?);
            if copy.is_some() {
                self.space.claim(
                    u64::from(b) * SECTOR,
                    TABLE_LEN,
                    "a second grain table",
                    from,
                );
            }
            if a == 0 || table != copy {
                let found = format!("others, at sector {b}");
                tally.tell(warning(
                    rules::REDUNDANT,
                    from,
                    "the entries of the first table",
                    found,
                ));
            }
        }
        Ok(())
    }

    fn settle(self, tally: &mut Tally) {
        let overhead = self.overhead.saturating_mul(SECTOR);
        let (grain, packed) = (self.grain, self.flags & FLAG_COMPRESSED != 0);
        // A compressed grain may be as short as a sector.
        let least = if packed { SECTOR } else { grain };
        let end = self.stream_end.unwrap_or(self.disk.size());
        let rule = rules::OVERLAP;
        let end = self.space.tell(least, end, rule, tally, |from, to, tally| {
            // Room between the structures before the first grain is padding.
            let from = from.max(overhead);
            if to >= from.saturating_add(least) {
                let units = if packed { 1 } else { (to - from) / grain };
                tally.leak(units, unclaimed(rules::LEAK, from, to, "a grain"));
            }
        });
        tally.end = Some(end.max(tally.end.unwrap_or(0)));
    }
}
