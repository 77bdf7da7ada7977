//! The disks of a simulated machine, which change from push to push.

use bytes::Bytes;
use chunk_store::sim::Rng;
use chunking::{ChunkId, ChunkSizes, Chunker};
use stream_protocol::RecipeEntry;

/// What a machine's disks hold at one time.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) disks: Vec<Vec<u8>>,
    pub(super) recipes: Vec<Vec<RecipeEntry>>,
}

impl Source {
    /// Disks of some ten to a hundred KiB, with holes, repetitions and parts they share.
    pub(super) fn new(rng: &mut Rng) -> Self {
        let shared = random(rng, 12_000);
        let disks = 1 + rng.below(2);
        let disks = (0..disks).map(|_| {
            let mut disk = vec![0; 512 * (20 + rng.below(120)) as usize];
            for piece in disk.chunks_mut(12_000) {
                match rng.below(4) {
                    0 => {}
                    1 => piece.copy_from_slice(&shared[..piece.len()]),
                    2 => piece.fill(rng.below(3) as u8),
                    _ => piece.copy_from_slice(&random(rng, piece.len())),
                }
            }
            disk
        });
        Self::of(disks.collect())
    }

    /// The same disks some time later.
    pub(super) fn later(&self, rng: &mut Rng) -> Self {
        let mut disks = self.disks.clone();
        for disk in &mut disks {
            let at = rng.below(disk.len() as u64) as usize;
            let len = (1 + rng.below(9000) as usize).min(disk.len() - at);
            disk[at..at + len].copy_from_slice(&random(rng, len));
        }
        Self::of(disks)
    }

    /// `disks`, if each is what it was in one of `versions`.
    pub(super) fn made_of(versions: &[Self], disks: &[Vec<u8>]) -> Option<Self> {
        let known = disks.iter().enumerate().all(|(number, disk)| {
            versions
                .iter()
                .any(|version| version.disks.get(number) == Some(disk))
        });
        known.then(|| Self::of(disks.to_vec()))
    }

    fn of(disks: Vec<Vec<u8>>) -> Self {
        let recipes = disks.iter().map(|disk| recipe(disk)).collect();
        Self { disks, recipes }
    }

    /// The bytes of an entry.
    pub(super) fn raw(&self, disk: usize, entry: &RecipeEntry) -> Bytes {
        let start = entry.offset as usize;
        Bytes::copy_from_slice(&self.disks[disk][start..start + entry.len as usize])
    }
}

fn recipe(disk: &[u8]) -> Vec<RecipeEntry> {
    let sizes = ChunkSizes::new(256, 1024, 4096).unwrap_or_default();
    let mut offset = 0;
    let mut entries = Vec::new();
    for raw in Chunker::new(sizes).chunks(disk) {
        if raw.iter().any(|byte| *byte != 0) {
            entries.push(RecipeEntry {
                offset,
                len: raw.len() as u32,
                id: ChunkId::of(raw),
            });
        }
        offset += raw.len() as u64;
    }
    entries
}

fn random(rng: &mut Rng, len: usize) -> Vec<u8> {
    (0..len).map(|_| rng.next_u64() as u8).collect()
}
