//! Send the disks of a machine to a converter.
//!
//! ```text
//!  disks ─► reader ─► cutter ─► names ─► conductor ⇄ protocol state machine
//!                                            │  ▲
//!                                       zstd workers, HTTPS connections
//! ```
//!
//! Memory is bounded by the buffers that disks are read into and by what the state machine holds,
//! whatever the size of the disks. What was sent stays at the converter when a push fails: the next
//! run finds it there.

mod buffers;
mod conductor;
mod cut;
mod identity;
mod pipeline;
mod read;
mod snapshot;

use std::sync::Arc;

use block_io::{BlockError, BlockRead};
use stream_protocol::client::PushError;
use stream_protocol::message::{ByteRange, Finished, OpenPush, PushDisk};
use stream_protocol::{ConnectString, Inventory, MachineName};

use crate::wire::NoAnswer;
use conductor::Conductor;
use read::UsedRuns;

pub use identity::Identity;
pub use snapshot::{DiskSnapshot, Snapshot};

/// A disk to send. Only ever read: its type has no way to write.
#[derive(Clone)]
pub struct Source {
    /// What to call it: `sda`.
    pub name: String,
    /// Its bytes, and which of them are used.
    pub disk: Arc<dyn BlockRead>,
}

/// How to send.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Connections at one time.
    pub connections: usize,
    /// zstd level.
    pub level: i32,
    /// Threads that name and compress chunks.
    pub threads: usize,
    /// Whether sectors that cannot be read are sent as zeroes.
    pub skip_unreadable: bool,
    /// Bytes a second on the wire; `None` is as fast as it goes.
    pub bytes_per_second: Option<u64>,
}

impl Default for Options {
    /// Four connections, the fastest ordinary level, at most eight threads, so that a large server
    /// goes on serving.
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            connections: 4,
            level: DEFAULT_LEVEL,
            threads: cores.min(8),
            skip_unreadable: false,
            bytes_per_second: None,
        }
    }
}

/// The default zstd level; `bench/push` says why.
pub const DEFAULT_LEVEL: i32 = 1;

/// What to send.
#[derive(Clone)]
pub struct Job {
    pub(crate) open: OpenPush,
    pub(crate) sources: Vec<Source>,
    pub(crate) sizes: Vec<DiskSizes>,
    pub(crate) notes: Vec<String>,
    pub(crate) program: String,
}

/// How much of a disk there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSizes {
    /// The whole disk.
    pub whole: u64,
    /// What is used of it.
    pub used: u64,
    /// What will be read: what is used, and small gaps between, which are sent as zeroes.
    pub read: u64,
}

impl Job {
    /// Send `sources` as the machine `name`. Looks up which of their bytes are used.
    ///
    /// # Errors
    /// What the disks answer.
    pub fn new(
        name: MachineName,
        identity: &Identity,
        inventory: Inventory,
        sources: Vec<Source>,
    ) -> Result<Self, Failure> {
        let mut sizes = Vec::new();
        let mut disks = Vec::new();
        for (number, source) in (0..).zip(&sources) {
            let size = sizes_of(&*source.disk).map_err(|error| {
                let unread = Unread::Failed {
                    disk: number,
                    error,
                };
                Failure::Unread(vec![unread])
            })?;
            disks.push(PushDisk {
                name: source.name.clone(),
                size: size.whole,
                sector_size: source.disk.sector_size().bytes() as u32,
                expected_bytes: Some(size.used),
            });
            sizes.push(size);
        }
        let open = OpenPush {
            push_key: identity.push_key(&name).map_err(Failure::other)?,
            run: identity::new_run().map_err(Failure::other)?,
            machine: name,
            inventory,
            disks,
        };
        Ok(Self {
            open,
            sources,
            sizes,
            notes: Vec::new(),
            program: concat!("p2v-agent ", env!("CARGO_PKG_VERSION")).to_owned(),
        })
    }

    /// Tell the user of the converter, with the machine, that `note`.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }
}

fn sizes_of(disk: &dyn BlockRead) -> block_io::Result<DiskSizes> {
    let mut sizes = DiskSizes {
        whole: disk.size(),
        used: 0,
        read: 0,
    };
    for run in UsedRuns::new(disk) {
        let run = run?;
        let len = run.bytes.end - run.bytes.start;
        let gaps: u64 = run.gaps.iter().map(|gap| gap.end - gap.start).sum();
        sizes.read += len;
        sizes.used += len - gaps;
    }
    Ok(sizes)
}

/// A disk that could not be sent as a whole.
#[derive(Debug)]
pub enum Unread {
    /// Sectors stayed unreadable, and may not be sent as zeroes without consent.
    Sectors {
        /// Which disk, by its place in the job.
        disk: u32,
        /// Where.
        ranges: Vec<ByteRange>,
    },
    /// Reading failed otherwise: the disk is gone, or shrank.
    Failed {
        /// Which disk, by its place in the job.
        disk: u32,
        /// How.
        error: BlockError,
    },
}

/// Why a machine was not sent.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The converter could not be reached at all.
    #[error("the converter cannot be reached: {0}")]
    NotReached(String),
    /// Another program answers where the converter should be.
    #[error("{0}")]
    OtherConverter(NoAnswer),
    /// The protocol ended: refused, given up, or work lost.
    #[error(transparent)]
    Converter(PushError),
    /// Disks could not be read. All that could be is kept at the converter.
    #[error("disks could not be read")]
    Unread(Vec<Unread>),
    /// The user ended it.
    #[error("interrupted")]
    Interrupted,
    /// Something that should not happen.
    #[error("{0}")]
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn other(error: impl Into<anyhow::Error>) -> Self {
        Self::Other(error.into())
    }
}

/// Send the disks of `job` to `converter`, showing `observe` how far it has come several times a
/// second.
///
/// # Errors
/// [`Failure`]; what was sent is kept, and the same call goes on from there.
pub fn push(
    converter: ConnectString,
    job: Job,
    options: Options,
    observe: &mut dyn FnMut(&Snapshot),
) -> Result<(Finished, Snapshot), Failure> {
    let conductor = Conductor::new(converter, job, options, observe).map_err(Failure::other)?;
    conductor.run()
}
