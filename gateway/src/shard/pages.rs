//! The remaining pages of each connection's recoveries, and the connections that wait for a page.
//!
//! Owns the order of pages: one request per connection at a time, and a bounded number per shard.

use std::collections::VecDeque;
use std::sync::Arc;

use earshot_protocol::StreamPosition;

use super::channels::ChannelId;
use crate::node::messages::PageLimit;
use crate::node::publication::Publication;

/// Page requests of one shard in flight: live publications wait for no more than these.
pub(super) const PAGE_REQUESTS_MAX: usize = 4;

/// The channels of one connection whose recovery continues, in order.
#[derive(Debug, Default)]
pub(super) struct PagedRecovery {
    /// The first one is being read.
    channels: VecDeque<Pages>,
    /// The number of the request for the next page.
    request: Option<u32>,
    /// The connection is in the page queue.
    queued: bool,
}

/// The rest of the recovery of one channel.
#[derive(Debug)]
pub(super) struct Pages {
    pub(super) channel: ChannelId,
    /// The position up to which the client has received the channel.
    pub(super) position: StreamPosition,
    /// The next publications, as far as they are kept for this client. The rest is requested.
    pub(super) kept: VecDeque<Arc<Publication>>,
}

impl PagedRecovery {
    /// Adds a channel after the others.
    pub(super) fn push(&mut self, pages: Pages) {
        self.channels.push_back(pages);
    }

    /// The client has unsubscribed: a reply in flight for the channel is ignored.
    pub(super) fn remove(&mut self, channel: ChannelId) {
        if self.channels.front().is_some_and(|pages| pages.channel == channel) {
            self.request = None;
        }
        self.channels.retain(|pages| pages.channel != channel);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.channels.is_empty()
    }

    /// Whether this request is for the next page.
    pub(super) fn is_awaiting(&self, number: u32) -> bool {
        self.request == Some(number)
    }

    /// Whether there is a next page that is not requested yet.
    pub(super) fn has_next(&self) -> bool {
        self.request.is_none() && !self.channels.is_empty()
    }

    /// Bytes that are kept for the client.
    pub(super) fn bytes(&self) -> usize {
        self.channels.iter().flat_map(|pages| &pages.kept).map(|publication| publication.cost()).sum()
    }

    /// Marks the connection as queued for a page. Returns whether it was not before.
    pub(super) fn enter_queue(&mut self) -> bool {
        !std::mem::replace(&mut self.queued, true)
    }

    /// The connection is no longer in the page queue.
    pub(super) fn leave_queue(&mut self) {
        self.queued = false;
    }

    /// Takes the next page of the kept publications, and removes the connection from the queue; `None` if none are kept
    /// for the first channel.
    pub(super) fn take_kept(&mut self, limit: PageLimit) -> Option<Vec<Arc<Publication>>> {
        let pages = self.channels.front_mut().filter(|pages| !pages.kept.is_empty())?;
        let count = limit.fitting(pages.kept.iter().map(|publication| publication.cost()), true);
        let page: Vec<_> = pages.kept.drain(..count).collect();
        if let Some(last) = page.last() {
            pages.position = last.position;
        }
        self.queued = false;
        Some(page)
    }

    /// The channel and the position of the next page to request.
    pub(super) fn next(&self) -> Option<(ChannelId, StreamPosition)> {
        self.channels.front().map(|pages| (pages.channel, pages.position))
    }

    /// The next page was requested: the connection leaves the queue until the reply.
    pub(super) fn on_requested(&mut self, number: u32) {
        (self.request, self.queued) = (Some(number), false);
    }

    /// The reply to the request arrived. Returns the channel that it is for.
    pub(super) fn on_page(&mut self) -> Option<Pages> {
        self.request = None;
        self.channels.pop_front()
    }

    /// Moves a channel with further pages back to the front.
    pub(super) fn put_back(&mut self, pages: Pages) {
        self.channels.push_front(pages);
    }
}

/// The connections that wait for a page, by key, and the requests of the shard in flight.
#[derive(Debug, Default)]
pub(super) struct PageQueue {
    waiting: VecDeque<u64>,
    in_flight: Vec<u32>,
}

impl PageQueue {
    /// Adds a connection.
    pub(super) fn push(&mut self, key: u64) {
        self.waiting.push_back(key);
    }

    /// Removes the first connection; `None` while the shard has the maximum number of requests in flight.
    pub(super) fn pop(&mut self) -> Option<u64> {
        if self.in_flight.len() >= PAGE_REQUESTS_MAX { None } else { self.waiting.pop_front() }
    }

    /// The request could not be sent: the connection is the first one again.
    pub(super) fn put_back(&mut self, key: u64) {
        self.waiting.push_front(key);
    }

    /// A request was sent.
    pub(super) fn on_requested(&mut self, number: u32) {
        self.in_flight.push(number);
    }

    /// A request was answered. The number of any other request is ignored.
    pub(super) fn on_reply(&mut self, number: u32) {
        self.in_flight.retain(|request| *request != number);
    }
}
