//! The store behind the protocol, as `p2v serve` puts it there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chunk_store::{Begun, Commit, DiskInfo, Push, Refusal, Snapshot, Store, StoreError, Verified};
use chunking::{ChunkId, Packed};
use stream_protocol::format::{Append, ChunkRecord};
use stream_protocol::message::{
    CommitDisk, DiskProgress, ErrorBody, ErrorCode, Finish, Finished, OpenPush, PushDisk,
};
use stream_protocol::server::{PushName, Receiver, Resumed};
use stream_protocol::{RecipeEntry, RecipeRoot};

/// Which disks of a push are complete, and what may follow from it: noted durably, apart from the
/// store, so it outlives its process.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    sealed: BTreeMap<(String, usize), CommitDisk>,
    runs: BTreeMap<String, String>,
    /// How often a key was finished and used anew.
    numbers: BTreeMap<String, u64>,
}

/// A [`Receiver`] that keeps in a [`Store`].
pub(super) struct StoreReceiver {
    store: Store,
    ledger: Arc<Mutex<Ledger>>,
    active: Mutex<BTreeMap<String, Arc<Push>>>,
}

impl StoreReceiver {
    pub(super) fn new(store: Store, ledger: Arc<Mutex<Ledger>>) -> Self {
        Self {
            store,
            ledger,
            active: Mutex::default(),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    fn active(&self, push: &PushName) -> Result<Arc<Push>, ErrorBody> {
        let active = lock(&self.active);
        let found = active.get(push.key.as_str()).cloned();
        found.ok_or_else(|| ErrorBody::new(ErrorCode::PushUnknown, "open it again"))
    }

    /// Begin a push or go on with it. What another run had finished begins anew.
    fn begin(&self, push: &PushName, disks: &[DiskInfo]) -> Result<Begun, ErrorBody> {
        let key = push.key.as_str();
        loop {
            let (number, same_run) = {
                let ledger = lock(&self.ledger);
                let number = ledger.numbers.get(key).copied().unwrap_or(0);
                let run = ledger.runs.get(key);
                (number, run.is_some_and(|run| run == push.run.as_str()))
            };
            let store_key = format!("{key} {number}");
            let inventory = serde_json::Value::Null;
            let begun = self
                .store
                .begin_push(push.machine.as_str(), &store_key, disks, &inventory);
            match begun.map_err(refuse)? {
                Begun::Committed(_) if !same_run => {
                    let mut ledger = lock(&self.ledger);
                    ledger.numbers.insert(key.to_owned(), number + 1);
                    ledger.sealed.retain(|(of, _), _| of != key);
                }
                begun => return Ok(begun),
            }
        }
    }

    fn sealed(&self, push: &PushName, disk: usize) -> Option<CommitDisk> {
        let ledger = lock(&self.ledger);
        let key = (push.key.as_str().to_owned(), disk);
        ledger.sealed.get(&key).cloned()
    }
}

impl Receiver for StoreReceiver {
    fn open_push(&self, push: &PushName, open: &OpenPush) -> Result<Resumed, ErrorBody> {
        let disks: Vec<DiskInfo> = open.disks.iter().map(disk_info).collect();
        let key = push.key.as_str().to_owned();
        let known = lock(&self.active).get(&key).cloned();
        let begun = match known {
            Some(known) => known,
            None => {
                lock(&self.active).clear();
                match self.begin(push, &disks)? {
                    Begun::Open(begun) => Arc::new(begun),
                    Begun::Committed(snapshot) => {
                        return Ok(Resumed {
                            disks: vec![DiskProgress::default(); disks.len()],
                            finished: Some(finished(push, &snapshot)),
                        });
                    }
                }
            }
        };
        lock(&self.active).insert(key.clone(), Arc::clone(&begun));
        let run = push.run.as_str().to_owned();
        lock(&self.ledger).runs.insert(key, run);
        let durable = begun.durable_entries().into_iter().enumerate();
        Ok(Resumed {
            disks: durable
                .map(|(disk, durable_entries)| DiskProgress {
                    durable_entries,
                    durable_end: 0,
                    committed: self.sealed(push, disk).map(|commit| commit.root),
                })
                .collect(),
            finished: None,
        })
    }

    fn lacking(&self, push: &PushName, ids: &[ChunkId]) -> Result<Vec<bool>, ErrorBody> {
        let lacking = self.active(push)?.lacking(ids).map_err(refuse)?;
        let lacking: BTreeSet<ChunkId> = lacking.into_iter().collect();
        Ok(ids.iter().map(|id| lacking.contains(id)).collect())
    }

    fn put_chunks(&self, push: &PushName, chunks: &[ChunkRecord<'_>]) -> Result<u32, ErrorBody> {
        let active = self.active(push)?;
        let verified = chunks.iter().map(|chunk| {
            Verified::check(Packed {
                id: chunk.id,
                raw_len: chunk.raw_len,
                codec: chunk.codec,
                bytes: chunk.bytes.to_vec(),
            })
        });
        let verified: Result<Vec<Verified>, _> = verified.collect();
        let verified =
            verified.map_err(|error| ErrorBody::new(ErrorCode::BadChunk, error.to_string()))?;
        let kept = active.put(&verified).map_err(refuse)?;
        Ok(kept.new as u32)
    }

    fn append_recipe(&self, push: &PushName, disk: u32, append: &Append) -> Result<u64, ErrorBody> {
        let active = self.active(push)?;
        let disk = disk as usize;
        let entries: Vec<_> = append.entries.iter().map(store_entry).collect();
        let sealed = self.sealed(push, disk).is_some();
        let differs = active.first_difference(disk, append.start, &entries);
        if let Some(at) = differs.map_err(refuse)? {
            if sealed || !append.replace {
                return Err(ErrorBody::new(
                    ErrorCode::RecipeConflict,
                    format!("entry {at}"),
                ));
            }
            active.cut(disk, at).map_err(refuse)?;
        }
        let known = active.entries().get(disk).copied().unwrap_or(0);
        if sealed && append.start + entries.len() as u64 > known {
            return Err(ErrorBody::new(
                ErrorCode::RecipeConflict,
                "complete already",
            ));
        }
        active
            .append(disk, append.start, &entries)
            .map_err(refuse)?;
        let durable = active.checkpoint().map_err(refuse)?;
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
        if let Some(sealed) = self.sealed(push, number)
            && sealed.root == commit.root
        {
            return Ok(sealed.root);
        }
        let known = active.entries().get(number).copied().unwrap_or(0);
        if known > commit.entries {
            active.cut(number, commit.entries).map_err(refuse)?;
        }
        let root = RecipeRoot(active.root(number).map_err(refuse)?);
        if known < commit.entries || root != commit.root {
            return Err(ErrorBody::new(ErrorCode::RootMismatch, format!("{root}")));
        }
        let key = (push.key.as_str().to_owned(), number);
        lock(&self.ledger).sealed.insert(key, commit.clone());
        Ok(root)
    }

    fn finish(&self, push: &PushName, _: &Finish) -> Result<Finished, ErrorBody> {
        let active = self.active(push)?;
        let mut disks = Vec::new();
        for number in 0..active.disks().len() {
            let sealed = self.sealed(push, number);
            let sealed = sealed.ok_or_else(|| ErrorBody::new(ErrorCode::NotComplete, "a disk"))?;
            disks.push(chunk_store::CommitDisk {
                root: sealed.root.0,
                unreadable: Vec::new(),
            });
        }
        let snapshot = active.commit(&Commit { time: 1, disks });
        let snapshot = snapshot.map_err(refuse)?;
        lock(&self.active).remove(push.key.as_str());
        Ok(finished(push, &snapshot))
    }
}

fn finished(push: &PushName, snapshot: &Snapshot) -> Finished {
    Finished {
        machine: push.machine.clone(),
        snapshot: snapshot.id.to_string(),
    }
}

fn disk_info(disk: &PushDisk) -> DiskInfo {
    DiskInfo {
        name: disk.name.clone(),
        size: disk.size,
        sector_size: disk.sector_size,
    }
}

fn store_entry(entry: &RecipeEntry) -> chunk_store::RecipeEntry {
    chunk_store::RecipeEntry {
        offset: entry.offset,
        len: entry.len,
        id: entry.id,
    }
}

/// What the store refuses, in the protocol's words.
fn refuse(error: StoreError) -> ErrorBody {
    let code = match &error {
        StoreError::Full { .. } => ErrorCode::StoreFull,
        StoreError::MissingChunks { .. } => ErrorCode::ChunkMissing,
        StoreError::MachineBusy { .. } => ErrorCode::MachineBusy,
        StoreError::BadChunk(_) => ErrorCode::BadChunk,
        StoreError::Refused(Refusal::Gap { .. }) => ErrorCode::RecipeGap,
        StoreError::Refused(Refusal::NoSuchDisk { .. } | Refusal::OtherDisks { .. }) => {
            ErrorCode::DiskMismatch
        }
        StoreError::Refused(Refusal::WrongRoot { .. }) => ErrorCode::RootMismatch,
        StoreError::Refused(Refusal::Over) => ErrorCode::PushUnknown,
        StoreError::Refused(_) => ErrorCode::BadMessage,
        _ => ErrorCode::Internal,
    };
    ErrorBody::new(code, error.to_string())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
