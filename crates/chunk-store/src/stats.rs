//! What the store holds and what that takes.

use crate::error::{OnPath, Result};
use crate::snapshot::machine_dirs;
use crate::store::Store;

/// Sizes, all in bytes unless they count something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Snapshots.
    pub snapshots: u64,
    /// Sizes of all disks of all snapshots.
    pub logical: u64,
    /// What of these disks is in chunks, each counted as often as it is used.
    pub used: u64,
    /// Different chunks, garbage included.
    pub chunks: u64,
    /// Raw bytes of the different chunks.
    pub unique: u64,
    /// Packs.
    pub packs: u64,
    /// What the packs take.
    pub stored: u64,
    /// What the index takes on the disk.
    pub index: u64,
    /// What the index keeps in memory.
    pub index_memory: u64,
    /// What the recipes take, those of uncommitted pushes included.
    pub recipes: u64,
}

impl Stats {
    /// Bytes of index on the disk for 10^12 raw bytes in chunks. `None` while nothing is kept.
    #[must_use]
    pub fn index_a_terabyte(&self) -> Option<u64> {
        per_terabyte(self.index, self.unique)
    }

    /// Bytes of recipe for 10^12 bytes of used disk. `None` while there is no snapshot.
    #[must_use]
    pub fn recipe_a_terabyte(&self) -> Option<u64> {
        per_terabyte(self.recipes, self.used)
    }
}

impl Store {
    /// Count what there is. Chunks that lie in two index runs, which happens when they were rewritten
    /// lately, count twice.
    ///
    /// # Errors
    /// As the files answer.
    pub fn stats(&self) -> Result<Stats> {
        let mut stats = Stats::default();
        for snapshot in self.snapshots()?.snapshots {
            stats.snapshots += 1;
            for disk in &snapshot.disks {
                stats.logical += disk.info.size;
                stats.used += disk.used;
            }
        }
        for (_, len) in self.core.packs.lengths() {
            stats.packs += 1;
            stats.stored += len;
        }
        for run in self.core.index.runs() {
            stats.chunks += run.header.entries;
            stats.unique += run.header.raw_sum;
            stats.index += run.len();
            stats.index_memory += run.memory();
        }
        for entry in self.core.index.in_memory() {
            stats.chunks += 1;
            stats.unique += u64::from(entry.location.raw_len);
            stats.index_memory += IN_MEMORY;
        }
        let files = self.core.files.as_ref();
        for (dir, _) in machine_dirs(files)? {
            for file in files.list(&dir).on(&dir)? {
                if file.ends_with(".recipe") {
                    let path = format!("{dir}/{file}");
                    stats.recipes += files.open(&path).and_then(|file| file.len()).on(&path)?;
                }
            }
        }
        Ok(stats)
    }
}

/// About what an entry in memory takes: 32 bytes, the table at most 7/8 full and half as full after
/// it grew.
const IN_MEMORY: u64 = 56;

fn per_terabyte(bytes: u64, of: u64) -> Option<u64> {
    let scaled = u128::from(bytes) * 1_000_000_000_000;
    scaled.checked_div(u128::from(of)).map(|bytes| bytes as u64)
}
