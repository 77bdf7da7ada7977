//! Reading packs that no index run knows: after a crash, or when runs were lost.

use crate::error::{OnPath, Result};
use crate::files::sync_again;
use crate::index::format::Entry;
use crate::pack::format::{RECORD_HEADER_LEN, pack_header, void};
use crate::pack::scan::{Found, scan};
use crate::pack::{check_head, pack_path};
use crate::store::{RECORDS_AT, Store, key_of};
use crate::sync::lock;

/// Entries noted at once while a pack is read.
const BATCH: usize = 16 << 10;

impl Store {
    /// Throw the index away and read it from the packs again.
    ///
    /// # Errors
    /// `Full`, or as the files answer.
    pub fn rebuild_index(&self) -> Result<()> {
        self.to_write()?;
        let _maintenance = lock(&self.core.maintenance);
        for run in self.core.index.runs() {
            self.remove_run(&run)?;
        }
        self.complete_index()?;
        self.write_index()
    }

    /// Note the records of all ranges of packs that the index does not know.
    pub(super) fn read_unknown_packs(&self) -> Result<()> {
        let covered = self.core.index.covered();
        let active = lock(&self.core.writer).active().map(|active| active.number);
        for (number, len) in self.core.packs.lengths() {
            let unknown = covered.missing(number, RECORDS_AT..len);
            if unknown.is_empty() && (len >= RECORDS_AT || active == Some(number)) {
                continue;
            }
            self.read_pack(number, len, unknown)?;
        }
        Ok(())
    }

    fn read_pack(&self, number: u32, len: u64, unknown: Vec<std::ops::Range<u64>>) -> Result<()> {
        let path = pack_path(number);
        let file = self.core.packs.file(number)?;
        // A killed process leaves records in the kernel's memory alone: once they count as kept,
        // a power cut must not take them.
        let from = unknown.first().map_or(len, |range| range.start);
        let from = if from <= RECORDS_AT { 0 } else { from };
        if !self.core.read_only {
            sync_again(file.as_ref(), from..len).on(&path)?;
        }
        if let Some(damage) = check_head(file.as_ref(), number, len)? {
            self.note_mended(damage);
            let never_indexed = unknown.iter().any(|range| range.start == RECORDS_AT);
            if never_indexed && self.may_mend() {
                // A crash lost the first write and kept a later one.
                file.write_at(0, &pack_header(number)).on(&path)?;
                file.sync().on(&path)?;
            }
        }
        let mut good_to = None;
        for range in unknown {
            let mut torn = false;
            let mut gaps = Vec::new();
            let mut batch: Vec<Entry> = Vec::new();
            let mut known_to = range.start;
            scan(file.as_ref(), &path, range.clone(), &mut |found| {
                match found {
                    Found::Damage(damage) => {
                        torn = true;
                        self.note_mended(damage);
                    }
                    Found::Gap(gap) => gaps.push(gap),
                    Found::Record { offset, header, .. } => {
                        torn = false;
                        good_to = Some(offset + header.record_len());
                        batch.push(Entry {
                            key: key_of(&header.id),
                            location: crate::pack::Location {
                                pack: number,
                                offset: offset as u32,
                                stored_len: header.stored_len,
                                raw_len: header.raw_len,
                            },
                        });
                        if batch.len() >= BATCH {
                            let end = offset + header.record_len();
                            let entries = batch.drain(..);
                            self.core.index.insert(number, known_to..end, entries);
                            known_to = end;
                        }
                    }
                }
                if batch.is_empty() {
                    self.write_full_index()?;
                }
                Ok(())
            })?;
            let entries = batch.drain(..);
            self.core.index.insert(number, known_to..range.end, entries);
            if self.may_mend() {
                self.void(number, &gaps)?;
                if torn && range.end == len {
                    self.cut_off(number, good_to.unwrap_or(range.start))?;
                }
            }
        }
        self.write_full_index()?;
        let left = self.core.packs.view().len(number);
        let active = lock(&self.core.writer).active().map(|active| active.number);
        if left.is_some_and(|left| left <= RECORDS_AT)
            && active != Some(number)
            && !self.core.read_only
        {
            // What a crash left of a pack that was just begun.
            self.core.packs.forget(number);
            self.core.files.remove(&path).on(&path)?;
        }
        Ok(())
    }

    /// Whether what is bad in a pack that no run knows is what a crash left, and may be mended.
    fn may_mend(&self) -> bool {
        self.core.index_was_whole && !self.core.read_only
    }

    /// Write the index if memory holds what it may. On a full disk it stays in memory: a store must
    /// open so that room can be made in it.
    fn write_full_index(&self) -> Result<()> {
        // A reader keeps what it finds in memory: it is no more than what the process that writes
        // keeps there itself.
        if !self.core.index.is_full() || self.core.read_only {
            return Ok(());
        }
        match self.write_index() {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// Say in the pack itself that holes between records are holes.
    fn void(&self, number: u32, gaps: &[std::ops::Range<u64>]) -> Result<()> {
        let path = pack_path(number);
        let file = self.core.packs.file(number)?;
        for gap in gaps {
            // Packs stay far below 4 GiB.
            let len = (gap.end - gap.start) as u32;
            if len as usize >= RECORD_HEADER_LEN {
                file.write_at(gap.start, &void(len)).on(&path)?;
            }
        }
        if gaps.is_empty() {
            return Ok(());
        }
        file.sync().on(&path)
    }

    /// Cut off the torn end of a pack, behind its last good record.
    fn cut_off(&self, number: u32, len: u64) -> Result<()> {
        let path = pack_path(number);
        let file = self.core.packs.file(number)?;
        file.set_len(len).on(&path)?;
        self.core.packs.set_len(number, len);
        file.sync().on(&path)
    }
}
