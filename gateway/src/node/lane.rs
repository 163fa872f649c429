//! The way from a shard to the node: what the shard asks for, in its order.
//!
//! Owns the bound on requests under way. Must never let one slow answer hold up the requests behind it, nor change
//! the order in which publications of one shard are published.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::channel::ShardId;
use super::{Node, PublishError};
use crate::drain::Drain;

/// What a shard asks of the node.
#[derive(Debug)]
pub enum Ask {
    /// To hear a channel; answered by `Delivery::Attached` or `Delivery::AttachFailed`.
    Attach(ChannelName),
    /// To hear it no longer; not answered.
    Detach(ChannelName),
    /// To publish for a client; answered by an [`Answer`] with the same ticket, when there is one.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The payload, untouched.
        data: Bytes,
        /// Who waits for the answer.
        ticket: Ticket,
    },
}

/// Names the reply that waits for an answer; only the shard knows what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The connection.
    pub connection: u64,
    /// The reply.
    pub reply: u32,
}

/// What came of a publication.
pub type Answer = (Ticket, Result<(), PublishError>);

/// The shard's end of its lane.
#[derive(Debug)]
pub struct Lane {
    /// Requests; full when the node is too far behind.
    pub asks: mpsc::Sender<Ask>,
    /// Answers; holds as many as there can be requests.
    pub answers: mpsc::Receiver<Answer>,
}

/// The node's end of a lane, before it is served.
#[derive(Debug)]
pub struct LaneEnd {
    asks: mpsc::Receiver<Ask>,
    answers: mpsc::Sender<Answer>,
}

/// Makes a lane for at most `outstanding` requests (`limits.requests_outstanding`).
pub fn lane(outstanding: usize) -> (Lane, LaneEnd) {
    let (asks, asked) = mpsc::channel(outstanding);
    let (answer, answers) = mpsc::channel(outstanding);
    (Lane { asks, answers }, LaneEnd { asks: asked, answers: answer })
}

impl LaneEnd {
    /// Serves the lane of one shard until the drain stops it or the shard ends.
    pub fn serve(self, node: Arc<Node>, shard: ShardId, drain: &Drain) {
        let stop = drain.clone();
        drain.spawn(async move {
            tokio::select! {
                () = self.run(&node, shard) => {}
                () = stop.stopped() => {}
            }
        });
    }

    async fn run(mut self, node: &Arc<Node>, shard: ShardId) {
        let outstanding = self.asks.max_capacity();
        let mut under_way: FuturesUnordered<BoxFuture<'_, Option<Answer>>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                ask = self.asks.recv(), if under_way.len() < outstanding => match ask {
                    Some(ask) => under_way.extend(begin(node, shard, ask)),
                    None => return,
                },
                Some(answer) = under_way.next() => {
                    if let Some(answer) = answer
                        && self.answers.send(answer).await.is_err()
                    {
                        return;
                    }
                }
            }
        }
    }
}

fn begin(node: &Arc<Node>, shard: ShardId, ask: Ask) -> Option<BoxFuture<'_, Option<Answer>>> {
    match ask {
        Ask::Attach(channel) => Some(node.attach(shard, channel).map(|()| None).boxed()),
        Ask::Detach(channel) => {
            node.detach(shard, &channel);
            None
        }
        Ask::Publish { channel, data, ticket } => {
            Some(node.publish(&channel, data).map(move |result| Some((ticket, result))).boxed())
        }
    }
}
