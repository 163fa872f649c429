//! The clients that keep account: one of each transport, on the plain channel and on the one with a log.
//!
//! Owns their books. Must never forget one of them: what is said holds for all.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::http::Target;
use super::ledger::Count;
use super::listener::{Listener, Transport};
use super::report::{Account, Tally};

/// The places of channels in their books, and what reports call them.
const PLAIN: usize = 0;
const LOG: usize = 1;
const NAMES: [&str; 2] = ["plain", "log"];

/// Numbers on both channels; of a channel that is not there, 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) plain: u64,
    pub(super) log: u64,
}

/// How the books stand.
#[derive(Clone, Debug)]
pub(super) struct Books {
    counts: Vec<Vec<Count>>,
    returns: Vec<u64>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Witnesses(Vec<Arc<Listener>>);

impl Witnesses {
    /// Starts them; the channel with a log may be missing.
    pub(super) fn start(target: &Target, plain: &str, log: Option<&str>) -> Self {
        let channels: Vec<String> = [Some(plain), log].into_iter().flatten().map(ToOwned::to_owned).collect();
        let transports = [Transport::Json, Transport::Protobuf, Transport::Sse];
        Self(transports.map(|transport| Listener::start(target, transport, channels.clone())).to_vec())
    }

    /// Whether all of them are subscribed.
    pub(super) fn are_there(&self) -> bool {
        self.0.iter().all(|witness| witness.is_there())
    }

    /// Those who are not, and why.
    pub(super) fn absent(&self) -> String {
        let absent = self.0.iter().filter(|witness| !witness.is_there());
        absent
            .map(|witness| format!("{} ({})", witness.name(), witness.returns().1))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// Whether all of them have come so far.
    pub(super) fn have(&self, mark: Mark) -> bool {
        self.0.iter().all(|witness| has(witness, mark))
    }

    /// Those who have not.
    pub(super) fn behind(&self, mark: Mark) -> String {
        let behind = self.0.iter().filter(|witness| !has(witness, mark));
        behind.map(|witness| witness.name()).collect::<Vec<_>>().join(", ")
    }

    /// Looks out for the first arrival on the plain channel from a number on.
    pub(super) fn look_out(&self, number: u64) {
        self.0.iter().for_each(|witness| witness.look_out(PLAIN, number));
    }

    /// How long after a moment the first of them heard it, and the last.
    pub(super) fn heard_after(&self, moment: Instant) -> Option<(Duration, Duration)> {
        let came: Option<Vec<Instant>> = self.0.iter().map(|witness| witness.came(PLAIN)).collect();
        let came = came?;
        let after = |instant: Option<&Instant>| instant.map(|at| at.saturating_duration_since(moment));
        after(came.iter().min()).zip(after(came.iter().max()))
    }

    /// How the books stand.
    pub(super) fn books(&self) -> Books {
        let counts = |witness: &Arc<Listener>| {
            (0..witness.channels.len()).map(|channel| witness.count(channel)).collect()
        };
        Books {
            counts: self.0.iter().map(counts).collect(),
            returns: self.0.iter().map(|witness| witness.returns().0).collect(),
        }
    }

    /// Closes the books at the last numbers, and tells what was added to them.
    pub(super) fn close(&self, since: &Books, first: Mark, last: Mark) -> Vec<Account> {
        let published = [last.plain - first.plain, last.log - first.log];
        let mut accounts = Vec::new();
        for (witness, before) in self.0.iter().zip(&since.counts) {
            for (channel, before) in before.iter().enumerate() {
                witness.close(channel, [last.plain, last.log][channel]);
                let count = witness.count(channel).since(*before);
                let tally = Tally::of(count, published[channel]);
                accounts.push(Account { client: witness.name(), channel: NAMES[channel], tally });
            }
        }
        accounts
    }

    /// Those whose connection has ended since, and how.
    pub(super) fn ended(&self, since: &Books) -> Vec<String> {
        let all = self.0.iter().zip(&since.returns);
        all.filter_map(|(witness, before)| {
            let (returns, why) = witness.returns();
            (returns > *before).then(|| format!("{}: {why}", witness.name()))
        })
        .collect()
    }
}

fn has(witness: &Listener, mark: Mark) -> bool {
    let of = [mark.plain, mark.log];
    debug_assert!(LOG < of.len(), "each channel has its mark");
    (0..witness.channels.len()).all(|channel| witness.has(channel..channel + 1, of[channel]))
}
