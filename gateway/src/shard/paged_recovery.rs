//! Recoveries that go on after the first reply or event, page by page.
//!
//! A channel whose recovery did not fit into the first page hears nothing live until its last page: whatever is
//! published meanwhile is in the history, and so in the pages. The next page is written only while little waits for the
//! client. As much of the recovery as `client_queue_bytes` allow is kept for the client, not encoded and shared with the
//! history; the rest stays in the history, and a client that is overtaken by the end of that is told of a gap. Must
//! never hand out a page that does not follow on the last one.

use std::collections::VecDeque;
use std::sync::Arc;

use earshot_protocol::StreamPosition;

use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, Kind, Status};
use super::reactor::{Shard, key};
use super::{broadcast, stream};
use crate::broker::GapCause;
use crate::node::messages::{
    ChannelGap, NodeRequest, PageLimit, RecoverFrom, Recovery, RecoveryRequest, RequestId,
};
use crate::node::publication::{FrameEncoding, Publication};

/// Pages of one shard that may be under way at a time: publications stand behind no more than these.
const PAGES_UNDER_WAY_MAX: usize = 4;

/// Publications of one page on a stream of several channels, where each event has an id of its own.
const NAMED_PAGE_PUBLICATIONS: usize = 32;

/// The channels of one connection whose recovery goes on, in their order.
#[derive(Debug, Default)]
pub(super) struct PagedRecovery {
    /// The first one is being read.
    channels: VecDeque<Pages>,
    /// The number of the request for the next page.
    asked: Option<u32>,
    /// The connection waits for its turn.
    queued: bool,
}

/// What is left of the recovery of one channel.
#[derive(Debug)]
struct Pages {
    channel: ChannelId,
    /// The client was given everything up to here.
    position: StreamPosition,
    /// What comes next, as far as it is kept for this client. The rest is asked for.
    kept: VecDeque<Arc<Publication>>,
}

impl PagedRecovery {
    /// The client has left a channel: an answer that is under way for it concerns nobody.
    pub(super) fn forget(&mut self, channel: ChannelId) {
        if self.channels.front().is_some_and(|pages| pages.channel == channel) {
            self.asked = None;
        }
        self.channels.retain(|pages| pages.channel != channel);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Whether this request asks for the next page.
    pub(super) fn asks(&self, number: u32) -> bool {
        self.asked == Some(number)
    }

    /// Bytes that are kept for the client.
    pub(super) fn bytes(&self) -> usize {
        self.channels.iter().flat_map(|pages| &pages.kept).map(|publication| publication.cost()).sum()
    }
}

impl Shard {
    /// What one page may hold that is written in this form.
    pub(super) fn page_limit(&self, form: FrameEncoding) -> PageLimit {
        let limit = self.limits.recovery_page;
        match form {
            FrameEncoding::SseNamed => {
                PageLimit { publications: limit.publications.min(NAMED_PAGE_PUBLICATIONS), ..limit }
            }
            FrameEncoding::WebSocketJson | FrameEncoding::WebSocketProtobuf | FrameEncoding::SseSingle => {
                limit
            }
        }
    }

    /// Names a request for a recovery.
    pub(super) fn next_recovery(&mut self) -> u32 {
        self.recoveries = self.recoveries.wrapping_add(1);
        self.recoveries
    }

    /// The first page was not all that a client missed of a channel: the others follow.
    pub(super) fn begin_pages(
        &mut self,
        at: ConnectionId,
        id: ChannelId,
        position: StreamPosition,
        kept: VecDeque<Arc<Publication>>,
    ) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(subscription) = connection.subscription_mut(id) else { return };
        subscription.status = Status::Recovering;
        connection.paged_recovery.get_or_insert_default().channels.push_back(Pages {
            channel: id,
            position,
            kept,
        });
    }

    /// Lets a connection wait for its turn to ask for the next page, when there is one and little waits to be written.
    pub(super) fn want_page(&mut self, at: ConnectionId) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let wants = wants_page(connection, self.limits.recovery_page.bytes);
        let Some(paged) = &mut connection.paged_recovery else { return };
        if wants && !std::mem::replace(&mut paged.queued, true) {
            self.waiting_for_page.push_back(key(at, connection.generation));
        }
    }

    /// Writes or asks for the pages whose turn it is.
    pub(super) fn next_pages(&mut self) {
        for _ in 0..PAGES_UNDER_WAY_MAX {
            if self.pages.len() >= PAGES_UNDER_WAY_MAX {
                return;
            }
            let Some(key) = self.waiting_for_page.pop_front() else { return };
            let Some(at) = self.find(key) else { continue };
            if !self.write_page(at) && !self.ask_page(at) {
                // The lane is full: again at the end of a later turn.
                self.waiting_for_page.push_front(key);
                return;
            }
        }
    }

    /// Writes the next page of what is kept for a connection; `false` when nothing is. The flush that follows leads to
    /// the next one.
    fn write_page(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get(at as usize) else { return false };
        let (wants, limit) =
            (wants_page(connection, self.limits.recovery_page.bytes), self.page_limit(connection.form));
        let Some(connection) = self.connections.get_mut(at as usize) else { return false };
        let Some(paged) = &mut connection.paged_recovery else { return false };
        let Some(pages) = paged.channels.front_mut().filter(|pages| wants && !pages.kept.is_empty()) else {
            return false;
        };
        paged.queued = false;
        let count = limit.fitting(pages.kept.iter().map(|publication| publication.cost()), true);
        let page: Vec<_> = pages.kept.drain(..count).collect();
        if let Some(last) = page.last() {
            pages.position = last.position;
        }
        for publication in &page {
            self.push_missed(at, publication);
        }
        true
    }

    /// Asks for the next page of a connection, if it still wants one; `false` when the lane has no room.
    fn ask_page(&mut self, at: ConnectionId) -> bool {
        let Some(connection) = self.connections.get_mut(at as usize) else { return true };
        let page = self.limits.recovery_page.bytes;
        let (wants, form) = (wants_page(connection, page), connection.form);
        let (number, limit) = (self.next_recovery(), self.page_limit(form));
        let Some(connection) = self.connections.get_mut(at as usize) else { return true };
        let request_id = RequestId { connection: key(at, connection.generation), reply: number };
        let Some(paged) = &mut connection.paged_recovery else { return true };
        let next = paged.channels.front().map(|pages| (pages.channel, pages.position));
        let Some((id, position)) = next.filter(|_| wants) else {
            paged.queued = false;
            return true;
        };
        let channel = self.channels.at(id).name.clone();
        let since = Some(RecoverFrom::position(position));
        let request = RecoveryRequest { since, replay_last: false, page: limit, is_continuation: true };
        if self.asks.try_send(NodeRequest::Recover { channel, request, request_id }).is_err() {
            return false;
        }
        (paged.asked, paged.queued) = (Some(number), false);
        self.pages.push(number);
        true
    }

    /// The next page of a recovery. It may be the last one: from that moment on the connection hears the channel.
    pub(super) fn page(&mut self, at: ConnectionId, recovery: &Recovery) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        let Some(paged) = &mut connection.paged_recovery else { return };
        paged.asked = None;
        let Some(Pages { channel: id, position, kept }) = paged.channels.pop_front() else { return };
        if paged.channels.is_empty() {
            connection.paged_recovery = None;
        }
        let start = recovery.start;
        if !recovery.recovered || start != position {
            let channel = self.channels.at(id).name.clone();
            if matches!(connection.kind, Kind::WebSocket(_)) {
                self.tell_gap(
                    at,
                    id,
                    ChannelGap { channel, cause: GapCause::HistoryTooShort, position: start },
                );
                return self.want_page(at);
            }
            self.counters.gaps.add(1);
            self.stream_gap(at, &channel, stream::UNRECOVERABLE, start);
        }
        for publication in &recovery.publications {
            self.push_missed(at, publication);
        }
        if recovery.is_complete {
            self.cover(at, id, recovery.top);
        } else if let Some(connection) = self.connections.get_mut(at as usize) {
            let next = Pages { channel: id, position: recovery.end(), kept };
            connection.paged_recovery.get_or_insert_default().channels.push_front(next);
        }
        self.want_page(at);
    }

    /// Puts a publication of a recovery into the outbox. It does not count against the bound: nobody was slow yet.
    pub(super) fn push_missed(&mut self, at: ConnectionId, publication: &Publication) {
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        if !connection.is_open() {
            return;
        }
        match connection.form {
            form @ (FrameEncoding::WebSocketJson | FrameEncoding::WebSocketProtobuf) => {
                self.push_recovered(at, broadcast::encoded(form, publication).clone());
            }
            FrameEncoding::SseSingle | FrameEncoding::SseNamed => {
                let (before, weight) = (connection.outbox.bytes(), connection.outbox.weight());
                stream::push_publication(connection, &self.channels, publication);
                connection.allowance += connection.outbox.weight() - weight;
                self.counters.client_queue_bytes.add((connection.outbox.bytes() - before) as u64);
                self.mark(at);
            }
        }
    }
}

fn wants_page(connection: &Connection, page: usize) -> bool {
    let idle = connection
        .paged_recovery
        .as_ref()
        .is_some_and(|paged| paged.asked.is_none() && !paged.channels.is_empty());
    idle && connection.is_open() && connection.weight() <= page
}
