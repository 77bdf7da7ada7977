//! One read pass from a disk to any number of outputs.
//!
//! ```text
//!   plan: next window with data ─► read ─► zero detection, compression ─► wait for turn ─► place ─► write
//!   └ one at a time ┘              └──── every worker, at once ────────┘  └ in order ────┘  └ at once ┘
//! ```
//!
//! A worker carries one window from reading to writing, and waits with it for its turn: the workers are
//! the queue, ordered by their windows' tickets and bounded by their number. Only the placing, which
//! decides file offsets and is quick, happens in order. There are more workers than cores (`RUN_AHEAD`),
//! so one slow window (a bad sector, a grain that compresses badly) keeps the others from working only
//! once all of them have run ahead of it. Memory is the number of workers times a window and its
//! compressed forms, and that number is cut to what `MEMORY` allows.

use std::num::NonZero;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use block_io::{BlockError, BlockRead, Extent, ExtentKind, Extents};

use crate::codec::{Codec, Encoder};
use crate::output::{
    EncodedChunk, ImageWriter, OutputError, PartFile, PlacedBytes, Placement, Sink, Stored,
};

/// The most a worker carries at once: 2 MiB, the largest unit of any format here.
pub const WINDOW: u64 = 2 << 20;

/// What a worker carries where no output has larger units: what was read or inflated is still in the
/// core's own cache when it is compressed and written.
const USUAL_WINDOW: u64 = 512 << 10;

/// Workers beyond the cores: so many windows are done ahead of a slow one before a core has nothing to do.
const RUN_AHEAD: usize = 4;

/// What all workers may hold together. The readers' and writers' tables come on top; the whole stays
/// within 256 MB.
const MEMORY: u64 = 160 << 20;

/// What a compressor may hold of its own: hash tables and a window, at the levels used here.
const COMPRESSOR: u64 = 2 << 20;

/// How to copy.
#[derive(Debug, Clone, Default)]
pub struct CopyOptions {
    /// Threads that read, compress and write: so many windows are under way at once, whatever their
    /// memory. By default some more than the cores, as far as 160 MiB reach.
    pub workers: Option<NonZero<usize>>,
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
    let pass = Pass::new(source, &mut sinks, progress, total);
    pass.run(options)?;
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

/// Data to be carried at once: where the window starts and which parts of it must be read.
struct Window {
    ticket: u64,
    start: u64,
    data: Vec<Range<u64>>,
}

/// Which window comes next.
struct Plan<'a> {
    window: u64,
    extents: Extents<'a, dyn BlockRead + 'a>,
    pending: Option<Extent>,
    next_ticket: u64,
}

impl Plan<'_> {
    fn next_window(&mut self) -> Result<Option<Window>, BlockError> {
        let mut window: Option<Window> = None;
        loop {
            let extent = match self.pending.take() {
                Some(extent) => extent,
                None => match self.extents.next() {
                    Some(extent) => extent?,
                    None => break,
                },
            };
            if extent.kind == ExtentKind::Zero {
                continue;
            }
            let window = window.get_or_insert_with(|| Window {
                ticket: self.next_ticket,
                start: extent.start / self.window * self.window,
                data: Vec::new(),
            });
            let end = window.start.saturating_add(self.window);
            if extent.start >= end {
                self.pending = Some(extent);
                break;
            }
            window.data.push(extent.start..extent.end().min(end));
            if extent.end() > end {
                self.pending = Some(Extent {
                    kind: extent.kind,
                    start: end,
                    len: extent.end() - end,
                });
                break;
            }
        }
        self.next_ticket += u64::from(window.is_some());
        Ok(window)
    }
}

/// Lets windows through one by one, in the order of their tickets.
#[derive(Default)]
struct Turn {
    state: Mutex<TurnState>,
    changed: Condvar,
}

#[derive(Default)]
struct TurnState {
    next: u64,
    failed: Option<CopyError>,
    stopped: bool,
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wait for the turn of `ticket`; `false` when the copy was stopped meanwhile.
    fn wait(&self, ticket: u64) -> bool {
        let state = self
            .changed
            .wait_while(self.lock(), |state| state.next != ticket && !state.stopped)
            .unwrap_or_else(PoisonError::into_inner);
        !state.stopped
    }

    fn pass(&self) {
        self.lock().next += 1;
        self.changed.notify_all();
    }

    fn stop(&self, error: Option<CopyError>) {
        let mut state = self.lock();
        state.stopped = true;
        if let Some(error) = error {
            state.failed.get_or_insert(error);
        }
        drop(state);
        self.changed.notify_all();
    }

    fn is_stopped(&self) -> bool {
        self.lock().stopped
    }
}

/// Stops the copy when a worker unwinds, so that the others do not wait for its turn for ever.
struct StopOnPanic<'a>(&'a Turn);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.stop(None);
        }
    }
}

/// An output as the workers share it: placing needs the lock, writing does not.
struct SharedSink<'a> {
    writer: Mutex<&'a mut Box<dyn ImageWriter>>,
    files: &'a [PartFile],
    unit: u64,
}

struct Pass<'a> {
    source: &'a dyn BlockRead,
    sinks: Vec<SharedSink<'a>>,
    window: u64,
    plan: Mutex<Plan<'a>>,
    turn: Turn,
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
    ) -> Self {
        let sinks: Vec<_> = sinks
            .iter_mut()
            .map(|sink| SharedSink {
                unit: sink.writer.unit(),
                writer: Mutex::new(&mut sink.writer),
                files: &sink.files,
            })
            .collect();
        let units = sinks.iter().map(|sink| sink.unit);
        let window = units.fold(USUAL_WINDOW, u64::max);
        Self {
            source,
            sinks,
            window,
            plan: Mutex::new(Plan {
                window,
                extents: block_io::extents(source, 0..source.size()),
                pending: None,
                next_ticket: 0,
            }),
            turn: Turn::default(),
            progress,
            done: Mutex::new(0),
            total,
        }
    }

    fn run(self, options: &CopyOptions) -> Result<(), CopyError> {
        let workers = options.workers.map_or(self.usual_workers(), NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    let _stop = StopOnPanic(&self.turn);
                    if let Err(error) = self.carry_windows() {
                        self.turn.stop(Some(error));
                    }
                });
            }
        });
        let state = self.turn.state.into_inner();
        match state.unwrap_or_else(PoisonError::into_inner).failed {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn usual_workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let packing = |sink: &&SharedSink<'_>| {
            let writer = sink.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.codec() != Codec::Plain
        };
        let packers = self.sinks.iter().filter(packing).count() as u64;
        let each = self.window + packers * (self.window + COMPRESSOR);
        (cores + RUN_AHEAD).min((MEMORY / each).max(1) as usize)
    }

    fn carry_windows(&self) -> Result<(), CopyError> {
        let mut carrier = Carrier::new(&self.sinks, self.window)?;
        while !self.turn.is_stopped() {
            let window = {
                let mut plan = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
                plan.next_window()?
            };
            let Some(window) = window else { break };
            carrier.read(self.source, &window)?;
            carrier.encode()?;
            if !self.turn.wait(window.ticket) {
                break;
            }
            self.place(&mut carrier, window.start)?;
            self.turn.pass();
            carrier.write(&self.sinks).map_err(|error| {
                let done = *self.done.lock().unwrap_or_else(PoisonError::into_inner);
                error.needing(self.total.saturating_sub(done))
            })?;
            self.report(&window);
        }
        Ok(())
    }

    fn place(&self, carrier: &mut Carrier, start: u64) -> Result<(), OutputError> {
        for (sink, load) in self.sinks.iter().zip(&mut carrier.loads) {
            load.placements.clear();
            let chunk = EncodedChunk {
                start,
                plain: &carrier.plain,
                packed: &load.packed,
                units: &load.units,
            };
            let mut writer = sink.writer.lock().unwrap_or_else(PoisonError::into_inner);
            writer.place(&chunk, &mut load.placements)?;
        }
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

/// What one worker carries: a window, and what becomes of it in every output.
struct Carrier {
    plain: Vec<u8>,
    loads: Vec<Load>,
}

struct Load {
    encoder: Encoder,
    units: Vec<Stored>,
    packed: Vec<u8>,
    placements: Vec<Placement>,
}

impl Carrier {
    fn new(sinks: &[SharedSink<'_>], window: u64) -> Result<Self, CopyError> {
        let loads = sinks.iter().map(|sink| {
            let writer = sink.writer.lock().unwrap_or_else(PoisonError::into_inner);
            let encoder = Encoder::new(writer.codec(), sink.unit).map_err(CopyError::Compress)?;
            Ok(Load {
                encoder,
                units: Vec::new(),
                packed: Vec::new(),
                placements: Vec::new(),
            })
        });
        Ok(Self {
            plain: vec![0; window as usize],
            loads: loads.collect::<Result<_, CopyError>>()?,
        })
    }

    /// Read the window's data; what the map calls zero, and what lies past the end, becomes zero.
    fn read(&mut self, source: &dyn BlockRead, window: &Window) -> Result<(), BlockError> {
        let mut filled = 0;
        for part in &window.data {
            let range = (part.start - window.start) as usize..(part.end - window.start) as usize;
            self.plain[filled..range.start].fill(0);
            source.read_at(part.start, &mut self.plain[range.clone()])?;
            filled = range.end;
        }
        self.plain[filled..].fill(0);
        Ok(())
    }

    fn encode(&mut self) -> Result<(), CopyError> {
        for load in &mut self.loads {
            load.encoder
                .encode(&self.plain, &mut load.units, &mut load.packed)
                .map_err(CopyError::Compress)?;
        }
        Ok(())
    }

    /// Write what was placed, runs that follow each other in a file in one call.
    fn write(&self, sinks: &[SharedSink<'_>]) -> Result<(), OutputError> {
        for (sink, load) in sinks.iter().zip(&self.loads) {
            let mut run: Vec<&[u8]> = Vec::new();
            let mut run_file = 0;
            let mut run_start = 0;
            let mut run_end = 0;
            for placement in &load.placements {
                let bytes: &[u8] = match &placement.bytes {
                    PlacedBytes::Plain(range) => &self.plain[range.clone()],
                    PlacedBytes::Packed(range) => &load.packed[range.clone()],
                    PlacedBytes::Made(bytes) => bytes,
                };
                if placement.file != run_file || placement.offset != run_end {
                    flush_run(sink.files, run_file, run_start, &mut run)?;
                    (run_file, run_start) = (placement.file, placement.offset);
                }
                run.push(bytes);
                run_end = placement.offset + bytes.len() as u64;
            }
            flush_run(sink.files, run_file, run_start, &mut run)?;
        }
        Ok(())
    }
}

fn flush_run(
    files: &[PartFile],
    file: usize,
    offset: u64,
    run: &mut Vec<&[u8]>,
) -> Result<(), OutputError> {
    if let (Some(file), false) = (files.get(file), run.is_empty()) {
        file.write_slices(offset, run)?;
    }
    run.clear();
    Ok(())
}
