//! Missed publications, and how live publications follow them.
//!
//! Owns the order: reply or `subscribed` event, then missed publications, then what arrived meanwhile, then live;
//! nothing twice and nothing lost. The node reads the history at a position of the channel's sequence that it names.
//! Publications up to that position which the shard has not delivered yet are skipped for this subscriber.

use earshot_protocol::{ChannelName, StreamPosition, SubscribeResult};

use super::ShardLimits;
use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, ConnectionKind, DeferredEvent};
use super::event_loop::{Shard, key};
use super::pending_subscription::PendingSubscription;
use super::subscription::Status;
use crate::node::history::encode_epoch;
use crate::node::messages::{NodeRequest, PageLimit, Recovery, RecoveryRequest, RequestId, SubscribeError};

impl Shard {
    /// Whether everything that the next reply or event contains is available; requests what is not.
    pub(super) fn is_ready_to_reply(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        let key = key(connection_id, connection.generation);
        let channels: Vec<_> = connection
            .pending_subscriptions()
            .iter()
            .map(|pending_subscription| pending_subscription.channel)
            .collect();
        let waits = channels
            .iter()
            .any(|channel| connection.subscription(*channel).is_some_and(|s| s.status == Status::Waiting));
        if waits {
            return false;
        }
        // Recovered publications do not count as slowness, so the client must read them before it gets more.
        let room = recovery_room(connection, &self.limits);
        if room.is_none()
            && !connection.framing.is_event_stream()
            && connection.pending_subscriptions().iter().any(|pending_subscription| {
                pending_subscription.lacks_recovery() && pending_subscription.request.is_none()
            })
        {
            connection.replies_paused = true;
            return false;
        }
        // The recovery is kept for the client, as long as its queue stays within the limit.
        let publications = self.limits.recovery_publications * channels.len().max(1);
        let page = PageLimit { publications, bytes: room.unwrap_or(0) }.shared_by(channels.len());
        let mut complete = true;
        let mut full = false;
        for pending_subscription in connection.pending_subscriptions() {
            if !pending_subscription.lacks_recovery() {
                continue;
            }
            complete = false;
            if pending_subscription.request.is_some() {
                continue;
            }
            self.last_request = self.last_request.wrapping_add(1);
            let channel = self.channels.get(pending_subscription.channel).resolved();
            let (since, last) = (pending_subscription.since.clone(), pending_subscription.last);
            let request = RecoveryRequest { since, replay_last: last, page, is_continuation: false };
            let request_id = RequestId { connection: key, reply: self.last_request };
            let sent =
                self.node_requests.try_send(NodeRequest::Recover { channel, request, request_id }).is_ok();
            pending_subscription.request = sent.then_some(self.last_request);
            full |= !sent;
        }
        if full {
            self.recovery_retries.push(key);
        }
        complete
    }

    /// Retries recovery requests for which the lane had no room.
    pub(super) fn retry_recoveries(&mut self) {
        for key in std::mem::take(&mut self.recovery_retries) {
            if let Some(connection_id) = self.find(key) {
                self.resume_pending(connection_id);
            }
        }
    }

    /// The node sent missed publications. If they are complete, the connection receives live publications from here
    /// on.
    pub(super) fn on_recovered(&mut self, request_id: RequestId, name: &ChannelName, mut recovery: Recovery) {
        self.page_queue.on_reply(request_id.reply);
        let Some(connection_id) = self.find(request_id.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection.paged_recovery.as_ref().is_some_and(|paged| paged.is_awaiting(request_id.reply)) {
            return self.on_page(connection_id, &recovery);
        }
        let page = connection.framing.page_limit(self.limits.recovery_page);
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let pending_subscriptions = connection.pending_subscriptions();
        // The first pages of all channels are written together.
        let page = page.shared_by(pending_subscriptions.len());
        let Some(pending_subscription) = pending_subscriptions
            .iter_mut()
            .find(|pending_subscription| pending_subscription.request == Some(request_id.reply))
        else {
            return;
        };
        let (top, first) =
            (recovery.top, page.fitting(recovery.publications.iter().map(|p| p.cost()), false));
        pending_subscription.rest = recovery.publications.split_off(first).into();
        let is_complete = recovery.is_complete && pending_subscription.rest.is_empty();
        pending_subscription.recovery = Some(Recovery { is_complete, ..recovery });
        if is_complete {
            self.set_recovered_up_to(connection_id, id, top);
        }
        self.resume_pending(connection_id);
    }

    /// A connection received everything up to a position: live publications follow.
    pub(super) fn set_recovered_up_to(
        &mut self,
        connection_id: ConnectionId,
        id: ChannelId,
        top: StreamPosition,
    ) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let channel = self.channels.get_mut(id);
        // Events of the node are in order: a different epoch is one that the shard has not reached yet, and no
        // publication of an earlier epoch follows.
        let behind = channel.position.epoch != top.epoch || channel.position.offset < top.offset;
        let recovered_up_to = behind.then_some(top);
        if behind {
            channel.recovered_up_to = recovered_up_to;
        }
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.recovered_up_to = recovered_up_to;
        }
        self.activate(connection_id, id);
    }

    /// The node cannot read missed publications now: the client has to retry.
    pub(super) fn on_recovery_failed(
        &mut self,
        request_id: RequestId,
        name: &ChannelName,
        error: &SubscribeError,
    ) {
        self.page_queue.on_reply(request_id.reply);
        let Some(connection_id) = self.find(request_id.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection
            .pending_subscriptions()
            .iter()
            .any(|pending_subscription| pending_subscription.request == Some(request_id.reply))
        {
            self.unsubscribe_from(connection_id, id);
            self.on_subscribe_failed(connection_id, id, error);
        }
    }

    /// Bytes were written: replies that waited for that may continue.
    pub(super) fn on_bytes_written(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if connection.replies_paused && recovery_room(connection, &self.limits).is_some() {
            connection.replies_paused = false;
            self.flush_ready_replies(connection_id);
        }
        self.queue_page(connection_id);
    }

    pub(super) fn resume_pending(&mut self, connection_id: ConnectionId) {
        match self.connections.get(connection_id as usize).map(|connection| &connection.kind) {
            Some(ConnectionKind::WebSocket(_)) => self.flush_ready_replies(connection_id),
            Some(ConnectionKind::Sse(_)) => self.start_stream_if_ready(connection_id),
            None => {}
        }
    }

    /// Starts live delivery if the recovery is complete; otherwise the other pages follow.
    pub(super) fn start_delivery(
        &mut self,
        connection_id: ConnectionId,
        pending_subscription: &mut PendingSubscription,
    ) {
        match &pending_subscription.recovery {
            Some(first) if !first.is_complete => {
                let rest = std::mem::take(&mut pending_subscription.rest);
                self.start_paging(connection_id, pending_subscription.channel, first.end(), rest);
            }
            _ => self.activate(connection_id, pending_subscription.channel),
        }
    }

    /// The result of a subscribe command.
    pub(super) fn finish_subscribe(
        &mut self,
        connection_id: ConnectionId,
        mut pending_subscription: PendingSubscription,
    ) -> SubscribeResult {
        self.start_delivery(connection_id, &mut pending_subscription);
        let remembers = self.has_history(pending_subscription.channel);
        let channel = self.channels.get(pending_subscription.channel);
        let recovery = pending_subscription.recovery.unwrap_or(Recovery::empty(channel.position, false));
        let Recovery { start, publications, recovered, .. } = recovery;
        // A position without history cannot be recovered, so the client does not get it.
        let (epoch, offset) =
            if remembers { (encode_epoch(start.epoch), start.offset) } else { (String::new(), 0) };
        SubscribeResult {
            recoverable: remembers,
            positioned: remembers,
            epoch,
            offset,
            publications: publications
                .iter()
                .map(|publication| super::framing::to_protocol(publication))
                .collect(),
            recovered: recovered && remembers,
            was_recovering: pending_subscription.since.is_some(),
            ..SubscribeResult::default()
        }
    }

    /// Whether a channel has a history.
    pub(super) fn has_history(&self, id: ChannelId) -> bool {
        self.channels.get(id).rules.has_history()
    }

    fn is_subscribed_to(&self, connection_id: ConnectionId, id: ChannelId) -> bool {
        let connection =
            self.connections.get(connection_id as usize).filter(|connection| connection.is_open());
        connection.is_some_and(|connection| connection.subscription(id).is_some())
    }

    /// Sends the events that waited for the first reply or event.
    pub(super) fn send_deferred(&mut self, connection_id: ConnectionId) {
        let deferred = self
            .connections
            .get_mut(connection_id as usize)
            .and_then(|connection| connection.deferred.take());
        for item in deferred.map(|deferred| deferred.items).unwrap_or_default() {
            // A gap may have ended the subscription or the connection.
            let Some(id) =
                self.channels.find(item.channel()).filter(|id| self.is_subscribed_to(connection_id, *id))
            else {
                continue;
            };
            match item {
                DeferredEvent::Publication(publication) => {
                    let slow = self.channels.get(id).rules.namespace.backpressure.clone();
                    self.push_publication(connection_id, &publication, slow.as_ref());
                }
                DeferredEvent::Gap(gap) => self.notify_gap(connection_id, id, gap),
            }
        }
        self.handle_slow();
    }
}

/// The bytes that a recovery may have so that at most `client_queue_bytes` wait for the client; `None` if that is less
/// than a page.
fn recovery_room(connection: &Connection, limits: &ShardLimits) -> Option<usize> {
    let kept = connection.paged_recovery.as_ref().map_or(0, |paged| paged.bytes());
    let waiting = connection.send_queue.queued_bytes() + kept;
    let room = limits.client_queue_bytes.saturating_sub(waiting);
    (waiting == 0 || room >= limits.recovery_page.bytes).then_some(room)
}
