//! What a client missed, and how it becomes one sequence with what comes after.
//!
//! Owns the order: reply or `subscribed` event, then what was missed, then what came in meanwhile, then live; nothing
//! twice and nothing left out. The node reads the ring at a moment of the channel's sequence that it names; whatever
//! the shard still has to hand out up to that moment is skipped for the one who was given it already.

use earshot_protocol::{ChannelName, StreamPosition, SubscribeResult};

use super::ShardLimits;
use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, HeldItem, Kind, Opening, Status};
use super::reactor::{Shard, key};
use crate::node::history::encode_epoch;
use crate::node::messages::{NodeRequest, PageLimit, Recovery, RecoveryRequest, RequestId, SubscribeError};

impl Shard {
    /// Whether everything is known that the next reply or event of a connection has to say; asks for what is not.
    pub(super) fn opened(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        let key = key(at, connection.generation);
        let channels: Vec<_> = connection.openings().iter().map(|opening| opening.channel).collect();
        let waits = channels
            .iter()
            .any(|channel| connection.subscription(*channel).is_some_and(|s| s.status == Status::Waiting));
        if waits {
            return false;
        }
        // What was recovered before is not judged as slowness, so it must have been read before there is more of it.
        let room = recovery_room(connection, &self.limits);
        if room.is_none()
            && matches!(connection.kind, Kind::WebSocket(_))
            && connection.openings().iter().any(|opening| opening.lacks_recovery() && opening.asked.is_none())
        {
            connection.unread_replies = true;
            return false;
        }
        // What is recovered is kept for the client, as long as what waits for it stays within the bound.
        let publications = self.limits.recovery_publications * channels.len().max(1);
        let page = PageLimit { publications, bytes: room.unwrap_or(0) }.shared_by(channels.len());
        let mut complete = true;
        let mut full = false;
        for opening in connection.openings() {
            if !opening.lacks_recovery() {
                continue;
            }
            complete = false;
            if opening.asked.is_some() {
                continue;
            }
            self.recoveries = self.recoveries.wrapping_add(1);
            let channel = self.channels.at(opening.channel).name.clone();
            let (since, last) = (opening.since.clone(), opening.last);
            let request = RecoveryRequest { since, replay_last: last, page, is_continuation: false };
            let request_id = RequestId { connection: key, reply: self.recoveries };
            let asked = self.asks.try_send(NodeRequest::Recover { channel, request, request_id }).is_ok();
            opening.asked = asked.then_some(self.recoveries);
            full |= !asked;
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

    /// The node has said what a connection missed. When that is all, the connection hears the channel from that moment
    /// on.
    pub(super) fn recovered(&mut self, request_id: RequestId, name: &ChannelName, mut recovery: Recovery) {
        self.pages.retain(|page| *page != request_id.reply);
        let Some(at) = self.find(request_id.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.paged_recovery.as_ref().is_some_and(|paged| paged.asks(request_id.reply)) {
            return self.page(at, &recovery);
        }
        let form = connection.form;
        let page = self.page_limit(form);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let openings = connection.openings();
        // The first pages of all channels are written together.
        let page = page.shared_by(openings.len());
        let Some(opening) = openings.iter_mut().find(|opening| opening.asked == Some(request_id.reply))
        else {
            return;
        };
        let (top, first) =
            (recovery.top, page.fitting(recovery.publications.iter().map(|p| p.cost()), false));
        opening.rest = recovery.publications.split_off(first).into();
        let is_complete = recovery.is_complete && opening.rest.is_empty();
        opening.recovery = Some(Recovery { is_complete, ..recovery });
        if is_complete {
            self.cover(at, id, top);
        }
        self.go_on(at);
    }

    /// A connection was given everything up to a position: it hears what follows.
    pub(super) fn cover(&mut self, at: ConnectionId, id: ChannelId, top: StreamPosition) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
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
    }

    /// The node cannot say what a connection missed: it is asked to come again.
    pub(super) fn recover_failed(
        &mut self,
        request_id: RequestId,
        name: &ChannelName,
        error: &SubscribeError,
    ) {
        self.pages.retain(|page| *page != request_id.reply);
        let Some(at) = self.find(request_id.connection) else { return };
        let Some(id) = self.channels.find(name) else { return };
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.openings().iter().any(|opening| opening.asked == Some(request_id.reply)) {
            self.leave(at, id);
            self.refused(at, id, error);
        }
    }

    /// A connection has read something: replies that had to wait for that may have their turn.
    pub(super) fn has_read(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if connection.unread_replies && recovery_room(connection, &self.limits).is_some() {
            connection.unread_replies = false;
            self.advance(at);
        }
        self.want_page(at);
    }

    fn go_on(&mut self, at: ConnectionId) {
        match self.connections.get(at as usize).map(|connection| &connection.kind) {
            Some(Kind::WebSocket(_)) => self.advance(at),
            Some(Kind::Sse(_)) => self.stream_ready(at),
            None => {}
        }
    }

    /// Whether a recovery is all that was missed: then the connection hears the channel from now on. Otherwise the other
    /// pages follow.
    pub(super) fn begin_hearing(&mut self, at: ConnectionId, opening: &mut Opening) {
        match &opening.recovery {
            Some(first) if !first.is_complete => {
                let rest = std::mem::take(&mut opening.rest);
                self.begin_pages(at, opening.channel, first.end(), rest);
            }
            _ => self.join(at, opening.channel),
        }
    }

    /// What a subscribe is answered.
    pub(super) fn begin(&mut self, at: ConnectionId, mut opening: Opening) -> SubscribeResult {
        self.begin_hearing(at, &mut opening);
        let remembers = self.remembers(opening.channel);
        let channel = self.channels.at(opening.channel);
        let recovery = opening.recovery.unwrap_or(Recovery::empty(channel.position, false));
        let Recovery { start, publications, recovered, .. } = recovery;
        // A position that nothing can be recovered from is no use to the client.
        let (epoch, offset) =
            if remembers { (encode_epoch(start.epoch), start.offset) } else { (String::new(), 0) };
        SubscribeResult {
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
        }
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

/// What a recovery may hold so that no more than `client_queue_bytes` wait for the client; `None` when that is less than a page.
fn recovery_room(connection: &Connection, limits: &ShardLimits) -> Option<usize> {
    let kept = connection.paged_recovery.as_ref().map_or(0, |paged| paged.bytes());
    let waiting = connection.weight() + kept;
    let room = limits.client_queue_bytes.saturating_sub(waiting);
    (waiting == 0 || room >= limits.recovery_page.bytes).then_some(room)
}
