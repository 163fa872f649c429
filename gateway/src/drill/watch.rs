//! What the gateway says of itself, asked all the time: `/ready` and `/health`.
//!
//! Owns what was seen since the last fault, and when it was known. Must never judge it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::http::{Client, Target};

/// Between two looks.
const PACE: Duration = Duration::from_millis(5);
/// It answers while every shard is busy, so this is generous.
const ANSWER: Duration = Duration::from_secs(5);

/// One look.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// Whether both pages answered.
    pub(super) answers: bool,
    /// `/ready` is 200.
    pub(super) ready: bool,
    pub(super) status: String,
    pub(super) cache: String,
    /// Links in `/health`.
    pub(super) links: usize,
    reconnects: u64,
}

impl Sight {
    /// Whether everything is as it should be.
    pub(super) fn is_well(&self) -> bool {
        self.answers && self.ready && self.status == "ok" && self.cache == "redis"
    }

    /// In words.
    pub(super) fn said(&self) -> String {
        match self {
            Self { answers: false, .. } => "the gateway does not answer".to_owned(),
            Self { ready, status, cache, .. } => {
                format!("/ready {}, status {status}, cache {cache}", if *ready { 200 } else { 503 })
            }
        }
    }
}

/// What was seen since the last fault.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    /// When the gateway first said that something is wrong, or had established a link anew.
    pub(super) known: Option<Instant>,
    /// `/ready` was 503.
    pub(super) unready: bool,
    /// `/health` said `degraded` and `memory`.
    pub(super) degraded: bool,
    /// Why links did not work.
    pub(super) causes: BTreeSet<String>,
    /// Looks that were not answered.
    pub(super) unanswered: u64,
}

#[derive(Debug, Default)]
struct State {
    seen: Seen,
    last: Sight,
    /// Of before the fault.
    reconnects: u64,
}

/// Looks until the drain stops.
#[derive(Clone, Debug)]
pub(super) struct Watch(Arc<Mutex<State>>);

impl Watch {
    pub(super) fn start(target: &Target) -> Self {
        let watch = Self(Arc::default());
        let (looking, drain) =
            (watch.clone().look(Client::new(target.clone(), ANSWER)), target.drain.clone());
        target.drain.spawn(async move {
            tokio::select! {
                () = looking => {}
                () = drain.stopped() => {}
            }
        });
        watch
    }

    /// Forgets what was seen: a fault comes.
    pub(super) fn begin(&self) {
        let mut state = self.state();
        (state.seen, state.reconnects) = (Seen::default(), state.last.reconnects);
    }

    pub(super) fn seen(&self) -> Seen {
        self.state().seen.clone()
    }

    pub(super) fn last(&self) -> Sight {
        self.state().last.clone()
    }

    async fn look(self, mut client: Client) {
        loop {
            let ready = client.fetch("/ready").await;
            let health = client.fetch("/health").await;
            self.note(ready.ok().map(|(status, _)| status), health.ok());
            sleep(PACE).await;
        }
    }

    fn note(&self, ready: Option<u16>, health: Option<(u16, bytes::Bytes)>) {
        let (Some(ready), Some((200, health))) = (ready, health) else { return self.note_silence() };
        let health: Value = serde_json::from_slice(&health).unwrap_or_default();
        let empty = Vec::new();
        let links = health["links"].as_array().unwrap_or(&empty);
        let text = |name: &str| health[name].as_str().unwrap_or_default().to_owned();
        let sight = Sight {
            answers: true,
            ready: ready == 200,
            status: text("status"),
            cache: text("cache"),
            links: links.len(),
            reconnects: links.iter().filter_map(|link| link["reconnects"].as_u64()).sum(),
        };
        let mut state = self.state();
        let came_again = sight.reconnects > state.reconnects;
        let State { seen, .. } = &mut *state;
        seen.unready |= !sight.ready;
        seen.degraded |= sight.status == "degraded" && sight.cache == "memory";
        seen.causes.extend(links.iter().filter_map(|link| link["cause"].as_str()).map(ToOwned::to_owned));
        if seen.known.is_none() && (!sight.ready || came_again) {
            seen.known = Some(Instant::now());
        }
        state.last = sight;
    }

    fn note_silence(&self) {
        let mut state = self.state();
        state.seen.unanswered += 1;
        state.seen.known.get_or_insert_with(Instant::now);
        state.last = Sight::default();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
