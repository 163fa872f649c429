//! Background load: many channels, subscribed to over some connections, so that recovery is measured under load.
//!
//! Owns the rounds: one number on every channel, until all are received. Must never ignore a missed round that was not
//! reported as a gap.

use std::sync::Arc;
use std::time::Duration;

use earshot_client::ledger::LedgerCounts;
use tokio::time::Instant;

use super::backend::Backend;
use super::http::HttpTarget;
use super::report::DrillTotals;
use super::subscriber::{DrillSubscriber, DrillTransport};
use super::{POLL_INTERVAL, until};

/// Channels of each connection. WebSocket and SSE alternate.
const CHANNELS_PER_CONNECTION: usize = 50;
/// Time limit of a round.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct BackgroundLoad {
    subscribers: Vec<Arc<DrillSubscriber>>,
    channels: Vec<String>,
    prefix: String,
    round: u64,
    /// What earlier calls have counted.
    previous_counts: LedgerCounts,
}

impl BackgroundLoad {
    /// Starts subscribers for a number of channels, possibly 0.
    pub(super) fn start(target: &HttpTarget, prefix: &str, channels: usize) -> Self {
        let channels: Vec<String> = (0..channels).map(|number| format!("{prefix}{number}")).collect();
        let transports = [DrillTransport::Json, DrillTransport::Sse].into_iter().cycle();
        let subscribers = channels.chunks(CHANNELS_PER_CONNECTION).zip(transports);
        let subscribers = subscribers
            .map(|(channels, transport)| DrillSubscriber::start(target, transport, channels.to_vec()));
        Self {
            subscribers: subscribers.collect(),
            channels,
            prefix: prefix.to_owned(),
            round: 0,
            previous_counts: LedgerCounts::default(),
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// ACL rule that permits all these channels.
    pub(super) fn pattern(&self) -> String {
        format!("&{}*", self.prefix)
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribers.iter().all(|subscriber| subscriber.is_subscribed())
    }

    /// Publishes on every channel, until a round is received on all of them. Returns the totals of all rounds. A client
    /// that has not been notified of a gap yet can miss a round, which is then reported as a gap.
    pub(super) async fn run_rounds(
        &mut self,
        backend: &Backend,
        limit: Duration,
    ) -> Result<DrillTotals, String> {
        let (deadline, mut rounds) = (Instant::now() + limit, 0);
        let mut connection = backend.connect().await?;
        loop {
            (self.round, rounds) = (self.round + 1, rounds + 1);
            connection.publish_all(&self.channels, self.round).await?;
            let round = self.round;
            let has_received = |subscriber: &Arc<DrillSubscriber>| {
                subscriber.has_received(0..subscriber.channels.len(), round)
            };
            let all_received =
                until(ROUND_TIMEOUT, POLL_INTERVAL, || self.subscribers.iter().all(has_received)).await;
            if all_received || Instant::now() > deadline {
                break;
            }
        }
        for subscriber in &self.subscribers {
            (0..subscriber.channels.len()).for_each(|channel| subscriber.close(channel, self.round));
        }
        let count = self.count();
        let before = std::mem::replace(&mut self.previous_counts, count);
        Ok(DrillTotals::of(count.since(before), rounds * self.channels.len() as u64))
    }

    fn count(&self) -> LedgerCounts {
        let of = |subscriber: &Arc<DrillSubscriber>| {
            (0..subscriber.channels.len())
                .map(|channel| subscriber.count(channel))
                .fold(LedgerCounts::default(), LedgerCounts::plus)
        };
        self.subscribers.iter().map(of).fold(LedgerCounts::default(), LedgerCounts::plus)
    }
}
