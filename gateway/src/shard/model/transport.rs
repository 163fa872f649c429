//! A client's connection: bytes in memory instead of a socket.

use bytes::Bytes;
use futures::{FutureExt, StreamExt};

use super::gateway::Gateway;
use crate::admission::Permit;
use crate::shard::sink::{self, Sink};
use crate::shard::{HyperBody, NewConnection, NewConnectionKind};

#[derive(Debug)]
pub(super) struct Transport {
    shard: usize,
    key: u64,
    body: HyperBody,
    /// Bytes that the client sent and the shard has not read yet.
    pub(super) sent: Vec<u8>,
    /// Bytes that the client has read and not parsed yet.
    pub(super) read: Vec<u8>,
    /// The gateway has ended it.
    pub(super) ended: bool,
}

impl Transport {
    pub(super) fn open(gateway: &mut Gateway, shard: usize, kind: NewConnectionKind) -> Self {
        let (sink, body) = sink::hyper(gateway.shards[shard].wakes.clone());
        let (response_head, prefetched) = (Bytes::new(), Bytes::new());
        let (sink, permit) = (Sink::Hyper(sink), Permit::unlimited());
        let connection = NewConnection {
            sink,
            network: None,
            kind,
            permit,
            response_head,
            response_head_written: 0,
            prefetched,
        };
        let key = gateway.shards[shard].accept(connection);
        Self { shard, key, body, sent: Vec::new(), read: Vec::new(), ended: false }
    }

    /// Reads at most this many chunks. Returns whether there was anything.
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

    /// Delivers to the shard what the client sent. Returns whether there was anything.
    pub(super) fn deliver_sent(&mut self, gateway: &mut Gateway) -> bool {
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
