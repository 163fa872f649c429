//! The way from a shard to the node: what the shard asks for, in its order.
//!
//! Owns the bound on requests under way. Must never let one slow answer hold up the requests behind it, nor change
//! the order in which publications of one shard are published.

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ClientInfo};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::channel::ShardId;
use super::recovery::RecoveryRequest;
use super::registry::{History, Page};
use super::{Node, PublishError, Published};
use crate::broker::log::Append;
use crate::broker::{Attributes, BrokerError};
use crate::drain::Drain;

/// What a shard asks of the node.
#[derive(Debug)]
pub enum Ask {
    /// To hear a channel; answered by `Delivery::Attached` or `Delivery::AttachFailed`.
    Attach {
        /// The channel.
        channel: ChannelName,
        /// The address of the client that wants it, which the channel is attributed to when it is new.
        from: Option<IpAddr>,
    },
    /// To hear it no longer; not answered.
    Detach {
        /// The channel.
        channel: ChannelName,
        /// Clients of several addresses were subscribed to it in this shard: it is attributed to none of them.
        shared: bool,
    },
    /// To be told what a connection has missed of a channel that the shard hears; answered by `Delivery::Recovered`.
    Recover {
        /// The channel.
        channel: ChannelName,
        /// Where the connection stood.
        request: RecoveryRequest,
        /// The connection.
        ticket: Ticket,
    },
    /// A page of a channel's history; answered by an [`Answer`].
    History {
        /// The channel.
        channel: ChannelName,
        /// Which part.
        page: Page,
        /// Who waits for the answer.
        ticket: Ticket,
    },
    /// To publish for a client; answered by an [`Answer`] with the same ticket, when there is one.
    Publish {
        /// The channel.
        channel: ChannelName,
        /// The payload, untouched.
        data: Bytes,
        /// The client, as others may see it.
        info: ClientInfo,
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

/// What came of a request.
#[derive(Debug)]
pub enum Answer {
    /// A publication was taken, or not.
    Published(Ticket, Result<Published, PublishError>),
    /// What a channel remembers; `None` when it is not known here.
    History(Ticket, Option<HistoryAnswer>),
}

/// A part of a channel's history.
pub type HistoryAnswer = Result<History, HistoryError>;

/// Why there is none to be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HistoryError {
    /// The position asked from belongs to another sequence.
    Unrecoverable,
    /// The log could not be read.
    Broker(BrokerError),
}

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

/// Makes a lane for at most `outstanding` requests (`limits.inflight_requests`).
pub fn lane(outstanding: usize) -> (Lane, LaneEnd) {
    let (asks, asked) = mpsc::channel(outstanding);
    let (answer, answers) = mpsc::channel(outstanding);
    (Lane { asks, answers }, LaneEnd { asks: asked, answers: answer })
}

impl LaneEnd {
    /// Serves the lane of one shard until the shard has ended and everything it asked for is done.
    pub fn serve(self, node: Arc<Node>, shard: ShardId, drain: &Drain) {
        drain.spawn_connection(async move { self.run(&node, shard).await });
    }

    pub(crate) async fn run(mut self, node: &Arc<Node>, shard: ShardId) {
        let most = self.asks.max_capacity();
        // Counted for each broker: one that hangs must not hold up what the others are asked for.
        let mut waiting = vec![0; node.ears.len()];
        let mut under_way: FuturesUnordered<Work<'_>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                ask = self.asks.recv() => match ask {
                    Some(ask) => under_way.extend(begin(node, shard, ask, most, &mut waiting)),
                    None => break,
                },
                Some((ear, answer)) = under_way.next() => {
                    waiting[ear] -= 1;
                    self.answer(answer).await;
                }
            }
        }
        while let Some((_, answer)) = under_way.next().await {
            self.answer(answer).await;
        }
    }

    async fn answer(&self, answer: Option<Answer>) {
        if let Some(answer) = answer {
            // A shard that has ended needs no answer.
            let _ = self.answers.send(answer).await;
        }
    }
}

/// A request under way: the place of its broker, and the answer if there is one.
type Work<'a> = BoxFuture<'a, (usize, Option<Answer>)>;

fn begin<'a>(
    node: &'a Arc<Node>,
    shard: ShardId,
    ask: Ask,
    most: usize,
    waiting: &mut [usize],
) -> Option<Work<'a>> {
    let ear = node.namespace(ask.channel())?.broker(ask.channel());
    if let Ask::Detach { channel, shared } = &ask {
        node.detach(shard, channel, *shared);
        return None;
    }
    let busy = waiting[ear] >= most;
    waiting[ear] += 1;
    let work = if busy { refuse(node, shard, ask) } else { carry_out(node, shard, ask) };
    Some(work.map(move |answer| (ear, answer)).boxed())
}

fn carry_out(node: &Arc<Node>, shard: ShardId, ask: Ask) -> BoxFuture<'_, Option<Answer>> {
    match ask {
        Ask::Attach { channel, from } => node.attach(shard, channel, from).map(|()| None).boxed(),
        Ask::Detach { .. } => std::future::ready(None).boxed(),
        Ask::Publish { channel, data, info, ticket } => {
            let attributes = Attributes::new(Vec::new(), Some(info));
            let published = node.publish(&channel, data, Append { attributes, idempotency_key: None });
            published.map(move |result| Some(Answer::Published(ticket, result))).boxed()
        }
        Ask::Recover { channel, request, ticket } => {
            node.recover(shard, channel, request, ticket).map(|()| None).boxed()
        }
        Ask::History { channel, page, ticket } => {
            async move { Some(Answer::History(ticket, node.history(&channel, &page).await)) }.boxed()
        }
    }
}

/// Too many requests wait for the same broker.
fn refuse(node: &Arc<Node>, shard: ShardId, ask: Ask) -> BoxFuture<'_, Option<Answer>> {
    match ask {
        Ask::Attach { channel, .. } => node.refuse_attach(shard, channel).map(|()| None).boxed(),
        Ask::Publish { ticket, .. } => {
            let busy = Err(PublishError::Broker(BrokerError::Busy));
            std::future::ready(Some(Answer::Published(ticket, busy))).boxed()
        }
        // These wait for nothing.
        Ask::Detach { .. } | Ask::Recover { .. } | Ask::History { .. } => carry_out(node, shard, ask),
    }
}

impl Ask {
    fn channel(&self) -> &ChannelName {
        match self {
            Self::Detach { channel, .. }
            | Self::Attach { channel, .. }
            | Self::Recover { channel, .. }
            | Self::History { channel, .. }
            | Self::Publish { channel, .. } => channel,
        }
    }
}
