//! What a client missed, and how it becomes one sequence with what comes after.
//!
//! Owns the order: reply or `subscribed` event, then what was missed, then what came in meanwhile, then live; nothing
//! twice and nothing left out. The node reads the ring at a moment of the channel's sequence that it names; whatever
//! the shard still has to hand out up to that moment is skipped for the one who was given it already.

use std::sync::Arc;

use earshot_protocol::{ChannelName, SubscribeResult};

use super::channels::{ChannelId, ConnectionId};
use super::connection::{HeldItem, Kind, Opening, Status};
use super::reactor::{Shard, key};
use crate::node::SubscribeError;
use crate::node::history::{Recovery, epoch_text};
use crate::node::lane::{Ask, Ticket};
use crate::node::publication::Publication;
use crate::node::registry::RecoveryRequest;

/// Bytes of recovered publications inside one reply; the others follow it as pushes.
const REPLY_PUBLICATIONS_BYTES: usize = 64 * 1024;

impl Shard {
    /// Whether everything is known that the next reply or event of a connection has to say; asks for what is not.
    pub(super) fn opened(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        let key = key(at, connection.generation);
        let waits: Vec<_> = connection.openings().iter().map(|opening| opening.channel).collect();
        let waits = waits
            .into_iter()
            .any(|channel| connection.subscription(channel).is_some_and(|s| s.status == Status::Waiting));
        if waits {
            return false;
        }
        // What was recovered before is not judged as slowness, so it must have been read before there is more of it.
        if connection.weight() > self.limits.outbox_bytes
            && matches!(connection.kind, Kind::WebSocket(_))
            && connection.openings().iter().any(|opening| opening.lacks_recovery() && !opening.asked)
        {
            connection.unread_replies = true;
            return false;
        }
        let mut complete = true;
        let mut full = false;
        for opening in connection.openings() {
            if !opening.lacks_recovery() {
                continue;
            }
            complete = false;
            if opening.asked {
                continue;
            }
            let channel = self.channels.at(opening.channel).name.clone();
            let request = RecoveryRequest { since: opening.since.clone(), last: opening.last };
            let ask = Ask::Recover { channel, request, ticket: Ticket { connection: key, reply: 0 } };
            opening.asked = self.asks.try_send(ask).is_ok();
            full |= !opening.asked;
        }
        if full {
            self.unrecovered.push(key);
        }
        complete
    }

    /// Asks again for recoveries that the lane had no room for.
    pub(super) fn ask_again(&mut self) {
        for key in std::mem::take(&mut self.unrecovered) {
            if let Some(at) = self.find(key) {
                self.go_on(at);
            }
        }
    }

    /// The node has said what a connection missed: from that moment on the connection hears the channel.
    pub(super) fn recovered(&mut self, ticket: Ticket, name: &ChannelName, recovery: Recovery) {
        let Some(at) = self.find(ticket.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(opening) = connection.openings().iter_mut().find(|o| o.channel == id && o.lacks_recovery())
        else {
            return;
        };
        let top = recovery.top;
        opening.recovery = Some(recovery);
        let channel = self.channels.at_mut(id);
        // The node tells things in their order: another epoch is one that the shard has not come to yet, and none of
        // an earlier one follows.
        let behind = channel.position.epoch != top.epoch || channel.position.offset < top.offset;
        let covered = behind.then_some(top);
        if behind {
            channel.covered = covered;
        }
        if let Some(subscription) = connection.subscription_mut(id) {
            subscription.covered = covered;
        }
        self.join(at, id);
        self.go_on(at);
    }

    /// The node cannot say what a connection missed: it is asked to come again.
    pub(super) fn recover_failed(&mut self, ticket: Ticket, name: &ChannelName, error: &SubscribeError) {
        let Some(at) = self.find(ticket.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        self.leave(at, id);
        self.refused(at, id, error);
    }

    /// A connection has read something: replies that had to wait for that may have their turn.
    pub(super) fn has_read(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.unread_replies && connection.weight() <= self.limits.outbox_bytes {
            connection.unread_replies = false;
            self.advance(at);
        }
    }

    fn go_on(&mut self, at: ConnectionId) {
        match self.connections.get(at as usize).map(|connection| &connection.kind) {
            Some(Kind::WebSocket(_)) => self.advance(at),
            Some(Kind::Sse(_)) => self.stream_ready(at),
            None => {}
        }
    }

    /// What a subscribe is answered, and the recovered publications that found no room in the answer. From now on
    /// the connection hears the channel.
    pub(super) fn begin(
        &mut self,
        at: ConnectionId,
        opening: Opening,
    ) -> (SubscribeResult, Vec<Arc<Publication>>) {
        self.join(at, opening.channel);
        let remembers = self.remembers(opening.channel);
        let channel = self.channels.at(opening.channel);
        let recovery = opening.recovery.unwrap_or(Recovery {
            top: channel.position,
            publications: Vec::new(),
            recovered: false,
        });
        let start = recovery.start();
        let Recovery { mut publications, recovered, .. } = recovery;
        let mut bytes = 0;
        let fits = publications
            .iter()
            .take_while(|publication| {
                bytes += publication.payload.len();
                bytes <= REPLY_PUBLICATIONS_BYTES
            })
            .count();
        let rest = publications.split_off(fits);
        // A position that nothing can be recovered from is no use to the client.
        let (epoch, offset) =
            if remembers { (epoch_text(start.epoch), start.offset) } else { (String::new(), 0) };
        let result = SubscribeResult {
            recoverable: remembers,
            positioned: remembers,
            epoch,
            offset,
            publications: publications
                .iter()
                .map(|publication| super::broadcast::wire(publication))
                .collect(),
            recovered: recovered && remembers,
            was_recovering: opening.since.is_some(),
            ..SubscribeResult::default()
        };
        (result, rest)
    }

    /// Whether a channel has a history.
    pub(super) fn remembers(&self, id: ChannelId) -> bool {
        let name = &self.channels.at(id).name;
        self.node.namespace(name).is_some_and(|namespace| namespace.history.size > 0)
    }

    fn still_hears(&self, at: ConnectionId, id: ChannelId) -> bool {
        let connection = self.connections.get(at as usize).filter(|connection| connection.is_open());
        connection.is_some_and(|connection| connection.subscription(id).is_some())
    }

    /// Lets go what had to wait behind the first reply or event.
    pub(super) fn release(&mut self, at: ConnectionId) {
        let held = self.connections.get_mut(at as usize).and_then(|connection| connection.held.take());
        for item in held.map(|held| held.items).unwrap_or_default() {
            // A gap before it may have ended the subscription, or the connection.
            let Some(id) = self.channels.find(item.channel()).filter(|id| self.still_hears(at, *id)) else {
                continue;
            };
            match item {
                HeldItem::Publication(publication) => {
                    let slow = self.channels.at(id).slow.clone();
                    self.push_publication(at, &publication, slow.as_ref());
                }
                HeldItem::Gap(gap) => self.tell_gap(at, id, gap),
            }
        }
        self.relieve_slow();
    }
}
