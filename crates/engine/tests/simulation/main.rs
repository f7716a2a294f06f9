//! The engine itself, under simulation: three servers with six clients on one storage in memory. By
//! a seed calls are slow, fail, or lose their answers, and servers die or sleep for longer than a
//! lease; each start of a server has another time of day. Time is simulated: it passes when everybody waits, so that minutes take milliseconds.
//!
//! `SIMULATION_SEED=7` runs one seed, `SIMULATION_SECONDS=600` looks for so long.

mod agent;
mod process;
mod world;

use std::time::{Duration, Instant};

use world::Seen;
use yai_agentkit_engine::test_kit::Mistake;

/// How many seeds a run has at least; time adds more.
const SEEDS: u64 = 40;

/// Seeds after which a mistake that is not found is a mistake of this test.
const SEEDS_TO_FIND: u64 = 400;

fn run(seed: u64, mistake: Option<Mistake>) -> Result<Seen, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(world::run(seed, mistake))
}

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_doubled_or_stuck() {
    let seeds = match variable("SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..u64::MAX,
    };
    let seconds = Duration::from_secs(variable("SIMULATION_SECONDS").unwrap_or(5));
    let begun = Instant::now();
    let mut all = Seen::default();
    for seed in seeds {
        if seed >= SEEDS && begun.elapsed() > seconds {
            break;
        }
        let seen = run(seed, None).unwrap_or_else(|wrong| panic!("seed {seed}: {wrong}"));
        all.turns += seen.turns;
        all.attempts += seen.attempts;
        all.deaths += seen.deaths;
        all.sleeps += seen.sleeps;
        all.misdated += seen.misdated;
    }
    println!("{all:?}");
    assert!(all.attempts > all.turns, "no turn was taken over: {all:?}");
    assert!(
        all.deaths > 0 && all.sleeps > 0 && all.misdated > 0,
        "nobody was disturbed: {all:?}"
    );
}

#[test]
fn mistakes_that_are_made_on_purpose_are_found() {
    let mistakes = [
        Mistake::KeysForgotten,
        Mistake::EventsOfAnybody,
        Mistake::EpochNotRaised,
        Mistake::WritesOfAnybody,
        Mistake::StepsOfAnybody,
    ];
    for mistake in mistakes {
        let found =
            (0..SEEDS_TO_FIND).find_map(|seed| Some((seed, run(seed, Some(mistake)).err()?)));
        let Some((seed, wrong)) = found else {
            panic!("{mistake:?} was not found in {SEEDS_TO_FIND} seeds");
        };
        println!(
            "{mistake:?}: seed {seed}: {}",
            wrong.lines().next().unwrap_or_default()
        );
    }
}
