//! Missed publications, and how live publications follow them.
//!
//! Owns the order: reply or `subscribed` event, then missed publications, then publications that arrived in the
//! meantime, then live ones; no duplicates and no losses. The node reads the history at a position of the channel's
//! sequence that it names. Publications up to that position which the shard has not delivered yet are skipped for this
//! subscriber. [`paging`] continues recoveries that are longer than one page.

mod paging;

use earshot_protocol::ChannelName;
use tokio::sync::mpsc;

use super::ShardLimits;
use super::channels::{ChannelId, ConnectionId};
use super::connection::Connection;
use super::connections::key;
use super::pages::PageQueue;
use super::state::ShardState;
use super::subscription::Status;
use crate::node::messages::{NodeRequest, PageLimit, Recovery, RecoveryRequest, RequestId};

/// The recoveries whose publications the channels of a connection share at the start. The rest stays in the history.
const START_RECOVERIES: usize = 4;

/// The recoveries of a shard's connections.
#[derive(Debug)]
pub(super) struct Recoveries {
    /// The number of the last request.
    last_request: u32,
    /// Connections that wait for the next page.
    page_queue: PageQueue,
    /// Keys of connections whose request did not fit into the queue of the node.
    retries: Vec<u64>,
    node_requests: mpsc::Sender<NodeRequest>,
}

impl Recoveries {
    pub(super) fn new(node_requests: mpsc::Sender<NodeRequest>) -> Self {
        Self { last_request: 0, page_queue: PageQueue::default(), retries: Vec::new(), node_requests }
    }

    fn next_request(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.last_request
    }

    /// Whether the content of the next reply or event is complete; requests the missing parts.
    pub(super) fn is_ready_to_reply(&mut self, state: &mut ShardState, connection_id: ConnectionId) -> bool {
        let Some((connection, channels, limits)) = state.split(connection_id) else { return false };
        let key = key(connection_id, connection.generation);
        let pending: Vec<_> = connection.pending_subscriptions().iter().map(|p| p.channel).collect();
        let waits = pending
            .iter()
            .any(|channel| connection.subscription(*channel).is_some_and(|s| s.status == Status::Waiting));
        if waits {
            return false;
        }
        // Recovered publications do not count as slowness, so the client must read them before it gets more.
        let room = recovery_room(connection, limits);
        if room.is_none()
            && !connection.framing.is_event_stream()
            && connection
                .pending_subscriptions()
                .iter()
                .any(|pending| pending.lacks_recovery() && pending.request.is_none())
        {
            connection.replies_paused = true;
            return false;
        }
        // The recovery is kept for the client, as long as its queue stays within the limit. The channels share the
        // publications of a few recoveries, so that no start delays what others wait for on the node.
        let publications = limits.recovery_publications * START_RECOVERIES.min(pending.len().max(1));
        let page = PageLimit { publications, bytes: room.unwrap_or(0) }.shared_by(pending.len());
        let mut complete = true;
        let mut full = false;
        for pending in connection.pending_subscriptions() {
            if !pending.lacks_recovery() {
                continue;
            }
            complete = false;
            if pending.request.is_some() {
                continue;
            }
            let number = self.next_request();
            let channel = channels.get(pending.channel).resolved();
            let (since, replay_last) = (pending.since.clone(), pending.last);
            let request = RecoveryRequest { since, replay_last, page, is_continuation: false };
            let request_id = RequestId { connection: key, reply: number };
            let sent =
                self.node_requests.try_send(NodeRequest::Recover { channel, request, request_id }).is_ok();
            pending.request = sent.then_some(number);
            full |= !sent;
        }
        if full {
            self.retries.push(key);
        }
        complete
    }

    /// Takes the connections whose recovery is to be requested again.
    pub(super) fn take_retries(&mut self, state: &ShardState) -> Vec<ConnectionId> {
        let keys = std::mem::take(&mut self.retries);
        keys.into_iter().filter_map(|key| state.connections().find(key)).collect()
    }

    /// The node sent missed publications. If they are complete, the connection receives live publications from here
    /// on. Returns the connection if its next reply or event waited for them.
    pub(super) fn on_recovered(
        &mut self,
        state: &mut ShardState,
        request_id: RequestId,
        name: &ChannelName,
        mut recovery: Recovery,
    ) -> Option<ConnectionId> {
        self.page_queue.on_reply(request_id.reply);
        let connection_id = state.connections().find(request_id.connection)?;
        let id = state.channels().find(name)?;
        let (connection, _, limits) = state.split(connection_id)?;
        if connection.paged_recovery.as_ref().is_some_and(|paged| paged.is_awaiting(request_id.reply)) {
            self.on_page(state, connection_id, &recovery);
            return None;
        }
        let page = connection.framing.page_limit(limits.recovery_page);
        let subscriptions = connection.pending_subscriptions();
        // The first pages of all channels are written together.
        let page = page.shared_by(subscriptions.len());
        let pending = subscriptions.iter_mut().find(|pending| pending.request == Some(request_id.reply))?;
        let (top, first) =
            (recovery.top, page.fitting(recovery.publications.iter().map(|p| p.cost()), false));
        pending.rest = recovery.publications.split_off(first).into();
        let is_complete = recovery.is_complete && pending.rest.is_empty();
        pending.recovery = Some(Recovery { is_complete, ..recovery });
        if is_complete {
            state.subscriptions().activate_after(connection_id, id, top);
        }
        Some(connection_id)
    }

    /// The node cannot read missed publications now: the client has to retry. Returns the connection and the channel if
    /// the next reply or event waited for them; the subscription is removed.
    pub(super) fn on_recovery_failed(
        &mut self,
        state: &mut ShardState,
        request_id: RequestId,
        name: &ChannelName,
    ) -> Option<(ConnectionId, ChannelId)> {
        self.page_queue.on_reply(request_id.reply);
        let connection_id = state.connections().find(request_id.connection)?;
        let id = state.channels().find(name)?;
        let pending = state.connection_mut(connection_id)?.pending_subscriptions();
        pending.iter().find(|pending| pending.request == Some(request_id.reply))?;
        state.subscriptions().unsubscribe(connection_id, id);
        Some((connection_id, id))
    }

    /// Bytes were written to a connection: its next page may follow. Returns whether replies that waited for that may
    /// continue.
    pub(super) fn on_bytes_written(&mut self, state: &mut ShardState, connection_id: ConnectionId) -> bool {
        let Some((connection, _, limits)) = state.split(connection_id) else { return false };
        let resumes = connection.replies_paused && recovery_room(connection, limits).is_some();
        connection.replies_paused &= !resumes;
        self.queue_page(state, connection_id);
        resumes
    }
}

/// The size that keeps a recovery within `client_queue_bytes`; `None` if that is less than a page.
fn recovery_room(connection: &Connection, limits: &ShardLimits) -> Option<usize> {
    let kept = connection.paged_recovery.as_ref().map_or(0, |paged| paged.bytes());
    let waiting = connection.send_queue.queued_bytes() + kept;
    let room = limits.client_queue_bytes.saturating_sub(waiting);
    (waiting == 0 || room >= limits.recovery_page.bytes).then_some(room)
}
