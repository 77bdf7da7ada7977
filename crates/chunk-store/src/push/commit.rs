//! The end of a push: everything is checked once more, then it is a snapshot.

use std::ops::Range;

use chunking::ChunkId;

use super::Push;
use crate::error::{Refusal, Result};
use crate::names;
use crate::recipe::writer::RecipeWriter;
use crate::recipe::{RecipeEntry, RootHasher};
use crate::snapshot::{DiskInfo, PUSH, Snapshot, SnapshotId, StoredDisk};
use crate::sync::lock;

/// Entries checked at once at commit.
const BATCH: usize = 64 << 10;

/// What ends a push.
#[derive(Debug, Clone)]
pub struct Commit {
    /// The time, in seconds since 1970.
    pub time: u64,
    /// For every disk what its recipe must be.
    pub disks: Vec<CommitDisk>,
}

/// What a disk must be at commit.
#[derive(Debug, Clone)]
pub struct CommitDisk {
    /// The root hash, by [`crate::recipe_root`].
    pub root: [u8; 32],
    /// What the source could not read, in order.
    pub unreadable: Vec<Range<u64>>,
}

impl Push {
    /// Check that everything is here and what it should be, and make it a snapshot. After an error
    /// the push goes on as it was.
    ///
    /// # Errors
    /// `Refused` if a root hash differs, `MissingChunks`, `Full`, or as the files answer.
    pub fn commit(&self, commit: &Commit) -> Result<Snapshot> {
        let mut guard = lock(&self.recipes);
        let recipes = guard.as_mut().ok_or(Refusal::Over)?;
        if recipes.len() != commit.disks.len() {
            return Err(Refusal::DiskCount {
                expected: recipes.len(),
                found: commit.disks.len(),
            }
            .into());
        }
        self.flush(recipes)?;
        let mut disks = Vec::new();
        for (number, (recipe, wanted)) in recipes.iter().zip(&commit.disks).enumerate() {
            let info = self.description.disks.get(number).cloned();
            let info = info.ok_or(Refusal::Over)?;
            disks.push(self.check_disk(number, recipe, info, wanted)?);
        }
        let machine = names::encode(&self.description.machine);
        let snapshot = Snapshot {
            id: SnapshotId::new(&machine, &self.name),
            machine: self.description.machine.clone(),
            push_key: self.description.push_key.clone(),
            sequence: self.description.sequence,
            committed_at: commit.time,
            verified: true,
            disks,
            inventory: self.description.inventory.clone(),
        };
        // Only for the sake of the next open, which must not read packs then.
        if let Err(error) = self.store.write_index()
            && !error.is_full()
        {
            return Err(error);
        }
        self.store.write_manifest(&snapshot)?;
        *guard = None;
        // Committed it is; what stays of the push is removed when it is met again.
        let push = format!("{}/{}{PUSH}", self.dir, self.name);
        let _ = self.store.core.files.remove(&push);
        Ok(snapshot)
    }

    fn check_disk(
        &self,
        number: usize,
        recipe: &RecipeWriter,
        info: DiskInfo,
        wanted: &CommitDisk,
    ) -> Result<StoredDisk> {
        check_unreadable(number, info.size, &wanted.unreadable)?;
        let mut hasher = RootHasher::new(info.size);
        let mut batch: Vec<RecipeEntry> = Vec::new();
        let mut checked = 0;
        let mut used = 0;
        recipe.recipe().for_each_page(&mut |entries| {
            for entry in entries {
                hasher.update(entry);
                used += u64::from(entry.len);
            }
            batch.extend_from_slice(entries);
            if batch.len() >= BATCH {
                self.store.check_chunks(number, checked, &batch)?;
                checked += batch.len() as u64;
                batch.clear();
            }
            Ok(())
        })?;
        self.store.check_chunks(number, checked, &batch)?;
        let found = ChunkId(hasher.finish());
        if found.0 != wanted.root {
            return Err(Refusal::WrongRoot {
                disk: number,
                expected: ChunkId(wanted.root).to_string(),
                found: found.to_string(),
            }
            .into());
        }
        Ok(StoredDisk {
            info,
            root: found.to_string(),
            entries: recipe.durable(),
            recipe_pages: recipe.recipe().pages(),
            used,
            unreadable: wanted.unreadable.clone(),
        })
    }
}

fn check_unreadable(disk: usize, size: u64, ranges: &[Range<u64>]) -> Result<(), Refusal> {
    let mut earliest = 0;
    for range in ranges {
        if range.start < earliest || range.end <= range.start || range.end > size {
            return Err(Refusal::UnreadableRange {
                disk,
                start: range.start,
                end: range.end,
            });
        }
        earliest = range.end;
    }
    Ok(())
}
