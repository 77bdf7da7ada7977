//! The one thread that knows how far the push has come. It owns the protocol's state machine, hands
//! out its work, and takes in what disks, workers and network bring.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use block_io::BlockError;
use stream_protocol::ConnectString;
use stream_protocol::client::{Config, Lost, Millis, Push, Step, Ticket};
use stream_protocol::message::{ByteRange, Finished};

use super::pipeline::{Event, FromDisk, Named, Pipeline};
use super::{Failure, Job, Options, Snapshot, Unread};
use crate::wire::{Heard, NoAnswer, Wire};

/// Raw bytes after which the converter is made to keep what it has for good. Buffers of known chunks
/// are pinned until then, so that this must be well below what all buffers hold.
pub(super) const FLUSH_BYTES: u64 = 40 << 20;

/// Compressed chunks that wait to be sent, with all raw ones: with the buffers and the rest of the
/// program below 300 MB.
const MOST_HELD: usize = 96 << 20;

/// How often the observer is shown where we are.
const SHOW_EVERY: Duration = Duration::from_millis(100);

/// A converter that cannot be reached at all is given up after so many tries (about ten seconds); one
/// that had answered before, and may be restarting, only after the protocol's patience.
const FIRST_TRIES: u32 = 6;

pub(super) struct Conductor<'o> {
    job: Job,
    options: Options,
    push: Push,
    pipeline: Pipeline,
    wire: Wire,
    events: Receiver<Event>,
    /// What came from the disks, waiting for its turn or for room.
    read: BTreeMap<u64, FromDisk>,
    next_read: u64,
    started: Instant,
    snapshot: Snapshot,
    shown: Instant,
    observe: &'o mut dyn FnMut(&Snapshot),
    unread: Vec<Unread>,
    reading: bool,
}

/// How a turn of the loop went.
enum Turn {
    Wait(Option<Millis>),
    Done(Finished),
}

impl<'o> Conductor<'o> {
    pub fn new(
        converter: ConnectString,
        job: Job,
        options: Options,
        observe: &'o mut dyn FnMut(&Snapshot),
    ) -> anyhow::Result<Self> {
        let (sender, events) = channel();
        let mut config = Config::new(job.open.clone(), job.program.clone());
        config.in_flight = options.connections.max(1);
        config.max_held = MOST_HELD;
        config.flush_bytes = FLUSH_BYTES;
        config.flush_after = 5000;
        config.notes = job.notes.clone();
        let wire_options = crate::wire::Options {
            bytes_per_second: options.bytes_per_second,
        };
        let wire = Wire::start(converter, wire_options, hear(sender.clone()))?;
        let now = Instant::now();
        Ok(Self {
            push: Push::new(config, super::identity::jitter()),
            pipeline: Pipeline::new(options.threads, sender)?,
            wire,
            events,
            read: BTreeMap::new(),
            next_read: 0,
            started: now,
            snapshot: Snapshot::of(&job),
            shown: now,
            observe,
            unread: Vec::new(),
            reading: false,
            job,
            options,
        })
    }

    /// Run the push to its end.
    pub fn run(mut self) -> Result<(Finished, Snapshot), Failure> {
        let outcome = self.run_to_end();
        self.show(true);
        if outcome.is_err() {
            self.leave();
        }
        outcome.map(|finished| (finished, self.snapshot))
    }

    fn run_to_end(&mut self) -> Result<Finished, Failure> {
        loop {
            self.feed()?;
            match self.advance()? {
                Turn::Done(finished) => return Ok(finished),
                Turn::Wait(until) => {
                    self.show(false);
                    if let Some(failure) = self.settled_failure() {
                        return Err(failure);
                    }
                    self.listen(until)?;
                }
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(self.started.elapsed().as_millis() as u64)
    }

    /// Start the readers once it is known which disks the converter wants, and feed what they bring.
    fn feed(&mut self) -> Result<(), Failure> {
        if self.push.is_open() && !self.reading {
            self.reading = true;
            let disks = (0..).zip(self.job.sources.iter().cloned());
            let (wanted, complete): (Vec<_>, Vec<_>) =
                disks.partition(|(number, _)| self.push.wants(*number));
            for (number, _) in complete {
                self.snapshot.complete(number);
            }
            self.pipeline.read(wanted).map_err(Failure::other)?;
        }
        while self.push.room() {
            let Some(from_disk) = self.read.remove(&self.next_read) else {
                break;
            };
            match from_disk {
                FromDisk::Chunks { disk, chunks } => {
                    let mut chunks = chunks.into_iter();
                    while self.push.room()
                        && let Some(chunk) = chunks.next()
                    {
                        self.feed_chunk(disk, chunk)?;
                    }
                    let chunks: Vec<_> = chunks.collect();
                    if !chunks.is_empty() {
                        let rest = FromDisk::Chunks { disk, chunks };
                        self.read.insert(self.next_read, rest);
                        break;
                    }
                }
                FromDisk::End { disk, unreadable } => self.end_disk(disk, unreadable)?,
                FromDisk::Failed { disk, error } => self.fail_disk(disk, error),
            }
            self.next_read += 1;
        }
        Ok(())
    }

    fn feed_chunk(&mut self, disk: u32, chunk: Named) -> Result<(), Failure> {
        let len = chunk.raw.len() as u64;
        self.snapshot.read(disk, len, chunk.id.is_none());
        let Some(id) = chunk.id else {
            return Ok(());
        };
        let fed = self.push.feed(disk, chunk.offset, id, chunk.raw);
        fed.map_err(Failure::other)
    }

    fn end_disk(
        &mut self,
        disk: u32,
        unreadable: Vec<std::ops::Range<u64>>,
    ) -> Result<(), Failure> {
        let ranges: Vec<ByteRange> = unreadable
            .into_iter()
            .map(|range| ByteRange {
                offset: range.start,
                len: range.end - range.start,
            })
            .collect();
        self.snapshot.complete(disk);
        self.snapshot.unreadable(disk, &ranges);
        if !ranges.is_empty() && !self.options.skip_unreadable {
            self.unread.push(Unread::Sectors { disk, ranges });
            return Ok(());
        }
        self.push.end_disk(disk, ranges).map_err(Failure::other)
    }

    fn fail_disk(&mut self, disk: u32, error: BlockError) {
        self.snapshot.complete(disk);
        self.unread.push(Unread::Failed { disk, error });
    }

    /// Do all the state machine asks for.
    fn advance(&mut self) -> Result<Turn, Failure> {
        let mut to_pack = Vec::new();
        let turn = loop {
            match self.push.next(self.now()) {
                Step::Send { ticket, request } => self.wire.send(ticket, request),
                Step::Pack { id, raw } => {
                    self.snapshot.new_bytes += raw.len() as u64;
                    to_pack.push((id, raw));
                }
                Step::Wait { until } => break Turn::Wait(until),
                Step::Done(finished) => break Turn::Done(finished),
                Step::Failed(error) => return Err(Failure::Converter(error)),
            }
        };
        self.pipeline.pack(to_pack, self.options.level);
        self.give_up_early()?;
        Ok(turn)
    }

    fn give_up_early(&self) -> Result<(), Failure> {
        match self.push.trouble() {
            Some(trouble) if !self.push.is_open() && trouble.failures >= FIRST_TRIES => {
                Err(Failure::NotReached(trouble.reason.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Wait for something to happen, and take in all that has.
    fn listen(&mut self, until: Option<Millis>) -> Result<(), Failure> {
        let now = self.now();
        let wait = until.map_or(SHOW_EVERY, |until| {
            Duration::from_millis(until.0.saturating_sub(now.0).max(1))
        });
        let mut event = self.events.recv_timeout(wait.min(SHOW_EVERY)).ok();
        while let Some(happened) = event {
            self.take(happened)?;
            event = self.events.try_recv().ok();
        }
        Ok(())
    }

    fn take(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Read(order, from_disk) => {
                self.read.insert(order, from_disk);
            }
            Event::Packed(chunks) => {
                for chunk in chunks {
                    self.push.packed(chunk.map_err(Failure::other)?);
                }
            }
            Event::Heard(Heard::Answer(ticket, answer)) => {
                let answer = match answer {
                    Ok(response) => Ok(response),
                    Err(NoAnswer::Lost(reason)) => Err(Lost(reason)),
                    Err(other @ NoAnswer::OtherConverter { .. }) => {
                        return Err(Failure::OtherConverter(other));
                    }
                };
                let now = self.now();
                self.push.answered(now, ticket, answer);
            }
            Event::Heard(Heard::Interrupted) => return Err(Failure::Interrupted),
        }
        Ok(())
    }

    /// Where disks could not be read, the push ends once all that could be read is kept, so that
    /// the next run need not send it again.
    fn settled_failure(&mut self) -> Option<Failure> {
        if self.unread.is_empty() || self.snapshot.reading() {
            return None;
        }
        let progress = self.push.progress();
        let ended = self.job.sources.len() - self.unread.len();
        let kept = progress.durable_bytes >= progress.fed_bytes
            && progress.committed_disks as usize >= ended;
        kept.then(|| Failure::Unread(std::mem::take(&mut self.unread)))
    }

    fn show(&mut self, last: bool) {
        if !last && self.shown.elapsed() < SHOW_EVERY {
            return;
        }
        self.shown = Instant::now();
        let progress = self.push.progress();
        let snapshot = &mut self.snapshot;
        snapshot.open = self.push.is_open();
        snapshot.fed_bytes = progress.fed_bytes;
        snapshot.known_bytes = progress.known_bytes;
        snapshot.kept_bytes = progress.durable_bytes;
        snapshot.sent_bytes = self.wire.traffic().sent();
        snapshot.received_bytes = self.wire.traffic().received();
        snapshot.elapsed = self.started.elapsed();
        snapshot.trouble = self.push.trouble().map(|trouble| trouble.reason.clone());
        (self.observe)(snapshot);
    }

    /// Give the lease up, so that the next run need not wait for it to end.
    fn leave(&mut self) {
        let Some(request) = self.push.leave() else {
            return;
        };
        let ticket = Ticket(u64::MAX);
        self.wire.send(ticket, request);
        let deadline = Instant::now() + Duration::from_secs(2);
        while let Some(left) = deadline.checked_duration_since(Instant::now()) {
            match self.events.recv_timeout(left) {
                Ok(Event::Heard(Heard::Answer(answered, _))) if answered == ticket => return,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}

fn hear(events: Sender<Event>) -> impl Fn(Heard) + Send + Sync + 'static {
    move |heard| {
        let _ = events.send(Event::Heard(heard));
    }
}
