//! Logs why clients are rejected: each time at debug, and at warn at most once per [`INTERVAL`] for each kind of denial.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use tokio::time::Instant;
use tracing::field::display;

use super::{ClientMeta, Denial};

/// The minimum time between two warnings of one kind.
const INTERVAL: Duration = Duration::from_secs(10);

/// Limits the warnings of one kind.
#[derive(Debug)]
pub struct LogRateLimit {
    logged: Option<Instant>,
    suppressed: u64,
}

static LIMITS: [Mutex<LogRateLimit>; Denial::KINDS] =
    [const { Mutex::new(LogRateLimit::new()) }; Denial::KINDS];

impl Default for LogRateLimit {
    fn default() -> Self {
        Self::new()
    }
}

impl LogRateLimit {
    /// No warning was logged yet.
    pub const fn new() -> Self {
        Self { logged: None, suppressed: 0 }
    }

    /// Counts an event. Returns the number of events since the last warning if a warning is due.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.suppressed += 1;
        if self.logged.is_some_and(|logged| now.duration_since(logged) < INTERVAL) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

/// Logs that a client was rejected. The log contains its address, peer and origin, but no token or cookie.
pub fn log_denial(denial: Denial, client: Option<&ClientMeta>, channel: Option<&ChannelName>) {
    log(denial, client, None, channel, None);
}

/// Logs that a request to the API was rejected, as [`log_denial`] does. `key` is the name of its key.
pub fn log_api_denial(
    denial: Denial,
    client: Option<&ClientMeta>,
    channel: Option<&ChannelName>,
    key: Option<&str>,
) {
    log(denial, client, None, channel, key);
}

/// Logs that a command of a client was rejected, as [`log_denial`] does. `peer` is the address of the peer, for clients
/// whose request is no longer kept.
pub fn log_command_denial(
    denial: Denial,
    client: Option<&ClientMeta>,
    peer: Option<SocketAddr>,
    channel: Option<&ChannelName>,
) {
    log(denial, client, peer, channel, None);
}

fn log(
    denial: Denial,
    client: Option<&ClientMeta>,
    peer: Option<SocketAddr>,
    channel: Option<&ChannelName>,
    key: Option<&str>,
) {
    let peer = client.map(ClientMeta::peer).or(peer).map(display);
    let address = client.map(|client| display(client.address()));
    let origin = client.and_then(ClientMeta::origin).map(tracing::field::debug);
    let channel = channel.map(display);
    let limit = LIMITS[denial.kind()].lock().unwrap_or_else(PoisonError::into_inner).count(Instant::now());
    match limit {
        Some(rejected) => {
            tracing::warn!(rejected, address, peer, origin, channel, key, "client rejected: {denial}")
        }
        None => tracing::debug!(address, peer, origin, channel, key, "client rejected: {denial}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn warns_once_per_interval_with_the_number_of_events() {
        let mut limit = LogRateLimit::new();
        assert_eq!(limit.count(Instant::now()), Some(1));
        assert_eq!(limit.count(Instant::now()), None);
        tokio::time::advance(INTERVAL - Duration::from_millis(1)).await;
        assert_eq!(limit.count(Instant::now()), None);
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(limit.count(Instant::now()), Some(3));
        assert_eq!(limit.count(Instant::now()), None);
    }
}
