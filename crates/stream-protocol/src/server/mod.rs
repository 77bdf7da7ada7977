//! The converter's side of a push: routing, leases, verification; what is kept is behind [`Receiver`].
//!
//! The caller has read the body (no more than [`Route::max_body`] bytes of it) and has checked the token.
//! [`Server::answer`] may be called by several threads at once; no lock is held while a [`Receiver`]
//! works.

mod lease;
mod memory;

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chunking::ChunkId;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use lease::PushName;
pub use memory::MemoryReceiver;

use crate::client::Millis;
use crate::format::{Answer, Append, Batch, ChunkRecord, FrameError, Query};
use crate::message::{
    Appended, ChunksTaken, CommitDisk, DiskCommitted, DiskProgress, ErrorBody, ErrorCode, Finish,
    Finished, Hello, Limits, MAX_DISKS, MAX_UNREADABLE, OpenPush, Opened, Sign, SignSeen, Welcome,
    WireVersion,
};
use crate::recipe::RecipeRoot;
use crate::route::{BINARY, JSON, Response, Route, RouteError};
use lease::Leases;

/// What [`Receiver::open_push`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resumed {
    /// What is durable, for each disk of the request in its order.
    pub disks: Vec<DiskProgress>,
    /// The same run had finished this push.
    pub finished: Option<Finished>,
}

/// What keeps what arrives: the store, or the simulation's.
///
/// Every method may be called by several threads at once. A failure is an [`ErrorBody`]: one whose code
/// [`ErrorCode::is_passing`] is tried again by the agent.
pub trait Receiver: Sync {
    /// Begin or resume a push. One that was finished by the same run stays finished; one finished by
    /// another run begins anew. The disks must be those of the resumed push, or it begins anew.
    ///
    /// # Errors
    /// Whatever keeps it from being begun.
    fn open_push(&self, push: &PushName, open: &OpenPush) -> Result<Resumed, ErrorBody>;

    /// For each id, whether the chunk is lacking. What is not lacking must stay until the push ends.
    ///
    /// # Errors
    /// Whatever keeps it from being looked up.
    fn lacking(&self, push: &PushName, ids: &[ChunkId]) -> Result<Vec<bool>, ErrorBody>;

    /// Verify chunks against their names ([`bad_chunk`] for the first that is not what it says, keeping
    /// none of the batch), then take them. They need not be durable yet. Says how many were new.
    ///
    /// # Errors
    /// Whatever keeps them from being taken; some may have been.
    fn put_chunks(&self, push: &PushName, chunks: &[ChunkRecord<'_>]) -> Result<u32, ErrorBody>;

    /// Append entries to a recipe, and make them and all chunks they name durable. Says how many
    /// entries of the disk are durable then.
    ///
    /// Entries before the recipe's end must equal those there ([`ErrorCode::RecipeConflict`]), except
    /// with [`Append::replace`]: then the recipe is cut at the first that differs. Where all are equal,
    /// nothing is cut, so that a repeated or delayed append does no harm. An append that begins behind
    /// the end is [`ErrorCode::RecipeGap`]; one that names a chunk which is not there is
    /// [`ErrorCode::ChunkMissing`] and appends nothing.
    ///
    /// # Errors
    /// As said, or whatever keeps it from being written.
    fn append_recipe(&self, push: &PushName, disk: u32, append: &Append) -> Result<u64, ErrorBody>;

    /// The disk is complete: cut the recipe at [`CommitDisk::entries`], compute its root and compare
    /// ([`ErrorCode::RootMismatch`]). A repeated commit of the same root succeeds.
    ///
    /// # Errors
    /// As said, or whatever keeps it from being written.
    fn commit_disk(
        &self,
        push: &PushName,
        disk: u32,
        commit: &CommitDisk,
    ) -> Result<RecipeRoot, ErrorBody>;

    /// All disks are committed ([`ErrorCode::NotComplete`] otherwise): the machine is complete.
    ///
    /// # Errors
    /// As said, or whatever keeps it from being written.
    fn finish(&self, push: &PushName, finish: &Finish) -> Result<Finished, ErrorBody>;
}

/// A request as it came in.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// HTTP method.
    pub method: &'a str,
    /// Path, without query.
    pub path: &'a str,
    /// The whole body.
    pub body: &'a [u8],
}

/// Answers requests; see the [module](self).
pub struct Server {
    epoch: u64,
    program: String,
    limits: Limits,
    leases: Mutex<Leases>,
    new_id: Mutex<Box<dyn FnMut() -> u64 + Send>>,
}

impl Server {
    /// A server of this `epoch`, a number other than 0 that no earlier run of the same store has used.
    /// `new_id` gives the names of pushes: numbers that do not repeat, from a random source.
    #[must_use]
    pub fn new(
        epoch: u64,
        program: impl Into<String>,
        limits: Limits,
        new_id: Box<dyn FnMut() -> u64 + Send>,
    ) -> Self {
        Self {
            epoch: epoch.max(1),
            program: program.into(),
            limits,
            leases: Mutex::default(),
            new_id: Mutex::new(new_id),
        }
    }

    /// What it takes.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Its epoch, for answers that others give in its name.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The answer to `request` at `now`. The token was checked by the caller.
    pub fn answer(&self, now: Millis, request: Incoming<'_>, receiver: &dyn Receiver) -> Response {
        match self.perform(now, request, receiver) {
            Ok((content_type, body)) => Response {
                status: 200,
                epoch: self.epoch,
                content_type,
                body: body.into(),
            },
            Err(error) => self.refuse(&error),
        }
    }

    /// The answer that says `error`.
    #[must_use]
    pub fn refuse(&self, error: &ErrorBody) -> Response {
        Response {
            status: error.code.status(),
            epoch: self.epoch,
            content_type: JSON,
            body: serde_json::to_vec(error).unwrap_or_default().into(),
        }
    }

    fn perform(
        &self,
        now: Millis,
        request: Incoming<'_>,
        receiver: &dyn Receiver,
    ) -> Result<Answered, ErrorBody> {
        let route = find_route(request)?;
        let (most, found) = (route.max_body(&self.limits), request.body.len() as u64);
        if found > most {
            return Err(too_large(most, found));
        }
        match route {
            Route::Hello => self.hello(request.body),
            Route::Open => self.open(now, request.body, receiver),
            Route::Finish { push } => self.finish(now, push, request.body, receiver),
            Route::Sign { push } => self.sign(now, push, request.body),
            Route::Query { push }
            | Route::Chunks { push }
            | Route::Recipe { push, .. }
            | Route::Commit { push, .. } => {
                let running = self.begin(now, push)?;
                self.transfer(route, &running, request.body, receiver)
            }
        }
    }

    /// The routes by which the disks arrive.
    fn transfer(
        &self,
        route: Route,
        running: &Running<'_>,
        body: &[u8],
        receiver: &dyn Receiver,
    ) -> Result<Answered, ErrorBody> {
        let name = &running.name;
        match route {
            Route::Query { .. } => {
                let query = Query::decode(body, self.limits.max_query_ids).map_err(bad_frame)?;
                let lacking = receiver.lacking(name, &query.ids)?;
                Ok((BINARY, Answer::encode(&lacking)))
            }
            Route::Chunks { .. } => {
                let batch = Batch::decode(body).map_err(bad_frame)?;
                let new = receiver.put_chunks(name, &batch.chunks)?;
                let received = batch.chunks.len() as u32;
                json(&ChunksTaken { received, new })
            }
            Route::Recipe { push, disk } => {
                let size = self.disk_size(push, disk)?;
                let append =
                    Append::decode(body, self.limits.max_append_entries).map_err(bad_frame)?;
                check_append(&append, size)?;
                let durable_entries = receiver.append_recipe(name, disk, &append)?;
                json(&Appended { durable_entries })
            }
            Route::Commit { push, disk } => {
                let size = self.disk_size(push, disk)?;
                let commit: CommitDisk = parse(body)?;
                check_commit(&commit, size)?;
                let root = receiver.commit_disk(name, disk, &commit)?;
                json(&DiskCommitted { root })
            }
            Route::Hello | Route::Open | Route::Finish { .. } | Route::Sign { .. } => {
                Err(ErrorBody::new(ErrorCode::Internal, "not a transfer"))
            }
        }
    }

    fn hello(&self, body: &[u8]) -> Result<Answered, ErrorBody> {
        let hello: Hello = parse(body)?;
        let Some(version) = WireVersion::choose(&hello) else {
            let message = format!(
                "the agent speaks versions {} to {} of the protocol, this converter {} to {}",
                hello.oldest,
                hello.newest,
                WireVersion::OLDEST.number(),
                WireVersion::NEWEST.number()
            );
            return Err(ErrorBody::new(ErrorCode::VersionUnmatched, message)
                .advice("install agent and converter of one release"));
        };
        json(&Welcome {
            version: version.number(),
            program: self.program.clone(),
        })
    }

    fn open(
        &self,
        now: Millis,
        body: &[u8],
        receiver: &dyn Receiver,
    ) -> Result<Answered, ErrorBody> {
        let open: OpenPush = parse(body)?;
        check_open(&open)?;
        let push = {
            let mut new_id = self.new_id.lock().unwrap_or_else(PoisonError::into_inner);
            new_id()
        };
        let lease_millis = u64::from(self.limits.lease_seconds) * 1000;
        let name = self.leases().open(now, lease_millis, push, &open)?;
        let running = Running {
            server: self,
            now,
            push,
            name,
        };
        match receiver.open_push(&running.name, &open) {
            Ok(resumed) if resumed.disks.len() == open.disks.len() => json(&Opened {
                push,
                disks: resumed.disks,
                limits: self.limits,
                finished: resumed.finished,
            }),
            Ok(_) => {
                self.leases().close(push, None);
                let message = "the store answers for another number of disks";
                Err(ErrorBody::new(ErrorCode::Internal, message))
            }
            Err(error) => {
                self.leases().close(push, None);
                Err(error)
            }
        }
    }

    fn finish(
        &self,
        now: Millis,
        push: u64,
        body: &[u8],
        receiver: &dyn Receiver,
    ) -> Result<Answered, ErrorBody> {
        let finish: Finish = parse(body)?;
        // The answer to the first may have been lost.
        if let Some(finished) = self.leases().finished(push) {
            return json(&finished);
        }
        let running = self.begin(now, push)?;
        let finished = receiver.finish(&running.name, &finish)?;
        self.leases().close(push, Some(finished.clone()));
        json(&finished)
    }

    fn sign(&self, now: Millis, push: u64, body: &[u8]) -> Result<Answered, ErrorBody> {
        let sign: Sign = parse(body)?;
        let _running = self.begin(now, push)?;
        if sign == Sign::Leaving {
            self.leases().close(push, None);
        }
        json(&SignSeen {
            lease_seconds: self.limits.lease_seconds,
        })
    }

    fn begin(&self, now: Millis, push: u64) -> Result<Running<'_>, ErrorBody> {
        let name = self.leases().begin(now, push)?;
        Ok(Running {
            server: self,
            now,
            push,
            name,
        })
    }

    fn disk_size(&self, push: u64, disk: u32) -> Result<u64, ErrorBody> {
        self.leases().disk_size(push, disk).ok_or_else(|| {
            let message = format!("the push has no disk {disk}");
            ErrorBody::new(ErrorCode::DiskMismatch, message)
        })
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `Content-Type` and body.
type Answered = (&'static str, Vec<u8>);

/// A request being answered: its lease cannot be taken over meanwhile.
struct Running<'s> {
    server: &'s Server,
    now: Millis,
    push: u64,
    name: PushName,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.server.leases().end(self.now, self.push);
    }
}

/// A body that says it is longer than the receiver takes, before or after it was read.
#[must_use]
pub fn too_large(most: u64, found: u64) -> ErrorBody {
    let message = format!("the body has {found} bytes, expected at most {most}");
    ErrorBody::new(ErrorCode::TooLarge, message)
        .advice("the limits stand in the answer to the opening of a push")
}

/// Chunk number `index` of a batch is not what it says.
#[must_use]
pub fn bad_chunk(index: usize, error: &chunking::UnpackError) -> ErrorBody {
    let message = format!("chunk {index} of the batch is not what it says: {error}");
    ErrorBody::new(ErrorCode::BadChunk, message).advice("check the memory of the source machine")
}

fn find_route(request: Incoming<'_>) -> Result<Route, ErrorBody> {
    Route::parse(request.method, request.path).map_err(|error| {
        let code = match error {
            RouteError::Version { .. } => ErrorCode::VersionUnmatched,
            _ => ErrorCode::NoSuchRoute,
        };
        ErrorBody::new(code, error.to_string()).advice("see docs/stream-protocol.md for the paths")
    })
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ErrorBody> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the message cannot be read: {error}");
        ErrorBody::new(ErrorCode::BadMessage, message)
    })
}

fn json(message: &impl Serialize) -> Result<Answered, ErrorBody> {
    match serde_json::to_vec(message) {
        Ok(body) => Ok((JSON, body)),
        Err(error) => Err(ErrorBody::new(ErrorCode::Internal, error.to_string())),
    }
}

fn bad_frame(error: FrameError) -> ErrorBody {
    let code = match error {
        FrameError::TooMany { .. } => ErrorCode::TooLarge,
        _ => ErrorCode::BadFrame,
    };
    ErrorBody::new(code, error.to_string())
}

fn bad_message(message: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadMessage, message)
}

fn check_open(open: &OpenPush) -> Result<(), ErrorBody> {
    if open.disks.is_empty() {
        return Err(bad_message("the push names no disks".to_owned()));
    }
    if open.disks.len() > MAX_DISKS {
        let found = open.disks.len();
        return Err(bad_message(format!(
            "the push names {found} disks, expected at most {MAX_DISKS}"
        )));
    }
    let mut names = BTreeSet::new();
    for disk in &open.disks {
        let name = &disk.name;
        if name.trim().is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
            return Err(bad_message(format!("{name:?} is not a name for a disk")));
        }
        if !names.insert(name) {
            return Err(bad_message(format!("two disks are named {name:?}")));
        }
        if !matches!(disk.sector_size, 512 | 1024 | 2048 | 4096) {
            let found = disk.sector_size;
            return Err(bad_message(format!(
                "disk {name:?} has sectors of {found} bytes, expected 512 to 4096"
            )));
        }
        if disk.size > i64::MAX as u64 {
            let found = disk.size;
            return Err(bad_message(format!(
                "disk {name:?} has {found} bytes, expected fewer than 2^63"
            )));
        }
    }
    Ok(())
}

fn check_append(append: &Append, size: u64) -> Result<(), ErrorBody> {
    // Entries are in order: the last one ends last.
    let end = append.entries.last().and_then(|entry| entry.end());
    if end.is_some_and(|end| end > size) {
        let end = end.unwrap_or_default();
        return Err(bad_message(format!(
            "the last entry ends at byte {end}, the disk at {size}"
        )));
    }
    if append
        .start
        .checked_add(append.entries.len() as u64)
        .is_none()
    {
        return Err(bad_message(format!(
            "the first entry has index {}",
            append.start
        )));
    }
    Ok(())
}

fn check_commit(commit: &CommitDisk, size: u64) -> Result<(), ErrorBody> {
    if commit.unreadable.len() > MAX_UNREADABLE {
        let found = commit.unreadable.len();
        return Err(bad_message(format!(
            "{found} unreadable ranges, expected at most {MAX_UNREADABLE}"
        )));
    }
    let outside = commit.unreadable.iter().find(|range| {
        let end = range.offset.checked_add(range.len);
        end.is_none_or(|end| end > size)
    });
    match outside {
        None => Ok(()),
        Some(range) => Err(bad_message(format!(
            "the unreadable range at {} with {} bytes does not lie on the disk of {size}",
            range.offset, range.len
        ))),
    }
}
