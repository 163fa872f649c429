//! Publications from the node to the connections of a shard.
//!
//! Owns the check that the sequence of a channel has no gap, and the fan-out: per subscriber, it encodes nothing and
//! allocates nothing except the place in the outbox.

use std::sync::Arc;

use earshot_protocol::{Disconnect, StreamPosition};

use super::channels::{ChannelId, ConnectionId};
use super::connection::DeferredEvent;
use super::state::ShardState;
use super::subscription::covers;
use super::writer::PushStatus;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::publication::Publication;

/// The number of subscribers from which a shard encodes a publication for itself. Each frame in an outbox is a
/// reference, and a reference count that several shards change moves between their cores with each delivery.
const PRIVATE_ENCODE_MIN_SUBSCRIBERS: usize = if cfg!(test) { 2 } else { 64 };

/// Broadcasts publications to subscribers.
#[derive(Debug)]
pub(super) struct Broadcast {
    /// Other shards receive the same publications.
    multi_shard: bool,
    /// Connections that the current broadcast found too slow.
    slow_connections: Vec<ConnectionId>,
}

impl Broadcast {
    pub(super) fn new(multi_shard: bool) -> Self {
        Self { multi_shard, slow_connections: Vec::new() }
    }

    /// Handles publications of the node, in order.
    pub(super) fn on_publications(&mut self, state: &mut ShardState, publications: &[Arc<Publication>]) {
        for run in publications.chunk_by(|one, next| one.channel == next.channel) {
            self.on_run(state, run);
        }
    }

    /// Handles publications of one channel. Those with consecutive offsets are broadcast together.
    fn on_run(&mut self, state: &mut ShardState, mut run: &[Arc<Publication>]) {
        while let Some(first) = run.first() {
            // Looked up for each run: a gap may remove the last subscriber, and with it the channel.
            let Some(id) = state.channels().find(&first.channel) else { return };
            let channel = state.subscriptions().channel_mut(id);
            if !channel.attached || channel.already_has(first.position) {
                run = &run[1..];
                continue;
            }
            let count = run.iter().take_while(|publication| channel.advance(publication.position)).count();
            if count == 0 {
                let offset = first.position.offset.saturating_sub(1);
                state.on_gap(id, GapCause::QueueFull, StreamPosition { offset, ..first.position });
                continue;
            }
            self.broadcast(state, id, &run[..count]);
            run = &run[count..];
        }
    }

    /// Delivers connection by connection, since the state of thousands of connections does not stay in the CPU caches
    /// from one publication to the next.
    fn broadcast(&mut self, state: &mut ShardState, id: ChannelId, run: &[Arc<Publication>]) {
        let channel = state.subscriptions().channel_mut(id);
        let (recovered_up_to, policy) =
            (channel.recovered_up_to, channel.rules.namespace.backpressure.clone());
        let subscribers = std::mem::take(&mut channel.subscribers);
        let own: Vec<Arc<Publication>>;
        let run = if subscribers.len() >= PRIVATE_ENCODE_MIN_SUBSCRIBERS && self.multi_shard {
            own = run.iter().map(|publication| Arc::new(publication.clone_unshared())).collect();
            &own
        } else {
            run
        };
        for connection_id in &subscribers {
            for publication in run {
                if covers(recovered_up_to, publication.position)
                    && state
                        .connections()
                        .get(*connection_id)
                        .is_some_and(|connection| connection.already_has(id, publication.position))
                {
                    continue;
                }
                self.push_publication(state, *connection_id, publication, policy.as_ref());
            }
        }
        state.counters().deliveries.add((subscribers.len() * run.len()) as u64);
        state.subscriptions().channel_mut(id).subscribers = subscribers;
        self.handle_slow(state);
    }

    #[inline]
    fn push_publication(
        &mut self,
        state: &mut ShardState,
        connection_id: ConnectionId,
        publication: &Arc<Publication>,
        policy: Option<&Arc<BackpressurePolicy>>,
    ) {
        if state.delivery().push_publication(connection_id, publication, policy) == PushStatus::TooSlow {
            self.slow_connections.push(connection_id);
        }
    }

    /// Makes room for the connections that were found too slow, or disconnects them.
    fn handle_slow(&mut self, state: &mut ShardState) {
        let mut slow = std::mem::take(&mut self.slow_connections);
        // Several publications of a batch may have found the same connection too slow.
        slow.dedup();
        for connection_id in slow {
            if !state.delivery().relieve(connection_id) {
                state.disconnect(connection_id, Disconnect::Slow);
            }
        }
    }

    /// Sends the events that waited for the first reply or event of a connection.
    pub(super) fn send_deferred(&mut self, state: &mut ShardState, connection_id: ConnectionId) {
        let deferred = state.connection_mut(connection_id).and_then(|connection| connection.deferred.take());
        for item in deferred.map(|deferred| deferred.items).unwrap_or_default() {
            // A gap may have ended the subscription or the connection.
            let Some(id) = state.channels().find(item.channel()).filter(|id| {
                let connection = state.connections().get(connection_id);
                connection
                    .is_some_and(|connection| connection.is_open() && connection.subscription(*id).is_some())
            }) else {
                continue;
            };
            match item {
                DeferredEvent::Publication(publication) => {
                    let policy = state.channels().get(id).rules.namespace.backpressure.clone();
                    self.push_publication(state, connection_id, &publication, policy.as_ref());
                }
                DeferredEvent::Gap(gap) => state.report_gap(connection_id, id, gap),
            }
        }
        self.handle_slow(state);
    }
}
