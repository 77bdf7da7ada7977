//! Collecting garbage: chunks that no snapshot, no resumable push and no active push needs.
//!
//! 1. What is garbage of itself goes: pushes that a later one made useless, recipes without manifest.
//! 2. Mark: one bit for every index entry, set for each entry of each recipe. 4 MiB a terabyte.
//! 3. Sweep: packs with much garbage are read; what is marked or claimed is appended to new packs,
//!    these are made durable, then the old pack is removed. A crash in between leaves a chunk twice,
//!    which the next collection mends.
//!
//! Pushes may go on meanwhile: what they are told is here they claim, and what is claimed between
//! marking and removing is copied at the last moment, while the gate is closed.

use std::collections::BTreeMap;
use std::sync::Arc;

use chunking::{ChunkId, Packed};

use crate::error::{OnPath, Result, StoreError};
use crate::index::Index;
use crate::index::format::{Entry, Key};
use crate::index::run::Run;
use crate::pack::scan::{Found, scan};
use crate::pack::{Location, pack_path};
use crate::recipe::reader::Recipe;
use crate::snapshot::{MANIFEST, PUSH, machine_dirs, push_of, remove_push_files};
use crate::store::{RECORDS_AT, Store, key_of};
use crate::sync::{lock, write};

/// Names looked up at once while marking.
const BATCH: usize = 256 << 10;
/// Bytes of chunks gathered before they are appended to a new pack.
const GATHER: usize = 4 << 20;

/// How to collect.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Collect {
    /// A pack is rewritten when at least this share of it is garbage, from 0 to 1.
    pub rewrite_above: f64,
    /// Drop every uncommitted push that is not active, not only those that a later one made useless.
    pub drop_inactive_pushes: bool,
}

impl Default for Collect {
    fn default() -> Self {
        Self {
            rewrite_above: 0.25,
            drop_inactive_pushes: false,
        }
    }
}

/// What was collected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Collected {
    /// Uncommitted pushes dropped.
    pub pushes: u64,
    /// Packs removed.
    pub packs: u64,
    /// Bytes that the removed packs took.
    pub removed: u64,
    /// Bytes written again, into new packs.
    pub rewritten: u64,
}

impl Store {
    /// Collect garbage. Safe to be stopped at any point, and while pushes go on.
    ///
    /// # Errors
    /// `GarbageBusy` if another process reads the store, or a push claims more than can be noted; `Damaged` if a manifest or recipe is,
    /// since what it needs is not known then and nothing may be removed; `Full` if there is no room
    /// for what is rewritten: then packs without any live chunk are gone already.
    pub fn collect_garbage(&self, how: Collect) -> Result<Collected> {
        self.to_write()?;
        let _maintenance = lock(&self.core.maintenance);
        let _readers = self.shut_readers_out()?;
        if !lock(&self.core.claims).begin_collecting() {
            return Err(StoreError::GarbageBusy {
                reason: "a push waits for a checkpoint",
            });
        }
        let collected = self.collect(how);
        lock(&self.core.claims).end_collecting();
        collected
    }

    fn collect(&self, how: Collect) -> Result<Collected> {
        let mut collected = Collected {
            pushes: self.drop_pushes(how.drop_inactive_pushes)?,
            ..Collected::default()
        };
        // Every chunk in a run, and no pack that is considered grows any more.
        let first_spared = {
            let mut writer = lock(&self.core.writer);
            let synced = writer.sync();
            if synced.is_err() {
                self.give_up_unsynced(&mut writer);
            }
            synced?;
            writer.end();
            writer.next()
        };
        self.write_index_if_room()?;
        self.complete_index()?;
        let mut marks = Marks::new(&self.core.index);
        self.mark(&mut marks)?;
        let live = marks.live_bytes(self)?;
        let mut packs: Vec<(u64, u32, u64)> = Vec::new();
        for (number, len) in self.core.packs.lengths() {
            let live = live.get(&number).copied().unwrap_or(0);
            let garbage = len.saturating_sub(RECORDS_AT).saturating_sub(live);
            let enough = garbage as f64 >= how.rewrite_above * len as f64;
            if number < first_spared && (live == 0 || (garbage > 0 && enough)) {
                packs.push((live, number, len));
            }
        }
        // What gives most room for least writing comes first: on a full disk it makes the rest possible.
        packs.sort_unstable();
        for (live, number, len) in packs {
            if live > 0 && self.is_damaged(number, len)? {
                continue;
            }
            collected.rewritten += self.empty_pack(number, len, &marks)?;
            collected.packs += 1;
            collected.removed += len;
        }
        if collected.packs > 0 {
            self.write_index_if_room()?;
            match self.core.index.shed(&self.pack_numbers()) {
                Err(error) if error.is_full() => {}
                other => other?,
            }
        }
        Ok(collected)
    }

    /// On a full disk the index stays in memory: collecting is what makes room.
    fn write_index_if_room(&self) -> Result<()> {
        match self.write_index() {
            Err(error) if error.is_full() => Ok(()),
            other => other,
        }
    }

    /// Drop pushes that are useless, and files that belong to nothing.
    fn drop_pushes(&self, all_inactive: bool) -> Result<u64> {
        let files = self.core.files.as_ref();
        let mut dropped = 0;
        for (dir, _) in machine_dirs(files)? {
            let names = files.list(&dir).on(&dir)?;
            let has =
                |push: &str, ending: &str| names.iter().any(|n| *n == format!("{push}{ending}"));
            let mut last = 0;
            let mut described: Vec<(&str, Option<u64>, String)> = Vec::new();
            for file in &names {
                let Some(push) = push_of(file) else { continue };
                let sequence = self.sequence_of(&dir, push, file)?;
                last = last.max(sequence.unwrap_or(0));
                if file.ends_with(PUSH) {
                    let machine = match crate::push::read_description(self, &dir, push) {
                        Ok(Some(description)) => description.machine,
                        // Damaged: it cannot be resumed, so it is not active.
                        Ok(None) | Err(StoreError::Damaged(_)) => String::new(),
                        Err(error) => return Err(error),
                    };
                    described.push((push, sequence, machine));
                }
            }
            for (push, sequence, machine) in described {
                // A lease cannot be taken while it is looked at, so none begins here.
                let leases = lock(&self.core.leases);
                let useless = all_inactive || sequence.is_none_or(|sequence| sequence < last);
                if has(push, MANIFEST) {
                    let path = format!("{dir}/{push}{PUSH}");
                    files.remove(&path).on(&path)?;
                } else if useless && !leases.contains_key(&machine) {
                    remove_push_files(files, &dir, push)?;
                    dropped += 1;
                }
            }
            self.remove_orphans(&dir)?;
        }
        Ok(dropped)
    }

    /// Remove recipes that have neither manifest nor description, if no push of the machine begins.
    fn remove_orphans(&self, dir: &str) -> Result<()> {
        let files = self.core.files.as_ref();
        let leases = lock(&self.core.leases);
        let active = leases
            .keys()
            .any(|machine| crate::snapshot::machine_dir(&crate::names::encode(machine)) == dir);
        if active {
            return Ok(());
        }
        let names = files.list(dir).on(dir)?;
        for file in &names {
            let orphan = push_of(file).is_some_and(|push| {
                let kept = [format!("{push}{MANIFEST}"), format!("{push}{PUSH}")];
                !names.iter().any(|name| kept.contains(name))
            });
            if orphan || file.starts_with('~') {
                let path = format!("{dir}/{file}");
                files.remove(&path).on(&path)?;
            }
        }
        Ok(())
    }

    /// Mark what the recipes need.
    fn mark(&self, marks: &mut Marks) -> Result<()> {
        let files = self.core.files.as_ref();
        let mut batch: Vec<Key> = Vec::with_capacity(BATCH);
        for (dir, machine) in machine_dirs(files)? {
            for file in files.list(&dir).on(&dir)? {
                let Some(push) = push_of(&file) else { continue };
                if file.ends_with(MANIFEST) {
                    // A manifest that cannot be read must stop the collection, not lose its chunks.
                    self.snapshot(&crate::SnapshotId::new(&machine, push))?;
                }
                if !file.ends_with(".recipe") {
                    continue;
                }
                let committed = files.open(&format!("{dir}/{push}{MANIFEST}")).is_ok();
                let recipe = match Recipe::open(files, &format!("{dir}/{file}"), None) {
                    // A push given up meanwhile.
                    Err(StoreError::Damaged(_)) if !committed => continue,
                    other => other?,
                };
                for number in 0..recipe.pages() {
                    let entries = match recipe.read_page(number) {
                        // The torn end of a push that will be resumed before it.
                        Err(StoreError::Damaged(_)) if !committed => break,
                        other => other?,
                    };
                    batch.extend(entries.iter().map(|entry| key_of(&entry.id)));
                    if batch.len() >= BATCH {
                        marks.mark(self, &mut batch)?;
                    }
                }
            }
        }
        marks.mark(self, &mut batch)
    }

    /// Whether a pack with live chunks is not whole: then it stays, for what might be rescued of it.
    fn is_damaged(&self, number: u32, len: u64) -> Result<bool> {
        let file = self.core.packs.file(number)?;
        let mut damaged = false;
        scan(
            file.as_ref(),
            &pack_path(number),
            RECORDS_AT..len,
            &mut |found| {
                damaged |= matches!(found, Found::Damage(_));
                Ok(())
            },
        )?;
        Ok(damaged)
    }

    /// Copy what lives out of a pack, and remove it. Answers the bytes written.
    fn empty_pack(&self, number: u32, len: u64, marks: &Marks) -> Result<u64> {
        let copied = self.copy_live(number, len, |store, id| {
            Ok(marks.has(&key_of(id))? || lock(&store.core.claims).has(id))
        })?;
        self.sync()?;
        let closed = write(&self.core.gate);
        if lock(&self.core.claims).overflowed() {
            return Err(StoreError::GarbageBusy {
                reason: "a push waits for a checkpoint",
            });
        }
        // What was claimed meanwhile, and lies nowhere else yet.
        let late = self.copy_live(
            number,
            len,
            |store, id| Ok(lock(&store.core.claims).has(id)),
        )?;
        self.sync()?;
        self.core.packs.forget(number);
        drop(closed);
        let path = pack_path(number);
        self.core.files.remove(&path).on(&path)?;
        Ok(copied + late)
    }

    /// Append again those chunks of a pack that `lives` wants and whose place in this pack counts.
    fn copy_live(
        &self,
        number: u32,
        len: u64,
        lives: impl Fn(&Store, &ChunkId) -> Result<bool>,
    ) -> Result<u64> {
        let path = pack_path(number);
        let file = self.core.packs.file(number)?;
        let mut gathered: Vec<Packed> = Vec::new();
        let mut bytes = 0;
        let mut copied = 0;
        scan(file.as_ref(), &path, RECORDS_AT..len, &mut |found| {
            let Found::Record {
                offset,
                header,
                payload,
            } = found
            else {
                return Ok(());
            };
            if !lives(self, &header.id)? {
                return Ok(());
            }
            let place = self.locate(std::slice::from_ref(&header.id))?;
            let here =
                |at: &crate::pack::Location| (at.pack, u64::from(at.offset)) == (number, offset);
            if !place.first().and_then(Option::as_ref).is_some_and(here) {
                return Ok(());
            }
            bytes += payload.len();
            gathered.push(Packed {
                id: header.id,
                raw_len: header.raw_len,
                codec: header.codec,
                bytes: payload.to_vec(),
            });
            if bytes >= GATHER {
                copied += self.append(&gathered.iter().collect::<Vec<_>>())?;
                gathered.clear();
                bytes = 0;
            }
            Ok(())
        })?;
        copied += self.append(&gathered.iter().collect::<Vec<_>>())?;
        Ok(copied)
    }
}

/// A bit for every entry there was when marking began: of every run, and of those in memory.
struct Marks {
    memory: Vec<Entry>,
    memory_bits: Vec<u64>,
    runs: Vec<(Arc<Run>, Vec<u64>)>,
}

impl Marks {
    fn new(index: &Index) -> Self {
        let bits = |entries: u64| vec![0; entries.div_ceil(64) as usize];
        // Memory first: what is written as a run in between is then in both, not in neither.
        let mut memory = index.in_memory();
        memory.sort_unstable_by_key(|entry| entry.key);
        let runs = index.runs().into_iter();
        Self {
            memory_bits: bits(memory.len() as u64),
            memory,
            runs: runs
                .map(|run| (Arc::clone(&run), bits(run.header.entries)))
                .collect(),
        }
    }

    /// Mark the entries that a look-up of `keys` gives, and clear `keys`.
    fn mark(&mut self, store: &Store, keys: &mut Vec<Key>) -> Result<()> {
        keys.sort_unstable();
        keys.dedup();
        let holds = |location: &Location| store.core.packs.view().holds(location);
        let mut found = vec![false; keys.len()];
        for (key, found) in keys.iter().zip(&mut found) {
            if let Some((ordinal, location)) = find_in(&self.memory, key)
                && holds(&location)
            {
                *found = true;
                set(&mut self.memory_bits, ordinal);
            }
        }
        for (run, bits) in self.runs.iter_mut().rev() {
            let mut cursor = run.cursor();
            for (key, found) in keys.iter().zip(&mut found).filter(|(_, found)| !**found) {
                if let Some((ordinal, location)) = cursor.find(key)?
                    && holds(&location)
                {
                    *found = true;
                    set(bits, ordinal);
                }
            }
        }
        keys.clear();
        Ok(())
    }

    /// Whether the chunk of `key` is marked anywhere.
    fn has(&self, key: &Key) -> Result<bool> {
        if find_in(&self.memory, key).is_some_and(|(ordinal, _)| is_set(&self.memory_bits, ordinal))
        {
            return Ok(true);
        }
        for (run, bits) in &self.runs {
            if let Some((ordinal, _)) = run.cursor().find(key)?
                && is_set(bits, ordinal)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Bytes of marked records of every pack.
    fn live_bytes(&self, store: &Store) -> Result<BTreeMap<u32, u64>> {
        let mut live = BTreeMap::new();
        let mut count = |location: Location| {
            if store.core.packs.view().holds(&location) {
                let len = location.end() - u64::from(location.offset);
                *live.entry(location.pack).or_insert(0) += len;
            }
        };
        for (entry, ordinal) in self.memory.iter().zip(0..) {
            if is_set(&self.memory_bits, ordinal) {
                count(entry.location);
            }
        }
        for (run, bits) in &self.runs {
            for (entry, ordinal) in run.walk().zip(0..) {
                let entry = entry?;
                if is_set(bits, ordinal) {
                    count(entry.location);
                }
            }
        }
        Ok(live)
    }
}

fn find_in(entries: &[Entry], key: &Key) -> Option<(u64, Location)> {
    let at = entries.binary_search_by_key(key, |entry| entry.key).ok()?;
    entries.get(at).map(|entry| (at as u64, entry.location))
}

fn set(bits: &mut [u64], ordinal: u64) {
    if let Some(word) = bits.get_mut(ordinal as usize / 64) {
        *word |= 1 << (ordinal % 64);
    }
}

fn is_set(bits: &[u64], ordinal: u64) -> bool {
    bits.get(ordinal as usize / 64)
        .is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
}
