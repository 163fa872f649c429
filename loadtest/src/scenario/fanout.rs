//! `fanout`: N subscribers over M channels, R messages a second over all of them. Everybody is subscribed before the
//! first message; so every message is expected at every subscriber of its channel, once and in order.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::RunError;
use crate::ledger::Ledger;
use crate::progress::Progress;
use crate::publisher::{Link, Published, Publisher, Schedule};
use crate::report::Report;
use crate::swarm::{Heard, Swarm};
use crate::tally::Run;

mod plan;

pub(crate) use plan::FanoutArgs;

/// How long a duplicate may come after everything has arrived.
const AFTERMATH: Duration = Duration::from_millis(200);

/// Runs the scenario.
pub(crate) fn run(args: &FanoutArgs) -> Result<Report, RunError> {
    args.check()?;
    let schedule = args.schedule();
    let run = Arc::new(Run::new(args.size));
    let link = Link::open(&args.publish, &args.target, args.api_key.as_deref())?;
    let (swarm, connecting) = connect(args, &run)?;
    swarm.measure();
    let publisher = Publisher::start(link, schedule.clone(), Arc::clone(&run))?;
    let published = publish(publisher, &schedule, args, &run)?;
    let heard = swarm.finish()?;
    Ok(report(args, &schedule, connecting, published, heard))
}

fn connect(args: &FanoutArgs, run: &Arc<Run>) -> Result<(Swarm, Duration), RunError> {
    let progress = Progress::new("connecting", u64::from(args.subscribers));
    let start = Instant::now();
    let mut swarm = Swarm::start(args.plans(), run, args.threads())?;
    swarm.wait_until_open(|| progress.advance())?;
    Ok((swarm, start.elapsed()))
}

/// Waits for the publisher, and then until everything has arrived or nothing arrives any more.
fn publish(
    publisher: Publisher,
    schedule: &Schedule,
    args: &FanoutArgs,
    run: &Run,
) -> Result<Published, RunError> {
    let progress = Progress::new("publishing", schedule.total);
    while !publisher.is_finished() {
        progress.set(publisher.count(), run.delivered());
        thread::park_timeout(Duration::from_millis(20));
    }
    let published = publisher.join()?;
    progress.set(published.count, run.delivered());
    settle(args.expected(&schedule.per_channel(published.count)), args.settle, run);
    Ok(published)
}

fn settle(expected: u64, patience: Duration, run: &Run) {
    let mut last = (run.delivered(), Instant::now());
    while run.delivered() < expected && last.1.elapsed() < patience {
        if run.delivered() != last.0 {
            last = (run.delivered(), Instant::now());
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    let end = Instant::now() + AFTERMATH;
    while Instant::now() < end {
        thread::park_timeout(AFTERMATH);
    }
}

fn report(
    args: &FanoutArgs,
    schedule: &Schedule,
    connecting: Duration,
    published: Published,
    heard: Heard,
) -> Report {
    let per_channel = schedule.per_channel(published.count);
    let Heard { tally, cpu } = heard;
    let sum = |count: fn(&Ledger) -> u64| tally.ledgers.iter().map(|(_, ledger)| count(ledger)).sum();
    let lost =
        tally.ledgers.iter().map(|(channel, ledger)| ledger.lost(per_channel[*channel as usize])).sum();
    Report {
        title: args.title(),
        subscribers: u64::from(args.subscribers),
        connecting,
        rate: args.rate,
        published: published.count,
        publishing: published.elapsed,
        lag: published.lag,
        expected: args.expected(&per_channel),
        delivered: sum(Ledger::delivered),
        lost,
        duplicates: sum(Ledger::duplicates),
        late: sum(Ledger::late),
        misrouted: tally.misrouted,
        altered: tally.altered,
        foreign: tally.foreign,
        gaps: tally.gaps,
        closed: tally.closed,
        latency: [("SSE", tally.sse), ("WebSocket", tally.websocket)]
            .into_iter()
            .filter(|(_, histogram)| !histogram.is_empty())
            .collect(),
        hearing: cpu,
        publisher: published.cpu,
        failure: published.error.map(|error| error.to_string()),
    }
}
