//! Many channels, subscribed to over a set of connections, so that what is measured is measured under them.
//!
//! Owns the rounds: one number on every channel, which everybody must hear once. Must never publish while a round is
//! still awaited.

use std::sync::Arc;
use std::time::Duration;

use super::backend::Backend;
use super::http::Target;
use super::ledger::Count;
use super::listener::{Listener, Transport};
use super::{GLANCE, until};

/// Channels of one connection: half of the connections are WebSockets, half streams.
const EACH: usize = 50;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    listeners: Vec<Arc<Listener>>,
    channels: Vec<String>,
    prefix: String,
    round: u64,
}

impl Crowd {
    /// So many channels; empty where none are wanted.
    pub(super) fn start(target: &Target, prefix: &str, channels: usize) -> Self {
        let channels: Vec<String> = (0..channels).map(|number| format!("{prefix}{number}")).collect();
        let transports = [Transport::Json, Transport::Sse].into_iter().cycle();
        let listeners = channels.chunks(EACH).zip(transports);
        let listeners =
            listeners.map(|(channels, transport)| Listener::start(target, transport, channels.to_vec()));
        Self { listeners: listeners.collect(), channels, prefix: prefix.to_owned(), round: 0 }
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

    /// Publishes on every channel; what became of it, and of everything since the last round.
    pub(super) async fn hear(&mut self, backend: &Backend, limit: Duration) -> Result<Count, String> {
        if self.channels.is_empty() {
            return Ok(Count::default());
        }
        self.round += 1;
        let before = self.count();
        backend.connect().await?.publish_all(&self.channels, self.round).await?;
        let round = self.round;
        let has = |listener: &Arc<Listener>| listener.has(0..listener.channels.len(), round);
        until(limit, GLANCE, || self.listeners.iter().all(has)).await;
        for listener in &self.listeners {
            (0..listener.channels.len()).for_each(|channel| listener.close(channel, round));
        }
        Ok(self.count().since(before))
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
