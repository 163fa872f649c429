//! How a link stands, written by its task and read by `/health`, `/ready` and metrics.
//!
//! Owns the present state and the log lines of its changes. Must never hold its lock for more than a copy.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::LinkStatus;
use crate::instance::Failure;

/// The state of one link.
#[derive(Debug)]
pub(super) struct LinkState {
    instance: String,
    link: &'static str,
    address: String,
    /// Whether the server is a replica.
    replica: Arc<AtomicBool>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` while the link works.
    cause: Option<String>,
    established: u64,
}

impl LinkState {
    /// A link that has not been tried yet.
    pub(super) fn new(instance: &str, link: &'static str, address: String) -> Self {
        let state = Mutex::new(State { cause: Some("connecting".to_owned()), established: 0 });
        Self { instance: instance.to_owned(), link, address, replica: Arc::default(), state }
    }

    /// The same, with the flag that says whether its server is a replica.
    pub(super) fn with_replica(self, replica: Arc<AtomicBool>) -> Self {
        Self { replica, ..self }
    }

    /// The link works from now on.
    pub(super) fn up(&self) {
        let mut state = self.lock();
        state.cause = None;
        state.established += 1;
        let established = state.established;
        drop(state);
        let Self { instance, link, address, .. } = self;
        tracing::info!(%instance, link, %address, established, "Redis link up");
    }

    /// The link does not work. Only a change is worth a warning: endless retries must not fill the log.
    pub(super) fn down(&self, failure: &Failure) {
        let cause = failure.to_string();
        let previous = self.lock().cause.replace(cause.clone());
        let Self { instance, link, address, .. } = self;
        match failure {
            Failure::Refused(_) => tracing::error!(%instance, link, %address, %cause, "Redis refuses us"),
            Failure::Unreachable(_) if previous.as_ref() != Some(&cause) => {
                tracing::warn!(%instance, link, %address, %cause, "Redis link down");
            }
            Failure::Unreachable(_) => tracing::debug!(%instance, link, %address, %cause, "Redis still down"),
        }
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
            cause: state.cause.clone(),
            replica: self.replica.load(Ordering::Relaxed),
            reconnects: state.established.saturating_sub(1),
            wanted: 0,
            confirmed: 0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
