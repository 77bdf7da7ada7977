//! How keeping fails, and how stored bytes lie.
//!
//! Conduct: every error names the file, relative to the store. [`Damage`] is one place in one file
//! that is not what it should be; it is an error when met, and a line of the report when looked for.

use std::io;

use chunking::{ChunkId, UnpackError};

/// Short for a result with a [`StoreError`].
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The disk the store lies on is full. The store stays consistent: make room and go on.
    #[error("{path}: no space left on the store's disk; make room and go on")]
    Full {
        /// The file that could not grow.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
    /// Another process has the store open.
    #[error(
        "{path}: the store is in use by another process (`p2v serve`?); wait for it or stop it"
    )]
    Locked {
        /// The lock file.
        path: String,
    },
    /// The directory holds something else than a store, or a store of another version.
    #[error("{path}: not a chunk store of this version: expected {expected:?}, found {found:?}")]
    NotAStore {
        /// The file that tells.
        path: String,
        /// What it should say.
        expected: String,
        /// What it says.
        found: String,
    },
    /// Stored bytes are not what was written.
    #[error("the store is damaged")]
    Damaged(#[from] Damage),
    /// Chunks that a recipe needs are not in the store.
    #[error("{count} chunks are not in the store, the first is {first}; send them again")]
    MissingChunks {
        /// How many.
        count: usize,
        /// The first of them.
        first: ChunkId,
    },
    /// A chunk that arrived is not what its name says. It was not kept.
    #[error("refusing a chunk")]
    BadChunk(#[from] UnpackError),
    /// Another push of this machine is in progress.
    #[error("machine {machine:?} is being pushed already; wait for that push or stop it")]
    MachineBusy {
        /// The machine's name.
        machine: String,
    },
    /// The store was opened to be read alone.
    #[error("the store was opened to be read alone")]
    ReadOnly,
    /// Nothing can be removed now.
    #[error("nothing can be removed from the store while {reason}; try again later")]
    GarbageBusy {
        /// What stands in the way.
        reason: &'static str,
    },
    /// What a push says contradicts itself, or what it said before.
    #[error("refusing the push: {0}")]
    Refused(#[from] Refusal),
    /// There is no such snapshot, disk or push.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// Any other answer of the operating system.
    #[error("{path}: input/output error")]
    Io {
        /// The file.
        path: String,
        /// The operating system's answer.
        source: io::Error,
    },
}

impl StoreError {
    /// The error for what the operating system answered about `path`.
    #[must_use]
    pub fn io(path: impl Into<String>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge => Self::Full { path, source },
            _ => Self::Io { path, source },
        }
    }

    /// Whether making room is all that is needed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Names the file an input or output error is about.
pub(crate) trait OnPath<T> {
    fn on(self, path: &str) -> Result<T>;
}

impl<T> OnPath<T> for io::Result<T> {
    fn on(self, path: &str) -> Result<T> {
        self.map_err(|error| StoreError::io(path, error))
    }
}

/// Why what a push says is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// An entry says it has no bytes.
    #[error("disk {disk}: entry {entry} is empty")]
    EmptyEntry {
        /// The disk's number.
        disk: usize,
        /// The entry's number.
        entry: u64,
    },
    /// An entry is longer than a chunk may be.
    #[error("disk {disk}: entry {entry} has {found} bytes, a chunk has at most {max}")]
    LongEntry {
        /// The disk's number.
        disk: usize,
        /// The entry's number.
        entry: u64,
        /// The most there may be.
        max: u32,
        /// Its length.
        found: u32,
    },
    /// An entry begins before the one before it ends.
    #[error("disk {disk}: entry {entry} begins at {found}, expected {expected} or later")]
    OutOfOrder {
        /// The disk's number.
        disk: usize,
        /// The entry's number.
        entry: u64,
        /// Where the one before it ends.
        expected: u64,
        /// Where it begins.
        found: u64,
    },
    /// An entry reaches past the end of the disk.
    #[error("disk {disk}: entry {entry} ends at {found}, the disk at {size}")]
    PastEnd {
        /// The disk's number.
        disk: usize,
        /// The entry's number.
        entry: u64,
        /// The disk's size.
        size: u64,
        /// Where the entry ends.
        found: u64,
    },
    /// Entries arrived that do not follow those that are here.
    #[error("disk {disk}: entries from {found} on arrived, expected {expected} next")]
    Gap {
        /// The disk's number.
        disk: usize,
        /// The next entry's number.
        expected: u64,
        /// The number that came.
        found: u64,
    },
    /// A disk's number is not one of the push.
    #[error("disk {disk} is not part of the push, which has {disks}")]
    NoSuchDisk {
        /// The number given.
        disk: usize,
        /// How many there are.
        disks: usize,
    },
    /// The push is known with other disks.
    #[error("disk {disk} is {found}, but was {expected} when this push began")]
    OtherDisks {
        /// The first disk that differs.
        disk: usize,
        /// What it was.
        expected: String,
        /// What it is said to be now.
        found: String,
    },
    /// A commit names another number of disks than the push has.
    #[error("the commit names {found} disks, the push has {expected}")]
    DiskCount {
        /// Disks of the push.
        expected: usize,
        /// Disks of the commit.
        found: usize,
    },
    /// The recipe that arrived is not the one that was sent.
    #[error("disk {disk}: the recipe's root hash is {found}, expected {expected}")]
    WrongRoot {
        /// The disk's number.
        disk: usize,
        /// What the commit says.
        expected: String,
        /// What the stored entries give.
        found: String,
    },
    /// An entry and the chunk it names have different lengths.
    #[error("disk {disk}: entry {entry} has {expected} bytes, but its chunk has {found}")]
    ChunkLength {
        /// The disk's number.
        disk: usize,
        /// The entry's number.
        entry: u64,
        /// The entry's length.
        expected: u32,
        /// The chunk's length.
        found: u32,
    },
    /// An unreadable range that lies outside the disk, is empty, or out of order.
    #[error("disk {disk}: the unreadable range {start}..{end} does not fit")]
    UnreadableRange {
        /// The disk's number.
        disk: usize,
        /// Where it starts.
        start: u64,
        /// Where it ends.
        end: u64,
    },
    /// A sector size no disk has.
    #[error("disk {disk}: no disk has sectors of {found} bytes")]
    SectorSize {
        /// The disk's number.
        disk: usize,
        /// The size given.
        found: u32,
    },
    /// The push has been committed or given up.
    #[error("the push is over")]
    Over,
}

/// A place in a file of the store that is not what it should be.
#[derive(Debug, thiserror::Error)]
#[error("{path}: at byte {offset}: {lie}")]
pub struct Damage {
    /// The file, relative to the store.
    pub path: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// In which way it lies.
    pub lie: Box<Lie>,
}

impl Damage {
    pub(crate) fn new(path: impl Into<String>, offset: u64, lie: Lie) -> Self {
        Self {
            path: path.into(),
            offset,
            lie: Box::new(lie),
        }
    }
}

/// The ways stored bytes can lie.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Lie {
    /// A file ends before what it must hold.
    #[error("the file ends at byte {found}, expected {expected}")]
    Short {
        /// Where it should end at the earliest.
        expected: u64,
        /// Where it ends.
        found: u64,
    },
    /// A magic number is another one.
    #[error("expected the magic bytes {expected:?}, found {found:?}")]
    Magic {
        /// What should stand there.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A checksum over a part of a file does not fit it.
    #[error("the CRC-32C of {what} is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// The part.
        what: &'static str,
        /// The checksum kept beside it.
        expected: u32,
        /// The checksum of what is there.
        found: u32,
    },
    /// A hash over a text file does not fit it.
    #[error("the BLAKE3 hash of the text is {found}, expected {expected}")]
    TextHash {
        /// The hash in its first line.
        expected: String,
        /// The hash of what is there.
        found: String,
    },
    /// A text file that is whole does not say what it must.
    #[error("the text is not understood: {detail}")]
    Text {
        /// What the parser says.
        detail: String,
    },
    /// A number has a value that it cannot have.
    #[error("{what} is {found}, expected {expected}")]
    Value {
        /// What the number means.
        what: &'static str,
        /// The value or bound.
        expected: u64,
        /// The value there.
        found: u64,
    },
    /// A record holds another chunk than the index or recipe says.
    #[error("the record holds chunk {found}, expected {expected}")]
    OtherChunk {
        /// The chunk looked for.
        expected: ChunkId,
        /// The chunk the record names.
        found: ChunkId,
    },
    /// A record's bytes are not the chunk it names.
    #[error("the record is not chunk {id}")]
    Chunk {
        /// The chunk it names.
        id: ChunkId,
        /// In which way.
        source: UnpackError,
    },
    /// No location of a chunk is known.
    #[error("chunk {id} is in no pack")]
    NoChunk {
        /// The chunk.
        id: ChunkId,
    },
    /// A recipe's entries do not give the root hash of its snapshot.
    #[error("the recipe's root hash is {found}, expected {expected}")]
    Root {
        /// What the snapshot says.
        expected: String,
        /// What the entries give.
        found: String,
    },
    /// A file that must be there is not.
    #[error("the file is missing")]
    Absent,
}
