//! The simulated world: one agent, one server, a network and a disk between them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use block_io::BlockRead;
use chunk_store::sim::{Faults, Rng, SimDisk};
use chunk_store::{Collect, Limits as StoreLimits, Snapshot, Store};
use chunking::ChunkId;
use converter::serve::receiver::StoreReceiver;
use stream_protocol::client::{Config, Lost, Millis, Patience, Push, PushError, Step, Ticket};
use stream_protocol::format::{Append, Batch};
use stream_protocol::message::{
    ErrorCode, Limits, MachineName, OpenPush, PushDisk, PushKey, RunId,
};
use stream_protocol::server::{Incoming, Server};
use stream_protocol::{ErrorBody, Inventory, Request, Response, Route};

use super::source::Source;
use super::{Outcome, Violation};

/// A bug planted to see that it is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plant {
    /// No bug.
    Nothing,
    /// Packs are not synced.
    PacksNotSynced,
    /// Recipes, pushes and manifests are not synced.
    RecipesNotSynced,
    /// The server confirms recipe entries that it has not made durable.
    ConfirmedTooEarly,
}

type Checked<T = ()> = Result<T, Violation>;

/// Events with trouble, then events in which all must come to its end.
const TROUBLED: u64 = 1500;
const CALM: u64 = 60_000;
const PUSHES: u64 = 4;

/// On its way to the server, or back.
enum Leg {
    There(Ticket, Request),
    Back(Ticket, Result<Response, Lost>, Option<Appended>),
}

/// What a request asked to be appended: up to which entry of which disk.
#[derive(Clone, Copy)]
struct Appended {
    disk: usize,
    end: usize,
}

/// A running agent. What is on its way to an earlier one is dropped.
struct Agent {
    push: Push,
    run: u64,
    /// Per disk how many chunks were fed; more than there are once the disk was ended.
    fed: Vec<usize>,
}

/// A snapshot: what it may be, and what it is once it was read.
struct Finished {
    versions: Vec<Source>,
    is: Option<Source>,
}

struct Running {
    server: Server,
    receiver: StoreReceiver,
}

pub(super) struct World {
    rng: Rng,
    now: u64,
    disk: SimDisk,
    plant: Plant,
    running: Option<Running>,
    restart_at: u64,
    epoch: u64,
    agent: Option<Agent>,
    agent_at: u64,
    runs: u64,
    /// By when each leg ends, and its number: the order is the seed's.
    legs: BTreeMap<(u64, u64), (u64, Leg)>,
    next_leg: u64,
    /// The push under way, and what its source holds.
    number: u64,
    source: Source,
    /// How many entries of each disk were confirmed to an agent.
    confirmed: Vec<usize>,
    /// What the source has held since the push began: a disk that one run of the agent completed is
    /// kept, though the next run may find the other disks changed.
    versions: Vec<Source>,
    /// Snapshots that were seen, or confirmed to an agent, by name.
    finished: BTreeMap<String, Finished>,
    calm: bool,
    outcome: Outcome,
}

impl World {
    pub(super) fn new(seed: u64, plant: Plant) -> Self {
        let mut rng = Rng::new(seed);
        let disk = SimDisk::new(rng.next_u64());
        match plant {
            Plant::PacksNotSynced => disk.ignore_syncs_of("packs/"),
            Plant::RecipesNotSynced => disk.ignore_syncs_of("machines/"),
            Plant::Nothing | Plant::ConfirmedTooEarly => {}
        }
        let source = Source::new(&mut rng);
        Self {
            now: 1000,
            disk,
            plant,
            running: None,
            restart_at: 0,
            epoch: 0,
            agent: None,
            agent_at: 0,
            runs: 0,
            legs: BTreeMap::new(),
            next_leg: 0,
            number: 1,
            confirmed: vec![0; source.disks.len()],
            versions: vec![source.clone()],
            source,
            finished: BTreeMap::new(),
            calm: false,
            outcome: Outcome::default(),
            rng,
        }
    }

    pub(super) fn run(mut self) -> Checked<Outcome> {
        for _ in 0..TROUBLED {
            self.event()?;
        }
        self.calm = true;
        self.disk.set_faults(Faults::default());
        self.disk.set_capacity(None);
        self.disk.cut_power_after(u64::MAX);
        let wanted = self.outcome.finished + 1;
        for _ in 0..CALM {
            self.event()?;
            if self.outcome.finished >= wanted {
                self.crash_server();
                self.start_server()?;
                return Ok(self.outcome);
            }
        }
        Err(Violation(format!(
            "{CALM} events without trouble did not end the push: {:?}",
            self.outcome
        )))
    }

    /// One thing happens.
    fn event(&mut self) -> Checked {
        if !self.calm {
            self.make_trouble()?;
        }
        if self.running.is_none() && self.now >= self.restart_at {
            self.start_server()?;
        }
        if self.agent.is_none() && self.now >= self.agent_at {
            self.start_agent();
        }
        self.feed();
        let step = match &mut self.agent {
            Some(agent) => agent.push.next(Millis(self.now)),
            None => Step::Wait { until: None },
        };
        match step {
            Step::Pack { id, raw } => {
                let packed = chunking::compress(id, &raw, 1);
                let packed = packed.map_err(|error| Violation(error.to_string()))?;
                self.trace(1, packed.bytes.len() as u64);
                if let Some(agent) = &mut self.agent {
                    agent.push.packed(packed.into());
                }
            }
            Step::Send { ticket, request } => self.send(ticket, request)?,
            Step::Wait { until } => self.pass_time(until)?,
            Step::Done(finished) => self.done(finished.snapshot)?,
            Step::Failed(error) => self.failed(error)?,
        }
        Ok(())
    }

    fn make_trouble(&mut self) -> Checked {
        match self.rng.below(400) {
            0 => self.crash_server(),
            1 => {
                let calls = 1 + self.rng.below(40);
                self.disk.cut_power_after(calls);
            }
            2 => {
                let room = self.rng.below(40_000);
                let used = self.disk.used();
                self.disk.set_capacity(Some(used + room));
            }
            3 | 4 => self.disk.set_capacity(None),
            5 => {
                let faults = Faults {
                    read: self.rng.below(20) as u32,
                    write: self.rng.below(60) as u32,
                    sync: self.rng.below(100) as u32,
                };
                self.disk.set_faults(faults);
            }
            6 | 7 => self.disk.set_faults(Faults::default()),
            8 => {
                self.outcome.agent_crashes += 1;
                self.agent = None;
                self.agent_at = self.now + self.rng.below(3000);
                if self.rng.below(2) == 0 {
                    self.change_source();
                }
            }
            9 => {
                if let Some(running) = &self.running {
                    // It may fail as anything may; what it must not do is lose something.
                    let _ = running.receiver.store().collect_garbage(Collect::default());
                }
            }
            _ => {}
        }
        // A server that loses its power is found dead at the next request at the latest.
        if self.disk.is_off() {
            self.crash_server();
        }
        Ok(())
    }

    fn crash_server(&mut self) {
        self.outcome.server_crashes += 1;
        self.running = None;
        if self.disk.is_off() || self.rng.below(2) == 0 {
            self.disk.cut_power();
        } else {
            self.disk.kill();
        }
        self.restart_at = self.now + self.rng.below(2000);
    }

    /// Open the store and check all promises about what lies in it.
    fn start_server(&mut self) -> Checked {
        let limits = StoreLimits {
            pack_bytes: 40_000,
            index_entries_in_memory: 48,
            index_entries_a_run: 3000,
            waiting_entries: 64,
            cache_bytes: 32 << 10,
        };
        let opened = Store::open_with(self.disk.files(), limits);
        let store = match opened {
            Ok(store) => store,
            Err(error) if self.calm => {
                return Err(Violation(format!("the store does not open: {error:?}")));
            }
            Err(_) => {
                self.crash_server();
                return Ok(());
            }
        };
        self.check_finished(&store)?;
        self.epoch += 1;
        let server_limits = Limits {
            max_batch_bytes: 2 << 20,
            max_query_ids: 40,
            max_append_entries: 60,
            lease_seconds: 5,
        };
        let mut ids = Rng::new(self.rng.next_u64());
        let new_id = Box::new(move || ids.next_u64());
        self.running = Some(Running {
            server: Server::new(self.epoch, "simulated", server_limits, new_id),
            receiver: StoreReceiver::new(store, Arc::default(), || 1),
        });
        Ok(())
    }

    /// What was finished is there, and each of its disks is what the source held during its push. What
    /// it was once, it stays.
    fn check_finished(&mut self, store: &Store) -> Checked {
        self.disk.set_faults(Faults::default());
        self.disk.cut_power_after(u64::MAX);
        let listing = store
            .snapshots()
            .map_err(|error| Violation(format!("listing the snapshots: {error}")))?;
        if let Some(damage) = listing.damaged.first() {
            return Err(Violation(format!("a manifest is damaged: {damage}")));
        }
        let mut missing: BTreeSet<String> = self.finished.keys().cloned().collect();
        for snapshot in &listing.snapshots {
            let id = snapshot.id.to_string();
            missing.remove(&id);
            let disks = read_all(store, snapshot)?;
            let finished = self.finished.entry(id.clone()).or_insert(Finished {
                // Finished, but the answer has not come to the agent, or never will.
                versions: self.versions.clone(),
                is: None,
            });
            let right = match &finished.is {
                Some(is) => is.disks == disks,
                None => {
                    finished.is = Source::made_of(&finished.versions, &disks);
                    finished.is.is_some()
                }
            };
            if !right {
                return Err(Violation(format!("{id} differs from its source")));
            }
        }
        match missing.first() {
            None => Ok(()),
            Some(id) => Err(Violation(format!("the finished {id} is gone"))),
        }
    }

    fn start_agent(&mut self) {
        self.runs += 1;
        let disks = self.source.disks.iter().enumerate();
        let open = OpenPush {
            machine: checked(MachineName::new("web 01/../x")),
            push_key: checked(PushKey::new(format!("push-{}", self.number))),
            run: checked(RunId::new(format!("run-{}", self.runs))),
            inventory: Inventory::default(),
            disks: disks
                .map(|(number, disk)| PushDisk {
                    name: format!("sd{number}"),
                    size: disk.len() as u64,
                    sector_size: 512,
                    expected_bytes: None,
                })
                .collect(),
        };
        let config = Config {
            in_flight: 1 + self.rng.below(4) as usize,
            batch_bytes: 12_000,
            query_ids: 12,
            flush_bytes: 20_000,
            flush_after: 2000,
            linger: 5,
            patience: Patience {
                first_delay: 20,
                longest_delay: 500,
                give_up_after: 60_000,
            },
            ..Config::new(open, "simulated")
        };
        let mut jitter = Rng::new(self.rng.next_u64());
        self.agent = Some(Agent {
            push: Push::new(config, Box::new(move || jitter.next_u64())),
            run: self.runs,
            fed: vec![0; self.source.disks.len()],
        });
    }

    /// Read on: a few chunks of the first disk that is not at its end.
    fn feed(&mut self) {
        let few = self.rng.below(6);
        let Some(agent) = &mut self.agent else { return };
        for _ in 0..few {
            let unfinished = (0..agent.fed.len())
                .find(|disk| agent.fed[*disk] <= self.source.recipes[*disk].len());
            let Some(disk) = unfinished.filter(|_| agent.push.room()) else {
                return;
            };
            let at = agent.fed[disk];
            agent.fed[disk] += 1;
            let fed = match self.source.recipes[disk].get(at) {
                Some(entry) => {
                    let raw = self.source.raw(disk, entry);
                    agent.push.feed(disk as u32, entry.offset, entry.id, raw)
                }
                None => agent.push.end_disk(disk as u32, Vec::new()),
            };
            if let Err(error) = fed {
                panic!("feeding disk {disk}: {error}");
            }
        }
    }

    fn send(&mut self, ticket: Ticket, request: Request) -> Checked {
        self.trace(2, request.body_len());
        if let Route::Chunks { .. } = request.route {
            self.check_sent(&request)?;
        }
        let delay = self.rng.below(40);
        if self.trouble(20) {
            // Doubled: the second one is late, and its answer goes nowhere.
            let late = self.rng.below(6000);
            self.push_leg(late, Leg::There(Ticket(u64::MAX), request.clone()));
        }
        self.push_leg(delay, Leg::There(ticket, request));
        Ok(())
    }

    /// A chunk whose entry was confirmed must not be sent again, nor one of a finished push.
    fn check_sent(&mut self, request: &Request) -> Checked {
        let body = request.body_bytes();
        let batch = Batch::decode(&body).map_err(|error| Violation(error.to_string()))?;
        self.outcome.chunks_sent += batch.chunks.len() as u64;
        let sent: BTreeSet<ChunkId> = batch.chunks.iter().map(|chunk| chunk.id).collect();
        for (recipe, confirmed) in self.source.recipes.iter().zip(&self.confirmed) {
            let again = recipe
                .iter()
                .take(*confirmed)
                .find(|e| sent.contains(&e.id));
            if let Some(entry) = again {
                return Err(Violation(format!(
                    "chunk {} at {} is sent again, though it was confirmed",
                    entry.id, entry.offset
                )));
            }
        }
        for (snapshot, finished) in &self.finished {
            let mut entries = finished
                .is
                .iter()
                .flat_map(|is| is.recipes.iter().flatten());
            if let Some(entry) = entries.find(|entry| sent.contains(&entry.id)) {
                return Err(Violation(format!(
                    "chunk {} is sent again, though {snapshot} has it",
                    entry.id
                )));
            }
        }
        Ok(())
    }

    /// Let time pass until the next leg ends, the server or agent comes back, or until `until`.
    fn pass_time(&mut self, until: Option<Millis>) -> Checked {
        let next_leg = self.legs.first_key_value().map(|(key, _)| key.0);
        let mut next = until.map(|until| until.0).into_iter().chain(next_leg).min();
        if self.running.is_none() {
            next = next.into_iter().chain([self.restart_at]).min();
        }
        if self.agent.is_none() {
            next = next.into_iter().chain([self.agent_at]).min();
        }
        // Reading goes on meanwhile, and nobody sleeps for long.
        let next = next.unwrap_or(self.now + 5).min(self.now + 200);
        self.now = next.max(self.now + u64::from(next_leg != Some(next)));
        let due = self.legs.first_key_value().map(|(key, _)| *key);
        match due {
            Some(key) if key.0 <= self.now => match self.legs.remove(&key) {
                Some((run, leg)) => self.travel(run, leg),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn travel(&mut self, run: u64, leg: Leg) -> Checked {
        match leg {
            Leg::Back(ticket, answer, appended) => {
                if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                    self.note_confirmed(run, appended);
                }
                if let Some(agent) = self.agent.as_mut().filter(|agent| agent.run == run) {
                    agent.push.answered(Millis(self.now), ticket, answer);
                }
                Ok(())
            }
            Leg::There(ticket, request) => {
                let back = self.rng.below(40);
                if self.trouble(25) {
                    self.outcome.lost += 1;
                    let lost = Err(Lost("the request was cut".to_owned()));
                    self.push_leg_of(run, back, Leg::Back(ticket, lost, None));
                    return Ok(());
                }
                let answer = self.answer(&request);
                self.trace(3, answer.as_ref().map_or(0, |a| u64::from(a.status)));
                self.check_answer(&answer)?;
                let lost = self.trouble(25);
                let answer = match answer {
                    Some(answer) if !lost => Ok(answer),
                    _ => {
                        self.outcome.lost += 1;
                        Err(Lost("no answer".to_owned()))
                    }
                };
                self.push_leg_of(run, back, Leg::Back(ticket, answer, appended(&request)));
                Ok(())
            }
        }
    }

    /// What the server answers; `None` if it is not there, or dies over it.
    fn answer(&mut self, request: &Request) -> Option<Response> {
        let running = self.running.as_ref()?;
        let body = request.body_bytes();
        let path = request.route.path();
        let incoming = Incoming {
            method: request.route.method().as_str(),
            path: &path,
            body: &body,
        };
        let now = Millis(self.now);
        let mut answer = running.server.answer(now, incoming, &running.receiver);
        if self.plant == Plant::ConfirmedTooEarly
            && let Some(appended) = appended(request)
        {
            answer = confirm_anyway(answer, appended);
        }
        if self.disk.is_off() {
            self.crash_server();
            return None;
        }
        Some(answer)
    }

    fn check_answer(&mut self, answer: &Option<Response>) -> Checked {
        let Some(answer) = answer.as_ref().filter(|answer| answer.status != 200) else {
            return Ok(());
        };
        let error: ErrorBody = serde_json::from_slice(&answer.body)
            .map_err(|error| Violation(format!("an answer that is none: {error}")))?;
        match error.code {
            ErrorCode::StoreFull => self.outcome.full += 1,
            ErrorCode::BadMessage | ErrorCode::BadFrame | ErrorCode::BadChunk => {
                return Err(Violation(format!("the server refuses the agent: {error}")));
            }
            _ => {}
        }
        Ok(())
    }

    /// An answer that confirms entries of a recipe has come to the agent.
    fn note_confirmed(&mut self, run: u64, appended: Option<Appended>) {
        if let (Some(agent), Some(Appended { disk, end })) = (&self.agent, appended)
            && agent.run == run
            && let Some(confirmed) = self.confirmed.get_mut(disk)
        {
            *confirmed = end.max(*confirmed);
        }
    }

    fn done(&mut self, snapshot: String) -> Checked {
        self.outcome.finished += 1;
        self.finished.entry(snapshot).or_insert(Finished {
            versions: self.versions.clone(),
            is: None,
        });
        let store = self.running.as_ref().map(|r| r.receiver.store().clone());
        if let Some(store) = store {
            self.check_finished(&store)?;
        }
        self.agent = None;
        self.agent_at = self.now + self.rng.below(500);
        self.number += 1;
        self.source = if self.number.is_multiple_of(PUSHES) {
            Source::new(&mut self.rng)
        } else {
            self.source.later(&mut self.rng)
        };
        self.versions = vec![self.source.clone()];
        self.confirmed = vec![0; self.source.disks.len()];
        Ok(())
    }

    fn failed(&mut self, error: PushError) -> Checked {
        match error {
            // Long trouble, or another run's lease: the user starts the agent again.
            PushError::GaveUp { .. } if !self.calm => {}
            PushError::Refused(ref body)
                if matches!(
                    body.code,
                    ErrorCode::MachineBusy
                        | ErrorCode::PushSuperseded
                        | ErrorCode::RecipeConflict
                        | ErrorCode::RootMismatch
                        | ErrorCode::ChunkMissing
                ) => {}
            error => return Err(Violation(format!("the push failed: {error}"))),
        }
        self.trace(4, 0);
        self.agent = None;
        self.agent_at = self.now + 1000;
        Ok(())
    }

    /// The machine runs on while no agent reads it.
    fn change_source(&mut self) {
        let later = self.source.later(&mut self.rng);
        for (disk, confirmed) in self.confirmed.iter_mut().enumerate() {
            let (old, new) = (&self.source.recipes[disk], &later.recipes[disk]);
            let same = old.iter().zip(new).take_while(|(a, b)| a == b).count();
            *confirmed = same.min(*confirmed);
        }
        self.versions.push(later.clone());
        self.source = later;
    }

    fn push_leg(&mut self, delay: u64, leg: Leg) {
        let run = self.agent.as_ref().map_or(0, |agent| agent.run);
        self.push_leg_of(run, delay, leg);
    }

    fn push_leg_of(&mut self, run: u64, delay: u64, leg: Leg) {
        self.next_leg += 1;
        self.legs
            .insert((self.now + delay, self.next_leg), (run, leg));
    }

    /// Whether something goes wrong that does so often in a thousand times.
    fn trouble(&mut self, often: u32) -> bool {
        !self.calm && self.rng.per_mille(often)
    }

    fn trace(&mut self, what: u64, value: u64) {
        let mixed = self.outcome.trace ^ what << 56 ^ value << 20 ^ self.now;
        self.outcome.trace = Rng::new(mixed).next_u64();
    }
}

fn read_all(store: &Store, snapshot: &Snapshot) -> Checked<Vec<Vec<u8>>> {
    let wrong = |error: &dyn std::fmt::Debug| Violation(format!("{}: {error:?}", snapshot.id));
    let mut disks = Vec::new();
    for number in 0..snapshot.disks.len() {
        let disk = store.open_disk(snapshot, number).map_err(|e| wrong(&e))?;
        let mut bytes = vec![0xEE; disk.size() as usize];
        disk.read_at(0, &mut bytes).map_err(|e| wrong(&e))?;
        disks.push(bytes);
    }
    Ok(disks)
}

fn checked<T, E: std::fmt::Display>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("a name of the simulation is none: {error}"))
}

fn appended(request: &Request) -> Option<Appended> {
    let Route::Recipe { disk, .. } = request.route else {
        return None;
    };
    let append = Append::decode(&request.body_bytes(), u32::MAX).ok()?;
    Some(Appended {
        disk: disk as usize,
        end: append.start as usize + append.entries.len(),
    })
}

/// The planted bug: whatever became of it, say that all entries are durable.
fn confirm_anyway(answer: Response, appended: Appended) -> Response {
    let body = serde_json::json!({ "durable_entries": appended.end });
    Response {
        status: 200,
        body: body.to_string().into_bytes().into(),
        ..answer
    }
}
