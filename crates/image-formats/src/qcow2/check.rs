//! Checks a qcow2 file: every table is walked, every reference counted and held against the refcounts.

use std::sync::Arc;

use block_io::BlockRead;

use super::aside::walk_aside;
use super::format::{COMPRESSED, COPIED, OFFSET_MASK, ZERO, compressed_range};
use super::header::{Header, read_header};
use super::refcounts::{Refcounts, compare};
use super::rules;
use crate::bytes::{be32, be64};
use crate::check::{Mark, Recount, Tally, bomb, first_set, most_inflated, note, warning};
use crate::error::ParseError;
use crate::finding::{Finding, Rule};
use crate::image::ImageFile;
use crate::inflate::{undeflate, unzstd};

/// Table bytes that are walked at most, as a multiple of the file's size: tables that many others name
/// would otherwise cost its square.
const MAX_WALKED: u64 = 2;
/// And this much of a small file.
const LEAST_WALKED: u64 = 16 << 20;
/// An L1 table is read in pieces of this size.
const PIECE: u64 = 64 << 10;

/// Check `file`.
pub(crate) fn check(file: &ImageFile, tally: &mut Tally) -> Result<(), ParseError> {
    let header = read_header(&file.disk)?;
    check_header(&file.disk, &header, tally)?;
    let mut walk = Walk {
        refcounts: Refcounts::new(Arc::clone(&file.disk), &header),
        left: file
            .disk
            .size()
            .saturating_mul(MAX_WALKED)
            .max(LEAST_WALKED),
        file: Arc::clone(&file.disk),
        header,
        recount: Recount::new(),
        first: true,
        allocated: 0,
        compressed: 0,
        inflate_left: most_inflated(file.disk.size()),
    };
    let mut last_used = None;
    loop {
        walk.walk_all(tally)?;
        last_used = last_used.max(compare(
            &mut walk.refcounts,
            &walk.recount,
            &walk.header,
            tally,
        )?);
        walk.first = false;
        if !walk.recount.next_pass() {
            break;
        }
    }
    let geometry = walk.header.geometry;
    tally.total_units = Some(geometry.clusters(walk.header.virtual_size));
    tally.allocated_units = Some(walk.allocated);
    tally.compressed_units = Some(walk.compressed);
    tally.end = last_used.map(|last: u64| (last + 1) * geometry.cluster_size());
    Ok(())
}

// qcow2.rst, "Header"
fn check_header(
    file: &dyn BlockRead,
    header: &Header,
    tally: &mut Tally,
) -> Result<(), ParseError> {
    let size = header.virtual_size;
    if !size.is_multiple_of(512) {
        tally.tell(warning(
            rules::SIZE_SECTORS,
            24,
            "a multiple of 512",
            size.to_string(),
        ));
    }
    if header.version < 3 {
        return Ok(());
    }
    let mut head = [0; 112];
    let there = file.size().min(112) as usize;
    if let Some(part) = head.get_mut(..there) {
        file.read_at(0, part)?;
    }
    // Bits nobody has given a meaning: a reader may ignore them. // qcow2.rst, "compatible_features"
    for (at, known, bits) in [(80, 1, header.compatible), (88, 3, header.autoclear)] {
        let unknown = bits & !known;
        if unknown != 0 {
            let found = format!("bits {unknown:#x}");
            tally.tell(note(rules::UNKNOWN_BITS, at, "no unknown bits", found));
        }
    }
    let long = be32(&head, 100) >= 112;
    let padding = head.get(105..112).unwrap_or_default();
    if long && let Some(at) = first_set(padding) {
        let found = format!("{:#x}", padding[at]);
        tally.tell(warning(
            rules::HEADER_PADDING,
            105 + at as u64,
            "zero",
            found,
        ));
    }
    Ok(())
}

/// A walk over all tables.
pub(super) struct Walk {
    pub(super) file: Arc<dyn BlockRead>,
    pub(super) header: Header,
    pub(super) recount: Recount,
    refcounts: Refcounts,
    /// Bytes of tables that may still be read.
    left: u64,
    /// Whether findings are told: the first pass only.
    pub(super) first: bool,
    allocated: u64,
    compressed: u64,
    /// Bytes that may still be inflated.
    inflate_left: u64,
}

impl Walk {
    fn walk_all(&mut self, tally: &mut Tally) -> Result<(), ParseError> {
        self.refer(
            0,
            self.header.geometry.cluster_size(),
            Mark::Exclusive,
            0,
            tally,
        );
        let (offset, entries) = (self.header.l1_offset, self.header.l1_entries);
        self.walk_l1(offset, entries, true, tally)?;
        walk_aside(self, tally)?;
        self.walk_refcounts(tally)
    }

    /// Count the bytes that something at `from` refers to. // qcow2.rst, "Host cluster management"
    pub(super) fn refer(
        &mut self,
        offset: u64,
        len: u64,
        mark: Mark,
        from: u64,
        tally: &mut Tally,
    ) {
        if len == 0 {
            return;
        }
        let size = self.header.geometry.cluster_size();
        let end = offset.saturating_add(len);
        // The last cluster of a file need not be whole.
        if end >= self.file.size().saturating_add(size) {
            let expected = format!("an end before {}", self.file.size());
            let found = format!("{len} bytes at {offset}");
            self.tell(rules::OUTSIDE, from, expected, found, tally);
            return;
        }
        for cluster in offset / size..end.div_ceil(size) {
            if !self.recount.add(cluster, mark) && self.first {
                let expected = "a cluster of its own";
                let found = format!("cluster {cluster:#x}, which something else lies in too");
                // Counted where the refcounts are compared.
                tally.tell(Finding::error(rules::OVERLAP, from, expected, found));
            }
        }
    }

    pub(super) fn tell(
        &self,
        rule: &'static Rule,
        offset: u64,
        expected: impl Into<String>,
        found: impl Into<String>,
        tally: &mut Tally,
    ) {
        if self.first {
            tally.corrupt(Finding::error(rule, offset, expected, found));
        }
    }

    /// Read `len` bytes of a table, if the whole walk has not read far too much.
    pub(super) fn read(&mut self, offset: u64, len: u64) -> Result<Vec<u8>, ParseError> {
        self.left = self.left.checked_sub(len).ok_or_else(|| {
            let found = "tables that name each other over and over".to_owned();
            Finding::error(
                rules::TANGLED,
                offset,
                "tables of a size in keeping with the file",
                found,
            )
        })?;
        let mut bytes = vec![0; len as usize];
        let there = self.file.size().saturating_sub(offset).min(len) as usize;
        if let Some(part) = bytes.get_mut(..there)
            && there > 0
        {
            self.file.read_at(offset, part)?;
        }
        Ok(bytes)
    }

    /// Walk an L1 table and what it names; the active one is checked further. // qcow2.rst, "Cluster mapping"
    pub(super) fn walk_l1(
        &mut self,
        offset: u64,
        entries: u64,
        active: bool,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        self.refer(offset, entries * 8, Mark::Exclusive, 40, tally);
        let mut at = 0;
        while at < entries * 8 {
            let piece = self.read(offset + at, PIECE.min(entries * 8 - at))?;
            for (index, entry) in piece.chunks_exact(8).enumerate() {
                let entry = be64(entry, 0);
                if entry != 0 {
                    self.walk_l1_entry(entry, offset + at + index as u64 * 8, active, tally)?;
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    fn walk_l1_entry(
        &mut self,
        entry: u64,
        place: u64,
        active: bool,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        let size = self.header.geometry.cluster_size();
        let table = entry & OFFSET_MASK;
        if entry & !(OFFSET_MASK | COPIED) != 0 {
            self.tell(
                rules::L1_ENTRY,
                place,
                "reserved bits 0",
                format!("{entry:#018x}"),
                tally,
            );
        }
        self.refer(table, size, Mark::Table, place, tally);
        if !table.is_multiple_of(size) {
            let expected = format!("a multiple of {size}");
            self.tell(rules::L2_OFFSET, place, expected, table.to_string(), tally);
            return Ok(());
        }
        if table == 0 || table >= self.file.size() {
            return Ok(());
        }
        if active {
            self.check_copied(entry, table, place, tally)?;
        }
        let bytes = self.read(table, size)?;
        let len = self.header.l2_entry_len() as usize;
        for (index, entry) in bytes.chunks_exact(len).enumerate() {
            if entry.iter().any(|byte| *byte != 0) {
                let place = table + (index * len) as u64;
                let bitmap = (len == 16).then(|| be64(entry, 8));
                self.walk_l2_entry(be64(entry, 0), bitmap, place, active, tally)?;
            }
        }
        Ok(())
    }

    fn walk_l2_entry(
        &mut self,
        entry: u64,
        bitmap: Option<u64>,
        place: u64,
        active: bool,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        if entry & COMPRESSED != 0 {
            return self.walk_compressed(entry, bitmap, place, active, tally);
        }
        let size = self.header.geometry.cluster_size();
        // Bit 0 says zero in version 3, without subclusters.
        let zero_bit = match bitmap {
            None if self.header.version >= 3 => ZERO,
            _ => 0,
        };
        if entry & !(OFFSET_MASK | COPIED | zero_bit) != 0 {
            self.tell(
                rules::L2_ENTRY,
                place,
                "reserved bits 0",
                format!("{entry:#018x}"),
                tally,
            );
        }
        let host = entry & OFFSET_MASK;
        let (allocated, zeroes) =
            bitmap.map_or((0, 0), |bits| (bits & u64::from(u32::MAX), bits >> 32));
        if allocated & zeroes != 0 {
            let found = format!("bitmap {:#018x}", bitmap.unwrap_or(0));
            self.tell(
                rules::SUBCLUSTERS,
                place + 8,
                "allocated or zero",
                found,
                tally,
            );
            return Ok(());
        }
        let external = self.header.external_data();
        // With an external data file 0 is an offset like any other, told by the COPIED bit.
        if host == 0 && !(external && entry & COPIED != 0) {
            if allocated != 0 {
                let found = format!("subclusters {allocated:#010x} of no cluster");
                self.tell(
                    rules::SUBCLUSTERS,
                    place + 8,
                    "none allocated",
                    found,
                    tally,
                );
            }
            return Ok(());
        }
        if !host.is_multiple_of(size) {
            let expected = format!("a multiple of {size}");
            self.tell(rules::DATA_OFFSET, place, expected, host.to_string(), tally);
        }
        self.allocated += u64::from(self.first && active);
        if !external {
            self.refer(host, size, Mark::Data, place, tally);
            if active {
                self.check_copied(entry, host, place, tally)?;
            }
        }
        Ok(())
    }

    // qcow2.rst, "Compressed Clusters Descriptor"
    fn walk_compressed(
        &mut self,
        entry: u64,
        bitmap: Option<u64>,
        place: u64,
        active: bool,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        let mut entry = entry;
        if entry & COPIED != 0 {
            let found = format!("{entry:#018x}");
            self.tell(
                rules::COMPRESSED_COPIED,
                place,
                "bit 63 clear",
                found,
                tally,
            );
            entry &= !COPIED;
        }
        if self.header.external_data() {
            let found = "a compressed one".to_owned();
            self.tell(
                rules::COMPRESSED_EXTERNAL,
                place,
                "a plain cluster",
                found,
                tally,
            );
            return Ok(());
        }
        if let Some(bits) = bitmap.filter(|bits| *bits != 0) {
            let found = format!("{bits:#018x}");
            self.tell(
                rules::SUBCLUSTERS,
                place + 8,
                "no subclusters",
                found,
                tally,
            );
            return Ok(());
        }
        let geometry = self.header.geometry;
        let (offset, len) = compressed_range(geometry, entry);
        self.refer(offset, len, Mark::Data, place, tally);
        if !(self.first && active) {
            return Ok(());
        }
        self.allocated += 1;
        self.compressed += 1;
        let file_size = self.file.size();
        if offset >= file_size {
            return Ok(());
        }
        let size = geometry.cluster_size();
        let Some(left) = self.inflate_left.checked_sub(size) else {
            tally.tell(bomb(file_size));
            return Ok(());
        };
        self.inflate_left = left;
        let mut packed = vec![0; len.min(file_size - offset) as usize];
        self.file.read_at(offset, &mut packed)?;
        let mut plain = vec![0; size as usize];
        let inflated = match self.header.zstd {
            true => unzstd(&packed, &mut plain),
            false => undeflate(&packed, &mut plain),
        };
        if let Err(why) = inflated {
            let expected = format!("{} bytes", plain.len());
            self.tell(rules::COMPRESSED_DATA, offset, expected, why, tally);
        }
        Ok(())
    }

    /// The COPIED bit says that the refcount is exactly one. // qcow2.rst, "L1 table entry"
    fn check_copied(
        &mut self,
        entry: u64,
        offset: u64,
        place: u64,
        tally: &mut Tally,
    ) -> Result<(), ParseError> {
        if !self.first {
            return Ok(());
        }
        let refcount = self
            .refcounts
            .get(offset / self.header.geometry.cluster_size())?;
        let copied = entry & COPIED != 0;
        if copied != (refcount == 1) {
            let expected = format!("bit 63 {}", if refcount == 1 { "set" } else { "clear" });
            let found = format!("{entry:#018x} with a refcount of {refcount}");
            self.tell(rules::COPIED, place, expected, found, tally);
        }
        Ok(())
    }

    // qcow2.rst, "Host cluster management"
    fn walk_refcounts(&mut self, tally: &mut Tally) -> Result<(), ParseError> {
        let size = self.header.geometry.cluster_size();
        let (offset, len) = (
            self.header.refcount_table_offset,
            self.header.refcount_table_clusters * size,
        );
        self.refer(offset, len, Mark::Exclusive, 48, tally);
        let table = self.read(offset, len)?;
        for (index, entry) in table.chunks_exact(8).enumerate() {
            let (entry, place) = (be64(entry, 0), offset + index as u64 * 8);
            if entry == 0 {
                continue;
            }
            if !entry.is_multiple_of(size) {
                let expected = format!("a multiple of {size}");
                self.tell(
                    rules::REFCOUNT_BLOCK,
                    place,
                    expected,
                    entry.to_string(),
                    tally,
                );
            } else if entry >= self.file.size() {
                let expected = format!("below {}", self.file.size());
                self.tell(
                    rules::REFCOUNT_BLOCK,
                    place,
                    expected,
                    entry.to_string(),
                    tally,
                );
            } else {
                self.refer(entry, size, Mark::Exclusive, place, tally);
            }
        }
        Ok(())
    }
}
