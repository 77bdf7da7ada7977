//! [`MemoryReceiver`]: keeps everything in memory, and can lose what a crash would lose.
//!
//! For the tests of agents and transports. It holds itself to the letter of [`Receiver`].

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chunking::ChunkId;

use super::{PushName, Receiver, Resumed, bad_chunk};
use crate::format::{Append, ChunkRecord};
use crate::message::{
    CommitDisk, DiskProgress, ErrorBody, ErrorCode, Finish, Finished, MachineName, OpenPush,
    PushDisk, PushKey, RunId,
};
use crate::recipe::{RecipeEntry, RecipeRoot, RootHasher};

/// A [`Receiver`] in memory.
#[derive(Debug, Default)]
pub struct MemoryReceiver {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    durable: BTreeMap<ChunkId, Vec<u8>>,
    volatile: BTreeMap<ChunkId, Vec<u8>>,
    pushes: BTreeMap<(MachineName, PushKey), Kept>,
    full: bool,
}

#[derive(Debug)]
struct Kept {
    run: RunId,
    disks: Vec<Disk>,
    finished: Option<Finished>,
}

#[derive(Debug)]
struct Disk {
    is: PushDisk,
    entries: Vec<RecipeEntry>,
    committed: Option<RecipeRoot>,
}

impl MemoryReceiver {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Lose every chunk that no durable recipe entry names, as a crash would.
    pub fn crash(&self) {
        self.state().volatile.clear();
    }

    /// Refuse chunks as a full disk does, or take them again.
    pub fn set_full(&self, full: bool) {
        self.state().full = full;
    }

    /// How many chunks are kept.
    #[must_use]
    pub fn chunk_count(&self) -> usize {
        let state = self.state();
        state.durable.len() + state.volatile.len()
    }

    /// Whether the push is complete.
    #[must_use]
    pub fn is_finished(&self, machine: &MachineName, key: &PushKey) -> bool {
        let state = self.state();
        let kept = state.pushes.get(&(machine.clone(), key.clone()));
        kept.is_some_and(|kept| kept.finished.is_some())
    }

    /// The bytes of a committed disk of a finished machine, zeroes where no entry is.
    #[must_use]
    pub fn read_disk(&self, machine: &MachineName, key: &PushKey, disk: usize) -> Option<Vec<u8>> {
        let state = self.state();
        let kept = state.pushes.get(&(machine.clone(), key.clone()))?;
        let disk = kept.disks.get(disk)?;
        disk.committed?;
        let mut bytes = vec![0; usize::try_from(disk.is.size).ok()?];
        for entry in &disk.entries {
            let raw = state.durable.get(&entry.id)?;
            let start = usize::try_from(entry.offset).ok()?;
            bytes
                .get_mut(start..start + raw.len())?
                .copy_from_slice(raw);
        }
        Some(bytes)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Receiver for MemoryReceiver {
    fn open_push(&self, push: &PushName, open: &OpenPush) -> Result<Resumed, ErrorBody> {
        let mut state = self.state();
        let key = (push.machine.clone(), push.key.clone());
        let fresh = || Kept {
            run: push.run.clone(),
            disks: open.disks.iter().cloned().map(Disk::new).collect(),
            finished: None,
        };
        let kept = state.pushes.entry(key).or_insert_with(fresh);
        let other_disks = kept.disks.len() != open.disks.len()
            || kept
                .disks
                .iter()
                .zip(&open.disks)
                .any(|(disk, asked)| disk.is != *asked);
        if other_disks || (kept.finished.is_some() && kept.run != push.run) {
            *kept = fresh();
        }
        kept.run = push.run.clone();
        Ok(Resumed {
            disks: kept.disks.iter().map(Disk::progress).collect(),
            finished: kept.finished.clone(),
        })
    }

    fn lacking(&self, _: &PushName, ids: &[ChunkId]) -> Result<Vec<bool>, ErrorBody> {
        let state = self.state();
        Ok(ids.iter().map(|id| !state.has(id)).collect())
    }

    fn put_chunks(&self, _: &PushName, chunks: &[ChunkRecord<'_>]) -> Result<u32, ErrorBody> {
        let mut state = self.state();
        if state.full {
            return Err(ErrorBody::new(ErrorCode::StoreFull, "no space is left")
                .advice("free some space where the converter keeps its store"));
        }
        let unpack = |(index, chunk): (usize, &ChunkRecord<'_>)| {
            let raw = chunking::unpack(&chunk.id, chunk.raw_len, chunk.codec, chunk.bytes);
            let raw = raw.map_err(|error| bad_chunk(index, &error))?;
            Ok((chunk.id, raw))
        };
        let verified: Result<Vec<_>, ErrorBody> = chunks.iter().enumerate().map(unpack).collect();
        let mut new = 0;
        for (id, raw) in verified? {
            if !state.has(&id) {
                state.volatile.insert(id, raw);
                new += 1;
            }
        }
        Ok(new)
    }

    fn append_recipe(&self, push: &PushName, disk: u32, append: &Append) -> Result<u64, ErrorBody> {
        let mut state = self.state();
        if let Some(entry) = append.entries.iter().find(|entry| !state.has(&entry.id)) {
            let message = format!("chunk {} is not here", entry.id);
            return Err(ErrorBody::new(ErrorCode::ChunkMissing, message));
        }
        let disk = state.disk(push, disk)?;
        let known = disk.entries.len();
        let start = usize::try_from(append.start).unwrap_or(usize::MAX);
        if start > known {
            let message = format!("the recipe has {known} entries, the append begins at {start}");
            return Err(ErrorBody::new(ErrorCode::RecipeGap, message));
        }
        let overlap = disk.entries.iter().skip(start).zip(&append.entries);
        if let Some(differs) = overlap.enumerate().find(|(_, (kept, new))| kept != new) {
            let at = start + differs.0;
            if !append.replace || disk.committed.is_some() {
                let message = format!("entry {at} differs from the one kept");
                return Err(ErrorBody::new(ErrorCode::RecipeConflict, message));
            }
            disk.entries.truncate(at);
        }
        let skip = disk.entries.len() - start;
        let new: Vec<_> = append.entries.iter().skip(skip).copied().collect();
        if let (Some(last), Some(first)) = (disk.entries.last(), new.first())
            && last.end().is_none_or(|end| end > first.offset)
        {
            let message = "the first entry begins before the recipe's last ends";
            return Err(ErrorBody::new(ErrorCode::BadMessage, message));
        }
        if disk.committed.is_some() && !new.is_empty() {
            let message = "the disk is committed: nothing can be appended";
            return Err(ErrorBody::new(ErrorCode::RecipeConflict, message));
        }
        disk.entries.extend(new);
        let durable = disk.entries.len() as u64;
        // Everything is made durable, as one flush of a real store does.
        let volatile = std::mem::take(&mut state.volatile);
        state.durable.extend(volatile);
        Ok(durable)
    }

    fn commit_disk(
        &self,
        push: &PushName,
        disk: u32,
        commit: &CommitDisk,
    ) -> Result<RecipeRoot, ErrorBody> {
        let mut state = self.state();
        let disk = state.disk(push, disk)?;
        let mut hasher = RootHasher::new(disk.is.size);
        let entries = usize::try_from(commit.entries).unwrap_or(usize::MAX);
        disk.entries
            .iter()
            .take(entries)
            .for_each(|entry| hasher.push(entry));
        if hasher.entries() != commit.entries || hasher.root() != commit.root {
            let message = format!(
                "the {} entries kept have root {}, the commit names {} with {}",
                hasher.entries(),
                hasher.root(),
                commit.entries,
                commit.root
            );
            return Err(ErrorBody::new(ErrorCode::RootMismatch, message));
        }
        disk.entries.truncate(entries);
        disk.committed = Some(commit.root);
        Ok(commit.root)
    }

    fn finish(&self, push: &PushName, _: &Finish) -> Result<Finished, ErrorBody> {
        let mut state = self.state();
        let kept = state.kept(push)?;
        if kept.disks.iter().any(|disk| disk.committed.is_none()) {
            let message = "a disk is not committed";
            return Err(ErrorBody::new(ErrorCode::NotComplete, message));
        }
        let finished = Finished {
            machine: push.machine.clone(),
            snapshot: "memory".to_owned(),
        };
        kept.finished = Some(finished.clone());
        Ok(finished)
    }
}

impl State {
    fn has(&self, id: &ChunkId) -> bool {
        self.durable.contains_key(id) || self.volatile.contains_key(id)
    }

    fn kept(&mut self, push: &PushName) -> Result<&mut Kept, ErrorBody> {
        let kept = self
            .pushes
            .get_mut(&(push.machine.clone(), push.key.clone()));
        kept.ok_or_else(|| ErrorBody::new(ErrorCode::PushUnknown, "no such push"))
    }

    fn disk(&mut self, push: &PushName, disk: u32) -> Result<&mut Disk, ErrorBody> {
        let disks = &mut self.kept(push)?.disks;
        let none = || ErrorBody::new(ErrorCode::DiskMismatch, format!("no disk {disk}"));
        disks.get_mut(disk as usize).ok_or_else(none)
    }
}

impl Disk {
    fn new(is: PushDisk) -> Self {
        Self {
            is,
            entries: Vec::new(),
            committed: None,
        }
    }

    fn progress(&self) -> DiskProgress {
        DiskProgress {
            durable_entries: self.entries.len() as u64,
            durable_end: self.entries.last().and_then(RecipeEntry::end).unwrap_or(0),
            committed: self.committed,
        }
    }
}
