//! Many channels, subscribed to over a set of connections, so that what is measured is measured under them.
//!
//! Owns the rounds: one number on every channel, until everybody hears. Must never forgive a round that somebody missed
//! without a word.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backend::Backend;
use super::http::Target;
use super::ledger::Count;
use super::listener::{Listener, Transport};
use super::report::Tally;
use super::{GLANCE, until};

/// Channels of one connection: half of the connections are WebSockets, half streams.
const EACH: usize = 50;
/// How long a round may take.
const ROUND: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    listeners: Vec<Arc<Listener>>,
    channels: Vec<String>,
    prefix: String,
    round: u64,
    /// What was told of already.
    told: Count,
}

impl Crowd {
    /// So many channels; empty where none are wanted.
    pub(super) fn start(target: &Target, prefix: &str, channels: usize) -> Self {
        let channels: Vec<String> = (0..channels).map(|number| format!("{prefix}{number}")).collect();
        let transports = [Transport::Json, Transport::Sse].into_iter().cycle();
        let listeners = channels.chunks(EACH).zip(transports);
        let listeners =
            listeners.map(|(channels, transport)| Listener::start(target, transport, channels.to_vec()));
        Self {
            listeners: listeners.collect(),
            channels,
            prefix: prefix.to_owned(),
            round: 0,
            told: Count::default(),
        }
    }

    pub(super) fn channels(&self) -> usize {
        self.channels.len()
    }

    /// What allows every channel in an ACL.
    pub(super) fn pattern(&self) -> String {
        format!("&{}*", self.prefix)
    }

    pub(super) fn is_there(&self) -> bool {
        self.listeners.iter().all(|listener| listener.is_there())
    }

    /// Publishes on every channel, until a round is heard on all of them; what became of all rounds. A client that has
    /// still to be told of a gap may miss a round, and is told.
    pub(super) async fn hear(&mut self, backend: &Backend, limit: Duration) -> Result<Tally, String> {
        let (deadline, mut rounds) = (Instant::now() + limit, 0);
        let mut link = backend.connect().await?;
        loop {
            (self.round, rounds) = (self.round + 1, rounds + 1);
            link.publish_all(&self.channels, self.round).await?;
            let round = self.round;
            let has = |listener: &Arc<Listener>| listener.has(0..listener.channels.len(), round);
            let all_heard = until(ROUND, GLANCE, || self.listeners.iter().all(has)).await;
            if all_heard || Instant::now() > deadline {
                break;
            }
        }
        for listener in &self.listeners {
            (0..listener.channels.len()).for_each(|channel| listener.close(channel, self.round));
        }
        let count = self.count();
        let before = std::mem::replace(&mut self.told, count);
        Ok(Tally::of(count.since(before), rounds * self.channels.len() as u64))
    }

    fn count(&self) -> Count {
        let of = |listener: &Arc<Listener>| {
            (0..listener.channels.len())
                .map(|channel| listener.count(channel))
                .fold(Count::default(), Count::plus)
        };
        self.listeners.iter().map(of).fold(Count::default(), Count::plus)
    }
}
