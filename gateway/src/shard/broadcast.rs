//! Publications, gaps and confirmations on their way from the node to the connections of a shard.
//!
//! Owns the check that a channel's sequence has no hole. The fan-out itself is here: it encodes nothing that was
//! encoded before, allocates nothing per subscriber but the place in the outbox, and leaves writing to others.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Disconnect, Encoding, Push, PushBody, Reply, ReplyBody, StreamPosition, UnsubscribeCode,
};

use super::channels::{ChannelId, ConnectionId};
use super::connection::{HeldItem, Kind, Status};
use super::reactor::{Shard, key};
use super::{session, sse, stream, websocket};
use crate::broker::GapCause;
use crate::node::backpressure_policy::BackpressurePolicy;
use crate::node::messages::{ChannelGap, NodeEvent, SubscribeError};
use crate::node::publication::{FrameEncoding, Publication};

/// Subscribers from which on a shard encodes a publication for itself. Each frame in an outbox counts as a reference,
/// and a count that all shards write at the same time travels between their cores at every delivery.
const OWN_FROM: usize = if cfg!(test) { 2 } else { 64 };

impl Shard {
    /// What the node tells, in its order.
    pub(super) fn deliver(&mut self, delivery: NodeEvent) {
        match delivery {
            NodeEvent::Publications(publications) => {
                for run in publications.chunk_by(|one, next| one.channel == next.channel) {
                    self.publications(run);
                }
            }
            NodeEvent::Attached(name, position) => self.attached(&name, position),
            NodeEvent::Recovered(request_id, name, recovery) => self.recovered(request_id, &name, recovery),
            NodeEvent::RecoverFailed(request_id, name, error) => {
                self.recover_failed(request_id, &name, &error)
            }
            NodeEvent::AttachFailed(name, error) => self.attach_failed(&name, &error),
            NodeEvent::Gaps(gaps) => self.gaps(gaps),
            // Whoever asked may have gone.
            NodeEvent::CountSubscribers(answer) => drop(answer.send(self.channels.census())),
        }
    }

    /// Publications of one channel: those that follow on each other go to all subscribers together.
    fn publications(&mut self, mut run: &[Arc<Publication>]) {
        while let Some(first) = run.first() {
            // Found anew each time: what is told may end the last subscription, and with it the channel.
            let Some(id) = self.channels.find(&first.channel) else { return };
            let channel = self.channels.at_mut(id);
            if !channel.live || channel.had(first.position) {
                run = &run[1..];
                continue;
            }
            let count = run.iter().take_while(|publication| channel.advance(publication.position)).count();
            if count == 0 {
                let offset = first.position.offset.saturating_sub(1);
                self.gap(id, GapCause::QueueFull, StreamPosition { offset, ..first.position });
                continue;
            }
            self.broadcast(id, &run[..count]);
            run = &run[count..];
        }
    }

    /// Connection by connection, since what is kept of thousands does not stay in the caches from one publication to the
    /// next.
    fn broadcast(&mut self, id: ChannelId, run: &[Arc<Publication>]) {
        let channel = self.channels.at_mut(id);
        let (covered, slow) = (channel.covered, channel.slow.clone());
        let subscribers = std::mem::take(&mut channel.subscribers);
        let own: Vec<Arc<Publication>>;
        let run = if subscribers.len() >= OWN_FROM && self.has_siblings {
            own = run.iter().map(|publication| Arc::new(publication.clone_unshared())).collect();
            &own
        } else {
            run
        };
        for at in &subscribers {
            for publication in run {
                if reaches(covered, publication.position) && self.has(*at, id, publication.position) {
                    continue;
                }
                self.push_publication(*at, publication, slow.as_ref());
            }
        }
        self.counters.deliveries.add((subscribers.len() * run.len()) as u64);
        self.channels.at_mut(id).subscribers = subscribers;
        self.relieve_slow();
    }

    /// Whether a recovery gave this subscriber everything up to a position.
    fn has(&self, at: ConnectionId, id: ChannelId, position: StreamPosition) -> bool {
        let subscription = self.connections.get(at as usize).and_then(|c| c.subscription(id));
        subscription.is_some_and(|subscription| reaches(subscription.covered, position))
    }

    #[inline]
    pub(super) fn push_publication(
        &mut self,
        at: ConnectionId,
        publication: &Arc<Publication>,
        rule: Option<&Arc<BackpressurePolicy>>,
    ) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if let Some(held) = &mut connection.held {
            held.push(HeldItem::Publication(Arc::clone(publication)));
            if held.bytes > self.limits.client_queue_bytes {
                self.slow.push(at);
            }
            return;
        }
        let limit = self.limits.client_queue_bytes + connection.allowance;
        if connection.backlog.is_some() || (rule.is_some() && self.is_behind(at)) {
            return self.put_off(at, publication, rule);
        }
        let Some(connection) = self.connections.get(at as usize) else { return };
        if connection.outbox.bytes() > 0 && connection.outbox.weight() + publication.cost() > limit {
            self.write_early(at);
        }
        let Some(connection) = self.connections.get(at as usize) else { return };
        let before = connection.outbox.bytes();
        self.write_publication(at, publication);
        let Some(connection) = self.connections.get(at as usize) else { return };
        // One publication always finds a place in an empty outbox, however large it is.
        if before > 0 && (connection.outbox.weight() > limit || self.is_stale(at)) {
            self.slow.push(at);
        }
    }

    /// Puts a publication into the outbox, whatever waits there.
    #[inline]
    pub(super) fn write_publication(&mut self, at: ConnectionId, publication: &Arc<Publication>) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let before = connection.outbox.bytes();
        match connection.form {
            form @ (FrameEncoding::WebSocketJson | FrameEncoding::WebSocketProtobuf) => {
                connection.outbox.push(encoded(form, publication).clone());
            }
            FrameEncoding::SseSingle | FrameEncoding::SseNamed => {
                stream::push_publication(connection, &self.channels, publication);
            }
        }
        self.counters.client_queue_bytes.add((connection.outbox.bytes() - before) as u64);
        self.mark(at);
    }

    fn attached(&mut self, name: &ChannelName, position: StreamPosition) {
        let Some(id) = self.channels.find(name) else { return };
        let channel = self.channels.at_mut(id);
        channel.live = true;
        channel.position = position;
        channel.covered = None;
        for at in channel.waiters.clone() {
            let Some(connection) = self.connections.get_mut(at as usize) else { continue };
            if let Some(subscription) = connection.subscription_mut(id)
                && subscription.status == Status::Waiting
            {
                subscription.status = Status::Ready;
            }
            match connection.kind {
                Kind::WebSocket(_) => self.advance(at),
                Kind::Sse(_) => self.stream_ready(at),
            }
        }
        self.give_up_if_known(name);
    }

    fn give_up_if_known(&mut self, name: &ChannelName) {
        if let Some(id) = self.channels.find(name) {
            self.give_up(id);
        }
    }

    fn attach_failed(&mut self, name: &ChannelName, error: &SubscribeError) {
        let Some(id) = self.channels.find(name) else { return };
        let channel = self.channels.remove(id);
        for at in channel.waiters {
            self.counters.subscriptions.sub(1);
            self.refused(at, id, error);
        }
    }

    /// Holes in the sequences of channels.
    pub(super) fn gaps(&mut self, gaps: Vec<ChannelGap>) {
        for ChannelGap { channel, cause, position } in gaps {
            let Some(id) = self.channels.find(&channel) else { continue };
            let channel = self.channels.at(id);
            if channel.live && !channel.had(position) {
                self.gap(id, cause, position);
            }
        }
    }

    fn gap(&mut self, id: ChannelId, cause: GapCause, position: StreamPosition) {
        let channel = self.channels.at_mut(id);
        channel.position = position;
        let name = channel.name.clone();
        for at in channel.subscribers.clone() {
            // What the shard missed, a recovery may have given to this one.
            if self.has(at, id, position) {
                continue;
            }
            self.tell_gap(at, id, ChannelGap { channel: name.clone(), cause, position });
        }
    }

    /// A subscriber is told of a hole. A stream goes on; a WebSocket client is made to subscribe again, from where it
    /// stood, so that it recovers what can be recovered and knows what cannot.
    pub(super) fn tell_gap(&mut self, at: ConnectionId, id: ChannelId, gap: ChannelGap) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.covered = None;
        }
        if let Some(held) = &mut connection.held {
            held.push(HeldItem::Gap(gap));
            return;
        }
        self.counters.gaps.add(1);
        match &connection.kind {
            Kind::Sse(_) if connection.backlog.is_some() => self.put_off_gap(at, gap),
            Kind::Sse(_) => self.stream_gap(at, &gap.channel, gap.cause.as_str(), gap.position),
            Kind::WebSocket(_) => {
                connection.gapped.push(gap.channel.clone());
                self.notices.push_back((key(at, connection.generation), gap.channel));
                self.leave(at, id);
                self.send_notices();
            }
        }
    }

    /// Sends as many notices as may be sent in one tick, so that not all come back at once.
    pub(super) fn send_notices(&mut self) {
        while self.notices_left > 0
            && let Some((key, name)) = self.notices.pop_front()
        {
            let Some(at) = self.find(key) else { continue };
            let Some(connection) = self.connections.get_mut(at as usize) else { continue };
            let gapped = connection.gapped.len();
            connection.gapped.retain(|gapped| *gapped != name);
            // It has unsubscribed, or subscribed again, without being told.
            if connection.gapped.len() == gapped || !connection.is_open() {
                continue;
            }
            self.notices_left -= 1;
            if self.session(at).is_some_and(|session| session.server_side.contains(&name)) {
                self.disconnect(at, Disconnect::InsufficientState);
                continue;
            }
            let code = UnsubscribeCode::InsufficientState;
            let body = PushBody::Unsubscribe(code.into());
            let Some(session) = self.session(at) else { continue };
            let push = Push { channel: name.to_string(), body };
            let frame = session::encode(session, &Reply { id: 0, body: ReplyBody::Push(push) });
            self.push(at, frame);
        }
    }
}

/// Whether a position lies in what was covered.
fn reaches(covered: Option<StreamPosition>, position: StreamPosition) -> bool {
    covered.is_some_and(|covered| covered.epoch == position.epoch && position.offset <= covered.offset)
}

/// The shared frame or event of a publication.
pub(super) fn encoded(form: FrameEncoding, publication: &Publication) -> &Bytes {
    publication.encoded(form, |this| encode(form, this))
}

/// The frame or event of a publication.
pub(super) fn encode(form: FrameEncoding, publication: &Publication) -> Bytes {
    match form {
        FrameEncoding::WebSocketJson => websocket::text(&push(Encoding::Json, publication)),
        FrameEncoding::WebSocketProtobuf => websocket::binary(&push(Encoding::Protobuf, publication)),
        FrameEncoding::SseSingle => sse::single(publication),
        FrameEncoding::SseNamed => sse::named(publication),
    }
}

fn push(encoding: Encoding, publication: &Publication) -> Vec<u8> {
    let mut payload = Vec::with_capacity(publication.payload.len() + 96);
    encoding.encode_publication(publication.channel.as_str(), &wire(publication), &mut payload);
    payload
}

/// A publication as the protocol has it.
pub(super) fn wire(publication: &Publication) -> earshot_protocol::Publication {
    earshot_protocol::Publication {
        data: publication.payload.clone(),
        offset: if publication.without_history { 0 } else { publication.position.offset },
        tags: publication.attributes.tags().to_vec(),
        info: publication.attributes.info().cloned(),
        time: 0,
    }
}
