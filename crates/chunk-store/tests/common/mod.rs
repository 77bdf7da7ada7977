//! Sources to push and the pushing of them, for the tests of the store.
#![allow(dead_code, clippy::unwrap_used)] // Each test uses a part; a failure here fails it.

use std::collections::HashMap;
use std::ops::Range;

use chunk_store::{
    Begun, Commit, CommitDisk, DiskInfo, Push, RecipeEntry, Snapshot, Store, Verified, recipe_root,
};
use chunking::{ChunkId, Chunker, Packed, compress};

/// A generator of numbers that a seed decides.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5DEE_CE66)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend(self.next().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A disk to push.
pub struct Source {
    pub bytes: Vec<u8>,
    pub entries: Vec<RecipeEntry>,
    pub chunks: HashMap<ChunkId, Packed>,
}

impl Source {
    /// The used parts of `bytes`, cut and packed.
    pub fn new(bytes: Vec<u8>, used: &[Range<usize>]) -> Self {
        Self::cut(bytes, used, Chunker::default())
    }

    /// The same, cut by `chunker`.
    pub fn cut(bytes: Vec<u8>, used: &[Range<usize>], chunker: Chunker) -> Self {
        let mut entries = Vec::new();
        let mut chunks = HashMap::new();
        for range in used {
            let mut offset = range.start as u64;
            for raw in chunker.chunks(&bytes[range.clone()]) {
                let id = ChunkId::of(raw);
                entries.push(RecipeEntry {
                    offset,
                    len: raw.len() as u32,
                    id,
                });
                chunks
                    .entry(id)
                    .or_insert_with(|| compress(id, raw, 1).unwrap());
                offset += raw.len() as u64;
            }
        }
        Self {
            bytes,
            entries,
            chunks,
        }
    }

    /// A disk of `len` bytes, about half of it used: random parts and parts that compress.
    pub fn with_holes(seed: u64, len: usize) -> Self {
        let (bytes, used) = holey(seed, len);
        Self::new(bytes, &used)
    }

    /// The same in chunks of about 1 KiB, so that a small disk has many.
    pub fn in_small_chunks(seed: u64, len: usize) -> Self {
        let (bytes, used) = holey(seed, len);
        Self::cut(bytes, &used, small_chunks())
    }

    pub fn root(&self) -> [u8; 32] {
        recipe_root(self.bytes.len() as u64, &self.entries)
    }

    pub fn verified(&self, id: &ChunkId) -> Verified {
        Verified::check(self.chunks[id].clone()).unwrap()
    }
}

pub fn disk_info(name: &str, size: u64) -> DiskInfo {
    DiskInfo {
        name: name.to_owned(),
        size,
        sector_size: 512,
    }
}

pub fn infos(sources: &[Source]) -> Vec<DiskInfo> {
    let numbered = sources.iter().enumerate();
    numbered
        .map(|(n, source)| disk_info(&format!("/dev/disk{n}"), source.bytes.len() as u64))
        .collect()
}

pub fn begin(store: &Store, machine: &str, key: &str, sources: &[Source]) -> Begun {
    let inventory = serde_json::json!({"machine": machine});
    store
        .begin_push(machine, key, &infos(sources), &inventory)
        .unwrap()
}

/// Send what a push lacks of `source` from its durable entries on, `step` entries at a time.
pub fn send(push: &Push, disk: usize, source: &Source, step: usize) -> chunk_store::Result<u64> {
    let mut sent = 0;
    let mut at = push.entries()[disk];
    while (at as usize) < source.entries.len() {
        let end = (at as usize + step).min(source.entries.len());
        let entries = &source.entries[at as usize..end];
        let ids: Vec<ChunkId> = entries.iter().map(|entry| entry.id).collect();
        let chunks: Vec<Verified> = push
            .lacking(&ids)?
            .iter()
            .map(|id| source.verified(id))
            .collect();
        sent += push.put(&chunks)?.new;
        push.append(disk, at, entries)?;
        at = end as u64;
    }
    Ok(sent)
}

pub fn commit_of(sources: &[Source]) -> Commit {
    let disks = sources.iter().map(|source| CommitDisk {
        root: source.root(),
        unreadable: Vec::new(),
    });
    Commit {
        time: 1_800_000_000,
        disks: disks.collect(),
    }
}

pub fn push_all(store: &Store, machine: &str, key: &str, sources: &[Source]) -> Snapshot {
    match begin(store, machine, key, sources) {
        Begun::Committed(snapshot) => snapshot,
        Begun::Open(push) => {
            for (disk, source) in sources.iter().enumerate() {
                send(&push, disk, source, 7).unwrap();
            }
            push.commit(&commit_of(sources)).unwrap()
        }
    }
}

pub fn small_chunks() -> Chunker {
    Chunker::new(chunking::ChunkSizes::new(256, 1024, 4096).unwrap())
}

fn holey(seed: u64, len: usize) -> (Vec<u8>, Vec<Range<usize>>) {
    let mut rng = Rng::new(seed);
    let mut bytes = vec![0; len];
    let mut used = Vec::new();
    let mut at = rng.below(len as u64 / 8) as usize;
    while at < len {
        let run = (1 + rng.below(len as u64 / 4) as usize).min(len - at);
        if rng.below(2) == 0 {
            bytes[at..at + run].copy_from_slice(&rng.bytes(run));
        } else {
            let word = rng.bytes(24);
            for (index, byte) in bytes[at..at + run].iter_mut().enumerate() {
                *byte = word[index % 24] ^ (index / 512) as u8;
            }
        }
        used.push(at..at + run);
        at += run + 1 + rng.below(len as u64 / 4) as usize;
    }
    (bytes, used)
}
