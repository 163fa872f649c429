//! Publications, gaps and confirmations on their way from the node to the connections of a shard.
//!
//! Owns the check that a channel's sequence has no hole. The fan-out itself is here: it encodes nothing that was
//! encoded before, allocates nothing per subscriber but the place in the outbox, and writes nothing.

use std::sync::Arc;

use earshot_protocol::{ChannelName, Disconnect, Encoding, StreamPosition};

use super::channels::{ChannelId, ConnectionId};
use super::connection::{Kind, Status};
use super::reactor::Shard;
use super::{stream, websocket};
use crate::broker::GapCause;
use crate::node::SubscribeError;
use crate::node::port::{Delivery, Gap};
use crate::node::publication::{Form, Publication};

impl Shard {
    /// What the node tells, in its order.
    pub(super) fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::Publications(publications) => {
                for publication in &publications {
                    self.publication(publication);
                }
            }
            Delivery::Attached(name, position) => self.attached(&name, position),
            Delivery::AttachFailed(name, error) => self.attach_failed(&name, &error),
            Delivery::Gaps(gaps) => self.gaps(gaps),
            // Whoever asked may have gone.
            Delivery::Census(answer) => drop(answer.send(self.channels.census())),
        }
    }

    fn publication(&mut self, publication: &Arc<Publication>) {
        let Some(id) = self.channels.find(&publication.channel) else { return };
        let channel = self.channels.at_mut(id);
        if !channel.live {
            return;
        }
        let (last, next) = (channel.position, publication.position);
        if last.epoch == next.epoch {
            if next.offset <= last.offset {
                return;
            }
            if next.offset != last.offset + 1 {
                let position = StreamPosition { offset: next.offset - 1, ..next };
                self.gap(id, GapCause::HandoverFull, position);
            }
        }
        self.channels.at_mut(id).position = next;
        self.broadcast(id, publication);
    }

    fn broadcast(&mut self, id: ChannelId, publication: &Publication) {
        let subscribers = std::mem::take(&mut self.channels.at_mut(id).subscribers);
        for at in &subscribers {
            self.push_publication(*at, publication);
        }
        self.counters.deliveries.add(subscribers.len() as u64);
        self.channels.at_mut(id).subscribers = subscribers;
        for at in std::mem::take(&mut self.slow) {
            self.disconnect(at, Disconnect::Slow);
        }
    }

    #[inline]
    fn push_publication(&mut self, at: ConnectionId, publication: &Publication) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let before = connection.outbox.bytes();
        match &connection.kind {
            Kind::WebSocket(session) => {
                let frame = match session.encoding {
                    Encoding::Json => publication.form(Form::WebSocketJson, json),
                    Encoding::Protobuf => publication.form(Form::WebSocketProtobuf, protobuf),
                };
                connection.outbox.push(frame.clone());
            }
            Kind::Sse(_) => stream::push_publication(connection, &self.channels, publication),
        }
        self.counters.outbox_bytes.add((connection.outbox.bytes() - before) as u64);
        // One publication always finds a place in an empty outbox, however large it is.
        if before > 0 && connection.outbox.bytes() > self.limits.outbox_bytes {
            self.slow.push(at);
        }
        self.mark(at);
    }

    fn attached(&mut self, name: &ChannelName, position: StreamPosition) {
        let Some(id) = self.channels.find(name) else { return };
        let channel = self.channels.at_mut(id);
        channel.live = true;
        channel.position = position;
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
    pub(super) fn gaps(&mut self, gaps: Vec<Gap>) {
        for Gap { channel, cause, position } in gaps {
            let Some(id) = self.channels.find(&channel) else { continue };
            let channel = self.channels.at(id);
            let seen = channel.position.epoch == position.epoch && channel.position.offset >= position.offset;
            if channel.live && !seen {
                self.gap(id, cause, position);
            }
        }
    }

    fn gap(&mut self, id: ChannelId, cause: GapCause, position: StreamPosition) {
        let channel = self.channels.at_mut(id);
        channel.position = position;
        let (name, subscribers) = (channel.name.clone(), channel.subscribers.clone());
        for at in subscribers {
            if matches!(self.connections.get(at as usize).map(|c| &c.kind), Some(Kind::Sse(_))) {
                self.stream_gap(at, &name, cause.as_str());
            }
        }
    }
}

fn json(publication: &Publication) -> bytes::Bytes {
    let mut payload = Vec::with_capacity(publication.payload.len() + 96);
    let push = wire(publication);
    Encoding::Json.encode_publication(publication.channel.as_str(), &push, &mut payload);
    websocket::text(&payload)
}

fn protobuf(publication: &Publication) -> bytes::Bytes {
    let mut payload = Vec::with_capacity(publication.payload.len() + 64);
    let push = wire(publication);
    Encoding::Protobuf.encode_publication(publication.channel.as_str(), &push, &mut payload);
    websocket::binary(&payload)
}

fn wire(publication: &Publication) -> earshot_protocol::Publication {
    earshot_protocol::Publication {
        data: publication.payload.clone(),
        offset: publication.position.offset,
        tags: Vec::new(),
        info: None,
        time: 0,
    }
}
