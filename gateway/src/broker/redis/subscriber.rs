//! The subscriber link: one connection that carries nothing but subscriptions and PING.
//!
//! Owns the connection's whole life (dial, replay, listen, be lost, dial again) and every call to the listener, which
//! makes their order plain: what the old connection heard, then the loss, then what the new one hears. Must never
//! take an open socket for hearing: that is proven by an answered PING alone.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::handover::Handover;
use super::listening::Listening;
use super::outbox::Outbox;
use super::probe::Echoes;
use super::settings::RedisSettings;
use super::status::LinkState;
use super::table::{Confirmation, Table};
use crate::broker::{LinkStatus, Listener, Topic};
use crate::drain::Drain;
use crate::instance::{Backoff, Dialer, Failure};

/// What the link shares with those who wish to hear.
#[derive(Debug)]
pub(super) struct Wishes {
    table: Mutex<Table>,
    changed: Notify,
    state: LinkState,
    /// That of the present connection.
    handover: Mutex<Weak<Handover>>,
}

impl Wishes {
    pub(super) fn new(state: LinkState) -> Self {
        Self { table: Mutex::default(), changed: Notify::new(), state, handover: Mutex::default() }
    }

    /// Wants a topic. `None`: it is confirmed already.
    pub(super) fn want(&self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        let confirmation = self.table().want(topic);
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        confirmation
    }

    /// No longer wants a topic.
    pub(super) fn forget(&self, topic: &Topic) {
        self.table().forget(topic);
        self.changed.notify_one();
    }

    /// How the link stands.
    pub(super) fn status(&self) -> LinkStatus {
        let counts = self.table().counts();
        let mut status = self.state.status();
        status.wanted = counts.wanted;
        status.confirmed = counts.confirmed;
        let handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        status.handover_bytes = handover.map_or(0, |handover| handover.bytes());
        if status.up && counts.refused > 0 {
            status.up = false;
            status.cause = Some(format!("{} topics that were heard before are refused now", counts.refused));
        }
        status
    }

    /// Resolves when a wish was made or taken back since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The table, for less than an await.
    pub(super) fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link's state.
    pub(super) fn state(&self) -> &LinkState {
        &self.state
    }
}

/// The task of the link.
pub(super) struct Subscriber {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) dialer: Dialer,
    pub(super) wishes: Arc<Wishes>,
    pub(super) listener: Arc<dyn Listener>,
    /// Where probes are published, and whether that link works.
    pub(super) outbox: Outbox,
    pub(super) commands: Arc<LinkState>,
}

impl Subscriber {
    /// Keeps the link until the gateway stops.
    pub(super) async fn run(self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.keep() => {}
        }
        self.wishes.state.stopped();
        self.wishes.table().clear();
    }

    async fn keep(&self) {
        let mut backoff = Backoff::new(&self.settings.instance);
        loop {
            let failure = Box::pin(self.live(&mut backoff)).await;
            self.wishes.state.down(&failure);
            self.dialer.pause(backoff.next(&failure)).await;
        }
    }

    /// One connection, from the attempt to its end.
    async fn live(&self, backoff: &mut Backoff) -> Failure {
        let echoes = Echoes::new(&self.settings.probe_prefix);
        let handover = Arc::new(Handover::new(&self.settings, Some(Arc::clone(&echoes))));
        *self.wishes.handover.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&handover);
        let (connection, watch) = match self.dialer.dial_watched(handover.clone()).await {
            Ok(dialled) => dialled,
            Err(failure) => return failure,
        };
        let since = Instant::now();
        let mut listening = Listening::new(self, connection, watch, handover, echoes);
        let failure = listening.listen().await;
        // One that is accepted only to be thrown out again must not reset the waits.
        if since.elapsed() > self.settings.instance.retry_max {
            backoff.reset();
        }
        failure
    }
}
