//! Pushes: a machine's disks on their way into the store.

mod commit;
mod lease;

use std::sync::Mutex;

use chunking::ChunkId;
use serde::{Deserialize, Serialize};

use crate::error::{OnPath, Refusal, Result, StoreError};
use crate::names;
use crate::recipe::RecipeEntry;
use crate::recipe::writer::RecipeWriter;
use crate::snapshot::{
    DiskInfo, MANIFEST, PUSH, Snapshot, SnapshotId, machine_dir, push_of, recipe_path,
    remove_push_files, sector_size,
};
use crate::store::{Kept, MACHINES_DIR, Store, Verified};
use crate::sync::lock;
use crate::text::{read_text, write_text};

pub use commit::{Commit, CommitDisk};
use lease::Lease;

const KIND: &str = "push";

/// How a push begins.
#[derive(Debug)]
pub enum Begun {
    /// It is new, or it goes on: see [`Push::durable_entries`].
    Open(Push),
    /// It was committed before. A commit whose answer was lost is found out so.
    Committed(Snapshot),
}

/// A push in progress. While this value lives no other push of the machine can begin. Dropped
/// without a commit, the push can be resumed.
#[derive(Debug)]
pub struct Push {
    pub(crate) store: Store,
    lease: Lease,
    dir: String,
    name: String,
    description: Description,
    /// `None` once it is over.
    pub(crate) recipes: Mutex<Option<Vec<RecipeWriter>>>,
}

/// What is known of an uncommitted push, as it lies on the disk.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) machine: String,
    pub(crate) push_key: String,
    pub(crate) sequence: u64,
    pub(crate) disks: Vec<DiskInfo>,
    pub(crate) inventory: serde_json::Value,
}

pub(crate) fn read_description(
    store: &Store,
    dir: &str,
    name: &str,
) -> Result<Option<Description>> {
    let files = store.core.files.as_ref();
    read_text(files, dir, &format!("{name}{PUSH}"), KIND)
}

impl Store {
    /// Begin a push, or go on with it: the same machine and key are the same push.
    ///
    /// # Errors
    /// `MachineBusy` while another push of the machine is active, `Refused` if the push is known
    /// with other disks, or as the files answer.
    pub fn begin_push(
        &self,
        machine: &str,
        push_key: &str,
        disks: &[DiskInfo],
        inventory: &serde_json::Value,
    ) -> Result<Begun> {
        self.to_write()?;
        for (number, disk) in disks.iter().enumerate() {
            sector_size(number, disk)?;
        }
        let name = names::encode(push_key);
        let encoded = names::encode(machine);
        let dir = machine_dir(&encoded);
        let lease = Lease::take(self, machine)?;
        let files = self.core.files.as_ref();
        files.create_dir(&dir).on(&dir)?;
        files.sync_dir(MACHINES_DIR).on(MACHINES_DIR)?;
        match self.snapshot(&SnapshotId::new(&encoded, &name)) {
            Ok(snapshot) => {
                // The commit may have failed at this very sync, and a crash right after it may have left
                // the description.
                files.sync_dir(&dir).on(&dir)?;
                let _ = files.remove(&format!("{dir}/{name}{PUSH}"));
                return Ok(Begun::Committed(snapshot));
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        let (description, recipes) = match read_description(self, &dir, &name) {
            Ok(Some(mut known)) => {
                same_disks(&known.disks, disks)?;
                // Going on with a push makes it the machine's latest again.
                let next = self.next_sequence(&dir)?;
                if known.sequence + 1 < next {
                    known.sequence = next;
                    write_text(files, &dir, &format!("{name}{PUSH}"), KIND, &known)?;
                }
                let recipes = self.resume_recipes(&dir, &name, disks)?;
                // The names may be there for us alone: the sync after they were made may have failed.
                files.sync_dir(&dir).on(&dir)?;
                (known, recipes)
            }
            Ok(None) => self.new_push(&dir, &name, machine, push_key, disks, inventory)?,
            // A description that is damaged names nothing that could be resumed: start anew.
            Err(StoreError::Damaged(damage)) => {
                self.note_mended(damage);
                remove_push_files(files, &dir, &name)?;
                self.new_push(&dir, &name, machine, push_key, disks, inventory)?
            }
            Err(error) => return Err(error),
        };
        Ok(Begun::Open(Push {
            store: self.clone(),
            lease,
            dir,
            name,
            description,
            recipes: Mutex::new(Some(recipes)),
        }))
    }

    fn new_push(
        &self,
        dir: &str,
        name: &str,
        machine: &str,
        push_key: &str,
        disks: &[DiskInfo],
        inventory: &serde_json::Value,
    ) -> Result<(Description, Vec<RecipeWriter>)> {
        let files = self.core.files.as_ref();
        // What a crash left of a push that never began.
        remove_push_files(files, dir, name)?;
        let mut recipes = Vec::new();
        for (number, disk) in disks.iter().enumerate() {
            let path = recipe_path(dir, name, number);
            recipes.push(RecipeWriter::create(files, path, number, disk.size)?);
        }
        let description = Description {
            machine: machine.to_owned(),
            push_key: push_key.to_owned(),
            sequence: self.next_sequence(dir)?,
            disks: disks.to_vec(),
            inventory: inventory.clone(),
        };
        write_text(files, dir, &format!("{name}{PUSH}"), KIND, &description)?;
        Ok((description, recipes))
    }

    fn resume_recipes(
        &self,
        dir: &str,
        name: &str,
        disks: &[DiskInfo],
    ) -> Result<Vec<RecipeWriter>> {
        let files = self.core.files.as_ref();
        let mut check = |entries: &[RecipeEntry]| {
            let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
            let found = self.locate(&ids)?;
            let present = found.iter().take_while(|location| location.is_some());
            Ok(present.count())
        };
        disks
            .iter()
            .enumerate()
            .map(|(number, disk)| {
                let path = recipe_path(dir, name, number);
                RecipeWriter::resume(files, path, number, disk.size, &mut check)
            })
            .collect()
    }

    /// A number higher than that of every push of the machine so far.
    fn next_sequence(&self, dir: &str) -> Result<u64> {
        let mut last = 0;
        for file in self.core.files.list(dir).on(dir)? {
            let Some(push) = push_of(&file) else { continue };
            if let Some(found) = self.sequence_of(dir, push, &file)? {
                last = last.max(found);
            }
        }
        Ok(last + 1)
    }

    /// The sequence number that a manifest or a description states; `None` if it is damaged.
    pub(crate) fn sequence_of(&self, dir: &str, push: &str, file: &str) -> Result<Option<u64>> {
        let machine = dir.rsplit('/').next().unwrap_or_default();
        let found = if file.ends_with(MANIFEST) {
            let snapshot = self.snapshot(&SnapshotId::new(machine, push));
            snapshot.map(|snapshot| Some(snapshot.sequence))
        } else if file.ends_with(PUSH) {
            let description = read_description(self, dir, push);
            description.map(|description| description.map(|d| d.sequence))
        } else {
            Ok(None)
        };
        match found {
            Err(StoreError::Damaged(_) | StoreError::NotFound { .. }) => Ok(None),
            other => other,
        }
    }
}

impl Push {
    /// The machine's name.
    #[must_use]
    pub fn machine(&self) -> &str {
        &self.description.machine
    }

    /// The disks.
    #[must_use]
    pub fn disks(&self) -> &[DiskInfo] {
        &self.description.disks
    }

    /// How many entries of every disk's recipe survive a power cut, their chunks included. A source
    /// goes on there.
    #[must_use]
    pub fn durable_entries(&self) -> Vec<u64> {
        let recipes = lock(&self.recipes);
        let recipes = recipes.iter().flatten();
        recipes.map(RecipeWriter::durable).collect()
    }

    /// How many entries of every disk's recipe have arrived. The next ones go there.
    #[must_use]
    pub fn entries(&self) -> Vec<u64> {
        let recipes = lock(&self.recipes);
        recipes.iter().flatten().map(RecipeWriter::count).collect()
    }

    /// Which of `ids` must be sent, each once. The others are kept for this push from now on.
    ///
    /// # Errors
    /// As the files answer.
    pub fn lacking(&self, ids: &[ChunkId]) -> Result<Vec<ChunkId>> {
        let _gate = self.store.pass_gate();
        let lacking = self.store.lacking(ids)?;
        let missing: std::collections::BTreeSet<&ChunkId> = lacking.iter().collect();
        let present = ids.iter().filter(|id| !missing.contains(id));
        lock(&self.store.core.claims).claim(self.lease.push, present);
        Ok(lacking)
    }

    /// Keep chunks. They are found at once, and survive a power cut after [`Push::checkpoint`].
    ///
    /// # Errors
    /// `Full`, or as the files answer. What was kept before stays.
    pub fn put(&self, chunks: &[Verified]) -> Result<Kept> {
        let _gate = self.store.pass_gate();
        let ids = chunks.iter().map(|chunk| &chunk.packed().id);
        lock(&self.store.core.claims).claim(self.lease.push, ids);
        self.store.put(chunks)
    }

    /// Take entries of a disk's recipe; the first of them has the number `at`. Entries that are here
    /// already are passed over, so a request may be repeated. Their chunks must be in the store.
    ///
    /// # Errors
    /// `MissingChunks`, having taken none of them; `Refused` for entries that contradict themselves
    /// or leave a gap; or as the files answer.
    pub fn append(&self, disk: usize, at: u64, entries: &[RecipeEntry]) -> Result<()> {
        let _gate = self.store.pass_gate();
        let mut recipes = lock(&self.recipes);
        let recipes = recipes.as_mut().ok_or(Refusal::Over)?;
        let disks = recipes.len();
        let recipe = recipes
            .get_mut(disk)
            .ok_or(Refusal::NoSuchDisk { disk, disks })?;
        let fresh = recipe.select(at, entries)?;
        self.store.check_chunks(disk, recipe.count(), fresh)?;
        let ids = fresh.iter().map(|entry| &entry.id);
        lock(&self.store.core.claims).claim(self.lease.push, ids);
        recipe.push(fresh);
        let waiting: usize = recipes.iter().map(|recipe| recipe.waiting().len()).sum();
        if waiting >= self.store.core.limits.waiting_entries {
            self.flush(recipes)?;
        }
        Ok(())
    }

    /// Make what has arrived survive a power cut: first the chunks, then the entries that name them.
    /// Answers [`Push::durable_entries`].
    ///
    /// # Errors
    /// `MissingChunks` if a sync that failed has taken chunks back: the entries from the first of them
    /// on are forgotten, send chunks and entries again. Otherwise as the files answer.
    pub fn checkpoint(&self) -> Result<Vec<u64>> {
        let mut recipes = lock(&self.recipes);
        let recipes = recipes.as_mut().ok_or(Refusal::Over)?;
        self.flush(recipes)?;
        Ok(recipes.iter().map(RecipeWriter::durable).collect())
    }

    /// Give the push up: nothing of it can be resumed, and its chunks are garbage.
    ///
    /// # Errors
    /// As the files answer.
    pub fn abandon(&self) -> Result<()> {
        let mut guard = lock(&self.recipes);
        guard.take().ok_or(Refusal::Over)?;
        remove_push_files(self.store.core.files.as_ref(), &self.dir, &self.name)
    }

    pub(crate) fn flush(&self, recipes: &mut [RecipeWriter]) -> Result<()> {
        self.store.sync()?;
        let mut lost = None;
        for recipe in recipes {
            // A failed sync, of this push or another, may have taken chunks back since they were checked.
            // Their entries must go too: who sent them may be gone, and nobody else could make them good.
            let ids: Vec<ChunkId> = recipe.waiting().iter().map(|entry| entry.id).collect();
            let found = self.store.locate(&ids)?;
            let missing = found.iter().filter(|at| at.is_none()).count();
            if let Some(first) = found.iter().position(Option::is_none)
                && let Some(id) = ids.get(first)
            {
                lost.get_or_insert(StoreError::MissingChunks {
                    count: missing,
                    first: *id,
                });
                recipe.drop_waiting(first)?;
            }
            let waiting = recipe.waiting().to_vec();
            recipe.flush(self.store.core.files.as_ref())?;
            let ids = waiting.iter().map(|entry| &entry.id);
            lock(&self.store.core.claims).release(self.lease.push, ids);
        }
        lost.map_or(Ok(()), Err)
    }
}

impl Store {
    /// Check that the chunks of `entries` are here and as long as the entries say.
    pub(crate) fn check_chunks(
        &self,
        disk: usize,
        first: u64,
        entries: &[RecipeEntry],
    ) -> Result<()> {
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let found = self.locate(&ids)?;
        let mut missing = entries.iter().zip(&found).filter(|(_, at)| at.is_none());
        if let Some((entry, _)) = missing.next() {
            return Err(StoreError::MissingChunks {
                count: 1 + missing.count(),
                first: entry.id,
            });
        }
        for ((entry, location), number) in entries.iter().zip(found).zip(first..) {
            if let Some(location) = location
                && location.raw_len != entry.len
            {
                return Err(Refusal::ChunkLength {
                    disk,
                    entry: number,
                    expected: entry.len,
                    found: location.raw_len,
                }
                .into());
            }
        }
        Ok(())
    }
}

fn same_disks(known: &[DiskInfo], found: &[DiskInfo]) -> Result<(), Refusal> {
    let longest = known.len().max(found.len());
    for disk in 0..longest {
        let (expected, found) = (known.get(disk), found.get(disk));
        if expected != found {
            return Err(Refusal::OtherDisks {
                disk,
                expected: describe(expected),
                found: describe(found),
            });
        }
    }
    Ok(())
}

fn describe(disk: Option<&DiskInfo>) -> String {
    disk.map_or_else(
        || "no disk".to_owned(),
        |disk| format!("{:?} of {} bytes", disk.name, disk.size),
    )
}
