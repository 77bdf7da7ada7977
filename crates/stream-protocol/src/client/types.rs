//! What goes into a push and comes out of it: configuration, steps, errors, progress.

use bytes::Bytes;
use chunking::{ChunkId, MAX_CHUNK};

use crate::message::{ErrorBody, Finished, OpenPush};
use crate::route::Request;

/// A time on the host's clock in milliseconds; only differences mean anything, and it never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Millis(pub u64);

/// How a push is made.
#[derive(Debug, Clone)]
pub struct Config {
    /// The machine and its disks.
    pub open: OpenPush,
    /// Name and version of the agent.
    pub program: String,
    /// For the user of the converter: see [`Finish::notes`](crate::message::Finish::notes).
    pub notes: Vec<String>,
    /// Requests under way at one time: as many as the host has connections.
    pub in_flight: usize,
    /// Bytes of chunks held at most. Raw chunks that are slices of one large buffer keep all of it.
    pub max_held: usize,
    /// Bytes of a batch to aim at.
    pub batch_bytes: usize,
    /// Ids of a query to aim at.
    pub query_ids: usize,
    /// Raw bytes after which recipe entries are appended, which makes the receiver flush.
    pub flush_bytes: u64,
    /// Milliseconds after which recipe entries are appended although they are fewer.
    pub flush_after: u64,
    /// Milliseconds to wait for a query or batch to fill while nothing else is under way.
    pub linger: u64,
    /// When to try again and when to give up.
    pub patience: Patience,
}

/// When to try again and when to give up, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Delay behind the first failure; doubled behind each further one.
    pub first_delay: u64,
    /// The longest delay.
    pub longest_delay: u64,
    /// How long nothing may succeed before the push fails.
    pub give_up_after: u64,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            first_delay: 250,
            longest_delay: 15_000,
            give_up_after: 10 * 60_000,
        }
    }
}

impl Config {
    /// The usual figures: 4 connections, 96 MiB held.
    #[must_use]
    pub fn new(open: OpenPush, program: impl Into<String>) -> Self {
        Self {
            open,
            program: program.into(),
            notes: Vec::new(),
            in_flight: 4,
            max_held: 96 << 20,
            batch_bytes: 4 << 20,
            query_ids: 512,
            flush_bytes: 64 << 20,
            flush_after: 10_000,
            linger: 20,
            patience: Patience::default(),
        }
    }
}

/// Names one request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// No answer came: not connected, cut, timed out, or not HTTP. The reason is for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost(pub String);

/// What the host is to do next.
#[derive(Debug)]
pub enum Step {
    /// Send this, and bring the answer to [`Push::answered`](super::Push::answered).
    Send {
        /// For [`Push::answered`](super::Push::answered).
        ticket: Ticket,
        /// What to send.
        request: Request,
    },
    /// Compress this chunk and bring it to [`Push::packed`](super::Push::packed).
    Pack {
        /// Its name.
        id: ChunkId,
        /// Its bytes.
        raw: Bytes,
    },
    /// Nothing to do until something is fed, packed or answered, or until then.
    Wait {
        /// When to ask again at the latest.
        until: Option<Millis>,
    },
    /// The machine is complete at the receiver.
    Done(Finished),
    /// The push has failed for good.
    Failed(PushError),
}

/// Why a push failed for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PushError {
    /// The converter refused, and asking again would not help.
    #[error("the converter refused: {0}")]
    Refused(ErrorBody),
    /// Nothing succeeded for too long.
    #[error("gave up after {seconds} s without success; the last failure was: {reason}")]
    GaveUp {
        /// How long.
        seconds: u64,
        /// The last failure.
        reason: String,
    },
    /// The converter speaks no version that this agent speaks.
    #[error(
        "the converter speaks version {found} of the protocol, this agent {oldest} to {newest}: install agent and converter of one release"
    )]
    Version {
        /// The converter's choice.
        found: u32,
        /// Our oldest.
        oldest: u32,
        /// Our newest.
        newest: u32,
    },
    /// The converter names another number of disks than were opened.
    #[error("the converter answers for {found} disks, expected {expected}")]
    DiskCount {
        /// Disks named in the request.
        expected: usize,
        /// Disks in the answer.
        found: usize,
    },
    /// The converter cannot take even one chunk.
    #[error("the converter takes batches of {found} bytes, expected at least {expected}")]
    LimitsTooSmall {
        /// One chunk of the largest size with its framing.
        expected: u32,
        /// The limit.
        found: u32,
    },
    /// Entries that the converter had confirmed as durable are gone.
    #[error(
        "the converter has {found} entries of disk {disk}, expected at least the {expected} it had confirmed: its store was changed or restored; push again from the beginning"
    )]
    WorkLost {
        /// Which disk.
        disk: u32,
        /// Entries confirmed.
        expected: u64,
        /// Entries left.
        found: u64,
    },
    /// The converter computed another root.
    #[error("the converter's root of disk {disk} differs from ours")]
    OtherRoot {
        /// Which disk.
        disk: u32,
    },
}

/// A chunk that cannot be fed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FeedError {
    /// No such disk in [`Config::open`].
    #[error("disk {disk} was not opened")]
    NoSuchDisk {
        /// The disk.
        disk: u32,
    },
    /// The disk was ended before.
    #[error("disk {disk} has ended")]
    Ended {
        /// The disk.
        disk: u32,
    },
    /// It begins before the chunk before it ends, or goes past the disk's end.
    #[error(
        "disk {disk}: chunk at {offset} with {len} bytes does not lie between {after} and {size}"
    )]
    OutOfPlace {
        /// The disk.
        disk: u32,
        /// First byte.
        offset: u64,
        /// Bytes.
        len: u64,
        /// End of the chunk before it.
        after: u64,
        /// End of the disk.
        size: u64,
    },
    /// No bytes, or more than a chunk has.
    #[error("a chunk has 1 to {MAX_CHUNK} bytes, found {found}")]
    Length {
        /// Its bytes.
        found: usize,
    },
    /// [`Push::room`](super::Push::room) was not asked.
    #[error("no room for more chunks")]
    Full,
}

/// What has been done so far, for a progress display. Bytes are raw bytes where nothing else is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Chunks fed.
    pub fed_chunks: u64,
    /// Bytes fed.
    pub fed_bytes: u64,
    /// Chunks that the receiver had already.
    pub known_chunks: u64,
    /// Bytes of those.
    pub known_bytes: u64,
    /// Chunks that arrived.
    pub sent_chunks: u64,
    /// Bytes that those took on the wire, compressed and framed, each time they were sent.
    pub wire_bytes: u64,
    /// Bytes under durable recipe entries.
    pub durable_bytes: u64,
    /// Disks committed.
    pub committed_disks: u32,
    /// How often the push was opened again.
    pub reopened: u32,
}
