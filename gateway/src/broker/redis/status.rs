//! The status of a link, written by its task and read by `/health`, `/ready` and metrics.
//!
//! Owns the present state and the log messages of its changes. Must never hold its lock for more than a copy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::broker::{LinkStatus, ProbeState};
use earshot_redis_link::LinkError;

/// The state of one link.
#[derive(Debug)]
pub(super) struct LinkState {
    instance: String,
    link: &'static str,
    address: String,
    /// Whether the server is a replica.
    replica: Arc<AtomicBool>,
    state: Mutex<LinkStateInner>,
    /// The number of connections so far, for waiters.
    connections: watch::Sender<u64>,
    /// The newest connection that was requested to end.
    superseded: watch::Sender<u64>,
}

/// One connection of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkConnection {
    /// Connections of the link are numbered from 1.
    pub(super) number: u64,
    pub(super) since: Instant,
}

#[derive(Debug)]
struct LinkStateInner {
    /// Why the link is down; `None` while it is up.
    error: Option<String>,
    established: u64,
    /// Since when the link is down, or, for subscriptions, since when it may have missed messages.
    down_since: Option<Instant>,
    downtime_before: Duration,
    up_since: Instant,
    /// The number of failures for each of [`FAILURE_REASONS`].
    failures: [u64; FAILURE_REASONS.len()],
    /// Everything published until this moment was received; and the round-trip time of the probe.
    proven: Option<(Instant, Duration)>,
    /// Why probes are not possible.
    unproven: Option<String>,
}

/// Why an established link failed, in the order of [`LinkStateInner::failures`].
const FAILURE_REASONS: [&str; 3] = ["unreachable", "not-receiving", "rejected"];

impl LinkState {
    /// Creates the state of a link before its first attempt.
    pub(super) fn new(instance: &str, link: &'static str, address: String) -> Self {
        let state = Mutex::new(LinkStateInner {
            error: Some("connecting".to_owned()),
            established: 0,
            down_since: Some(Instant::now()),
            downtime_before: Duration::ZERO,
            up_since: Instant::now(),
            failures: [0; FAILURE_REASONS.len()],
            proven: None,
            unproven: None,
        });
        Self {
            instance: instance.to_owned(),
            link,
            address,
            replica: Arc::default(),
            state,
            connections: watch::Sender::new(0),
            superseded: watch::Sender::new(0),
        }
    }

    /// Sets the flag that shows whether the server is a replica.
    pub(super) fn with_replica(self, replica: Arc<AtomicBool>) -> Self {
        Self { replica, ..self }
    }

    /// Marks the link as up. Returns the number of its connection.
    pub(super) fn up(&self) -> u64 {
        let mut state = self.lock();
        state.error = None;
        state.established += 1;
        if let Some(since) = state.down_since.take() {
            state.downtime_before += since.elapsed();
        }
        state.up_since = Instant::now();
        let established = state.established;
        drop(state);
        self.connections.send_replace(established);
        let Self { instance, link, address, .. } = self;
        tracing::info!(%instance, link, %address, established, "Redis link up");
        established
    }

    /// Marks the link as down. Only a change is logged as a warning: endless retries must not fill the log.
    pub(super) fn down(&self, failure: &LinkError) {
        let error = failure.to_string();
        let mut state = self.lock();
        let previous = state.error.replace(error.clone());
        if state.down_since.is_none() {
            let received_until = state.proven.map_or_else(Instant::now, |(until, _)| until);
            state.down_since = Some(received_until.max(state.up_since));
            let loss = match failure {
                LinkError::Unreachable(_) => "unreachable",
                LinkError::NotReceiving(_) => "not-receiving",
                LinkError::Rejected(_) => "rejected",
            };
            if let Some(place) = FAILURE_REASONS.iter().position(|label| *label == loss) {
                state.failures[place] += 1;
            }
        }
        drop(state);
        let Self { instance, link, address, .. } = self;
        match failure {
            LinkError::Rejected(_) => {
                tracing::error!(%instance, link, %address, %error, "Redis rejected the connection")
            }
            LinkError::NotReceiving(_) => {
                tracing::error!(%instance, link, %address, %error, "Redis link not receiving")
            }
            LinkError::Unreachable(_) if previous.as_ref() != Some(&error) => {
                tracing::warn!(%instance, link, %address, %error, "Redis link down");
            }
            LinkError::Unreachable(_) => {
                tracing::debug!(%instance, link, %address, %error, "Redis link still down")
            }
        }
    }

    /// Stores that everything published until a moment was received, with the round-trip time.
    pub(super) fn probe_verified(&self, until: Instant, rtt: Duration) {
        let mut state = self.lock();
        state.proven = Some((until, rtt));
        state.unproven = None;
    }

    /// Stores why probes are not possible; logs a new reason once.
    pub(super) fn probe_unavailable(&self, reason: &str) {
        let previous = self.lock().unproven.replace(reason.to_owned());
        if previous.as_deref() != Some(reason) {
            let Self { instance, link, address, .. } = self;
            tracing::warn!(
                %instance, link, %address, %reason,
                "probes disabled: the ACL must allow PUBLISH and SUBSCRIBE on channels that begin with probe_prefix"
            );
        }
    }

    /// Logs that probes were lost while the link was up.
    pub(super) fn probes_skipped(&self, count: usize) {
        let Self { instance, link, address, .. } = self;
        tracing::error!(
            %instance, link, %address, count,
            "publications were lost between Redis and this subscription: probes that Redis acknowledged did not arrive, \
             although later ones did or a later PING was answered"
        );
    }

    /// Changes whenever the link is established.
    pub(super) fn connections(&self) -> watch::Receiver<u64> {
        self.connections.subscribe()
    }

    /// The present connection, or, while the link is down, the last one.
    pub(super) fn connection(&self) -> LinkConnection {
        let state = self.lock();
        LinkConnection { number: state.established, since: state.up_since }
    }

    /// Whether a connection of the link has ended.
    pub(super) fn has_ended(&self, connection: LinkConnection) -> bool {
        let state = self.lock();
        state.error.is_some() || state.established > connection.number
    }

    /// Requests a reconnect. A request for a connection that has ended does not affect the next one.
    pub(super) fn request_reconnect(&self, connection: LinkConnection) {
        self.superseded.send_if_modified(|newest| {
            let is_newer = connection.number > *newest;
            *newest = connection.number.max(*newest);
            is_newer
        });
    }

    /// Resolves when a connection was requested to end.
    pub(super) async fn reconnect_requested(&self, number: u64) {
        // The sender lives as long as `self`.
        let _ = self.superseded.subscribe().wait_for(|superseded| *superseded >= number).await;
    }

    /// Whether the server is a replica.
    pub(super) fn is_replica(&self) -> bool {
        self.replica.load(Ordering::Relaxed)
    }

    /// Since when the link is down.
    pub(super) fn down_since(&self) -> Option<Instant> {
        self.lock().down_since
    }

    /// Whether the link is up.
    pub(super) fn is_up(&self) -> bool {
        self.lock().error.is_none()
    }

    /// Marks the link as stopped.
    pub(super) fn stopped(&self) {
        self.lock().error = Some("stopped".to_owned());
    }

    /// The status.
    pub(super) fn status(&self) -> LinkStatus {
        let state = self.lock();
        LinkStatus {
            link: self.link,
            up: state.error.is_none(),
            error: state.error.clone(),
            replica: self.is_replica(),
            reconnects: state.established.saturating_sub(1),
            failures: FAILURE_REASONS.into_iter().zip(state.failures).collect(),
            downtime: state.downtime_before
                + state.down_since.map_or(Duration::ZERO, |since| since.elapsed()),
            probe: match (&state.unproven, state.proven) {
                (Some(reason), _) => Some(ProbeState::Unavailable(reason.clone())),
                (None, Some((until, rtt))) => Some(ProbeState::Verified { age: until.elapsed(), rtt }),
                (None, None) => None,
            },
            desired: 0,
            active: 0,
            receive_queue_bytes: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, LinkStateInner> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_request_to_reconnect_does_not_outlive_its_connection() {
        let state = LinkState::new("lab", "commands", String::new());
        let first = state.up();
        let stale = state.connection();
        state.request_reconnect(stale);
        assert!(state.reconnect_requested(first).now_or_never().is_some());
        let second = state.up();
        // The same request arrives again.
        state.request_reconnect(stale);
        assert!(state.has_ended(stale) && state.reconnect_requested(second).now_or_never().is_none());
        state.request_reconnect(state.connection());
        assert!(state.reconnect_requested(second).now_or_never().is_some());
    }
}
