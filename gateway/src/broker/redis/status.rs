//! How a link stands, written by its task and read by `/health`, `/ready` and metrics.
//!
//! Owns the present state and the log lines of its changes. Must never hold its lock for more than a copy.

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
    state: Mutex<State>,
    /// How often the link was established, for those who wait for it.
    connections: watch::Sender<u64>,
    /// The newest connection that shall end.
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
struct State {
    /// `None` while the link works.
    cause: Option<String>,
    established: u64,
    /// Since when it does not work, or, of one that listens, since when it may have missed something.
    down_since: Option<Instant>,
    down_before: Duration,
    up_since: Instant,
    /// Why it was given up, each time that it had worked.
    losses: [u64; LOSSES.len()],
    /// Until when everything published is known to have been heard, and how long the way was.
    proven: Option<(Instant, Duration)>,
    /// Why that cannot be proven by a probe.
    unproven: Option<String>,
}

/// Why a link that worked was given up, in the order of [`State::losses`].
const LOSSES: [&str; 3] = ["unreachable", "not-receiving", "rejected"];

impl LinkState {
    /// A link that has not been tried yet.
    pub(super) fn new(instance: &str, link: &'static str, address: String) -> Self {
        let state = Mutex::new(State {
            cause: Some("connecting".to_owned()),
            established: 0,
            down_since: Some(Instant::now()),
            down_before: Duration::ZERO,
            up_since: Instant::now(),
            losses: [0; LOSSES.len()],
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

    /// The same, with the flag that says whether its server is a replica.
    pub(super) fn with_replica(self, replica: Arc<AtomicBool>) -> Self {
        Self { replica, ..self }
    }

    /// The link works from now on. Returns the number of its connection.
    pub(super) fn up(&self) -> u64 {
        let mut state = self.lock();
        state.cause = None;
        state.established += 1;
        if let Some(since) = state.down_since.take() {
            state.down_before += since.elapsed();
        }
        state.up_since = Instant::now();
        let established = state.established;
        drop(state);
        self.connections.send_replace(established);
        let Self { instance, link, address, .. } = self;
        tracing::info!(%instance, link, %address, established, "Redis link up");
        established
    }

    /// The link does not work. Only a change is worth a warning: endless retries must not fill the log.
    pub(super) fn down(&self, failure: &LinkError) {
        let cause = failure.to_string();
        let mut state = self.lock();
        let previous = state.cause.replace(cause.clone());
        if state.down_since.is_none() {
            let heard_until = state.proven.map_or_else(Instant::now, |(until, _)| until);
            state.down_since = Some(heard_until.max(state.up_since));
            let loss = match failure {
                LinkError::Unreachable(_) => "unreachable",
                LinkError::NotReceiving(_) => "not-receiving",
                LinkError::Rejected(_) => "rejected",
            };
            if let Some(place) = LOSSES.iter().position(|label| *label == loss) {
                state.losses[place] += 1;
            }
        }
        drop(state);
        let Self { instance, link, address, .. } = self;
        match failure {
            LinkError::Rejected(_) => tracing::error!(%instance, link, %address, %cause, "Redis refuses us"),
            LinkError::NotReceiving(_) => {
                tracing::error!(%instance, link, %address, %cause, "Redis link deaf")
            }
            LinkError::Unreachable(_) if previous.as_ref() != Some(&cause) => {
                tracing::warn!(%instance, link, %address, %cause, "Redis link down");
            }
            LinkError::Unreachable(_) => {
                tracing::debug!(%instance, link, %address, %cause, "Redis still down")
            }
        }
    }

    /// Everything that was published until a moment has been heard; and how long the way of the proof was.
    pub(super) fn proven(&self, until: Instant, rtt: Duration) {
        let mut state = self.lock();
        state.proven = Some((until, rtt));
        state.unproven = None;
    }

    /// Hearing cannot be proven by a probe, for a reason that is worth a warning once.
    pub(super) fn unproven(&self, reason: &str) {
        let previous = self.lock().unproven.replace(reason.to_owned());
        if previous.as_deref() != Some(reason) {
            let Self { instance, link, address, .. } = self;
            tracing::warn!(
                %instance, link, %address, %reason,
                "hearing cannot be proven: the ACL of our user must allow to publish and hear the channels that begin \
                 with probe_prefix"
            );
        }
    }

    /// Probes were lost while the link worked on.
    pub(super) fn skipped(&self, count: usize) {
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
        state.cause.is_some() || state.established > connection.number
    }

    /// Requests that the link reconnects. A request for a connection that has ended does not concern the next one.
    pub(super) fn request_reconnect(&self, connection: LinkConnection) {
        self.superseded.send_if_modified(|newest| {
            let is_newer = connection.number > *newest;
            *newest = connection.number.max(*newest);
            is_newer
        });
    }

    /// Resolves when a connection shall end.
    pub(super) async fn reconnect_requested(&self, number: u64) {
        // The sender lives as long as `self`.
        let _ = self.superseded.subscribe().wait_for(|superseded| *superseded >= number).await;
    }

    /// Whether the server is a replica.
    pub(super) fn is_replica(&self) -> bool {
        self.replica.load(Ordering::Relaxed)
    }

    /// Since when the link has not worked.
    pub(super) fn down_since(&self) -> Option<Instant> {
        self.lock().down_since
    }

    /// Whether the link works.
    pub(super) fn is_up(&self) -> bool {
        self.lock().cause.is_none()
    }

    /// The gateway stops, and the link with it.
    pub(super) fn stopped(&self) {
        self.lock().cause = Some("stopped".to_owned());
    }

    /// The state for those who ask.
    pub(super) fn status(&self) -> LinkStatus {
        let state = self.lock();
        LinkStatus {
            link: self.link,
            up: state.cause.is_none(),
            error: state.cause.clone(),
            replica: self.is_replica(),
            reconnects: state.established.saturating_sub(1),
            failures: LOSSES.into_iter().zip(state.losses).collect(),
            downtime: state.down_before + state.down_since.map_or(Duration::ZERO, |since| since.elapsed()),
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

    fn lock(&self) -> MutexGuard<'_, State> {
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
        // The verdict about the first connection comes again.
        state.request_reconnect(stale);
        assert!(state.has_ended(stale) && state.reconnect_requested(second).now_or_never().is_none());
        state.request_reconnect(state.connection());
        assert!(state.reconnect_requested(second).now_or_never().is_some());
    }
}
