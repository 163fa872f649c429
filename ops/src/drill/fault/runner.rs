//! Runs one fault: starts the traffic, injects the fault, waits until it is detected and removed, waits until all
//! clients receive messages again, and closes the ledgers.
//!
//! Owns the waits. Must never start while the effects of the previous fault last.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::assertions::{Evidence, evaluate};
use super::{DrillError, Fault, FaultWindow, injection};
use crate::drill::environment::DrillEnvironment;
use crate::drill::report::{DrillTotals, Outcome};
use crate::drill::scrape::{Numbers, Scrape};
use crate::drill::verifying_clients::{ClientProgress, Ledgers};
use crate::drill::{POLL_INTERVAL, until};

/// Messages that every client has received before a fault is injected.
const WARMUP_MESSAGES: ClientProgress = ClientProgress { plain: 50, log: 10 };
/// Minimum healthy time before a fault is injected: a connection that fails sooner than `retry_max` (2 s) after it was
/// established waits longer before it reconnects, which would distort the measurement.
const HEALTHY_MIN: Duration = Duration::from_millis(2500);
/// Time limit for the delivery of messages without a fault.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit for everything else. The gateway waits up to 10 s after a rejection.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Interval between reads of the metrics.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(20);

/// State at the start of a run.
struct Start {
    numbers: Numbers,
    published: ClientProgress,
    ledgers: Ledgers,
}

/// Runs it.
pub(super) async fn run(
    fault: Fault,
    environment: &mut DrillEnvironment,
    mut outcome: Outcome,
) -> Result<Outcome, DrillError> {
    let start = snapshot(environment).await?;
    match start_traffic(fault, environment).await {
        Err(error) if fault != Fault::Baseline => return abort(environment, &start, error).await,
        started => started?,
    }
    environment.monitor.reset();
    let window = injection::inject(fault, environment).await;
    // Changes are undone first, whatever failed.
    let undone = environment.undo.run_all().await;
    let window = match (window, undone) {
        (Ok(window), Ok(())) => window,
        (Err(error), _) => return abort(environment, &start, error).await,
        (_, Err(reason)) => return abort(environment, &start, DrillError::Failed(reason)).await,
    };
    let unsettled = settle(environment, window.removed_at).await;
    let last = stop_traffic(environment).await?;
    if fault != Fault::Baseline {
        record_times(environment, &window, &mut outcome);
    }
    close_ledgers(environment, &start, last, &mut outcome).await?;
    let evidence = Evidence {
        before: start.numbers,
        during: window.during,
        after: Scrape::take(&mut environment.client).await.map(|scrape| scrape.numbers()),
        summary: environment.monitor.summary(),
        latest: environment.monitor.last(),
        unsettled,
        disconnected: environment.clients.disconnected(&start.ledgers),
    };
    evaluate(fault, &evidence, &mut outcome);
    Ok(outcome)
}

/// Stops the traffic and closes the ledgers, so that the next fault can be run.
async fn abort(
    environment: &mut DrillEnvironment,
    start: &Start,
    error: DrillError,
) -> Result<Outcome, DrillError> {
    until(SETTLE_TIMEOUT, POLL_INTERVAL, || {
        environment.monitor.last().is_healthy() && environment.clients.are_subscribed()
    })
    .await;
    let last = stop_traffic(environment).await?;
    environment.clients.close(&start.ledgers, start.published, last);
    Err(error)
}

/// Reads the state while nothing is published.
async fn snapshot(environment: &mut DrillEnvironment) -> Result<Start, DrillError> {
    let numbers = Scrape::take(&mut environment.client).await?.numbers();
    Ok(Start { numbers, published: environment.published(), ledgers: environment.clients.ledgers() })
}

/// Starts the publishers, and waits until all clients receive messages and the gateway has been healthy for a while.
async fn start_traffic(fault: Fault, environment: &DrillEnvironment) -> Result<(), DrillError> {
    let started_at = Instant::now();
    let ClientProgress { plain, log } = environment.published();
    let target = ClientProgress { plain: plain + WARMUP_MESSAGES.plain, log: log + WARMUP_MESSAGES.log };
    environment.plain.resume();
    if let Some(log) = &environment.log {
        log.resume();
    }
    if !until(DELIVERY_TIMEOUT, POLL_INTERVAL, || environment.clients.have_received(target)).await {
        let behind = environment.clients.behind(target);
        return Err(DrillError::Failed(format!(
            "messages do not arrive at {behind}, without any fault: check that the gateway is connected to this Redis and serves {}",
            environment.channel
        )));
    }
    if fault != Fault::Baseline {
        tokio::time::sleep_until(started_at + HEALTHY_MIN).await;
    }
    Ok(())
}

/// Waits until everything is healthy and all clients receive messages. Returns the condition that was not met.
async fn settle(environment: &mut DrillEnvironment, removed_at: Instant) -> Option<String> {
    let target = ClientProgress {
        plain: 0,
        log: environment.published().log + 2 * u64::from(environment.log.is_some()),
    };
    let is_received = || {
        environment.clients.received_after(removed_at).is_some() && environment.clients.have_received(target)
    };
    let is_recovered =
        || environment.monitor.last().is_healthy() && environment.clients.are_subscribed() && is_received();
    if !until(SETTLE_TIMEOUT, POLL_INTERVAL, is_recovered).await {
        let (status, behind) =
            (environment.monitor.last().description(), environment.clients.behind(environment.published()));
        return Some(format!("not recovered within {SETTLE_TIMEOUT:?}: {status}; behind: {behind}"));
    }
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let missing = match Scrape::take(&mut environment.client).await.map(|scrape| scrape.numbers()) {
            Ok(Numbers { desired, active, up, .. }) if desired == active && up == 1.0 => return None,
            Ok(Numbers { desired, active, .. }) => {
                format!("{active} of {desired} subscriptions active")
            }
            Err(reason) => reason,
        };
        if Instant::now() > deadline {
            return Some(format!("not recovered within {SETTLE_TIMEOUT:?}: {missing}"));
        }
        sleep(SCRAPE_INTERVAL).await;
    }
}

/// Stops the publishers and waits for the last messages. Returns their numbers.
async fn stop_traffic(environment: &mut DrillEnvironment) -> Result<ClientProgress, DrillError> {
    let plain = environment.plain.pause(SETTLE_TIMEOUT).await?;
    let log = match &mut environment.log {
        Some(log) => log.pause(SETTLE_TIMEOUT).await?,
        None => 0,
    };
    let last = ClientProgress { plain, log };
    // What does not arrive is counted as lost.
    until(DELIVERY_TIMEOUT, POLL_INTERVAL, || environment.clients.have_received(last)).await;
    Ok(last)
}

fn record_times(environment: &DrillEnvironment, window: &FaultWindow, outcome: &mut Outcome) {
    let detected = environment.monitor.summary().detected;
    outcome.detected = detected.map(|detected| detected.saturating_duration_since(window.injected_at));
    (outcome.recovered, outcome.recovered_by_all) =
        environment.clients.received_after(window.removed_at).unzip();
}

/// Closes the ledgers.
async fn close_ledgers(
    environment: &mut DrillEnvironment,
    start: &Start,
    last: ClientProgress,
    outcome: &mut Outcome,
) -> Result<(), DrillError> {
    outcome.accounts = environment.clients.close(&start.ledgers, start.published, last);
    let totals = outcome.accounts.iter().map(|account| account.totals);
    outcome.total = totals.fold(DrillTotals::default(), DrillTotals::plus);
    if environment.background.channels() > 0 {
        let redis = environment.redis();
        outcome.background = Some(environment.background.run_rounds(&redis, SETTLE_TIMEOUT).await?);
    }
    Ok(())
}
