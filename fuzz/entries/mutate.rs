//! Mutations that a seed decides, for the bounded runs of the fuzz entries on a stable compiler.

use std::time::{Duration, Instant};

/// The longest one input may take.
const TOO_LONG: Duration = Duration::from_secs(20);

/// Numbers that a seed decides.
pub struct Dice(pub u64);

impl Dice {
    /// Below `sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }
}

/// Feed mutations of `seeds` for about `time`, at least a hundred: `P2V_FUZZ_SECONDS` says otherwise. Gives
/// their number.
pub fn run(seeds: &[Vec<u8>], time: Duration, feed: impl Fn(&[u8])) -> u64 {
    let time = std::env::var("P2V_FUZZ_SECONDS")
        .ok()
        .and_then(|seconds| seconds.parse().ok())
        .map_or(time, Duration::from_secs);
    for seed in seeds {
        feed(seed);
    }
    let busy: Vec<Vec<usize>> = seeds.iter().map(|seed| busy_places(seed)).collect();
    let (start, mut rounds) = (Instant::now(), 0);
    while rounds < 100 || start.elapsed() < time {
        let mut dice = Dice(rounds);
        let which = dice.roll(seeds.len());
        let mut bytes = seeds[which].clone();
        for _ in 0..1 + dice.roll(4) {
            mutate(&mut bytes, &busy[which], &mut dice);
        }
        let before = Instant::now();
        let fed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| feed(&bytes)));
        let took = before.elapsed();
        assert!(fed.is_ok(), "round {rounds} of seed {which} panics");
        assert!(
            took < TOO_LONG,
            "round {rounds} of seed {which} takes {took:?}"
        );
        rounds += 1;
    }
    println!("{rounds} inputs in {:.1?}", start.elapsed());
    rounds
}

/// Where bytes that are not zero stand: changes elsewhere seldom matter.
fn busy_places(seed: &[u8]) -> Vec<usize> {
    let places: Vec<usize> = (0..seed.len()).filter(|at| seed[*at] != 0).collect();
    // Long runs of data would drown the tables.
    let rare = |at: &usize| *at < 4096 || *at + 1024 > seed.len() || seed[at - 8..*at].contains(&0);
    let tables: Vec<usize> = places.iter().copied().filter(rare).collect();
    if tables.is_empty() { places } else { tables }
}

fn mutate(bytes: &mut Vec<u8>, busy: &[usize], dice: &mut Dice) {
    if bytes.is_empty() || busy.is_empty() {
        bytes.push(dice.roll(256) as u8);
        return;
    }
    let near = (busy[dice.roll(busy.len())] + dice.roll(5)).min(bytes.len() - 1);
    let end = |len: usize| (near + len).min(bytes.len());
    match dice.roll(8) {
        0 => bytes[near] = dice.roll(256) as u8,
        1 => bytes[near] ^= 1 << dice.roll(8),
        2 => {
            let (end, value) = (
                end(1 << dice.roll(4)),
                [0, 1, 0xff, 0x7f, 0x80][dice.roll(5)],
            );
            bytes[near..end].fill(value);
        }
        3 => {
            // A number from elsewhere.
            let from = busy[dice.roll(busy.len())].min(bytes.len() - 1);
            let len = (1 << dice.roll(4)).min(bytes.len() - from.max(near));
            bytes.copy_within(from..from + len, near);
        }
        4 => {
            // A little more or less.
            bytes[near] = bytes[near].wrapping_add([1, 255, 2, 16][dice.roll(4)]);
        }
        5 => {
            let end = end(64);
            for byte in &mut bytes[near..end] {
                *byte = dice.roll(256) as u8;
            }
        }
        6 => {
            let len = dice.roll(bytes.len() + 1);
            bytes.truncate(len.max(1));
        }
        _ => {
            let from = busy[dice.roll(busy.len())].min(bytes.len() - 1) & !511;
            let to = near & !511;
            let len = 512.min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + len, to);
        }
    }
}
