//! Recoveries that continue after the first reply or event, page by page.
//!
//! A channel whose recovery does not fit into the first page receives no live publications until its last page: what
//! is published meanwhile is in the history, and so in the pages. The next page is written only while little waits for
//! the client. As much of the recovery as `client_queue_bytes` allow is kept for the client, shared with the history
//! and not encoded; the rest stays in the history. A client that the end of the history overtakes receives a gap. A
//! page always follows the previous one.

use std::collections::VecDeque;
use std::sync::Arc;

use earshot_protocol::StreamPosition;

use super::channels::{ChannelId, ConnectionId};
use super::connection::Connection;
use super::event_loop::{Shard, key};
use super::pages::{PAGE_REQUESTS_MAX, Pages};
use super::sse_stream;
use super::subscription::Status;
use crate::broker::GapCause;
use crate::node::messages::{ChannelGap, NodeRequest, RecoverFrom, Recovery, RecoveryRequest, RequestId};
use crate::node::publication::Publication;

impl Shard {
    /// A number for a recovery request.
    pub(super) fn next_request_number(&mut self) -> u32 {
        self.last_request = self.last_request.wrapping_add(1);
        self.last_request
    }

    /// The recovery did not fit into the first page: the other pages follow.
    pub(super) fn start_paging(
        &mut self,
        connection_id: ConnectionId,
        id: ChannelId,
        position: StreamPosition,
        kept: VecDeque<Arc<Publication>>,
    ) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        subscription.status = Status::Recovering;
        connection.paged_recovery.get_or_insert_default().push(Pages { channel: id, position, kept });
    }

    /// Adds a connection to the page queue if it has a next page and little waits to be written.
    pub(super) fn queue_page(&mut self, connection_id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let wants = wants_page(connection, self.limits.recovery_page.bytes);
        let Some(paged) = &mut connection.paged_recovery else { return };
        if wants && paged.enter_queue() {
            self.page_queue.push(key(connection_id, connection.generation));
        }
    }

    /// Writes or requests the next pages.
    pub(super) fn send_pages(&mut self) {
        for _ in 0..PAGE_REQUESTS_MAX {
            let Some(key) = self.page_queue.pop() else { return };
            let Some(connection_id) = self.find(key) else { continue };
            if !self.write_page(connection_id) && !self.request_page(connection_id) {
                // The lane is full: try again at the end of a later turn.
                self.page_queue.put_back(key);
                return;
            }
        }
    }

    /// Writes the next page of what is kept for a connection; returns `false` if nothing is. The flush after it queues
    /// the next page.
    fn write_page(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(connection_id as usize) else { return false };
        let (wants, limit) = (
            wants_page(connection, self.limits.recovery_page.bytes),
            connection.framing.page_limit(self.limits.recovery_page),
        );
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return false };
        let Some(paged) = &mut connection.paged_recovery else { return false };
        let Some(page) = wants.then(|| paged.take_kept(limit)).flatten() else { return false };
        for publication in &page {
            self.enqueue_recovered(connection_id, publication);
        }
        true
    }

    /// Requests the next page of a connection if it still needs one; returns `false` if the lane is full.
    fn request_page(&mut self, connection_id: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return true };
        let page = self.limits.recovery_page.bytes;
        let (wants, framing) = (wants_page(connection, page), connection.framing);
        let (number, limit) = (self.next_request_number(), framing.page_limit(self.limits.recovery_page));
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return true };
        let request_id = RequestId { connection: key(connection_id, connection.generation), reply: number };
        let Some(paged) = &mut connection.paged_recovery else { return true };
        let Some((id, position)) = paged.next().filter(|_| wants) else {
            paged.leave_queue();
            return true;
        };
        let channel = self.channels.get(id).resolved();
        let since = Some(RecoverFrom::position(position));
        let request = RecoveryRequest { since, replay_last: false, page: limit, is_continuation: true };
        if self.node_requests.try_send(NodeRequest::Recover { channel, request, request_id }).is_err() {
            return false;
        }
        paged.on_requested(number);
        self.page_queue.on_requested(number);
        true
    }

    /// Writes a page that the node sent. After the last page the connection receives live publications.
    pub(super) fn on_page(&mut self, connection_id: ConnectionId, recovery: &Recovery) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let Some(paged) = &mut connection.paged_recovery else { return };
        let Some(Pages { channel: id, position, kept }) = paged.on_page() else { return };
        if paged.is_empty() {
            connection.paged_recovery = None;
        }
        let start = recovery.start;
        if !recovery.recovered || start != position {
            let channel = self.channels.get(id).name.clone();
            if !connection.framing.is_event_stream() {
                self.notify_gap(
                    connection_id,
                    id,
                    ChannelGap { channel, cause: GapCause::HistoryTooShort, position: start },
                );
                return self.queue_page(connection_id);
            }
            self.counters.gaps.add(1);
            self.stream_gap(connection_id, &channel, sse_stream::UNRECOVERABLE, start);
        }
        for publication in &recovery.publications {
            self.enqueue_recovered(connection_id, publication);
        }
        if recovery.is_complete {
            self.set_recovered_up_to(connection_id, id, recovery.top);
        } else if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            let next = Pages { channel: id, position: recovery.end(), kept };
            connection.paged_recovery.get_or_insert_default().put_back(next);
        }
        self.queue_page(connection_id);
    }

    /// Queues a publication of a recovery, which does not count against the limit.
    pub(super) fn enqueue_recovered(&mut self, connection_id: ConnectionId, publication: &Publication) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        if !connection.is_open() {
            return;
        }
        if !connection.framing.is_event_stream() {
            let frame = connection.framing.publication(publication);
            return self.enqueue_recovered_frame(connection_id, frame);
        }
        let before = connection.send_queue.outbox_queued_bytes();
        connection.write_publication(&self.channels, publication, &self.counters);
        connection.send_queue.credit_since(before);
        self.flush_queue.schedule(connection_id, connection);
    }
}

fn wants_page(connection: &Connection, page: usize) -> bool {
    connection.paged_recovery.as_ref().is_some_and(|paged| paged.has_next())
        && connection.is_open()
        && connection.send_queue.queued_bytes() <= page
}
