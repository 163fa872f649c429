//! The model test: clients connect and disconnect, a node and its shards interleave as a seed determines, and each
//! client verifies that the publications and the gap notices it received account for everything that was published.
//!
//! A failure is shown with its seed and its trace. To repeat one: `EARSHOT_SEED=… cargo test -p earshot-gateway --lib model`;
//! `EARSHOT_CASES=100000` runs longer. Does not sleep and does not use the network.
//!
//! - [`parameters`]: the limits of one case and the faults in it; [`simulation`]: its steps.
//! - [`gateway`]: the gateway under test, in steps.
//! - [`client`], [`websocket_client`] with its [`channel_view`]s, [`sse_client`]: clients that verify what they
//!   receive; [`transport`]: their connections.
//! - [`truth`]: the messages that were published, and those that each client received.

mod batches;
mod channel_view;
mod client;
mod closing;
mod gateway;
mod parameters;
mod resolutions;
mod simulation;
mod sse_client;
mod transport;
mod truth;
mod websocket_client;

use client::Trace;
use parameters::Scenario;
use simulation::Simulation;
use tokio::runtime::Runtime;
use truth::CheckResult;

/// Cases of each kind in one run.
const CASES: u64 = 3000;

/// Lines of a trace that are shown.
const LINES: usize = 120;

/// Prints the seed if the gateway panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the case of EARSHOT_SEED={}", self.0);
        }
    }
}

fn case(seed: u64, scenario: Scenario, clock: &Runtime, trace: Trace) -> (CheckResult, Trace) {
    let _entered = clock.enter();
    let _seed = Seed(seed);
    let mut simulation = Simulation::new(seed, scenario, clock, trace);
    let result = simulation.run();
    (result, std::mem::take(&mut simulation.trace))
}

fn cases(scenario: Scenario) {
    let clock =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    let given = std::env::var("EARSHOT_SEED").ok().map(|seed| seed.parse::<u64>().unwrap());
    let number = std::env::var("EARSHOT_CASES").ok().map_or(CASES, |cases| cases.parse().unwrap());
    let first = given.unwrap_or_else(|| fastrand::u64(..u64::MAX / 2));
    let number = if given.is_some() { 1 } else { number };
    println!("{scenario:?}: EARSHOT_SEED={first} and the {number} that begin with it");
    for seed in first..first + number {
        let (result, _) = case(seed, scenario, &clock, Trace::default());
        if let Err(what) = result {
            let (again, trace) = case(seed, scenario, &clock, Trace(Some(Vec::new())));
            let lines = trace.0.unwrap_or_default();
            let from = lines.len().saturating_sub(LINES);
            println!("{}\n…\n{}", lines[0], lines[from..].join("\n"));
            panic!("{scenario:?}, EARSHOT_SEED={seed}: {what} (repeated: {again:?})");
        }
    }
}

#[test]
fn reports_no_gap_without_limits() {
    cases(Scenario::Unlimited);
}

#[test]
fn recovers_everything_with_sufficient_history() {
    cases(Scenario::Constrained);
}

#[test]
fn reports_every_gap_and_delivers_nothing_twice() {
    cases(Scenario::Faulty);
}
