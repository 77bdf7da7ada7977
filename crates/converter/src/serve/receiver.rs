//! [`StoreReceiver`]: what agents send goes into the chunk store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chunk_store::{Begun, DiskInfo, Push, Refusal, Snapshot, Store, StoreError, Verified};
use chunking::{ChunkId, Packed};
use stream_protocol::format::{Append, ChunkRecord};
use stream_protocol::message::{
    CommitDisk, DiskProgress, ErrorBody, Finish, Finished, MachineName, OpenPush, PushKey,
};
use stream_protocol::server::{PushName, Receiver, Resumed, bad_chunk};
use stream_protocol::{ErrorCode, RecipeRoot};

use super::meter::Meter;
use super::record::{Record, Sealed};

/// How often a key may have been used by pushes the ledger does not know of.
const MOST_UNKNOWN: u64 = 100_000;

/// Answers the time in seconds since 1970.
pub type Clock = fn() -> u64;

/// Keeps what arrives in a [`Store`].
#[derive(Debug)]
pub struct StoreReceiver {
    store: Store,
    meter: Arc<Meter>,
    clock: Clock,
    /// One push is opened at a time.
    opening: Mutex<()>,
    active: Mutex<BTreeMap<MachineName, Arc<Active>>>,
}

/// An open push.
#[derive(Debug)]
struct Active {
    key: PushKey,
    push: Push,
    /// What decides about a recipe and then changes it holds this.
    record: Mutex<Record>,
}

impl StoreReceiver {
    /// Keeps in `store`, all that it must remember included, and dates what is finished by `clock`.
    #[must_use]
    pub fn new(store: Store, meter: Arc<Meter>, clock: Clock) -> Self {
        Self {
            store,
            meter,
            clock,
            opening: Mutex::default(),
            active: Mutex::default(),
        }
    }

    /// The store it keeps in.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    fn active(&self, push: &PushName) -> Result<Arc<Active>, ErrorBody> {
        let active = lock(&self.active);
        let found = active
            .get(&push.machine)
            .filter(|active| active.key == push.key);
        found.cloned().ok_or_else(|| {
            ErrorBody::new(ErrorCode::PushUnknown, "the push is not open (any more)")
                .advice("open it again")
        })
    }

    /// Begin a push in the store, or go on with it. `Err` inside: it is finished.
    fn begin(
        &self,
        push: &PushName,
        disks: &[DiskInfo],
        inventory: &serde_json::Value,
    ) -> Result<Result<(Push, Record), Snapshot>, ErrorBody> {
        let known = Record::find(&self.store, &push.machine, &push.key).map_err(refuse)?;
        let same_run = known.as_ref().is_some_and(|record| record.run == push.run);
        let mut record = known.unwrap_or_else(|| Record {
            machine: push.machine.clone(),
            key: push.key.clone(),
            number: 0,
            run: push.run.clone(),
            sealed: BTreeMap::new(),
        });
        record.run = push.run.clone();
        for tried in 0..MOST_UNKNOWN {
            let machine = push.machine.as_str();
            let store_key = record.store_key();
            match self.store.begin_push(machine, &store_key, disks, inventory) {
                Ok(Begun::Open(begun)) => {
                    record.put(&self.store).map_err(refuse)?;
                    return Ok(Ok((begun, record)));
                }
                Ok(Begun::Committed(snapshot)) if same_run && tried == 0 => {
                    return Ok(Err(snapshot));
                }
                Ok(Begun::Committed(_)) => {}
                // The machine has other disks than when this push began: nothing of it fits.
                Err(StoreError::Refused(
                    Refusal::OtherDisks { .. } | Refusal::DiskCount { .. },
                )) => {
                    self.abandon(push, &store_key)?;
                }
                Err(error) => return Err(refuse(error)),
            }
            record.number += 1;
            record.sealed.clear();
        }
        Err(ErrorBody::new(
            ErrorCode::Internal,
            "the push key is used up",
        ))
    }

    fn abandon(&self, push: &PushName, store_key: &str) -> Result<(), ErrorBody> {
        let pushes = self.store.pushes().map_err(refuse)?;
        let stale = pushes
            .into_iter()
            .find(|known| known.machine == push.machine.as_str() && known.push_key == store_key);
        let Some(stale) = stale else {
            return Ok(());
        };
        let disks: Vec<DiskInfo> = stale.disks.into_iter().map(|(disk, _)| disk).collect();
        let begun = self.store.begin_push(
            push.machine.as_str(),
            store_key,
            &disks,
            &serde_json::Value::Null,
        );
        match begun.map_err(refuse)? {
            Begun::Open(begun) => begun.abandon().map_err(refuse),
            Begun::Committed(_) => Ok(()),
        }
    }

    fn progress(&self, active: &Active) -> Result<Vec<DiskProgress>, ErrorBody> {
        let record = lock(&active.record);
        let store_key = record.store_key();
        let pushes = self.store.pushes().map_err(refuse)?;
        let known = pushes
            .iter()
            .find(|known| known.machine == record.machine.as_str() && known.push_key == store_key);
        let ends = |disk: usize| {
            known
                .and_then(|known| known.disks.get(disk))
                .map_or(0, |d| d.1)
        };
        let durable = active.push.durable_entries();
        let progress = durable
            .into_iter()
            .enumerate()
            .map(|(disk, durable_entries)| DiskProgress {
                durable_entries,
                durable_end: ends(disk),
                committed: record.sealed.get(&disk).map(|sealed| sealed.root),
            });
        Ok(progress.collect())
    }
}

impl Receiver for StoreReceiver {
    fn open_push(&self, push: &PushName, open: &OpenPush) -> Result<Resumed, ErrorBody> {
        let _one = lock(&self.opening);
        let disks: Vec<DiskInfo> = open.disks.iter().map(disk_info).collect();
        let known = lock(&self.active).get(&push.machine).cloned();
        let active = match known {
            Some(active) if active.key == push.key && active.push.disks() == disks => {
                let mut record = lock(&active.record);
                record.run = push.run.clone();
                record.put(&self.store).map_err(refuse)?;
                drop(record);
                active
            }
            known => {
                // The store lets one push of a machine be: the other one ends here, and can be resumed.
                lock(&self.active).remove(&push.machine);
                drop(known);
                let inventory = serde_json::to_value(&open.inventory).map_err(internal)?;
                let (begun, record) = match self.begin(push, &disks, &inventory)? {
                    Ok(begun) => begun,
                    Err(snapshot) => {
                        return Ok(Resumed {
                            disks: vec![DiskProgress::default(); disks.len()],
                            finished: Some(finished(push, &snapshot)),
                        });
                    }
                };
                let active = Arc::new(Active {
                    key: push.key.clone(),
                    push: begun,
                    record: Mutex::new(record),
                });
                lock(&self.active).insert(push.machine.clone(), Arc::clone(&active));
                active
            }
        };
        let disks = self.progress(&active)?;
        let expected = open
            .disks
            .iter()
            .map(|disk| disk.expected_bytes.unwrap_or(0))
            .sum();
        self.meter.count(&push.machine, |counts| {
            *counts = super::meter::Counts {
                expected,
                ..Default::default()
            };
        });
        Ok(Resumed {
            disks,
            finished: None,
        })
    }

    fn lacking(&self, push: &PushName, ids: &[ChunkId]) -> Result<Vec<bool>, ErrorBody> {
        let lacking = self.active(push)?.push.lacking(ids).map_err(refuse)?;
        let lacking: BTreeSet<ChunkId> = lacking.into_iter().collect();
        Ok(ids.iter().map(|id| lacking.contains(id)).collect())
    }

    fn put_chunks(&self, push: &PushName, chunks: &[ChunkRecord<'_>]) -> Result<u32, ErrorBody> {
        let active = self.active(push)?;
        let verify = |(index, chunk): (usize, &ChunkRecord<'_>)| {
            let packed = Packed {
                id: chunk.id,
                raw_len: chunk.raw_len,
                codec: chunk.codec,
                bytes: chunk.bytes.to_vec(),
            };
            Verified::check(packed).map_err(|error| bad_chunk(index, &error))
        };
        let verified = chunks.iter().enumerate().map(verify);
        let verified = verified.collect::<Result<Vec<_>, _>>()?;
        let kept = active.push.put(&verified).map_err(refuse)?;
        self.meter.count(&push.machine, |counts| {
            counts.wire += chunks
                .iter()
                .map(|chunk| chunk.bytes.len() as u64)
                .sum::<u64>();
            counts.raw += chunks
                .iter()
                .map(|chunk| u64::from(chunk.raw_len))
                .sum::<u64>();
        });
        Ok(u32::try_from(kept.new).unwrap_or(u32::MAX))
    }

    fn append_recipe(&self, push: &PushName, disk: u32, append: &Append) -> Result<u64, ErrorBody> {
        let active = self.active(push)?;
        let disk = disk as usize;
        let entries: Vec<_> = append.entries.iter().map(store_entry).collect();
        let new_bytes = {
            let record = lock(&active.record);
            let known = active.push.entries().get(disk).copied().unwrap_or(0);
            let sealed = record.sealed.contains_key(&disk);
            let differs = active.push.first_difference(disk, append.start, &entries);
            let mut kept = known;
            if let Some(at) = differs.map_err(refuse)? {
                if sealed || !append.replace {
                    return Err(conflict(disk, at, sealed));
                }
                active.push.cut(disk, at).map_err(refuse)?;
                kept = at;
            }
            let end = append.start.saturating_add(entries.len() as u64);
            if sealed && end > known {
                return Err(conflict(disk, known, true));
            }
            active
                .push
                .append(disk, append.start, &entries)
                .map_err(refuse)?;
            let old = kept.saturating_sub(append.start);
            let old = usize::try_from(old).unwrap_or(usize::MAX);
            entries
                .iter()
                .skip(old)
                .map(|entry| u64::from(entry.len))
                .sum::<u64>()
        };
        let durable = active.push.checkpoint().map_err(refuse)?;
        self.meter
            .count(&push.machine, |counts| counts.kept += new_bytes);
        Ok(durable.get(disk).copied().unwrap_or(0))
    }

    fn commit_disk(
        &self,
        push: &PushName,
        disk: u32,
        commit: &CommitDisk,
    ) -> Result<RecipeRoot, ErrorBody> {
        let active = self.active(push)?;
        let number = disk as usize;
        let mut record = lock(&active.record);
        if let Some(sealed) = record.sealed.get(&number)
            && sealed.root == commit.root
        {
            return Ok(sealed.root);
        }
        let known = active.push.entries().get(number).copied().unwrap_or(0);
        if known > commit.entries {
            active.push.cut(number, commit.entries).map_err(refuse)?;
        }
        let root = RecipeRoot(active.push.root(number).map_err(refuse)?);
        if known < commit.entries || root != commit.root {
            let kept = known.min(commit.entries);
            let message = format!(
                "disk {disk} arrived with {kept} entries and root {root}, the agent sent {} and {}",
                commit.entries, commit.root
            );
            return Err(ErrorBody::new(ErrorCode::RootMismatch, message).advice("push again"));
        }
        let sealed = Sealed {
            root,
            unreadable: commit.unreadable.clone(),
        };
        let mut sealed_record = record.clone();
        sealed_record.sealed.insert(number, sealed);
        sealed_record.put(&self.store).map_err(refuse)?;
        *record = sealed_record;
        Ok(root)
    }

    fn finish(&self, push: &PushName, finish: &Finish) -> Result<Finished, ErrorBody> {
        let active = self.active(push)?;
        let record = lock(&active.record);
        let mut disks = Vec::new();
        for number in 0..active.push.disks().len() {
            let Some(sealed) = record.sealed.get(&number) else {
                let message = format!("disk {number} is not committed");
                return Err(ErrorBody::new(ErrorCode::NotComplete, message));
            };
            let ranges = sealed.unreadable.iter();
            disks.push(chunk_store::CommitDisk {
                root: sealed.root.0,
                unreadable: ranges
                    .map(|range| range.offset..range.offset + range.len)
                    .collect(),
            });
        }
        for note in &finish.notes {
            eprintln!("p2v: {}: {}", push.machine, note.escape_debug());
        }
        let time = (self.clock)();
        let snapshot = active.push.commit(&chunk_store::Commit { time, disks });
        let snapshot = snapshot.map_err(refuse)?;
        drop(record);
        lock(&self.active).remove(&push.machine);
        self.meter
            .count(&push.machine, |counts| counts.finished = true);
        Ok(finished(push, &snapshot))
    }
}

fn disk_info(disk: &stream_protocol::message::PushDisk) -> DiskInfo {
    DiskInfo {
        name: disk.name.clone(),
        size: disk.size,
        sector_size: disk.sector_size,
    }
}

fn store_entry(entry: &stream_protocol::RecipeEntry) -> chunk_store::RecipeEntry {
    chunk_store::RecipeEntry {
        offset: entry.offset,
        len: entry.len,
        id: entry.id,
    }
}

fn finished(push: &PushName, snapshot: &Snapshot) -> Finished {
    Finished {
        machine: push.machine.clone(),
        snapshot: snapshot.id.to_string(),
    }
}

fn conflict(disk: usize, at: u64, sealed: bool) -> ErrorBody {
    let why = if sealed {
        ", and the disk is complete"
    } else {
        ""
    };
    let message = format!("disk {disk}: entry {at} differs from the one kept{why}");
    ErrorBody::new(ErrorCode::RecipeConflict, message)
}

fn internal(error: impl Into<anyhow::Error>) -> ErrorBody {
    let error = error.into();
    eprintln!("p2v: {error:#}");
    ErrorBody::new(
        ErrorCode::Internal,
        format!("the converter failed: {error:#}"),
    )
    .advice("look at what `p2v serve` printed")
}

/// What the store refuses, in the protocol's words.
fn refuse(error: StoreError) -> ErrorBody {
    let code = match &error {
        StoreError::Full { .. } => ErrorCode::StoreFull,
        StoreError::MissingChunks { .. } => ErrorCode::ChunkMissing,
        StoreError::BadChunk(_) => ErrorCode::BadChunk,
        // The server's leases let one agent in: what is busy here is its own last request.
        StoreError::MachineBusy { .. } => ErrorCode::Unavailable,
        StoreError::Refused(Refusal::Gap { .. }) => ErrorCode::RecipeGap,
        StoreError::Refused(Refusal::NoSuchDisk { .. }) => ErrorCode::DiskMismatch,
        StoreError::Refused(Refusal::WrongRoot { .. }) => ErrorCode::RootMismatch,
        StoreError::Refused(Refusal::Over) => ErrorCode::PushUnknown,
        StoreError::Refused(_) => ErrorCode::BadMessage,
        _ => return internal(error),
    };
    let advice = match code {
        ErrorCode::StoreFull => {
            "free some space where the converter keeps its store; the push goes on then"
        }
        ErrorCode::Unavailable => "try again shortly",
        _ => "",
    };
    ErrorBody::new(code, format!("{:#}", anyhow::Error::from(error))).advice(advice)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
