//! Which chunks pushes in progress count on though no recipe on disk names them yet.
//!
//! A chunk that no snapshot uses is garbage, unless a push was just told that it need not send it.
//! Collecting garbage spares what is claimed.

use std::collections::{BTreeMap, HashSet};

use chunking::ChunkId;

/// Claims of one push, by the first 8 bytes of the names. A push that claims more without a
/// checkpoint stops the collection of garbage instead of growing further: 16 MiB.
const MOST: usize = 1 << 20;

/// All claims.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_push: BTreeMap<u64, OfPush>,
    next: u64,
    collecting: bool,
}

#[derive(Debug, Default)]
struct OfPush {
    chunks: HashSet<u64>,
    too_many: bool,
    ended: bool,
}

impl Claims {
    /// A number for a push that begins.
    pub(crate) fn begin(&mut self) -> u64 {
        self.next += 1;
        self.by_push.insert(self.next, OfPush::default());
        self.next
    }

    /// The push counts on `ids`.
    pub(crate) fn claim<'a>(&mut self, push: u64, ids: impl Iterator<Item = &'a ChunkId>) {
        if let Some(of_push) = self.by_push.get_mut(&push) {
            of_push.chunks.extend(ids.map(short));
            if of_push.chunks.len() > MOST {
                of_push.too_many = true;
                of_push.chunks = HashSet::new();
            }
        }
    }

    /// The push's recipe on disk names `ids` now. While garbage is collected nothing is given up: the
    /// recipe may have been read before.
    pub(crate) fn release<'a>(&mut self, push: u64, ids: impl Iterator<Item = &'a ChunkId>) {
        if self.collecting {
            return;
        }
        if let Some(of_push) = self.by_push.get_mut(&push) {
            for id in ids {
                of_push.chunks.remove(&short(id));
            }
        }
    }

    /// The push is over.
    pub(crate) fn end(&mut self, push: u64) {
        if self.collecting {
            if let Some(of_push) = self.by_push.get_mut(&push) {
                of_push.ended = true;
            }
        } else {
            self.by_push.remove(&push);
        }
    }

    /// Garbage is being collected from now on. Answers whether the claims are complete.
    pub(crate) fn begin_collecting(&mut self) -> bool {
        if self.overflowed() {
            return false;
        }
        self.collecting = true;
        true
    }

    /// No garbage is being collected any more.
    pub(crate) fn end_collecting(&mut self) {
        self.collecting = false;
        self.by_push.retain(|_, of_push| !of_push.ended);
    }

    /// Whether a push claims more than was kept.
    pub(crate) fn overflowed(&self) -> bool {
        self.by_push.values().any(|of_push| of_push.too_many)
    }

    /// Whether any push claims the chunk.
    pub(crate) fn has(&self, id: &ChunkId) -> bool {
        self.by_push
            .values()
            .any(|of_push| of_push.chunks.contains(&short(id)))
    }
}

fn short(id: &ChunkId) -> u64 {
    crate::bytes::u64_at(id.as_bytes(), 0)
}
