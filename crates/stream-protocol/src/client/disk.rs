//! One disk being sent: its recipe from the first entry that is not durable, and its end.

use std::collections::VecDeque;

use chunking::ChunkId;

use super::held::HeldChunks;
use crate::message::{ByteRange, CommitDisk};
use crate::recipe::{RecipeEntry, RootHasher};

/// How far the end of a disk has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// More entries may come.
    Open,
    /// No more entries come.
    Ended(Vec<ByteRange>),
    /// The receiver has the whole disk.
    Committed,
}

#[derive(Debug)]
pub(super) struct DiskState {
    pub(super) size: u64,
    hasher: RootHasher,
    /// Entries that are durable at the receiver and forgotten here.
    pub(super) durable: u64,
    /// The entries behind them.
    pub(super) entries: VecDeque<RecipeEntry>,
    /// How many of `entries`, from the front, name chunks that the receiver has.
    settled: usize,
    /// Raw bytes of those.
    settled_bytes: u64,
    /// The byte behind the last entry fed.
    pub(super) end: u64,
    pub(super) state: End,
    /// An append or commit is under way: one at a time, in order.
    pub(super) busy: bool,
    /// The receiver has other entries, of an earlier run: they are to be replaced.
    pub(super) replace: bool,
}

impl DiskState {
    pub(super) fn new(size: u64) -> Self {
        Self {
            size,
            hasher: RootHasher::new(size),
            durable: 0,
            entries: VecDeque::new(),
            settled: 0,
            settled_bytes: 0,
            end: 0,
            state: End::Open,
            busy: false,
            replace: false,
        }
    }

    pub(super) fn push(&mut self, entry: RecipeEntry) {
        self.hasher.push(&entry);
        self.end = entry.offset + u64::from(entry.len);
        self.entries.push_back(entry);
    }

    /// Entries at the front that may be appended, and their raw bytes.
    pub(super) fn settled(&mut self, chunks: &HeldChunks) -> (usize, u64) {
        while let Some(entry) = self.entries.get(self.settled)
            && chunks.is_settled(&entry.id)
        {
            self.settled += 1;
            self.settled_bytes += u64::from(entry.len);
        }
        (self.settled, self.settled_bytes)
    }

    /// What was known of the receiver is void.
    pub(super) fn unsettle(&mut self) {
        self.settled = 0;
        self.settled_bytes = 0;
        self.busy = false;
    }

    /// The first `count` entries are durable: forget them. Says how many raw bytes those were.
    pub(super) fn make_durable(&mut self, count: usize, chunks: &mut HeldChunks) -> u64 {
        let mut bytes = 0;
        for _ in 0..count {
            let Some(entry) = self.entries.pop_front() else {
                break;
            };
            chunks.release(&entry.id);
            bytes += u64::from(entry.len);
            self.durable += 1;
            if self.settled > 0 {
                self.settled -= 1;
                self.settled_bytes -= u64::from(entry.len);
            }
        }
        bytes
    }

    /// The receiver has it all.
    pub(super) fn complete(&mut self, chunks: &mut HeldChunks) {
        let all = self.entries.len();
        self.make_durable(all, chunks);
        self.state = End::Committed;
        self.busy = false;
    }

    pub(super) fn commit(&self, unreadable: &[ByteRange]) -> CommitDisk {
        CommitDisk {
            entries: self.hasher.entries(),
            root: self.hasher.root(),
            unreadable: unreadable.to_vec(),
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &ChunkId> {
        self.entries.iter().map(|entry| &entry.id)
    }
}
