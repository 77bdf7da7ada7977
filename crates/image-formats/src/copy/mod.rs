//! One read pass from a disk to any number of outputs.
//!
//! ```text
//!   plan: next window with data ─► read ─► zero detection, compression ─► turn ─► place ─► write
//!   └ one at a time ┘              └──── every worker, at once ────────┘  └ in order ┘     └ at once ┘
//! ```
//!
//! There is a worker for each core, and there are some more carriers, which take a window from reading to
//! writing. A worker whose window's turn has not come leaves the carrier in the queue and fills another,
//! so one slow window (a bad sector, a grain that compresses badly) keeps nobody from working until all
//! carriers are ahead of it. Only the placing, which decides file offsets and is quick, happens in order.
//! Memory is the number of carriers times a window and its compressed forms, and that number is cut to
//! what `MEMORY` allows.
//!
//! Why not more workers than cores, each waiting with its window: the writers then fight for the output's
//! inode lock, and what was just inflated has left the core's cache when it is written. Two workers in
//! place of six on two cores read zstd 1.3 times faster.

mod carrier;
mod plan;
mod queue;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use block_io::{BlockError, BlockRead, ExtentKind};

use self::carrier::Carrier;
use self::plan::{Plan, Window};
use self::queue::{Job, Queue, StopOnPanic};
use crate::codec::{Codec, Encoder};
use crate::output::{ImageWriter, OutputError, PartFile, Sink};

/// The most that is carried at once: 2 MiB, the largest unit of any format here.
pub const WINDOW: u64 = 2 << 20;

/// What is carried at once where no output has larger units: what was read or inflated is still in the
/// core's own cache when it is compressed and written.
const USUAL_WINDOW: u64 = 512 << 10;

/// Carriers beyond the workers: so many windows are done ahead of a slow one before a core has nothing
/// to do.
const RUN_AHEAD: usize = 4;

/// What all carriers and workers may hold together. The readers' and writers' tables come on top; the whole stays
/// within 256 MB.
const MEMORY: u64 = 160 << 20;

/// What a compressor may hold of its own: hash tables and a window, at the levels used here.
const COMPRESSOR: u64 = 2 << 20;

/// How to copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Threads that read, compress and write. By default one for each core, and two where there is one.
    pub workers: Option<NonZero<usize>>,
    /// Windows that may be under way at once, whatever their memory. By default some more than there are
    /// workers, as far as 160 MiB reach.
    pub windows: Option<NonZero<usize>>,
}

/// Told how far the copy is. Called from several threads.
pub trait Progress: Sync {
    /// `done` bytes of data of `total` are in every output. `done` never falls.
    fn advance(&self, done: u64, total: u64);
}

/// Nobody wants to know.
impl Progress for () {
    fn advance(&self, _done: u64, _total: u64) {}
}

/// Why a copy failed, and on which side.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CopyError {
    /// The source could not be read.
    #[error("reading the source")]
    Read(#[from] BlockError),
    /// An output could not be written.
    #[error("writing an output")]
    Write(#[from] OutputError),
    /// The output was announced for a disk of another size.
    #[error("the output was made for a disk of {output} bytes, the source has {source_size}")]
    Size {
        /// The size the output was created with.
        output: u64,
        /// The size of the source.
        source_size: u64,
    },
    /// A compressor could not be set up or failed.
    #[error("compressing")]
    Compress(#[source] std::io::Error),
    /// No outputs were given.
    #[error("no outputs to copy to")]
    NoOutputs,
}

/// Copy `source` to every output of `sinks` in one pass over its data, and finish them.
///
/// Only what the source's map does not call zero is read, and zeroes found in it are not stored.
/// On an error every output's files are removed.
///
/// # Errors
/// [`CopyError`], telling reading and writing apart.
pub fn copy(
    source: &dyn BlockRead,
    mut sinks: Vec<Sink>,
    progress: &dyn Progress,
    options: &CopyOptions,
) -> Result<Vec<PathBuf>, CopyError> {
    if sinks.is_empty() {
        return Err(CopyError::NoOutputs);
    }
    if let Some(sink) = sinks
        .iter()
        .find(|sink| sink.virtual_size() != source.size())
    {
        return Err(CopyError::Size {
            output: sink.virtual_size(),
            source_size: source.size(),
        });
    }
    let total = count_data(source)?;
    progress.advance(0, total);
    Pass::new(source, &mut sinks, progress, total, options).run()?;
    let mut paths = Vec::with_capacity(sinks.len());
    for sink in sinks {
        paths.push(sink.finish()?);
    }
    Ok(paths)
}

fn count_data(source: &dyn BlockRead) -> Result<u64, BlockError> {
    let mut total = 0;
    for extent in block_io::extents(source, 0..source.size()) {
        let extent = extent?;
        if extent.kind != ExtentKind::Zero {
            total += extent.len;
        }
    }
    Ok(total)
}

/// An output as the workers share it: placing needs the lock, writing does not.
struct SharedSink<'a> {
    writer: Mutex<&'a mut Box<dyn ImageWriter>>,
    files: &'a [PartFile],
    unit: u64,
    codec: Codec,
}

impl<'a> SharedSink<'a> {
    fn new(sink: &'a mut Sink) -> Self {
        Self {
            unit: sink.writer.unit(),
            codec: sink.writer.codec(),
            writer: Mutex::new(&mut sink.writer),
            files: &sink.files,
        }
    }

    fn lock(&self) -> MutexGuard<'_, &'a mut Box<dyn ImageWriter>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Pass<'a> {
    source: &'a dyn BlockRead,
    sinks: Vec<SharedSink<'a>>,
    plan: Mutex<Plan<'a>>,
    workers: usize,
    queue: Queue<Carrier, CopyError>,
    progress: &'a dyn Progress,
    done: Mutex<u64>,
    total: u64,
}

impl<'a> Pass<'a> {
    fn new(
        source: &'a dyn BlockRead,
        sinks: &'a mut [Sink],
        progress: &'a dyn Progress,
        total: u64,
        options: &CopyOptions,
    ) -> Self {
        let sinks: Vec<_> = sinks.iter_mut().map(SharedSink::new).collect();
        let window = sinks
            .iter()
            .map(|sink| sink.unit)
            .fold(USUAL_WINDOW, u64::max);
        let workers = options.workers.map_or_else(usual_workers, NonZero::get);
        let windows = match options.windows {
            Some(windows) => windows.get(),
            None => usual_windows(workers, window, &sinks),
        };
        let carriers = (0..windows).map(|_| Carrier::new(window, sinks.len()));
        Self {
            source,
            plan: Mutex::new(Plan::new(source, window)),
            workers: workers.min(windows),
            queue: Queue::new(carriers.collect()),
            sinks,
            progress,
            done: Mutex::new(0),
            total,
        }
    }

    fn run(self) -> Result<(), CopyError> {
        std::thread::scope(|scope| {
            for _ in 0..self.workers {
                scope.spawn(|| {
                    let _stop = StopOnPanic(&self.queue);
                    if let Err(error) = self.work() {
                        self.queue.stop(Some(error));
                    }
                });
            }
        });
        self.queue.into_result()
    }

    fn work(&self) -> Result<(), CopyError> {
        let encoders = self
            .sinks
            .iter()
            .map(|sink| Encoder::new(sink.codec, sink.unit));
        let mut encoders: Vec<_> = encoders
            .collect::<Result<_, _>>()
            .map_err(CopyError::Compress)?;
        loop {
            match self.queue.next_job() {
                Job::Fill(carrier) => self.fill(carrier, &mut encoders)?,
                Job::Place(carrier) => self.place_and_write(carrier)?,
                Job::Done => return Ok(()),
            }
        }
    }

    fn fill(&self, mut carrier: Carrier, encoders: &mut [Encoder]) -> Result<(), CopyError> {
        let window = {
            let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            match plan.next_window()? {
                Some(window) => window,
                None => {
                    self.queue.end(plan.given());
                    return Ok(());
                }
            }
        };
        let ticket = window.ticket;
        carrier.read(self.source, window)?;
        carrier.encode(encoders)?;
        self.queue.filled(ticket, carrier);
        Ok(())
    }

    fn place_and_write(&self, mut carrier: Carrier) -> Result<(), CopyError> {
        carrier.place(&self.sinks)?;
        self.queue.placed();
        carrier.write(&self.sinks).map_err(|error| {
            let done = *self.done.lock().unwrap_or_else(PoisonError::into_inner);
            error.needing(self.total.saturating_sub(done))
        })?;
        self.report(&carrier.window);
        self.queue.emptied(carrier);
        Ok(())
    }

    fn report(&self, window: &Window) {
        let len: u64 = window.data.iter().map(|part| part.end - part.start).sum();
        // Under the lock, so that what is told never falls.
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        *done += len;
        self.progress.advance(*done, self.total);
    }
}

fn usual_workers() -> usize {
    // Two at least: one may be waiting for a slow disk.
    std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2))
}

/// How many windows `workers` may have under way so that all of it stays within [`MEMORY`].
fn usual_windows(workers: usize, window: u64, sinks: &[SharedSink<'_>]) -> usize {
    let packers = sinks
        .iter()
        .filter(|sink| sink.codec != Codec::Plain)
        .count() as u64;
    let compressors = workers as u64 * packers * COMPRESSOR;
    let each = window * (1 + packers);
    let most = MEMORY.saturating_sub(compressors) / each;
    (workers + RUN_AHEAD).min(most.max(1) as usize)
}
