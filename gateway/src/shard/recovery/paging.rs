//! Recoveries that continue after the first reply or event, page by page.
//!
//! A channel whose recovery does not fit into the first page receives no live publications until its last page: what is
//! published meanwhile is in the history, and so in the pages. The next page is written only while little waits for the
//! client. Of the recovery, as much as `client_queue_bytes` allow is kept for the client, and no more than
//! four times `recovery_publications` over all its channels, shared with the history and not encoded; the rest stays in the
//! history. If the history drops publications that a client has not reached, the client receives a gap. A page always
//! follows the previous one.

use super::Recoveries;
use crate::broker::GapCause;
use crate::node::messages::{ChannelGap, NodeRequest, RecoverFrom, Recovery, RecoveryRequest, RequestId};
use crate::shard::channels::ConnectionId;
use crate::shard::connection::Connection;
use crate::shard::connections::key;
use crate::shard::pages::{PAGE_REQUESTS_MAX, Pages};
use crate::shard::sse_stream;
use crate::shard::state::ShardState;

impl Recoveries {
    /// Adds a connection to the page queue if it has a next page and little waits to be written.
    pub(in crate::shard) fn queue_page(&mut self, state: &mut ShardState, connection_id: ConnectionId) {
        let Some((connection, _, limits)) = state.split(connection_id) else { return };
        let wants = wants_page(connection, limits.recovery_page.bytes);
        let Some(paged) = &mut connection.paged_recovery else { return };
        if wants && paged.enter_queue() {
            self.page_queue.push(key(connection_id, connection.generation));
        }
    }

    /// Writes or requests the next pages.
    pub(in crate::shard) fn send_pages(&mut self, state: &mut ShardState) {
        for _ in 0..PAGE_REQUESTS_MAX {
            let Some(key) = self.page_queue.pop() else { return };
            let Some(connection_id) = state.connections().find(key) else { continue };
            if !write_page(state, connection_id) && !self.request_page(state, connection_id) {
                // The queue of the node is full: try again at the end of a later turn.
                self.page_queue.put_back(key);
                return;
            }
        }
    }

    /// Requests the next page of a connection if it still needs one; returns `false` if the queue of the node is full.
    fn request_page(&mut self, state: &mut ShardState, connection_id: ConnectionId) -> bool {
        let Some((connection, channels, limits)) = state.split(connection_id) else { return true };
        let wants = wants_page(connection, limits.recovery_page.bytes);
        let page = connection.framing.page_limit(limits.recovery_page);
        let connection_key = key(connection_id, connection.generation);
        let Some(paged) = &mut connection.paged_recovery else { return true };
        let Some((id, position)) = paged.next().filter(|_| wants) else {
            paged.leave_queue();
            return true;
        };
        let number = self.next_request();
        let request_id = RequestId { connection: connection_key, reply: number };
        let channel = channels.get(id).resolved();
        let since = Some(RecoverFrom::position(position));
        let request = RecoveryRequest { since, replay_last: false, page, is_continuation: true };
        if self.node_requests.try_send(NodeRequest::Recover { channel, request, request_id }).is_err() {
            return false;
        }
        paged.on_requested(number);
        self.page_queue.on_requested(number);
        true
    }

    /// Writes a page that the node sent. After the last page the connection receives live publications.
    pub(super) fn on_page(
        &mut self,
        state: &mut ShardState,
        connection_id: ConnectionId,
        recovery: &Recovery,
    ) {
        let Some(connection) = state.connection_mut(connection_id) else { return };
        let Some(paged) = &mut connection.paged_recovery else { return };
        let Some(Pages { channel: id, position, kept }) = paged.on_page() else { return };
        if paged.is_empty() {
            connection.paged_recovery = None;
        }
        let (start, is_event_stream) = (recovery.start, connection.framing.is_event_stream());
        if !recovery.recovered || start != position {
            let channel = state.channels().get(id).name.clone();
            if !is_event_stream {
                let gap = ChannelGap { channel, cause: GapCause::HistoryTooShort, position: start };
                state.report_gap(connection_id, id, gap);
                return self.queue_page(state, connection_id);
            }
            state.counters().gaps.add(1);
            state.enqueue_gap(connection_id, &channel, sse_stream::UNRECOVERABLE, start);
        }
        for publication in &recovery.publications {
            state.delivery().enqueue_recovered(connection_id, publication);
        }
        if recovery.is_complete {
            state.subscriptions().activate_after(connection_id, id, recovery.top);
        } else if let Some(connection) = state.connection_mut(connection_id) {
            let next = Pages { channel: id, position: recovery.end(), kept };
            connection.paged_recovery.get_or_insert_default().put_back(next);
        }
        self.queue_page(state, connection_id);
    }
}

/// Writes the next page that is kept for a connection; returns `false` if there is none. The flush after it queues the
/// next page.
fn write_page(state: &mut ShardState, connection_id: ConnectionId) -> bool {
    let Some((connection, _, limits)) = state.split(connection_id) else { return false };
    if !wants_page(connection, limits.recovery_page.bytes) {
        return false;
    }
    let limit = connection.framing.page_limit(limits.recovery_page);
    let Some(page) = connection.paged_recovery.as_mut().and_then(|paged| paged.take_kept(limit)) else {
        return false;
    };
    for publication in &page {
        state.delivery().enqueue_recovered(connection_id, publication);
    }
    true
}

fn wants_page(connection: &Connection, page_bytes: usize) -> bool {
    connection.paged_recovery.as_ref().is_some_and(|paged| paged.has_next())
        && connection.is_open()
        && connection.send_queue.queued_bytes() <= page_bytes
}
