//! The chunks in memory: each from being fed until a durable recipe entry names it.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use chunking::ChunkId;

use crate::format::{HEADER_LEN, PackedChunk};

/// How far a chunk has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The receiver is to be asked whether it lacks it.
    Unasked,
    /// It is being asked.
    Asked,
    /// Lacking; waits for the host to compress it.
    Unpacked,
    /// The host compresses it.
    Packing,
    /// Compressed; waits for a batch.
    Ready,
    /// In a batch on its way.
    Sent,
    /// The receiver has it. Kept until a recipe entry that names it is durable, because until then a
    /// crash of the receiver may lose it.
    Settled,
}

#[derive(Debug)]
struct Held {
    state: State,
    /// Recipe entries, not yet durable, that name it.
    users: usize,
    raw_len: u32,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Raw(Bytes),
    Packed(PackedChunk),
}

impl Body {
    fn len(&self) -> usize {
        match self {
            Self::Raw(raw) => raw.len(),
            Self::Packed(packed) => packed.bytes.len(),
        }
    }
}

/// All chunks in memory. A queue may name a chunk that is gone or has moved on: the state in the map
/// decides, and such names are passed over.
#[derive(Debug, Default)]
pub(super) struct HeldChunks {
    map: BTreeMap<ChunkId, Held>,
    ask: VecDeque<ChunkId>,
    pack: VecDeque<ChunkId>,
    ready: VecDeque<ChunkId>,
    bytes: usize,
    counts: Counts,
}

#[derive(Debug, Default)]
struct Counts {
    unasked: usize,
    asked: usize,
    unpacked: usize,
    packing: usize,
    ready: usize,
    ready_bytes: usize,
    sent: usize,
}

/// What an answer to a query says, in raw bytes.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Found {
    pub(super) chunks: u64,
    pub(super) bytes: u64,
}

impl HeldChunks {
    /// Bytes held.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Chunks to be asked for.
    pub(super) fn unasked(&self) -> usize {
        self.counts.unasked
    }

    /// Bytes ready for a batch, with their records.
    pub(super) fn ready_bytes(&self) -> usize {
        self.counts.ready_bytes
    }

    /// Whether chunks are under way that will become ready for a batch by themselves.
    pub(super) fn more_comes(&self) -> bool {
        let counts = &self.counts;
        counts.unasked + counts.asked + counts.unpacked + counts.packing > 0
    }

    pub(super) fn queries_under_way(&self) -> bool {
        self.counts.asked > 0
    }

    pub(super) fn batches_under_way(&self) -> bool {
        self.counts.sent > 0
    }

    /// One more entry names the chunk. Its bytes are dropped if they are here already.
    pub(super) fn add(&mut self, id: ChunkId, raw: Bytes) {
        if let Some(held) = self.map.get_mut(&id) {
            held.users += 1;
            return;
        }
        self.bytes += raw.len();
        self.counts.unasked += 1;
        self.ask.push_back(id);
        let held = Held {
            state: State::Unasked,
            users: 1,
            // Chunks are at most MAX_CHUNK long; `Push::feed` has checked.
            raw_len: raw.len() as u32,
            body: Body::Raw(raw),
        };
        self.map.insert(id, held);
    }

    /// An entry that names the chunk is durable, or dropped.
    pub(super) fn release(&mut self, id: &ChunkId) {
        let Some(held) = self.map.get_mut(id) else {
            return;
        };
        held.users -= 1;
        if held.users == 0
            && let Some(held) = self.map.remove(id)
        {
            self.bytes -= held.body.len();
            self.counts.leave(&held);
        }
    }

    /// Whether the receiver has the chunk, for all that is known.
    pub(super) fn is_settled(&self, id: &ChunkId) -> bool {
        let held = self.map.get(id);
        held.is_none_or(|held| held.state == State::Settled)
    }

    /// Up to `most` ids to ask for.
    pub(super) fn take_query(&mut self, most: usize) -> Vec<ChunkId> {
        let mut ids = Vec::new();
        while ids.len() < most
            && let Some(id) = self.ask.pop_front()
        {
            if self.advance(&id, State::Unasked, State::Asked) {
                ids.push(id);
            }
        }
        ids
    }

    /// A query was not answered.
    pub(super) fn return_query(&mut self, ids: &[ChunkId]) {
        for id in ids.iter().rev() {
            if self.advance(id, State::Asked, State::Unasked) {
                self.ask.push_front(*id);
            }
        }
    }

    /// A query was answered. Says what the receiver has already.
    pub(super) fn take_answer(&mut self, ids: &[ChunkId], lacking: &[bool]) -> Found {
        let mut found = Found::default();
        for (id, lacks) in ids.iter().zip(lacking) {
            if !lacks {
                if self.advance(id, State::Asked, State::Settled) {
                    found.chunks += 1;
                    found.bytes += self.map.get(id).map_or(0, |held| u64::from(held.raw_len));
                }
                continue;
            }
            let packed = matches!(
                self.map.get(id),
                Some(Held {
                    body: Body::Packed(_),
                    ..
                })
            );
            if packed && self.advance(id, State::Asked, State::Ready) {
                self.ready.push_back(*id);
            } else if self.advance(id, State::Asked, State::Unpacked) {
                self.pack.push_back(*id);
            }
        }
        found
    }

    /// The next chunk to compress.
    pub(super) fn take_to_pack(&mut self) -> Option<(ChunkId, Bytes)> {
        while let Some(id) = self.pack.pop_front() {
            if self.advance(&id, State::Unpacked, State::Packing)
                && let Some(Held {
                    body: Body::Raw(raw),
                    ..
                }) = self.map.get(&id)
            {
                return Some((id, raw.clone()));
            }
        }
        None
    }

    /// The host has compressed a chunk. Says whether it was waited for.
    pub(super) fn put_packed(&mut self, chunk: PackedChunk) -> bool {
        let id = chunk.id;
        let Some(held) = self.map.get_mut(&id) else {
            return false;
        };
        if held.state != State::Packing || held.raw_len != chunk.raw_len {
            return false;
        }
        self.bytes -= held.body.len();
        self.bytes += chunk.bytes.len();
        held.body = Body::Packed(chunk);
        self.advance(&id, State::Packing, State::Ready);
        self.ready.push_back(id);
        true
    }

    /// The chunks of the next batch: as many as fit into `most` bytes, and one in any case.
    pub(super) fn take_batch(&mut self, most: usize) -> Vec<PackedChunk> {
        let mut chunks = Vec::new();
        let mut len = HEADER_LEN;
        while let Some(id) = self.ready.front().copied() {
            let chunk = match self.map.get(&id) {
                Some(Held {
                    state: State::Ready,
                    body: Body::Packed(chunk),
                    ..
                }) => chunk.clone(),
                _ => {
                    self.ready.pop_front();
                    continue;
                }
            };
            if !chunks.is_empty() && len + chunk.wire_len() > most {
                break;
            }
            len += chunk.wire_len();
            self.ready.pop_front();
            self.advance(&id, State::Ready, State::Sent);
            chunks.push(chunk);
        }
        chunks
    }

    /// A batch may or may not have arrived: it goes again.
    pub(super) fn return_batch(&mut self, ids: &[ChunkId]) {
        for id in ids.iter().rev() {
            if self.advance(id, State::Sent, State::Ready) {
                self.ready.push_front(*id);
            }
        }
    }

    /// A batch has arrived.
    pub(super) fn settle_batch(&mut self, ids: &[ChunkId]) {
        for id in ids {
            self.advance(id, State::Sent, State::Settled);
        }
    }

    /// Whatever was known of the receiver's chunks is void: ask again for each, in the order of `ids`.
    pub(super) fn unsettle<'i>(&mut self, ids: impl Iterator<Item = &'i ChunkId>) {
        self.ask.clear();
        self.pack.clear();
        self.ready.clear();
        for id in ids {
            let Some(state) = self.map.get(id).map(|held| held.state) else {
                continue;
            };
            match state {
                // The host will bring it back; it is then sent without being asked for.
                State::Packing => {}
                // Met before: an id may be named by several entries.
                State::Unasked if self.ask.back() == Some(id) => {}
                _ => {
                    self.advance(id, state, State::Unasked);
                    self.ask.push_back(*id);
                }
            }
        }
    }

    /// Move a chunk from one state to the next, if that is where it is.
    fn advance(&mut self, id: &ChunkId, from: State, to: State) -> bool {
        let Some(held) = self.map.get_mut(id) else {
            return false;
        };
        if held.state != from {
            return false;
        }
        self.counts.leave(held);
        held.state = to;
        self.counts.enter(held);
        true
    }
}

impl Counts {
    fn enter(&mut self, held: &Held) {
        if let Some(count) = self.of(held.state) {
            *count += 1;
        }
        if let (State::Ready, Body::Packed(chunk)) = (held.state, &held.body) {
            self.ready_bytes += chunk.wire_len();
        }
    }

    fn leave(&mut self, held: &Held) {
        if let Some(count) = self.of(held.state) {
            *count -= 1;
        }
        if let (State::Ready, Body::Packed(chunk)) = (held.state, &held.body) {
            self.ready_bytes -= chunk.wire_len();
        }
    }

    fn of(&mut self, state: State) -> Option<&mut usize> {
        match state {
            State::Unasked => Some(&mut self.unasked),
            State::Asked => Some(&mut self.asked),
            State::Unpacked => Some(&mut self.unpacked),
            State::Packing => Some(&mut self.packing),
            State::Ready => Some(&mut self.ready),
            State::Sent => Some(&mut self.sent),
            State::Settled => None,
        }
    }
}
