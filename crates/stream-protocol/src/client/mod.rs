//! The agent's side of a push, as a state machine without sockets, threads, clock or dice.
//!
//! ```text
//!  feed(chunk) ─► ask "lacking?" ─► Pack step ─► packed(chunk) ─► batch ─► recipe append ─► forgotten
//! ```
//!
//! The host runs it:
//!
//! 1. While [`Push::room`], read and cut the disks and [`Push::feed`] the chunks; then [`Push::end_disk`].
//! 2. Call [`Push::next`] until it says [`Step::Wait`]; do what it says. A [`Step::Send`] is answered by
//!    [`Push::answered`] with the response or with [`Lost`], exactly once; a [`Step::Pack`] by
//!    [`Push::packed`]. Both may happen in any order and on any thread of the host.
//! 3. Stop at [`Step::Done`] or [`Step::Failed`].
//!
//! What it promises: a chunk stays in memory until a recipe entry that names it is durable at the
//! receiver, so that a crash of the receiver never needs the source to be read again. The bytes held
//! never exceed [`Config::max_held`]. Whenever the receiver's epoch changes, or it has forgotten the push,
//! the push is opened again and every chunk that is not durable is asked for anew.

mod answers;
mod backoff;
mod disk;
mod held;
mod types;

use std::collections::BTreeMap;

use bytes::Bytes;
use chunking::{ChunkId, MAX_CHUNK};
use serde::Serialize;

pub use backoff::Trouble;
pub use types::{Config, FeedError, Lost, Millis, Patience, Progress, PushError, Step, Ticket};

use crate::format::{Append, Batch, HEADER_LEN, PackedChunk, Query};
use crate::message::{ByteRange, Finish, Finished, Hello, Limits, Sign};
use crate::recipe::RecipeEntry;
use crate::route::{Request, Response, Route};
use backoff::Backoff;
use disk::{DiskState, End};
use held::HeldChunks;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Greeting,
    Opening,
    Streaming,
}

#[derive(Debug)]
enum What {
    Hello,
    Open,
    Query(Vec<ChunkId>),
    Chunks { ids: Vec<ChunkId>, bytes: u64 },
    Recipe { disk: usize, count: usize },
    Commit { disk: usize },
    Finish,
    Sign,
}

impl What {
    /// A success ends the trouble that a failure of at most this weight began. That queries are answered
    /// does not mean that a full store takes chunks again.
    fn weight(&self) -> u8 {
        match self {
            Self::Sign => 0,
            Self::Hello => 1,
            Self::Open => 2,
            Self::Query(_) => 3,
            Self::Chunks { .. } => 4,
            Self::Recipe { .. } => 5,
            Self::Commit { .. } => 6,
            Self::Finish => 7,
        }
    }
}

#[derive(Debug)]
struct Flight {
    what: What,
    /// Of another generation than the push's: its answer means nothing any more.
    generation: u64,
}

/// The state machine; see the [module](self).
pub struct Push {
    config: Config,
    backoff: Backoff,
    phase: Phase,
    generation: u64,
    epoch: u64,
    push: u64,
    opened_once: bool,
    limits: Limits,
    disks: Vec<DiskState>,
    chunks: HeldChunks,
    entries: usize,
    flights: BTreeMap<Ticket, Flight>,
    next_ticket: u64,
    last_sent: Millis,
    last_append: Millis,
    waiting_since: Option<Millis>,
    progress: Progress,
    outcome: Option<Result<Finished, PushError>>,
}

/// Entries held at most, which bounds a disk of one chunk repeated over and over.
const MAX_ENTRIES: usize = 1 << 18;

impl Push {
    /// A push that has not begun. `jitter` gives any numbers; they spread the retries.
    #[must_use]
    pub fn new(config: Config, jitter: Box<dyn FnMut() -> u64 + Send>) -> Self {
        let disks = config.open.disks.iter();
        Self {
            disks: disks.map(|disk| DiskState::new(disk.size)).collect(),
            backoff: Backoff::new(config.patience, jitter),
            config,
            phase: Phase::Greeting,
            generation: 0,
            epoch: 0,
            push: 0,
            opened_once: false,
            limits: Limits::default(),
            chunks: HeldChunks::default(),
            entries: 0,
            flights: BTreeMap::new(),
            next_ticket: 0,
            last_sent: Millis(0),
            last_append: Millis(0),
            waiting_since: None,
            progress: Progress::default(),
            outcome: None,
        }
    }

    /// Whether another chunk of any length may be fed.
    #[must_use]
    pub fn room(&self) -> bool {
        let most = self.config.max_held.max(2 * MAX_CHUNK as usize);
        self.chunks.bytes() + MAX_CHUNK as usize <= most && self.entries < MAX_ENTRIES
    }

    /// Whether the receiver still wants `disk`: not once it is committed, by an earlier run for instance.
    /// Known only after the push is open; until then every disk is wanted.
    #[must_use]
    pub fn wants(&self, disk: u32) -> bool {
        let disk = self.disks.get(disk as usize);
        disk.is_some_and(|disk| disk.state != End::Committed)
    }

    /// Whether the push is open, so that [`Push::wants`] knows.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.opened_once
    }

    /// The next chunk of `disk`, in ascending order. A chunk of a disk that is no longer wanted is dropped.
    ///
    /// # Errors
    /// [`FeedError`] for a chunk out of place, or without [`Push::room`].
    pub fn feed(
        &mut self,
        disk: u32,
        offset: u64,
        id: ChunkId,
        raw: Bytes,
    ) -> Result<(), FeedError> {
        if !self.room() {
            return Err(FeedError::Full);
        }
        let found = raw.len();
        let len = match u32::try_from(found) {
            Ok(len @ 1..=MAX_CHUNK) => len,
            _ => return Err(FeedError::Length { found }),
        };
        let Some(state) = self.disks.get_mut(disk as usize) else {
            return Err(FeedError::NoSuchDisk { disk });
        };
        match state.state {
            End::Open => {}
            End::Ended(_) => return Err(FeedError::Ended { disk }),
            End::Committed => return Ok(()),
        }
        let end = offset.checked_add(u64::from(len));
        if offset < state.end || end.is_none_or(|end| end > state.size) {
            return Err(FeedError::OutOfPlace {
                disk,
                offset,
                len: u64::from(len),
                after: state.end,
                size: state.size,
            });
        }
        state.push(RecipeEntry { offset, len, id });
        self.entries += 1;
        self.progress.fed_chunks += 1;
        self.progress.fed_bytes += u64::from(len);
        self.chunks.add(id, raw);
        Ok(())
    }

    /// Nothing more comes of `disk`. `unreadable`: what could not be read, and is left out by the
    /// user's choice.
    ///
    /// # Errors
    /// [`FeedError`] for a disk that does not exist or has ended before.
    pub fn end_disk(&mut self, disk: u32, unreadable: Vec<ByteRange>) -> Result<(), FeedError> {
        let Some(state) = self.disks.get_mut(disk as usize) else {
            return Err(FeedError::NoSuchDisk { disk });
        };
        match state.state {
            End::Open => state.state = End::Ended(unreadable),
            End::Ended(_) => return Err(FeedError::Ended { disk }),
            End::Committed => {}
        }
        Ok(())
    }

    /// A [`Step::Pack`] is done. A chunk that is no longer waited for is dropped.
    pub fn packed(&mut self, chunk: PackedChunk) {
        self.chunks.put_packed(chunk);
    }

    /// What has been done so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// What is going wrong just now, while it is tried again.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.backoff.trouble.as_ref()
    }

    /// Bytes of chunks held now.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.chunks.bytes()
    }

    /// The request that gives the lease up, for a host that ends early. No answer need be waited for.
    #[must_use]
    pub fn leave(&self) -> Option<Request> {
        let open = self.phase == Phase::Streaming && self.outcome.is_none();
        open.then(|| json_request(Route::Sign { push: self.push }, &Sign::Leaving))
    }

    /// What to do next, at `now`.
    pub fn next(&mut self, now: Millis) -> Step {
        match &self.outcome {
            Some(Ok(finished)) => return Step::Done(finished.clone()),
            Some(Err(error)) => return Step::Failed(error.clone()),
            None => {}
        }
        if let Some((id, raw)) = self.chunks.take_to_pack() {
            return Step::Pack { id, raw };
        }
        let mut allowed = self.config.in_flight.max(1);
        if let Some(trouble) = &self.backoff.trouble {
            if now < trouble.next_try {
                let until = Some(trouble.next_try);
                return Step::Wait { until };
            }
            // One request tries whether it goes again; the others wait for it.
            allowed = 1;
        }
        let current = |flight: &&Flight| flight.generation == self.generation;
        let under_way = self.flights.values().filter(current).count();
        if under_way >= allowed {
            return Step::Wait { until: None };
        }
        match self.choose(now, under_way) {
            Choice::Send(what, request) => self.send(now, what, request),
            Choice::Wait(until) => Step::Wait { until },
        }
    }

    /// The answer to a [`Step::Send`], or that none came. A ticket that is not under way is ignored.
    pub fn answered(&mut self, now: Millis, ticket: Ticket, answer: Result<Response, Lost>) {
        let Some(flight) = self.flights.remove(&ticket) else {
            return;
        };
        if flight.generation != self.generation || self.outcome.is_some() {
            return;
        }
        let response = match answer {
            Ok(response) => response,
            Err(Lost(reason)) => return self.try_again(now, flight.what, reason),
        };
        if self.phase == Phase::Streaming && response.epoch != 0 && response.epoch != self.epoch {
            self.reopen();
            return self.pause(
                now,
                &What::Open,
                "the converter was started anew".to_owned(),
            );
        }
        if response.status != 200 {
            return self.refused(now, flight.what, &response);
        }
        if let Err(reason) = self.take(now, &flight.what, &response) {
            self.try_again(now, flight.what, reason);
        } else {
            self.backoff.succeed(flight.what.weight());
        }
    }

    fn send(&mut self, now: Millis, what: What, request: Request) -> Step {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.last_sent = now;
        let generation = self.generation;
        self.flights.insert(ticket, Flight { what, generation });
        Step::Send { ticket, request }
    }

    /// The most urgent request: what frees memory first, then what keeps the others busy.
    fn choose(&mut self, now: Millis, under_way: usize) -> Choice {
        match self.phase {
            Phase::Greeting | Phase::Opening if under_way > 0 => return Choice::Wait(None),
            Phase::Greeting => {
                let hello = Hello::new(self.config.program.clone());
                return Choice::json(What::Hello, Route::Hello, &hello);
            }
            Phase::Opening => return Choice::json(What::Open, Route::Open, &self.config.open),
            Phase::Streaming => {}
        }
        if let Some(choice) = self.choose_for_disks(now, under_way) {
            return choice;
        }
        if let Some(choice) = self.choose_chunks(now) {
            return choice;
        }
        let committed = self.disks.iter().all(|disk| disk.state == End::Committed);
        if committed && under_way == 0 {
            let notes = self.config.notes.clone();
            let route = Route::Finish { push: self.push };
            return Choice::json(What::Finish, route, &Finish { notes });
        }
        let quiet = u64::from(self.limits.lease_seconds) * 1000 / 4;
        let alive_at = Millis(self.last_sent.0.saturating_add(quiet.max(1)));
        if now >= alive_at && under_way == 0 {
            return Choice::json(What::Sign, Route::Sign { push: self.push }, &Sign::Alive);
        }
        let waits = self
            .waiting_since
            .map(|since| Millis(since.0.saturating_add(self.config.linger)));
        let append_at = Millis(self.last_append.0.saturating_add(self.config.flush_after));
        let later = [waits, Some(alive_at), Some(append_at)];
        Choice::Wait(later.into_iter().flatten().filter(|at| *at > now).min())
    }

    /// A recipe append or a commit, where one is due.
    fn choose_for_disks(&mut self, now: Millis, under_way: usize) -> Option<Choice> {
        let full = !self.room();
        let late = now.0.saturating_sub(self.last_append.0) >= self.config.flush_after;
        for index in 0..self.disks.len() {
            let most = self.limits.max_append_entries as usize;
            let disk = self.disks.get_mut(index)?;
            if disk.busy || disk.state == End::Committed {
                continue;
            }
            let (push, number) = (self.push, index as u32);
            let (settled, bytes) = disk.settled(&self.chunks);
            let ended = disk.state != End::Open && settled == disk.entries.len();
            // Where memory is short, not every handful is worth a flush of the receiver's.
            let short = full && (bytes >= self.config.flush_bytes / 4 || under_way == 0);
            let due = bytes >= self.config.flush_bytes || settled >= most || short || late || ended;
            if settled > 0 && due {
                let count = settled.min(most).max(1);
                let entries: Vec<_> = disk.entries.iter().take(count).collect();
                let body = Append::encode(disk.durable, disk.replace, entries.into_iter());
                disk.busy = true;
                self.last_append = now;
                let disk = index;
                let route = Route::Recipe { push, disk: number };
                return Some(Choice::binary(
                    What::Recipe { disk, count },
                    route,
                    vec![body.into()],
                ));
            }
            if let End::Ended(unreadable) = &disk.state
                && disk.entries.is_empty()
            {
                let commit = disk.commit(unreadable);
                disk.busy = true;
                let route = Route::Commit { push, disk: number };
                return Some(Choice::json(What::Commit { disk: index }, route, &commit));
            }
        }
        None
    }

    /// A query or a batch, if one is full, or will not become fuller soon.
    fn choose_chunks(&mut self, now: Millis) -> Option<Choice> {
        let most_ids = self
            .config
            .query_ids
            .min(self.limits.max_query_ids as usize)
            .max(1);
        let most_bytes = self
            .config
            .batch_bytes
            .min(self.limits.max_batch_bytes as usize);
        let (unasked, ready) = (self.chunks.unasked(), self.chunks.ready_bytes());
        if unasked == 0 && ready == 0 {
            self.waiting_since = None;
            return None;
        }
        let since = *self.waiting_since.get_or_insert(now);
        let fed = self.disks.iter().all(|disk| disk.state != End::Open);
        let hurry = fed || !self.room() || now.0.saturating_sub(since.0) >= self.config.linger;
        let push = self.push;
        if unasked >= most_ids || (unasked > 0 && hurry && !self.chunks.queries_under_way()) {
            let ids = self.chunks.take_query(most_ids);
            if !ids.is_empty() {
                self.waiting_since = None;
                let body = Query::encode(&ids).into();
                return Some(Choice::binary(
                    What::Query(ids),
                    Route::Query { push },
                    vec![body],
                ));
            }
        }
        let alone = !self.chunks.batches_under_way() && !self.chunks.more_comes();
        if ready + HEADER_LEN >= most_bytes || (ready > 0 && hurry && alone) {
            let chunks = self.chunks.take_batch(most_bytes);
            if !chunks.is_empty() {
                self.waiting_since = None;
                let ids = chunks.iter().map(|chunk| chunk.id).collect();
                let body = Batch::encode(&chunks);
                let bytes = body.iter().map(|piece| piece.len() as u64).sum();
                let what = What::Chunks { ids, bytes };
                return Some(Choice::binary(what, Route::Chunks { push }, body));
            }
        }
        None
    }
}

enum Choice {
    Send(What, Request),
    Wait(Option<Millis>),
}

impl Choice {
    fn json(what: What, route: Route, message: &impl Serialize) -> Self {
        Self::Send(what, json_request(route, message))
    }

    fn binary(what: What, route: Route, body: Vec<Bytes>) -> Self {
        Self::Send(what, Request { route, body })
    }
}

fn json_request(route: Route, message: &impl Serialize) -> Request {
    // Messages are plain structs with text keys: writing them to memory cannot fail. An empty body would
    // be refused by the other side.
    let body = serde_json::to_vec(message).unwrap_or_default();
    Request {
        route,
        body: vec![body.into()],
    }
}
