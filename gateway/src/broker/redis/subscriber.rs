//! The subscriber link: one connection that carries nothing but subscriptions and PING.
//!
//! Owns the connection's whole life (dial, replay, listen, be lost, dial again) and every call to the listener, which
//! makes their order plain: what the old connection heard, then the loss, then what the new one hears. Must never
//! take an open socket for a proof: see [`super::probe`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::alone::PATIENCE;
use super::handover::Handover;
use super::listening::Listening;
use super::outbox::Outbox;
use super::route::Route;
use super::settings::RedisSettings;
use super::status::LinkState;
use super::table::{Confirmation, Table};
use crate::broker::{AffectedTopics, BrokerEventHandler, LinkStatus, Topic, TopicGap};
use crate::drain::Drain;
use earshot_redis_link::{Backoff, LinkError};

/// How often a topic that is on its way to the server is looked at by those who would do without.
const ON_ITS_WAY: Duration = Duration::from_millis(20);

/// What the link shares with those who wish to hear.
#[derive(Debug)]
pub(super) struct Wishes {
    table: Mutex<Table>,
    changed: Notify,
    state: LinkState,
    /// That of the present connection.
    handover: Mutex<Weak<Handover>>,
    /// The link is of no more use.
    retired: CancellationToken,
}

impl Wishes {
    pub(super) fn new(state: LinkState) -> Self {
        let (changed, retired) = (Notify::new(), CancellationToken::new());
        Self { table: Mutex::default(), changed, state, handover: Mutex::default(), retired }
    }

    /// Wants a topic. `None`: it is confirmed already.
    pub(super) fn want(&self, topic: &Topic) -> Option<oneshot::Receiver<Confirmation>> {
        let confirmation = self.table().want(topic);
        if confirmation.is_some() {
            self.changed.notify_one();
        }
        confirmation
    }

    /// Resolves when the link has been away for so long that the topic is not waited for any more: it counts as heard,
    /// and as lost from now on, which its listeners are told when it is heard indeed.
    pub(super) async fn go_without(&self, topic: &Topic) {
        loop {
            let now = Instant::now();
            match self.state.down_since().map(|since| since + PATIENCE) {
                Some(from) if from <= now => {
                    if self.table().admit(topic, now) {
                        return;
                    }
                    // What the server is being asked is answered, or the link ends, before long.
                    tokio::time::sleep(ON_ITS_WAY).await;
                }
                Some(from) => tokio::time::sleep_until(from).await,
                None => tokio::time::sleep(PATIENCE).await,
            }
        }
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
        status.desired = counts.wanted;
        status.active = counts.confirmed;
        let handover = self.handover.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        status.receive_queue_bytes = handover.map_or(0, |handover| handover.bytes());
        if status.up && counts.away > 0 {
            status.up = false;
            status.error = Some(format!("{} topics wait for the node that owns their slot", counts.away));
        }
        if status.up && counts.refused > 0 {
            status.up = false;
            status.error = Some(format!("{} topics that were heard before are refused now", counts.refused));
        }
        status
    }

    /// Something about the table has changed.
    pub(super) fn touch(&self) {
        self.changed.notify_one();
    }

    /// Ends the link.
    pub(super) fn retire(&self) {
        self.retired.cancel();
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
    pub(super) route: Route,
    pub(super) wishes: Arc<Wishes>,
    pub(super) listener: Arc<dyn BrokerEventHandler>,
    /// Where probes are published, and whether that link works.
    pub(super) outbox: Outbox,
    pub(super) commands: Arc<LinkState>,
    /// The listener hears by other links, too: what concerns all of this one does not concern all of it.
    pub(super) is_part: bool,
}

impl Subscriber {
    /// Tells the listener what this link has lost.
    pub(super) fn tell_loss(&self, mut loss: TopicGap) {
        if self.is_part && matches!(loss.topics, AffectedTopics::All) {
            loss.topics = AffectedTopics::Some(self.wishes.table().topics());
        }
        self.listener.on_gap(loss);
    }

    /// Keeps the link until the gateway stops.
    pub(super) async fn run(self, drain: Drain) {
        tokio::select! {
            biased;
            () = drain.stopped() => {}
            () = self.wishes.retired.cancelled() => return,
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
            self.route.doubt();
            self.route.pause(backoff.next(&failure)).await;
        }
    }

    /// One connection, from the attempt to its end.
    async fn live(&self, backoff: &mut Backoff) -> LinkError {
        let line = match self.route.dial(&self.settings).await {
            Ok(line) => line,
            Err(failure) => return failure,
        };
        *self.wishes.handover.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&line.handover);
        let since = Instant::now();
        let mut listening = Listening::new(self, line);
        let failure = listening.listen().await;
        // One that is accepted only to be thrown out again must not reset the waits.
        if since.elapsed() > self.settings.instance.retry_max {
            backoff.reset();
        }
        failure
    }
}
