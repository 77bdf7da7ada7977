//! Appending to packs.

use std::sync::Arc;

use chunking::Packed;

use super::format::{PACK_HEADER_LEN, encode_record, pack_header};
use super::{Location, PACKS_DIR, Packs, pack_path};
use crate::error::{OnPath, Result};
use crate::files::{Files, StoredFile};

/// Bytes gathered before one write.
const GATHER: usize = 4 << 20;

/// A chunk and where it was written.
pub(crate) type Written<'c> = (&'c Packed, Location);

/// The pack that grows.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) number: u32,
    pub(crate) file: Arc<dyn StoredFile>,
    /// Where the next record goes.
    pub(crate) len: u64,
    /// How much of it survives a power cut.
    pub(crate) synced: u64,
}

/// Appends records to the newest pack. A pack of an earlier process is never appended to: what lies
/// behind its last good record after a crash stays out of the way.
#[derive(Debug)]
pub(crate) struct Writer {
    files: Arc<dyn Files>,
    active: Option<Active>,
    next: u32,
    limit: u64,
    sync_failed: bool,
}

impl Writer {
    /// A writer whose first pack will have the number `next`, and whose packs end near `limit` bytes.
    pub(crate) fn new(files: Arc<dyn Files>, next: u32, limit: u64) -> Self {
        Self {
            files,
            active: None,
            next,
            limit,
            sync_failed: false,
        }
    }

    pub(crate) fn active(&self) -> Option<&Active> {
        self.active.as_ref()
    }

    /// The number the next new pack will have.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Write `chunks`, which are verified, and tell `written` of each run of them that is in a pack.
    /// After an error those that `written` was not told of are not in the store.
    ///
    /// A full pack is synced and ended on the way; see [`Writer::sync_failed`].
    pub(crate) fn append(
        &mut self,
        packs: &Packs,
        chunks: &[&Packed],
        written: &mut dyn FnMut(&[Written<'_>]),
    ) -> Result<()> {
        let mut rest = chunks;
        let mut buffer = Vec::new();
        while !rest.is_empty() {
            if self.is_full() {
                self.sync()?;
                self.active = None;
            }
            self.ensure_active(packs)?;
            let limit = self.limit;
            let Some(active) = self.active.as_mut() else {
                return Ok(());
            };
            buffer.clear();
            let mut run = Vec::new();
            while let Some((chunk, after)) = rest.split_first() {
                let offset = active.len + buffer.len() as u64;
                if !run.is_empty() && (buffer.len() >= GATHER || offset >= limit) {
                    break;
                }
                let location = Location {
                    pack: active.number,
                    // A pack ends near its limit, which is far below 4 GiB.
                    offset: offset as u32,
                    stored_len: chunk.bytes.len() as u32,
                    raw_len: chunk.raw_len,
                };
                encode_record(chunk, &mut buffer);
                run.push((*chunk, location));
                rest = after;
            }
            let path = pack_path(active.number);
            if let Err(error) = active.file.write_at(active.len, &buffer) {
                // What was written of it is behind the end, and overwritten next. Cutting it off
                // gives the room back; if that fails too nothing is worse.
                let _ = active.file.set_len(active.len);
                return Err(error).on(&path);
            }
            active.len += buffer.len() as u64;
            packs.set_len(active.number, active.len);
            written(&run);
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.active
            .as_ref()
            .is_some_and(|active| active.len >= self.limit)
    }

    /// Make the active pack durable.
    pub(crate) fn sync(&mut self) -> Result<()> {
        let Some(active) = self.active.as_mut() else {
            return Ok(());
        };
        if active.synced < active.len {
            self.sync_failed = true;
            active.file.sync().on(&pack_path(active.number))?;
            if active.synced == 0 {
                self.files.sync_dir(PACKS_DIR).on(PACKS_DIR)?;
            }
            active.synced = active.len;
            self.sync_failed = false;
        }
        Ok(())
    }

    /// Whether a sync failed: then [`Writer::give_up_unsynced`] comes next.
    pub(crate) fn sync_failed(&self) -> bool {
        self.sync_failed
    }

    /// End the active pack, which is synced.
    pub(crate) fn end(&mut self) {
        self.active = None;
    }

    /// Note that the active pack is durable up to `len`, if it is still `number`.
    pub(crate) fn note_synced(&mut self, number: u32, len: u64) {
        if let Some(active) = self.active.as_mut().filter(|a| a.number == number) {
            active.synced = active.synced.max(len);
        }
    }

    /// Give up what a failed sync may have lost. Answers the pack and the length that is left of it.
    ///
    /// A kernel marks pages clean after a failed write-back, so a second sync proves nothing: the
    /// records are dropped and sent again.
    pub(crate) fn give_up_unsynced(&mut self, packs: &Packs) -> Option<(u32, u64)> {
        self.sync_failed = false;
        let active = self.active.take()?;
        let kept = active.synced;
        if kept == 0 {
            packs.forget(active.number);
            let _ = self.files.remove(&pack_path(active.number));
        } else {
            packs.set_len(active.number, kept);
            let _ = active.file.set_len(kept);
        }
        Some((active.number, kept))
    }

    fn ensure_active(&mut self, packs: &Packs) -> Result<()> {
        if self.active.is_some() {
            return Ok(());
        }
        let number = self.next;
        let path = pack_path(number);
        let file = self.files.create(&path).on(&path)?;
        if let Err(error) = file.write_at(0, &pack_header(number)) {
            let _ = self.files.remove(&path);
            return Err(error).on(&path);
        }
        self.next += 1;
        packs.set_len(number, PACK_HEADER_LEN as u64);
        self.active = Some(Active {
            number,
            file,
            len: PACK_HEADER_LEN as u64,
            synced: 0,
        });
        Ok(())
    }
}
