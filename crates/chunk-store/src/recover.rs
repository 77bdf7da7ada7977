//! Reading packs that no index run knows: after a crash, or when runs were lost.

use crate::error::{OnPath, Result};
use crate::index::format::Entry;
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
        let _maintenance = lock(&self.core.maintenance);
        for run in self.core.index.runs() {
            self.core.index.remove_run(&run)?;
        }
        self.read_unknown_packs()?;
        self.write_index()
    }

    /// Note the records of all ranges of packs that the index does not know.
    pub(crate) fn read_unknown_packs(&self) -> Result<()> {
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
        file.sync().on(&path)?;
        if let Some(damage) = check_head(file.as_ref(), number, len)? {
            self.note_mended(damage);
        }
        let mut records = 0u64;
        for range in unknown {
            let mut batch: Vec<Entry> = Vec::new();
            let mut known_to = range.start;
            scan(file.as_ref(), &path, range.clone(), &mut |found| {
                match found {
                    Found::Damage(damage) => self.note_mended(damage),
                    Found::Record { offset, header, .. } => {
                        records += 1;
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
                if batch.is_empty() && self.core.index.is_full() {
                    self.write_index()?;
                }
                Ok(())
            })?;
            let entries = batch.drain(..);
            self.core.index.insert(number, known_to..range.end, entries);
        }
        if self.core.index.is_full() {
            self.write_index()?;
        }
        let active = lock(&self.core.writer).active().map(|active| active.number);
        if records == 0 && len <= RECORDS_AT && active != Some(number) {
            // What a crash left of a pack that was just begun.
            self.core.packs.forget(number);
            self.core.files.remove(&path).on(&path)?;
        }
        Ok(())
    }
}
