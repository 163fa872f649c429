//! Publications, gaps and confirmations from the node to the connections of a shard.
//!
//! Owns the check that the sequence of a channel has no gap, and the fan-out: per subscriber, it encodes nothing and
//! allocates nothing except the place in the outbox.

use std::sync::Arc;

use earshot_protocol::{
    ChannelName, Disconnect, Push, PushBody, Reply, ReplyBody, StreamPosition, UnsubscribeCode,
};

use super::channels::{ChannelId, ConnectionId};
use super::connection::DeferredEvent;
use super::event_loop::{Shard, key};
use super::subscription::Status;
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::{ChannelGap, NodeEvent, SubscribeError};
use crate::node::publication::Publication;

/// The number of subscribers from which a shard encodes a publication for itself. Each frame in an outbox is a
/// reference, and a reference count that several shards change moves between their cores with each delivery.
const PRIVATE_ENCODE_MIN_SUBSCRIBERS: usize = if cfg!(test) { 2 } else { 64 };

impl Shard {
    /// Handles an event of the node. Events must be handled in order.
    pub(super) fn on_delivery(&mut self, delivery: NodeEvent) {
        match delivery {
            NodeEvent::Publications(publications) => {
                for run in publications.chunk_by(|one, next| one.channel == next.channel) {
                    self.on_publications(run);
                }
            }
            NodeEvent::Attached(name, position) => self.on_attached(&name, position),
            NodeEvent::Recovered(request_id, name, recovery) => {
                self.on_recovered(request_id, &name, recovery)
            }
            NodeEvent::RecoverFailed(request_id, name, error) => {
                self.on_recovery_failed(request_id, &name, &error)
            }
            NodeEvent::AttachFailed(name, error) => self.on_attach_failed(&name, &error),
            NodeEvent::Gaps(gaps) => self.on_gaps(gaps),
            // The request may have been cancelled.
            NodeEvent::CountSubscribers(answer) => drop(answer.send(self.channels.subscriber_counts())),
        }
    }

    /// Publications of one channel. Those with consecutive offsets are broadcast together.
    fn on_publications(&mut self, mut run: &[Arc<Publication>]) {
        while let Some(first) = run.first() {
            // Looked up for each run: a gap may remove the last subscriber, and with it the channel.
            let Some(id) = self.channels.find(&first.channel) else { return };
            let channel = self.channels.get_mut(id);
            if !channel.attached || channel.already_has(first.position) {
                run = &run[1..];
                continue;
            }
            let count = run.iter().take_while(|publication| channel.advance(publication.position)).count();
            if count == 0 {
                let offset = first.position.offset.saturating_sub(1);
                self.on_gap(id, GapCause::QueueFull, StreamPosition { offset, ..first.position });
                continue;
            }
            self.broadcast(id, &run[..count]);
            run = &run[count..];
        }
    }

    /// Delivers connection by connection, since the state of thousands of connections does not stay in the CPU caches
    /// from one publication to the next.
    fn broadcast(&mut self, id: ChannelId, run: &[Arc<Publication>]) {
        let channel = self.channels.get_mut(id);
        let (recovered_up_to, slow) = (channel.recovered_up_to, channel.rules.namespace.backpressure.clone());
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
                    && self.already_has(*connection_id, id, publication.position)
                {
                    continue;
                }
                self.push_publication(*connection_id, publication, slow.as_ref());
            }
        }
        self.counters.deliveries.add((subscribers.len() * run.len()) as u64);
        self.channels.get_mut(id).subscribers = subscribers;
        self.handle_slow();
    }

    /// Whether this subscriber received everything up to a position by a recovery.
    fn already_has(&self, connection_id: ConnectionId, id: ChannelId, position: StreamPosition) -> bool {
        let subscription = self.connections.get(connection_id as usize).and_then(|c| c.subscription(id));
        subscription.is_some_and(|subscription| covers(subscription.recovered_up_to, position))
    }

    #[inline]
    pub(super) fn push_publication(
        &mut self,
        connection_id: ConnectionId,
        publication: &Arc<Publication>,
        rule: Option<&Arc<BackpressurePolicy>>,
    ) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if let Some(deferred) = &mut connection.deferred {
            deferred.push(DeferredEvent::Publication(Arc::clone(publication)));
            if deferred.bytes > self.limits.client_queue_bytes {
                self.slow_connections.push(connection_id);
            }
            return;
        }
        let limit = connection.send_queue.limit(self.limits.client_queue_bytes);
        if connection.send_queue.has_backlog() || (rule.is_some() && self.is_backpressured(connection_id)) {
            return self.defer_publication(connection_id, publication, rule);
        }
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        if connection.send_queue.outbox_bytes() > 0
            && connection.send_queue.outbox_queued_bytes() + publication.cost() > limit
        {
            self.flush_ahead(connection_id);
        }
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        let before = connection.send_queue.outbox_bytes();
        self.write_publication(connection_id, publication);
        let Some(connection) = self.connections.get(connection_id as usize) else { return };
        // One publication always fits into an empty outbox, whatever its size.
        if before > 0
            && (connection.send_queue.outbox_queued_bytes() > limit || self.exceeds_max_age(connection_id))
        {
            self.slow_connections.push(connection_id);
        }
    }

    /// Appends a publication to the outbox, whatever is queued.
    #[inline]
    pub(super) fn write_publication(&mut self, connection_id: ConnectionId, publication: &Arc<Publication>) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        connection.write_publication(&self.channels, publication, &self.counters);
        self.flush_queue.schedule(connection_id, connection);
    }

    fn on_attached(&mut self, name: &ChannelName, position: StreamPosition) {
        let Some(id) = self.channels.find(name) else { return };
        let channel = self.channels.get_mut(id);
        channel.attached = true;
        channel.position = position;
        channel.recovered_up_to = None;
        for connection_id in channel.waiters.clone() {
            let Some(connection) = self.connections.get_mut(connection_id as usize) else { continue };
            if let Some(subscription) = connection.subscription_mut(id)
                && subscription.status == Status::Waiting
            {
                subscription.status = Status::Ready;
            }
            self.resume_pending(connection_id);
        }
        self.release_channel_named(name);
    }

    fn release_channel_named(&mut self, name: &ChannelName) {
        if let Some(id) = self.channels.find(name) {
            self.release_channel(id);
        }
    }

    fn on_attach_failed(&mut self, name: &ChannelName, error: &SubscribeError) {
        let Some(id) = self.channels.find(name) else { return };
        let channel = self.channels.remove(id);
        for connection_id in channel.waiters {
            self.counters.subscriptions.sub(1);
            self.on_subscribe_failed(connection_id, id, error);
        }
    }

    /// Gaps in the sequences of channels.
    pub(super) fn on_gaps(&mut self, gaps: Vec<ChannelGap>) {
        for ChannelGap { channel, cause, position } in gaps {
            let Some(id) = self.channels.find(&channel) else { continue };
            let channel = self.channels.get(id);
            if channel.attached && !channel.already_has(position) {
                self.on_gap(id, cause, position);
            }
        }
    }

    fn on_gap(&mut self, id: ChannelId, cause: GapCause, position: StreamPosition) {
        let channel = self.channels.get_mut(id);
        channel.position = position;
        let name = channel.name.clone();
        for connection_id in channel.subscribers.clone() {
            // A recovery may have delivered to this subscriber what the shard missed.
            if self.already_has(connection_id, id, position) {
                continue;
            }
            self.notify_gap(connection_id, id, ChannelGap { channel: name.clone(), cause, position });
        }
    }

    /// Reports a gap to a subscriber. A stream continues. A WebSocket client is unsubscribed: it resubscribes from its
    /// last position, recovers what is available, and learns of the rest.
    pub(super) fn notify_gap(&mut self, connection_id: ConnectionId, id: ChannelId, gap: ChannelGap) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.recovered_up_to = None;
        }
        if let Some(deferred) = &mut connection.deferred {
            deferred.push(DeferredEvent::Gap(gap));
            return;
        }
        self.counters.gaps.add(1);
        if !connection.framing.is_event_stream() {
            connection.awaiting_resubscribe.push(gap.channel.clone());
            self.resubscribe_queue.push(key(connection_id, connection.generation), gap.channel);
            self.unsubscribe_from(connection_id, id);
        } else if connection.send_queue.has_backlog() {
            let now = self.wheel.now();
            connection.send_queue.defer(&self.counters, |backlog| backlog.push_gap(gap, now));
        } else {
            self.stream_gap(connection_id, &gap.channel, gap.cause.as_str(), gap.position);
        }
    }

    /// Unsubscribes clients after gaps, as many as this tick has left.
    pub(super) fn send_resubscribes(&mut self) {
        while let Some((key, name)) = self.resubscribe_queue.pop() {
            let Some(connection_id) = self.find(key) else { continue };
            let Some(connection) = self.connections.get_mut(connection_id as usize) else { continue };
            let awaiting_resubscribe = connection.awaiting_resubscribe.len();
            connection.awaiting_resubscribe.retain(|awaiting_resubscribe| *awaiting_resubscribe != name);
            // The client has unsubscribed or resubscribed meanwhile.
            if connection.awaiting_resubscribe.len() == awaiting_resubscribe || !connection.is_open() {
                continue;
            }
            self.resubscribe_queue.count();
            if self.session(connection_id).is_some_and(|session| session.is_server_side(&name)) {
                self.disconnect(connection_id, Disconnect::InsufficientState);
                continue;
            }
            let code = UnsubscribeCode::InsufficientState;
            let body = PushBody::Unsubscribe(code.into());
            let Some(connection) = self.connections.get(connection_id as usize) else { continue };
            let push = Push { channel: name.to_string(), body };
            let frame = connection.framing.reply(&Reply { id: 0, body: ReplyBody::Push(push) });
            self.enqueue(connection_id, frame);
        }
    }
}

/// Whether `recovered_up_to` includes a position.
fn covers(recovered_up_to: Option<StreamPosition>, position: StreamPosition) -> bool {
    recovered_up_to.is_some_and(|recovered_up_to| {
        recovered_up_to.epoch == position.epoch && position.offset <= recovered_up_to.offset
    })
}
