//! A client's connection: bytes in memory instead of a socket.
//!
//! Must never understand what the bytes mean.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::gateway::Gateway;
use crate::admission::Permit;
use crate::shard::link::{self, Link};
use crate::shard::{Arrival, ArrivalKind, StreamBody};

#[derive(Debug)]
pub(super) struct Line {
    shard: usize,
    key: u64,
    body: StreamBody,
    /// What the client sent and the shard has not read yet.
    pub(super) sent: Vec<u8>,
    /// What the client has read and not understood yet.
    pub(super) read: Vec<u8>,
    /// The gateway has ended it.
    pub(super) ended: bool,
}

impl Line {
    pub(super) fn open(gateway: &mut Gateway, shard: usize, kind: ArrivalKind) -> Self {
        let (link, body) = link::stream(gateway.shards[shard].wakes.clone());
        let (greeting, early) = (Bytes::new(), Bytes::new());
        let (link, permit) = (Link::Stream(link), Permit::unlimited());
        let arrival = Arrival { link, kind, permit, greeting, greeted: 0, early };
        let key = gateway.shards[shard].take(arrival);
        Self { shard, key, body, sent: Vec::new(), read: Vec::new(), ended: false }
    }

    /// The client reads at most so many pieces; whether there was anything.
    pub(super) fn read(&mut self, pieces: usize) -> bool {
        for at in 0..pieces {
            match self.body.next().now_or_never() {
                Some(Some(Ok(piece))) => self.read.extend_from_slice(&piece),
                Some(None) => {
                    self.ended = true;
                    return true;
                }
                None => return at > 0,
            }
        }
        pieces > 0
    }

    /// What the client sent arrives at the shard; whether there was anything.
    pub(super) fn arrive(&mut self, gateway: &mut Gateway) -> bool {
        if gateway.shards[self.shard].is_paused(self.key) {
            return false;
        }
        let mut bytes = std::mem::take(&mut self.sent);
        let some = !bytes.is_empty();
        if some {
            gateway.shards[self.shard].receive(self.key, &mut bytes);
        }
        some
    }
}
