//! Clients whose messages are counted: one of each transport, on the pubsub channel and on the stream channel.
//!
//! Owns their ledgers. Must never omit a client: every result is for all of them.

use std::sync::Arc;
use std::time::Duration;

use earshot_client::ledger::LedgerCounts;
use tokio::time::Instant;

use super::http::HttpTarget;
use super::report::{Account, DrillTotals};
use super::subscriber::{DrillSubscriber, DrillTransport};

/// Index of each channel, and its name in reports.
const PLAIN: usize = 0;
const LOG: usize = 1;
const CHANNEL_NAMES: [&str; 2] = ["plain", "log"];

/// Last number on each channel; 0 without that channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClientProgress {
    pub(super) plain: u64,
    pub(super) log: u64,
}

/// State of the ledgers.
#[derive(Clone, Debug)]
pub(super) struct Ledgers {
    counts: Vec<Vec<LedgerCounts>>,
    disconnects: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct VerifyingClients(Vec<Arc<DrillSubscriber>>);

impl VerifyingClients {
    /// Starts the clients; `log` is optional.
    pub(super) fn start(target: &HttpTarget, plain: &str, log: Option<&str>) -> Self {
        let channels: Vec<String> = [Some(plain), log].into_iter().flatten().map(ToOwned::to_owned).collect();
        let transports = [DrillTransport::Json, DrillTransport::Protobuf, DrillTransport::Sse];
        Self(transports.map(|transport| DrillSubscriber::start(target, transport, channels.clone())).to_vec())
    }

    /// Whether all of them are subscribed.
    pub(super) fn are_subscribed(&self) -> bool {
        self.0.iter().all(|client| client.is_subscribed())
    }

    /// Those that are not subscribed, and why.
    pub(super) fn not_subscribed(&self) -> String {
        let not_subscribed = self.0.iter().filter(|client| !client.is_subscribed());
        not_subscribed
            .map(|client| format!("{} ({})", client.name(), client.disconnects().1))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Whether all of them have received these numbers.
    pub(super) fn have_received(&self, progress: ClientProgress) -> bool {
        self.0.iter().all(|client| has_received(client, progress))
    }

    /// Those that have not received these numbers.
    pub(super) fn behind(&self, progress: ClientProgress) -> String {
        let behind = self.0.iter().filter(|client| !has_received(client, progress));
        behind.map(|client| client.name()).collect::<Vec<_>>().join(", ")
    }

    /// Records the first message with this number or a later one on the pubsub channel.
    pub(super) fn expect_from(&self, number: u64) {
        self.0.iter().for_each(|client| client.expect_from(PLAIN, number));
    }

    /// Time from a moment until the first client, and the last client, received that message.
    pub(super) fn received_after(&self, moment: Instant) -> Option<(Duration, Duration)> {
        let arrivals: Option<Vec<Instant>> =
            self.0.iter().map(|client| client.first_arrival(PLAIN)).collect();
        let arrivals = arrivals?;
        let after = |instant: Option<&Instant>| instant.map(|at| at.saturating_duration_since(moment));
        after(arrivals.iter().min()).zip(after(arrivals.iter().max()))
    }

    /// The current state of the ledgers.
    pub(super) fn ledgers(&self) -> Ledgers {
        let counts = |client: &Arc<DrillSubscriber>| {
            (0..client.channels.len()).map(|channel| client.count(channel)).collect()
        };
        Ledgers {
            counts: self.0.iter().map(counts).collect(),
            disconnects: self.0.iter().map(|client| client.disconnects().0).collect(),
        }
    }

    /// Closes the ledgers at the last published numbers. Returns what was added to them.
    pub(super) fn close(&self, since: &Ledgers, first: ClientProgress, last: ClientProgress) -> Vec<Account> {
        let published = [last.plain - first.plain, last.log - first.log];
        let mut accounts = Vec::new();
        for (client, before) in self.0.iter().zip(&since.counts) {
            for (channel, before) in before.iter().enumerate() {
                client.close(channel, [last.plain, last.log][channel]);
                let count = client.count(channel).since(*before);
                let totals = DrillTotals::of(count, published[channel]);
                accounts.push(Account { client: client.name(), channel: CHANNEL_NAMES[channel], totals });
            }
        }
        accounts
    }

    /// Those that were disconnected since, and why.
    pub(super) fn disconnected(&self, since: &Ledgers) -> Vec<String> {
        let all = self.0.iter().zip(&since.disconnects);
        all.filter_map(|(client, before)| {
            let (disconnects, reason) = client.disconnects();
            (disconnects > *before).then(|| format!("{}: {reason}", client.name()))
        })
        .collect()
    }
}

fn has_received(client: &DrillSubscriber, progress: ClientProgress) -> bool {
    let of = [progress.plain, progress.log];
    debug_assert!(LOG < of.len(), "each channel has its number");
    (0..client.channels.len()).all(|channel| client.has_received(channel..channel + 1, of[channel]))
}
