//! The threads between the disks and the conductor: read, cut, name, and later compress.
//!
//! ```text
//!   reader ──buffers──► cutter ──► workers: BLAKE3 ──┐
//!                                                    ├──► conductor (in disk order)
//!                    conductor ──► workers: zstd ────┘
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, sync_channel};
use std::thread::JoinHandle;

use block_io::{BlockError, Salvage, Unreadable};
use bytes::Bytes;
use chunking::{ChunkId, Chunker, PackError, compress};
use stream_protocol::format::PackedChunk;

use super::Source;
use super::buffers::Buffers;
use super::cut::{Cut, Cutter};
use super::read::{Filled, READ_SIZE, read_disk};
use crate::wire::Heard;

/// Buffers of [`READ_SIZE`]: 102 MiB with their headroom. The recipe is appended to, which frees
/// them, after less than half of that ([`super::conductor::FLUSH_BYTES`]).
const BUFFERS: usize = 48;

/// Filled buffers that wait for the cutter.
const READ_AHEAD: usize = 4;

/// Chunks handed to a worker at a time: some hundred microseconds of work.
const PACKED_AT_ONCE: usize = 8;

/// What the conductor hears of.
#[derive(Debug)]
pub(super) enum Event {
    /// From the disks, numbered in their order, which is not the order of arrival.
    Read(u64, FromDisk),
    /// Chunks were compressed.
    Packed(Vec<Result<PackedChunk, PackError>>),
    /// From the network or the user.
    Heard(Heard),
}

/// What comes from a disk.
#[derive(Debug)]
pub(super) enum FromDisk {
    /// The next chunks.
    Chunks { disk: u32, chunks: Vec<Named> },
    /// It was read to its end; these ranges could not be read, and are zeroes in the chunks.
    End {
        disk: u32,
        unreadable: Vec<Range<u64>>,
    },
    /// Reading has failed.
    Failed { disk: u32, error: BlockError },
}

/// A chunk with its name; one that is all zeroes has none.
#[derive(Debug)]
pub(super) struct Named {
    pub offset: u64,
    pub raw: Bytes,
    pub id: Option<ChunkId>,
}

/// All threads that work for the conductor. They end when this is dropped.
pub(super) struct Pipeline {
    events: Sender<Event>,
    workers: Arc<rayon::ThreadPool>,
    buffers: Buffers,
    threads: Vec<JoinHandle<()>>,
}

impl Pipeline {
    /// The workers; the disks are not read yet.
    pub fn new(threads: usize, events: Sender<Event>) -> anyhow::Result<Self> {
        let chunker = Chunker::default();
        let workers = rayon::ThreadPoolBuilder::new()
            .num_threads(threads.max(1))
            .thread_name(|index| format!("worker-{index}"))
            .build()?;
        Ok(Self {
            events,
            workers: Arc::new(workers),
            buffers: Buffers::new(BUFFERS, READ_SIZE + Cutter::headroom(&chunker)),
            threads: Vec::new(),
        })
    }

    /// Read the disks of these numbers, one after the other.
    pub fn read(&mut self, disks: Vec<(u32, Source)>) -> std::io::Result<()> {
        let (filled, to_cut) = sync_channel(READ_AHEAD);
        let chunker = Chunker::default();
        let buffers = self.buffers.clone();
        let headroom = Cutter::headroom(&chunker);
        let reader = std::thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || read_all(&disks, &buffers, headroom, &filled))?;
        let (workers, events) = (Arc::clone(&self.workers), self.events.clone());
        let cutter = std::thread::Builder::new()
            .name("cutter".to_owned())
            .spawn(move || cut_all(chunker, &to_cut, &workers, &events))?;
        self.threads.extend([reader, cutter]);
        Ok(())
    }

    /// Compress chunks at zstd `level`.
    pub fn pack(&self, chunks: Vec<(ChunkId, Bytes)>, level: i32) {
        let mut chunks = chunks.into_iter();
        loop {
            let some: Vec<_> = chunks.by_ref().take(PACKED_AT_ONCE).collect();
            if some.is_empty() {
                return;
            }
            let events = self.events.clone();
            self.workers.spawn(move || {
                let packed = some.into_iter().map(|(id, raw)| pack(id, &raw, level));
                // The conductor may have ended; then nobody waits for it.
                let _ = events.send(Event::Packed(packed.collect()));
            });
        }
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        self.buffers.close();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn pack(id: ChunkId, raw: &Bytes, level: i32) -> Result<PackedChunk, PackError> {
    let packed = compress(id, raw, level)?;
    Ok(PackedChunk {
        id: packed.id,
        raw_len: packed.raw_len,
        codec: packed.codec,
        bytes: packed.bytes.into(),
    })
}

/// From the reader to the cutter.
enum ReadStep {
    Filled(u32, Filled),
    End(u32, Vec<Range<u64>>),
    Failed(u32, BlockError),
}

fn read_all(
    disks: &[(u32, Source)],
    buffers: &Buffers,
    headroom: usize,
    out: &SyncSender<ReadStep>,
) {
    for (number, source) in disks {
        let number = *number;
        // Zeroes for the time being; whether they are sent as such is decided when the disk ends.
        let disk = Salvage::new(Arc::clone(&source.disk), Unreadable::ReadZeroes);
        let mut pass = |filled| out.send(ReadStep::Filled(number, filled)).is_ok();
        let step = match read_disk(&disk, buffers, headroom, &mut pass) {
            Ok(true) => ReadStep::End(number, disk.unreadable()),
            Ok(false) => return,
            Err(error) => ReadStep::Failed(number, error),
        };
        if out.send(step).is_err() {
            return;
        }
    }
}

fn cut_all(
    chunker: Chunker,
    steps: &Receiver<ReadStep>,
    workers: &rayon::ThreadPool,
    events: &Sender<Event>,
) {
    let mut cutter = Cutter::new(chunker);
    for (order, step) in (0..).zip(steps) {
        let from_disk = match step {
            ReadStep::Filled(disk, filled) => {
                let cut = cutter.cut(filled);
                let events = events.clone();
                workers.spawn(move || {
                    let chunks = name_chunks(&cut);
                    let _ = events.send(Event::Read(order, FromDisk::Chunks { disk, chunks }));
                });
                continue;
            }
            ReadStep::End(disk, unreadable) => FromDisk::End { disk, unreadable },
            ReadStep::Failed(disk, error) => FromDisk::Failed { disk, error },
        };
        cutter = Cutter::new(chunker);
        if events.send(Event::Read(order, from_disk)).is_err() {
            return;
        }
    }
}

fn name_chunks(cut: &Cut) -> Vec<Named> {
    cut.chunks
        .iter()
        .map(|(offset, range)| {
            let raw = cut.bytes.slice(range.clone());
            let id = (!is_zero(&raw)).then(|| ChunkId::of(&raw));
            Named {
                offset: *offset,
                raw,
                id,
            }
        })
        .collect()
}

/// Whether all bytes are zero. In blocks, which the compiler turns into wide instructions.
fn is_zero(bytes: &[u8]) -> bool {
    let blocks = bytes.chunks(256);
    blocks
        .into_iter()
        .all(|block| block.iter().fold(0, |all, byte| all | byte) == 0)
}
