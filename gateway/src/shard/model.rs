//! The model test: clients that come and go, a node and shards that interleave as a seed has it, and for each client
//! the proof that what it was given and what it was told to be missing are together what was published.
//!
//! Owns which cases are run and how a failure is shown: with its seed, and the story of the case. A seed can be
//! repeated: `EARSHOT_SEED=… cargo test -p earshot --lib model`; `EARSHOT_CASES=100000` runs for longer. Must
//! never sleep, nor touch a network.
//!
//! - [`rules`]: the bounds of one case, and what may happen in it; [`world`]: what does happen.
//! - [`gateway`]: the gateway under test, in steps.
//! - [`client`], [`websocket_client`] with its [`place`]s, [`sse_client`]: clients, which judge; [`line`](mod@line): their
//!   connections.
//! - [`truth`]: what was published, and the account of what a client was given.

mod client;
mod ending;
mod gateway;
mod line;
mod place;
mod rules;
mod run;
mod sse_client;
mod truth;
mod websocket_client;
mod world;

use client::Story;
use rules::Weather;
use tokio::runtime::Runtime;
use truth::Verdict;
use world::World;

/// Cases of each kind in one run.
const CASES: u64 = 3000;

/// Lines of a story that are shown.
const LINES: usize = 120;

/// Says which seed it was when the gateway itself panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the case of EARSHOT_SEED={}", self.0);
        }
    }
}

fn case(seed: u64, weather: Weather, clock: &Runtime, story: Story) -> (Verdict, Story) {
    let _entered = clock.enter();
    let _seed = Seed(seed);
    let mut world = World::new(seed, weather, clock, story);
    let verdict = world.run();
    (verdict, std::mem::take(&mut world.story))
}

fn cases(weather: Weather) {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let given = std::env::var("EARSHOT_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let number = std::env::var("EARSHOT_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    let first = given.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let number = if given.is_some() { 1 } else { number };
    println!("{weather:?}: EARSHOT_SEED={first} and the {number} that begin with it");
    for seed in first..first + number {
        let (verdict, _) = case(seed, weather, &clock, Story::default());
        if let Err(what) = verdict {
            let (again, story) = case(seed, weather, &clock, Story(Some(Vec::new())));
            let lines = story.0.unwrap_or_default();
            let from = lines.len().saturating_sub(LINES);
            println!("{}\n…\n{}", lines[0], lines[from..].join("\n"));
            panic!("{weather:?}, EARSHOT_SEED={seed}: {what} (repeated: {again:?})");
        }
    }
}

#[test]
fn with_room_for_everything_nothing_is_missing_and_no_gap_is_told() {
    cases(Weather::Calm);
}

#[test]
fn with_rings_that_suffice_whoever_asks_is_given_all_it_missed() {
    cases(Weather::Crowded);
}

#[test]
fn whatever_happens_each_hole_is_announced_and_nothing_comes_twice() {
    cases(Weather::Rough);
}
