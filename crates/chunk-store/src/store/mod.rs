//! The store: ask what it lacks, give it chunks.

mod open;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use chunking::{ChunkId, Packed, UnpackError};

use crate::claims::Claims;
use crate::error::{Damage, OnPath, Result, StoreError};
use crate::files::{Files, Held};
use crate::index::format::{Entry, Key};
use crate::index::run::Run;
use crate::index::{FindError, Index};
use crate::pack::format::PACK_HEADER_LEN;
use crate::pack::writer::Writer;
use crate::pack::{Location, PACKS_DIR, Packs};
use crate::sync::{lock, read};

pub(crate) const MACHINES_DIR: &str = "machines";
/// Locked by readers together, and by what removes alone.
const READERS: &str = "READERS";

/// How large the store lets things grow. The defaults are for use; tests make them small.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes after which a pack is ended and the next begun.
    pub pack_bytes: u64,
    /// Index entries kept in memory before they are written as a run: about 56 bytes each.
    pub index_entries_in_memory: usize,
    /// Entries of an index run that is not merged further.
    pub index_entries_a_run: u64,
    /// Recipe entries of a push that may wait for a checkpoint; then the push makes one by itself.
    pub waiting_entries: usize,
    /// Bytes of unpacked chunks that an open snapshot disk keeps.
    pub cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            pack_bytes: 256 << 20,
            index_entries_in_memory: 256 << 10,
            index_entries_a_run: 24 << 20,
            waiting_entries: 16 << 10,
            cache_bytes: 64 << 20,
        }
    }
}

/// A chunk whose bytes are those of its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified(Packed);

impl Verified {
    /// Unpack `chunk`, and believe it if its bytes hash to its name. This is the expensive part of
    /// keeping a chunk and needs no store: do it on many threads.
    ///
    /// # Errors
    /// [`UnpackError`] where the chunk is not what it says.
    pub fn check(chunk: Packed) -> Result<Self, UnpackError> {
        thread_local! {
            static RAW: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
        }
        RAW.with_borrow_mut(|raw| {
            chunking::unpack_into(&chunk.id, chunk.raw_len, chunk.codec, &chunk.bytes, raw)
        })?;
        Ok(Self(chunk))
    }

    /// The chunk.
    #[must_use]
    pub fn packed(&self) -> &Packed {
        &self.0
    }
}

/// What became of chunks given to the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Chunks that were new.
    pub new: u64,
    /// Chunks that were there already.
    pub known: u64,
    /// Bytes that the packs grew by.
    pub bytes: u64,
}

/// A chunk store. Cheap to clone; all clones are one store, and any number of threads may use it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) core: Arc<Core>,
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) files: Arc<dyn Files>,
    pub(crate) limits: Limits,
    pub(crate) packs: Packs,
    pub(crate) index: Index,
    /// Whether another process may be writing, and this one may not.
    pub(crate) read_only: bool,
    pub(crate) writer: Mutex<Writer>,
    /// One sync at a time.
    syncing: Mutex<()>,
    /// Read while chunks are looked up and claimed; written while a collected pack goes.
    pub(crate) gate: RwLock<()>,
    pub(crate) claims: Mutex<Claims>,
    /// Machines with an active push, and the number of the push.
    pub(crate) leases: Mutex<BTreeMap<String, u64>>,
    /// Held by what rewrites or removes: collecting garbage, removing snapshots, rebuilding.
    pub(crate) maintenance: Mutex<()>,
    /// What was found damaged when the store was opened, or later, and mended.
    mended: Mutex<Vec<Damage>>,
    /// How often runs were removed whose packs must be read again.
    removed_runs: AtomicU64,
    /// How many of these removals have been made good.
    made_good: Mutex<u64>,
    /// Whether every index run was whole when the store was opened. Then what is bad at the end of a
    /// pack that no run knows was being written when a crash came, and may be cut off.
    pub(crate) index_was_whole: bool,
    _lock: Held,
}

impl Store {
    /// Refuse what changes the store if it was opened to be read.
    pub(crate) fn to_write(&self) -> Result<()> {
        if self.core.read_only {
            return Err(StoreError::ReadOnly);
        }
        Ok(())
    }

    /// Keep other processes from reading while something is removed.
    pub(crate) fn shut_readers_out(&self) -> Result<Held> {
        let held = self.core.files.lock(READERS).on(READERS)?;
        held.ok_or(StoreError::GarbageBusy {
            reason: "another process reads it, a conversion perhaps",
        })
    }

    /// Look again what another process has written since the store was opened to be read.
    fn look_again(&self) -> Result<()> {
        self.core.index.load(true)?;
        self.core.packs.load()?;
        self.core.removed_runs.fetch_add(1, Ordering::AcqRel);
        self.complete_index()
    }

    /// Which of `ids` are not in the store, each once, in the order given. They may be in it the
    /// moment after: another push may send them.
    ///
    /// # Errors
    /// As the files answer.
    pub fn lacking(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let found = self.locate(ids)?;
        let mut seen = BTreeSet::new();
        let lacking = ids.iter().zip(found);
        Ok(lacking
            .filter(|(id, location)| location.is_none() && seen.insert(**id))
            .map(|(id, _)| *id)
            .collect())
    }

    /// Keep chunks. They are found at once, and survive a power cut after [`Store::sync`].
    ///
    /// # Errors
    /// `Full`, or as the files answer. What was kept before stays.
    pub fn put(&self, chunks: &[Verified]) -> Result<Kept> {
        let ids: Vec<ChunkId> = chunks.iter().map(|chunk| chunk.0.id).collect();
        let known = self.locate(&ids)?;
        let mut kept = Kept::default();
        let mut seen = BTreeSet::new();
        let fresh: Vec<&Packed> = chunks
            .iter()
            .zip(&known)
            .filter(|(chunk, location)| location.is_none() && seen.insert(chunk.0.id))
            .map(|(chunk, _)| &chunk.0)
            .collect();
        kept.new = fresh.len() as u64;
        kept.known = chunks.len() as u64 - kept.new;
        kept.bytes = self.append(&fresh)?;
        if self.core.index.is_full() {
            self.write_index()?;
        }
        Ok(kept)
    }

    /// Make all chunks kept so far survive a power cut. One sync for all of them, whoever gave them.
    ///
    /// # Errors
    /// As the files answer. Chunks that may be lost then count as lacking again.
    pub fn sync(&self) -> Result<()> {
        let core = &self.core;
        let _one = lock(&core.syncing);
        let (number, file, len, known) = {
            let writer = lock(&core.writer);
            match writer.active() {
                Some(active) if active.synced < active.len => (
                    active.number,
                    Arc::clone(&active.file),
                    active.len,
                    active.synced > 0,
                ),
                _ => return Ok(()),
            }
        };
        // Others go on appending meanwhile.
        let path = crate::pack::pack_path(number);
        let mut synced = file.sync().on(&path);
        if synced.is_ok() && !known {
            synced = core.files.sync_dir(PACKS_DIR).on(PACKS_DIR);
        }
        let mut writer = lock(&core.writer);
        match synced {
            Ok(()) => {
                writer.note_synced(number, len);
                Ok(())
            }
            Err(error) => {
                self.give_up_unsynced(&mut writer);
                Err(error)
            }
        }
    }

    /// What was found damaged and mended since the store was opened: index runs that were read from
    /// the packs again, and torn ends of packs.
    #[must_use]
    pub fn mended(&self) -> Vec<String> {
        lock(&self.core.mended)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    /// Make the index on disk know all chunks, so that the next open need not read packs.
    ///
    /// # Errors
    /// `Full`, or as the files answer. The index in memory stays as it was.
    pub fn write_index(&self) -> Result<()> {
        self.to_write()?;
        loop {
            let snapshot = self.core.index.snapshot(&self.core.packs.view());
            self.sync()?;
            if self.core.index.write(&snapshot)? {
                break;
            }
        }
        match self.core.index.merge(&self.pack_numbers()) {
            Err(StoreError::Damaged(damage)) => self.mend_index(damage),
            other => other,
        }
    }

    pub(crate) fn pack_numbers(&self) -> BTreeSet<u32> {
        let packs = self.core.packs.lengths();
        packs.into_iter().map(|(number, _)| number).collect()
    }

    /// Where the chunks `ids` lie.
    pub(crate) fn locate(&self, ids: &[ChunkId]) -> Result<Vec<Option<Location>>> {
        self.complete_index()?;
        let mut keys: Vec<Key> = ids.iter().map(key_of).collect();
        keys.sort_unstable();
        keys.dedup();
        let found = loop {
            let found = self.core.index.find(&keys, &self.core.packs.view());
            match found {
                Ok(found) => break found,
                Err(FindError::Other(error)) => return Err(error),
                Err(FindError::Broken(run, damage)) => {
                    lock(&self.core.mended).push(damage);
                    self.remove_run(&run)?;
                    self.complete_index()?;
                }
            }
        };
        let place = |id| keys.binary_search(&key_of(id)).ok();
        Ok(ids
            .iter()
            .map(|id| place(id).and_then(|at| found.get(at).copied().flatten()))
            .collect())
    }

    /// The raw bytes of a chunk, verified. A damaged copy is passed over where there is another; if
    /// there is none, the error tells of the first, and the chunk counts as lacking from now on.
    pub(crate) fn read_chunk(&self, id: &ChunkId) -> Result<Vec<u8>> {
        let mut first = None;
        let mut looked_again = !self.core.read_only;
        loop {
            let Some(location) = self
                .locate(std::slice::from_ref(id))?
                .into_iter()
                .next()
                .flatten()
            else {
                if !looked_again {
                    looked_again = true;
                    self.look_again()?;
                    continue;
                }
                return Err(first.unwrap_or_else(|| {
                    Damage::new(PACKS_DIR, 0, crate::Lie::NoChunk { id: *id }).into()
                }));
            };
            match self.core.packs.read_chunk(&location, id) {
                // The pack was collected between the look-up and the read: its chunks lie elsewhere.
                Err(StoreError::NotFound { .. }) => {
                    if self.core.packs.view().has(location.pack) {
                        let path = crate::pack::pack_path(location.pack);
                        self.core.packs.mark_bad(&location);
                        let gone = Damage::new(path, 0, crate::Lie::Absent);
                        first.get_or_insert(gone.into());
                    }
                }
                Err(error @ StoreError::Damaged(_)) => {
                    self.core.packs.mark_bad(&location);
                    first.get_or_insert(error);
                }
                other => return other,
            }
        }
    }

    /// Append verified chunks to the packs and note them. Answers the bytes written.
    pub(crate) fn append(&self, chunks: &[&Packed]) -> Result<u64> {
        if chunks.is_empty() {
            return Ok(0);
        }
        self.to_write()?;
        let core = &self.core;
        let mut bytes = 0;
        let mut writer = lock(&core.writer);
        let appended = writer.append(&core.packs, chunks, &mut |run| {
            let (Some((_, first)), Some((_, last))) = (run.first(), run.last()) else {
                return;
            };
            let range = u64::from(first.offset)..last.end();
            bytes += range.end - range.start;
            let entries = run.iter().map(|(chunk, location)| Entry {
                key: key_of(&chunk.id),
                location: *location,
            });
            core.index.insert(first.pack, range, entries);
        });
        if writer.sync_failed() {
            self.give_up_unsynced(&mut writer);
        }
        appended?;
        Ok(bytes)
    }

    pub(crate) fn give_up_unsynced(&self, writer: &mut Writer) {
        if let Some((pack, kept)) = writer.give_up_unsynced(&self.core.packs) {
            self.core.index.forget(pack, kept);
        }
    }

    /// A run met while merging is damaged: drop all that are. The next look-up reads their packs again.
    fn mend_index(&self, damage: Damage) -> Result<()> {
        lock(&self.core.mended).push(damage);
        for run in self.core.index.runs() {
            match run.verify() {
                Err(StoreError::Damaged(_)) => self.remove_run(&run)?,
                other => other?,
            }
        }
        Ok(())
    }

    /// Remove a run of the index; [`Store::complete_index`] comes next.
    pub(crate) fn remove_run(&self, run: &Run) -> Result<()> {
        self.core.removed_runs.fetch_add(1, Ordering::AcqRel);
        if self.core.read_only {
            self.core.index.pass_over(run);
            return Ok(());
        }
        self.core.index.remove_run(run)
    }

    /// Read the packs that the index does not know, if it may not know some. Nothing may be called
    /// lacking, or garbage, before.
    pub(crate) fn complete_index(&self) -> Result<()> {
        let mut made_good = lock(&self.core.made_good);
        loop {
            let removed = self.core.removed_runs.load(Ordering::Acquire);
            if *made_good == removed {
                return Ok(());
            }
            self.read_unknown_packs()?;
            *made_good = removed;
        }
    }

    pub(crate) fn note_mended(&self, damage: Damage) {
        lock(&self.core.mended).push(damage);
    }

    /// Hold off the removal of packs while chunks are looked up and claimed.
    pub(crate) fn pass_gate(&self) -> std::sync::RwLockReadGuard<'_, ()> {
        read(&self.core.gate)
    }
}

/// The index key of a chunk.
pub(crate) fn key_of(id: &ChunkId) -> Key {
    crate::bytes::array(id.as_bytes(), 0)
}

/// Where the records of a pack begin.
pub(crate) const RECORDS_AT: u64 = PACK_HEADER_LEN as u64;
