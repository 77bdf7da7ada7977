//! Protocol and store in the deterministic simulation of `tests::simulation`.
//!
//! - `P2V_SIM_SEEDS=100000 cargo test -p tests --release --test simulation` runs that many seeds.
//! - `P2V_SIM_SEED=n` runs seed n alone, exactly as it ran among the others.

use std::sync::atomic::{AtomicU64, Ordering};

use tests::simulation::{Outcome, Plant, Violation, simulate};

/// Seeds in ordinary test time.
const SEEDS: u64 = 200;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Run `seeds` on all processors; the failure of the least seed, or what all did together.
fn run_all(seeds: std::ops::Range<u64>, plant: Plant) -> Result<Outcome, (u64, Violation)> {
    let next = AtomicU64::new(seeds.start);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<_> = std::thread::scope(|scope| {
        let work = || {
            let mut all = Outcome::default();
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= seeds.end {
                    return Ok(all);
                }
                let outcome = simulate(seed, plant).map_err(|violation| (seed, violation))?;
                all.finished += outcome.finished;
                all.server_crashes += outcome.server_crashes;
                all.agent_crashes += outcome.agent_crashes;
                all.lost += outcome.lost;
                all.full += outcome.full;
                all.chunks_sent += outcome.chunks_sent;
            }
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let failed = results.iter().filter_map(|result| result.as_ref().err());
    if let Some(least) = failed.min_by_key(|(seed, _)| *seed) {
        return Err(least.clone());
    }
    let mut all = Outcome::default();
    for outcome in results.into_iter().flatten() {
        all.finished += outcome.finished;
        all.server_crashes += outcome.server_crashes;
        all.agent_crashes += outcome.agent_crashes;
        all.lost += outcome.lost;
        all.full += outcome.full;
        all.chunks_sent += outcome.chunks_sent;
    }
    Ok(all)
}

#[test]
fn what_was_promised_holds_whatever_goes_wrong() {
    let seeds = match number("P2V_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("P2V_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let many = seeds.end - seeds.start >= 100;
    match run_all(seeds, Plant::Nothing) {
        Err((seed, violation)) => {
            panic!("seed {seed}: {violation}\nP2V_SIM_SEED={seed} reproduces this")
        }
        // A simulation in which nothing goes wrong, or nothing ever ends, would show nothing.
        Ok(all) if many => {
            println!("{all:?}");
            assert!(all.finished > 100 && all.chunks_sent > 1000, "{all:?}");
            assert!(
                all.server_crashes > 100 && all.agent_crashes > 20,
                "{all:?}"
            );
            assert!(all.lost > 100 && all.full > 20, "{all:?}");
        }
        Ok(all) => println!("{all:?}"),
    }
}

/// The simulation finds bugs: each of these, planted, is seen within a few seeds. A bug is planted by
/// letting the simulated disk pass over syncs of some files (as if the store did not make them), or by
/// letting the server's answer say what is not so.
#[test]
fn planted_bugs_are_found() {
    for plant in [
        Plant::PacksNotSynced,
        Plant::RecipesNotSynced,
        Plant::ConfirmedTooEarly,
    ] {
        let found = run_all(0..200, plant);
        let (seed, violation) = found.expect_err(&format!("{plant:?} was not found"));
        println!("{plant:?} is found by seed {seed}: {violation}");
        assert_eq!(
            simulate(seed, plant),
            Err(violation),
            "seed {seed} reproduces it"
        );
    }
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in 0..10 {
        let (first, second) = (
            simulate(seed, Plant::Nothing),
            simulate(seed, Plant::Nothing),
        );
        assert_eq!(first, second, "seed {seed}");
    }
}
