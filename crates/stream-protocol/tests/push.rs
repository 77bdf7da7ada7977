//! Whole pushes between `client::Push` and `server::Server`, over a network that loses, delays and
//! reorders, to a receiver that crashes. One number decides everything that happens.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use bytes::Bytes;
use chunking::{ChunkId, MAX_CHUNK};
use stream_protocol::client::{
    Config, FeedError, Lost, Millis, Patience, Push, PushError, Step, Ticket,
};
use stream_protocol::message::*;
use stream_protocol::route::{Request, Response};
use stream_protocol::server::{Incoming, MemoryReceiver, Server};
use stream_protocol::{ErrorCode, Inventory};

/// SplitMix64.
#[derive(Clone)]
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.roll() % most
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// What the network and the receiver do to a push, each in percent of the requests.
#[derive(Clone, Copy)]
struct Weather {
    lose: u64,
    crash: u64,
    full: u64,
}

const FAIR: Weather = Weather {
    lose: 0,
    crash: 0,
    full: 0,
};

struct World {
    dice: Dice,
    now: u64,
    weather: Weather,
    receiver: MemoryReceiver,
    server: Server,
    epoch: u64,
}

/// On its way to the server, or back.
enum Leg {
    There(Request),
    Back(Result<Response, Lost>),
}

impl World {
    fn new(seed: u64, weather: Weather) -> Self {
        let mut dice = Dice(seed);
        let server = new_server(1, dice.roll());
        Self {
            dice,
            now: 1000,
            weather,
            receiver: MemoryReceiver::new(),
            server,
            epoch: 1,
        }
    }

    fn crash(&mut self) {
        self.receiver.crash();
        self.epoch += 1;
        self.server = new_server(self.epoch, self.dice.roll());
    }

    fn answer(&self, request: &Request) -> Response {
        let body = request.body_bytes();
        let path = request.route.path();
        let incoming = Incoming {
            method: request.route.method().as_str(),
            path: &path,
            body: &body,
        };
        self.server
            .answer(Millis(self.now), incoming, &self.receiver)
    }

    fn arrived(&self, disk: usize) -> Option<Vec<u8>> {
        let machine = MachineName::new("web 01/../x").unwrap();
        self.receiver
            .read_disk(&machine, &PushKey::new("k").unwrap(), disk)
    }

    /// Run `push` over `disks` until it ends, or until `steps` are done (a killed agent).
    fn run(
        &mut self,
        push: &mut Push,
        disks: &[Vec<u8>],
        steps: usize,
    ) -> Option<Result<Finished, PushError>> {
        let mut fed = Feeder::new(disks);
        let mut legs: Vec<(u64, Ticket, Leg)> = Vec::new();
        for _ in 0..steps {
            let full = self.weather.full;
            self.receiver.set_full(self.dice.percent(full));
            fed.feed(push, self.dice.below(40));
            assert!(push.held_bytes() <= 4 * MAX_CHUNK as usize);
            match push.next(Millis(self.now)) {
                Step::Pack { id, raw } => {
                    push.packed(chunking::compress(id, &raw, 1).unwrap().into());
                }
                Step::Send { ticket, request } => {
                    let at = self.now + self.dice.below(50);
                    legs.push((at, ticket, Leg::There(request)));
                }
                Step::Wait { until } => self.travel(push, &mut legs, until),
                Step::Done(finished) => return Some(Ok(finished)),
                Step::Failed(error) => return Some(Err(error)),
            }
        }
        // What a killed agent had sent may still arrive.
        for (_, _, leg) in legs {
            if let Leg::There(request) = leg
                && self.dice.percent(50)
            {
                self.answer(&request);
            }
        }
        None
    }

    /// Let time pass until the next leg ends, or until `until`.
    fn travel(
        &mut self,
        push: &mut Push,
        legs: &mut Vec<(u64, Ticket, Leg)>,
        until: Option<Millis>,
    ) {
        let Some(index) = (0..legs.len()).min_by_key(|index| legs[*index].0) else {
            // Feeding goes on meanwhile: time need not pass as far as that.
            self.now = until.map_or(self.now + 5, |until| until.0.min(self.now + 5));
            return;
        };
        if let Some(until) = until
            && until.0 < legs[index].0
        {
            self.now = until.0;
            return;
        }
        let (at, ticket, leg) = legs.swap_remove(index);
        self.now = self.now.max(at);
        match leg {
            Leg::Back(answer) => push.answered(Millis(self.now), ticket, answer),
            Leg::There(request) => {
                if self.dice.percent(self.weather.crash) {
                    self.crash();
                }
                let lose = self.weather.lose;
                let cut = |world: &Self| Leg::Back(Err(Lost(format!("cut at {}", world.now))));
                let back = self.now + self.dice.below(50);
                if self.dice.percent(lose) {
                    // The request is lost, or only late: it may arrive after the client gave up on it.
                    if self.dice.percent(50) {
                        let late = self.now + self.dice.below(5000);
                        legs.push((late, Ticket(u64::MAX), Leg::There(request)));
                    }
                    legs.push((back, ticket, cut(self)));
                    return;
                }
                let response = self.answer(&request);
                let leg = if self.dice.percent(lose) {
                    cut(self)
                } else {
                    Leg::Back(Ok(response))
                };
                legs.push((back, ticket, leg));
            }
        }
    }
}

fn new_server(epoch: u64, seed: u64) -> Server {
    let mut dice = Dice(seed);
    let limits = Limits {
        max_batch_bytes: 2 << 20,
        max_query_ids: 64,
        max_append_entries: 100,
        lease_seconds: 60,
    };
    Server::new(epoch, "test", limits, Box::new(move || dice.roll()))
}

/// Cuts disks into chunks of varying length, skipping zeroes, as an agent would.
struct Feeder<'d> {
    disks: &'d [Vec<u8>],
    disk: usize,
    offset: usize,
}

impl<'d> Feeder<'d> {
    fn new(disks: &'d [Vec<u8>]) -> Self {
        Self {
            disks,
            disk: 0,
            offset: 0,
        }
    }

    fn feed(&mut self, push: &mut Push, most: u64) {
        for _ in 0..most {
            let Some(data) = self.disks.get(self.disk) else {
                return;
            };
            if !push.room() {
                return;
            }
            let number = self.disk as u32;
            if self.offset == data.len() {
                push.end_disk(number, Vec::new()).unwrap();
                self.disk += 1;
                self.offset = 0;
                continue;
            }
            // Cut by content, so that a changed disk has mostly the same chunks.
            let rest = &data[self.offset..];
            let cut = rest.iter().skip(1000).position(|byte| *byte == 0x5A);
            let len = cut.map_or(rest.len(), |cut| cut + 1000).min(9000);
            let raw = &rest[..len];
            if raw.iter().any(|byte| *byte != 0) {
                let raw = Bytes::copy_from_slice(raw);
                push.feed(number, self.offset as u64, ChunkId::of(&raw), raw)
                    .unwrap();
            }
            self.offset += len;
        }
    }
}

fn make_disks(dice: &mut Dice) -> Vec<Vec<u8>> {
    let count = 1 + dice.below(3);
    let disk = |dice: &mut Dice| {
        let mut data = vec![0; 512 * (dice.below(600) as usize)];
        for piece in data.chunks_mut(20_000) {
            match dice.below(4) {
                0 => {}
                // The same on every disk: deduplicated.
                1 => piece
                    .iter_mut()
                    .enumerate()
                    .for_each(|(i, byte)| *byte = (i % 251) as u8),
                _ => piece.iter_mut().for_each(|byte| *byte = dice.roll() as u8),
            }
        }
        data
    };
    (0..count).map(|_| disk(dice)).collect()
}

fn config(disks: &[Vec<u8>], key: &str, run: u64) -> Config {
    let push_disk = |(index, data): (usize, &Vec<u8>)| PushDisk {
        name: format!("sd{index}"),
        size: data.len() as u64,
        sector_size: 512,
        expected_bytes: None,
    };
    let open = OpenPush {
        machine: MachineName::new("web 01/../x").unwrap(),
        push_key: PushKey::new(key).unwrap(),
        run: RunId::new(format!("run{run}")).unwrap(),
        inventory: Inventory {
            hostname: Some(format!("host of {key}")),
            ..Inventory::default()
        },
        disks: disks.iter().enumerate().map(push_disk).collect(),
    };
    Config {
        in_flight: 3,
        max_held: 4 * MAX_CHUNK as usize,
        batch_bytes: 60_000,
        query_ids: 20,
        flush_bytes: 150_000,
        patience: Patience {
            first_delay: 50,
            longest_delay: 2000,
            give_up_after: 3_600_000,
        },
        ..Config::new(open, "test agent")
    }
}

fn start(disks: &[Vec<u8>], key: &str, run: u64) -> Push {
    let mut dice = Dice(run);
    Push::new(config(disks, key, run), Box::new(move || dice.roll()))
}

fn check_arrived(world: &World, disks: &[Vec<u8>], key: &str, seed: u64) {
    let machine = MachineName::new("web 01/../x").unwrap();
    let key = PushKey::new(key).unwrap();
    for (index, data) in disks.iter().enumerate() {
        let arrived = world.receiver.read_disk(&machine, &key, index);
        assert!(
            arrived.as_ref() == Some(data),
            "seed {seed}: disk {index} differs"
        );
    }
}

#[test]
fn fair_weather() {
    for seed in 0..50 {
        let mut world = World::new(seed, FAIR);
        let disks = make_disks(&mut world.dice);
        let mut push = start(&disks, "k", seed);
        world.run(&mut push, &disks, 1_000_000).unwrap().unwrap();
        check_arrived(&world, &disks, "k", seed);
        let progress = push.progress();
        assert_eq!(progress.reopened, 0);
        assert_eq!(progress.committed_disks as usize, disks.len());
        assert_eq!(progress.durable_bytes, progress.fed_bytes);
        assert_eq!(push.held_bytes(), 0);
    }
}

#[test]
fn storms_and_crashes() {
    let mut reopened = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed ^ 0xABCD);
        let weather = Weather {
            lose: dice.below(30),
            crash: dice.below(6),
            full: dice.below(20),
        };
        let mut world = World::new(seed, weather);
        let disks = make_disks(&mut world.dice);
        let mut push = start(&disks, "k", seed);
        let ended = world.run(&mut push, &disks, 2_000_000);
        let ended = ended.unwrap_or_else(|| panic!("seed {seed}: no end"));
        ended.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        check_arrived(&world, &disks, "k", seed);
        reopened += push.progress().reopened;
    }
    assert!(reopened > 100, "the storms reopened only {reopened} pushes");
}

#[test]
fn killed_agents_on_changing_disks() {
    let machine = MachineName::new("web 01/../x").unwrap();
    let key = PushKey::new("k").unwrap();
    let mut resumed = 0;
    for seed in 0..300 {
        let mut world = World::new(
            seed,
            Weather {
                lose: 10,
                crash: 1,
                full: 0,
            },
        );
        let mut disks = make_disks(&mut world.dice);
        for run in 0..4 {
            // A disk that an earlier run had committed stays as that run read it, unless the whole push
            // was finished: then this run begins a new one.
            let finished = world.receiver.is_finished(&machine, &key);
            let sealed = |disk| world.arrived(disk).filter(|_| !finished);
            let sealed: Vec<_> = (0..disks.len()).map(sealed).collect();
            let mut push = start(&disks, "k", run);
            let steps = match run {
                3 => 2_000_000,
                _ => 20 + world.dice.below(150) as usize,
            };
            let Some(ended) = world.run(&mut push, &disks, steps) else {
                // The machine goes on living: some bytes change before the agent is started again.
                for disk in &mut disks {
                    if !disk.is_empty() && world.dice.percent(60) {
                        let at = world.dice.below(disk.len() as u64) as usize;
                        disk[at] ^= 0x11;
                    }
                }
                resumed += 1;
                continue;
            };
            ended.unwrap_or_else(|error| panic!("seed {seed} run {run}: {error}"));
            for (disk, sealed) in sealed.into_iter().enumerate() {
                let expected = sealed.as_ref().unwrap_or(&disks[disk]);
                let arrived = world.arrived(disk).expect("a committed disk");
                let differs = (0..arrived.len()).find(|at| arrived[*at] != expected[*at]);
                assert_eq!(differs, None, "seed {seed} run {run} disk {disk}");
            }
            break;
        }
    }
    assert!(resumed > 200);
}

#[test]
fn a_killed_agent_sends_only_what_is_missing() {
    let mut dice = Dice(7);
    let disks = vec![(0..800_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let mut world = World::new(7, FAIR);
    let mut first = start(&disks, "k", 1);
    while first.progress().durable_bytes < 300_000 {
        assert!(world.run_some(&mut first, &disks).is_none());
    }
    let sent = first.progress();
    let mut second = start(&disks, "k", 2);
    world.run(&mut second, &disks, 1_000_000).unwrap().unwrap();
    check_arrived(&world, &disks, "k", 7);
    let again = second.progress();
    assert!(again.known_bytes >= sent.durable_bytes);
    assert!(
        again.wire_bytes + sent.wire_bytes < 850_000,
        "{again:?} {sent:?}"
    );
}

impl World {
    /// A run that is stopped once something is durable.
    fn run_some(&mut self, push: &mut Push, disks: &[Vec<u8>]) -> Option<Finished> {
        let mut fed = Feeder::new(disks);
        while push.progress().durable_bytes < 300_000 {
            fed.feed(push, 3);
            match push.next(Millis(self.now)) {
                Step::Pack { id, raw } => {
                    push.packed(chunking::compress(id, &raw, 1).unwrap().into())
                }
                Step::Send { ticket, request } => {
                    self.now += 1;
                    let response = self.answer(&request);
                    push.answered(Millis(self.now), ticket, Ok(response));
                }
                Step::Wait { .. } => self.now += 5,
                Step::Done(finished) => return Some(finished),
                Step::Failed(error) => panic!("{error}"),
            }
        }
        None
    }
}

#[test]
fn two_agents_push_one_machine() {
    let mut dice = Dice(9);
    let disks = vec![(0..800_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let mut world = World::new(9, FAIR);
    let mut first = start(&disks, "first", 1);
    assert!(world.run_some(&mut first, &disks).is_none());

    let mut second = start(&disks, "second", 2);
    let refused = world.run(&mut second, &disks, 1000).unwrap().unwrap_err();
    let PushError::Refused(body) = refused else {
        panic!("{refused}");
    };
    assert_eq!(body.code, ErrorCode::MachineBusy);
    assert!(body.message.contains("host of first"), "{body}");

    // Sixty seconds of silence end the claim.
    world.now += 60_001;
    let mut third = start(&disks, "third", 3);
    world.run(&mut third, &disks, 1_000_000).unwrap().unwrap();
    check_arrived(&world, &disks, "third", 9);
}

#[test]
fn the_same_key_takes_over_at_once_and_the_old_run_ends() {
    let mut dice = Dice(10);
    let disks = vec![(0..800_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let mut world = World::new(10, FAIR);
    let mut first = start(&disks, "k", 1);
    assert!(world.run_some(&mut first, &disks).is_none());
    let mut second = start(&disks, "k", 2);
    assert!(world.run_some(&mut second, &disks).is_none());
    let old = world.run(&mut first, &[], 10_000).unwrap().unwrap_err();
    assert!(matches!(old, PushError::Refused(body) if body.code == ErrorCode::PushSuperseded));
}

#[test]
fn an_agent_that_leaves_frees_the_machine() {
    let mut dice = Dice(11);
    let disks = vec![(0..800_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let mut world = World::new(11, FAIR);
    let mut first = start(&disks, "first", 1);
    assert!(first.leave().is_none());
    assert!(world.run_some(&mut first, &disks).is_none());
    let leave = first.leave().unwrap();
    assert_eq!(world.answer(&leave).status, 200);
    let mut second = start(&disks, "second", 2);
    world.run(&mut second, &disks, 1_000_000).unwrap().unwrap();
}

#[test]
fn a_receiver_that_stays_away_is_given_up() {
    let disks = vec![vec![1; 4096]];
    let mut push = start(&disks, "k", 1);
    let mut now = 0;
    let mut sends = 0;
    let error = loop {
        match push.next(Millis(now)) {
            Step::Send { ticket, .. } => {
                sends += 1;
                push.answered(Millis(now), ticket, Err(Lost("connection refused".into())));
            }
            Step::Wait { until } => now = until.expect("a time to try again").0,
            Step::Failed(error) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert!(
        matches!(
            error,
            PushError::GaveUp {
                seconds: 3600..,
                ..
            }
        ),
        "{error}"
    );
    // Delays grow to two seconds and no further: an hour is not a flood.
    assert!((1800..4000).contains(&sends), "{sends}");
    assert!(error.to_string().contains("connection refused"));
}

#[test]
fn a_store_that_stays_full_is_given_up_although_queries_succeed() {
    let mut dice = Dice(12);
    let disks = vec![(0..200_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let weather = Weather { full: 100, ..FAIR };
    let mut world = World::new(12, weather);
    let mut push = start(&disks, "k", 1);
    let error = world
        .run(&mut push, &disks, 1_000_000)
        .unwrap()
        .unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("no space is left") && text.contains("free some space"),
        "{text}"
    );
}

#[test]
fn a_newer_converter_is_named() {
    let disks = vec![vec![1; 4096]];
    let mut push = start(&disks, "k", 1);
    let Step::Send { ticket, .. } = push.next(Millis(0)) else {
        panic!();
    };
    let welcome = Response {
        status: 200,
        epoch: 1,
        content_type: "application/json",
        body: Bytes::from_static(br#"{"version":7}"#),
    };
    push.answered(Millis(0), ticket, Ok(welcome));
    let Step::Failed(error) = push.next(Millis(0)) else {
        panic!();
    };
    assert!(matches!(error, PushError::Version { found: 7, .. }));
}

#[test]
fn chunks_out_of_place_are_refused() {
    let disks = vec![vec![1; 4096]];
    let mut push = start(&disks, "k", 1);
    let mut feed = |disk, offset, len| {
        let raw = Bytes::from(vec![1; len]);
        push.feed(disk, offset, ChunkId::of(&raw), raw)
    };
    assert_eq!(feed(1, 0, 1), Err(FeedError::NoSuchDisk { disk: 1 }));
    assert_eq!(feed(0, 0, 0), Err(FeedError::Length { found: 0 }));
    feed(0, 512, 512).unwrap();
    assert!(matches!(
        feed(0, 1023, 1),
        Err(FeedError::OutOfPlace { after: 1024, .. })
    ));
    assert!(matches!(
        feed(0, 4000, 97),
        Err(FeedError::OutOfPlace { size: 4096, .. })
    ));
    assert!(matches!(
        feed(0, u64::MAX, 1),
        Err(FeedError::OutOfPlace { .. })
    ));
    push.end_disk(0, Vec::new()).unwrap();
    let raw = Bytes::from_static(b"x");
    let late = push.feed(0, 2048, ChunkId::of(&raw), raw);
    assert_eq!(late, Err(FeedError::Ended { disk: 0 }));
}

#[test]
fn a_chunk_that_is_not_what_it_says_is_refused() {
    let disks = vec![vec![7; 4096]];
    let mut world = World::new(14, FAIR);
    let mut push = start(&disks, "k", 1);
    let mut fed = Feeder::new(&disks);
    let error = loop {
        fed.feed(&mut push, 3);
        match push.next(Millis(world.now)) {
            Step::Pack { id, raw } => {
                let mut bad = raw.to_vec();
                bad[0] ^= 1;
                let mut packed = chunking::compress(ChunkId::of(&bad), &bad, 1).unwrap();
                packed.id = id;
                push.packed(packed.into());
            }
            Step::Send { ticket, request } => {
                let response = world.answer(&request);
                push.answered(Millis(world.now), ticket, Ok(response));
            }
            Step::Wait { until } => world.now = until.map_or(world.now + 1, |until| until.0),
            Step::Failed(PushError::Refused(error)) => break error,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(error.code, ErrorCode::BadChunk);
    assert_eq!(world.receiver.chunk_count(), 0);
}

#[test]
fn answers_that_make_no_sense_do_not_end_a_push_at_once() {
    let mut dice = Dice(13);
    let disks = vec![(0..100_000).map(|_| dice.roll() as u8).collect::<Vec<u8>>()];
    let mut world = World::new(13, FAIR);
    let mut push = start(&disks, "k", 1);
    let mut fed = Feeder::new(&disks);
    let mut nonsense = 0;
    loop {
        fed.feed(&mut push, 3);
        match push.next(Millis(world.now)) {
            Step::Pack { id, raw } => push.packed(chunking::compress(id, &raw, 1).unwrap().into()),
            Step::Send { ticket, request } => {
                let mut response = world.answer(&request);
                if dice.percent(40) {
                    nonsense += 1;
                    match dice.below(4) {
                        0 => response.body = Bytes::from_static(b"<html>captive portal</html>"),
                        1 => response.body = response.body.slice(..response.body.len() / 2),
                        2 => response.status = 502,
                        _ => response.body = Bytes::new(),
                    }
                }
                push.answered(Millis(world.now), ticket, Ok(response));
            }
            Step::Wait { until } => world.now = until.map_or(world.now + 1, |until| until.0),
            Step::Done(_) => break,
            Step::Failed(error) => panic!("{error}"),
        }
    }
    assert!(nonsense > 3);
    check_arrived(&world, &disks, "k", 13);
}
