//! Messages between the node and its shards: requests, responses and events.
//!
//! Owns the types and the comparison of a client's position with a sequence. Must never read a log or a ring.
//!
//! A shard sends [`NodeRequest`]s. The node answers some of them with a [`NodeResponse`] with the same [`RequestId`],
//! and the others with a [`NodeEvent`], which keeps the order of the channel's publications.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ClientInfo, Epoch, StreamPosition};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::namespace::ResolvedChannel;
use super::publication::Publication;
use crate::auth::ClientNetwork;
use crate::auth::Denial;
use crate::broker::log::{LogOrigin, LogPage};
use crate::broker::{BrokerError, DeliveryScope, GapCause};
use crate::login::{Credentials, LoginOutcome};

/// A request of a shard to the node.
#[derive(Debug)]
pub enum NodeRequest {
    /// Subscribe the shard to a channel; answered with [`NodeEvent::Attached`] or [`NodeEvent::AttachFailed`].
    Attach {
        /// The channel.
        channel: ResolvedChannel,
        /// The network of the subscribing client, if limits per address apply to it. A new channel is attributed to
        /// this address.
        network: Option<ClientNetwork>,
    },
    /// Unsubscribe the shard from a channel; no response.
    Detach {
        /// The channel.
        channel: ResolvedChannel,
        /// Clients of several networks were subscribed in this shard, so the channel is attributed to none.
        shared: bool,
    },
    /// Return the publications that a connection has missed in a channel that the shard is attached to; answered by
    /// [`NodeEvent::Recovered`] or [`NodeEvent::RecoverFailed`].
    Recover {
        /// The channel.
        channel: ResolvedChannel,
        /// The position of the connection, and the size of the page.
        request: RecoveryRequest,
        /// Identifies the response.
        request_id: RequestId,
    },
    /// Return a page of a channel's history; answered with [`NodeResponse::History`].
    History {
        /// The channel.
        channel: ResolvedChannel,
        /// The page.
        query: HistoryQuery,
        /// Identifies the response.
        request_id: RequestId,
    },
    /// Check the credentials of a client; answered with [`NodeResponse::LoggedIn`].
    LogIn {
        /// The client's credentials.
        credentials: Credentials,
        /// Identifies the response.
        request_id: RequestId,
    },
    /// Publish for a client; answered with [`NodeResponse::Published`].
    Publish {
        /// The channel.
        channel: ResolvedChannel,
        /// The payload; passed on unchanged.
        data: Bytes,
        /// The publishing client, as subscribers see it.
        info: ClientInfo,
        /// The hook was asked, and the limit of publications was applied then.
        asked_hook: bool,
        /// Identifies the response.
        request_id: RequestId,
    },
}

/// Correlates a response with its request. Only the shard interprets it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// The connection.
    pub connection: u64,
    /// The pending reply of the connection.
    pub reply: u32,
}

/// The node's response to a request whose order relative to publications does not matter.
#[derive(Debug)]
pub enum NodeResponse {
    /// The result of checking a client's credentials.
    LoggedIn(RequestId, Result<LoginOutcome, Denial>),
    /// The result of a publish.
    Published(RequestId, Result<Published, PublishError>),
    /// A page of history; `None` when the channel is not known on this node.
    History(RequestId, Option<HistoryResponse>),
}

/// An event from the node to a shard. The queue keeps the order of events.
#[derive(Debug)]
pub enum NodeEvent {
    /// Publications; in order within each channel.
    Publications(PublicationBatch),
    /// The shard is attached to the channel; publications follow this position.
    Attached(ChannelName, StreamPosition),
    /// The shard could not be attached to the channel.
    AttachFailed(ChannelName, SubscribeError),
    /// The publications that a connection has missed in the channel.
    Recovered(RequestId, ChannelName, Recovery),
    /// The missed publications cannot be determined now.
    RecoverFailed(RequestId, ChannelName, SubscribeError),
    /// Publications of these channels may be missing.
    Gaps(Vec<ChannelGap>),
    /// Requests the number of subscribers of each channel of the shard.
    CountSubscribers(oneshot::Sender<Vec<(ChannelName, u32)>>),
}

/// Publications that were sent to a shard together.
#[derive(Debug)]
pub struct PublicationBatch {
    /// The publications.
    pub publications: Vec<Arc<Publication>>,
    /// When they entered the queue of the shard.
    pub queued_at: Instant,
}

/// A gap in a channel's sequence.
#[derive(Clone, Debug)]
pub struct ChannelGap {
    /// The channel.
    pub channel: ChannelName,
    /// Why publications may be missing.
    pub cause: GapCause,
    /// The position at which the sequence continues.
    pub position: StreamPosition,
}

/// Why a shard could not subscribe to a channel, or a connection could not recover.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubscribeError {
    /// The client's position is ahead of this node's, and the log cannot be read.
    #[error("the position of the client is ahead of this node, and the log cannot be read")]
    NodeBehind,
    /// `limits.channels` is reached.
    #[error("too many channels on this node (limits.channels)")]
    TooManyChannels,
    /// The broker failed or rejected the subscription.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Why a publication was not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No namespace matches the channel.
    #[error("no namespace matches the channel")]
    UnknownChannel,
    /// Pub/sub carries the payload and nothing else.
    #[error("tags require a namespace with source = \"stream\": a plain PUBLISH carries only the payload")]
    TagsUnsupported,
    /// Payload and tags are larger than `limits.publication_bytes`.
    #[error("the publication is larger than {limit} bytes (limits.publication_bytes)")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The client publishes too often.
    #[error(
        "the client publishes too often (`publishes_per_second` and `publishes_per_second_per_user` of [limits])"
    )]
    TooMany,
    /// The broker failed or rejected the publication.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// The result of a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// The publication has this position in the log.
    Logged(StreamPosition),
    /// The publication was sent without a log; each node that receives it assigns its own position.
    Broadcast(DeliveryScope),
}

/// Selects a page of a channel's history.
#[derive(Clone, Debug)]
pub struct HistoryQuery {
    pub(super) since: Option<RecoverFrom>,
    pub(super) limit: usize,
    pub(super) reverse: bool,
}

/// A page of a channel's history.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// The position of the newest publication of the channel.
    pub top: StreamPosition,
    /// The publications.
    pub publications: Vec<Arc<Publication>>,
}

/// The response to a history query.
pub type HistoryResponse = Result<HistoryPage, HistoryError>;

/// Why a page of history could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// The position belongs to another sequence.
    #[error("the epoch of the position does not match")]
    Unrecoverable,
    /// The log could not be read.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Requests the publications that a connection has missed.
#[derive(Clone, Debug)]
pub struct RecoveryRequest {
    /// The position of the client; `None` for a client that has none.
    pub since: Option<RecoverFrom>,
    /// Return the newest publication even if nothing can be recovered.
    pub replay_last: bool,
    /// The limit of one page.
    pub page: PageLimit,
    /// Requests a further page: at least one publication, and nothing that must be read from a log.
    pub is_continuation: bool,
}

/// A page of the publications that a connection has missed.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// The position of the channel at that moment: after the last page, live publications follow it.
    pub top: StreamPosition,
    /// The position before the first publication of the page.
    pub start: StreamPosition,
    /// The missed publications, in order and without a gap, up to the limit of the page.
    pub publications: Vec<Arc<Publication>>,
    /// Whether everything since the client's position is recovered.
    pub recovered: bool,
    /// Whether the page reaches `top`; otherwise more pages follow.
    pub is_complete: bool,
}

/// The position from which a client recovers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoverFrom {
    /// The epoch.
    pub epoch: RecoveryEpoch,
    /// The offset of the last publication that the client has.
    pub offset: u64,
}

/// The epoch of a client's position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecoveryEpoch {
    /// Matches every epoch.
    Any,
    /// Matches this epoch.
    Exact(Epoch),
    /// Cannot be parsed; matches no epoch.
    Invalid,
}

/// The limit of one page of a recovery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Publications.
    pub publications: usize,
    /// Bytes, as counted by [`Publication::cost`].
    pub bytes: usize,
}

impl NodeRequest {
    /// Whether a hook answers the request.
    pub(super) fn is_for_hook(&self) -> bool {
        matches!(self, Self::LogIn { credentials: Credentials::Hook(_), .. })
    }

    /// The channel of the request, if it is about one.
    pub(super) fn channel(&self) -> Option<&ResolvedChannel> {
        match self {
            Self::LogIn { .. } => None,
            Self::Detach { channel, .. }
            | Self::Attach { channel, .. }
            | Self::Recover { channel, .. }
            | Self::History { channel, .. }
            | Self::Publish { channel, .. } => Some(channel),
        }
    }
}

impl NodeEvent {
    /// The number of publications in the event.
    pub fn publications(&self) -> usize {
        match self {
            Self::Publications(batch) => batch.publications.len(),
            Self::Recovered(_, _, recovery) => recovery.publications.len(),
            _ => 0,
        }
    }
}

impl HistoryQuery {
    /// Selects the publications after (in reverse: before) a position, at most `limit`. A limit of 0 selects only the
    /// position of the newest publication; a negative limit selects up to `limit_max`.
    pub fn new(since: Option<RecoverFrom>, limit: i32, limit_max: usize, reverse: bool) -> Self {
        Self { since, limit: usize::try_from(limit).unwrap_or(limit_max).min(limit_max), reverse }
    }
}

impl RecoverFrom {
    /// The position in the cursor of an event stream.
    pub fn position(position: StreamPosition) -> Self {
        // The position of a channel whose log is not open yet precedes every log.
        let epoch = match position.epoch.as_u64() {
            0 => RecoveryEpoch::Any,
            _ => RecoveryEpoch::Exact(position.epoch),
        };
        Self { epoch, offset: position.offset }
    }

    /// The position in a command of a WebSocket client or of the API. An empty epoch matches every one.
    pub fn parse(epoch: &str, offset: u64) -> Self {
        let epoch = match epoch {
            "" => RecoveryEpoch::Any,
            text => text.parse().map_or(RecoveryEpoch::Invalid, RecoveryEpoch::Exact),
        };
        Self { epoch, offset }
    }

    /// The moment that the position names, if it precedes the first publication of a log. A provisional position with
    /// an offset belongs to a log that cannot be identified, and is never accepted.
    pub(super) fn provisional(&self) -> Option<LogOrigin> {
        match self.epoch {
            RecoveryEpoch::Exact(epoch) if self.offset == 0 => LogOrigin::of_epoch(epoch),
            _ => None,
        }
    }

    /// Whether the position belongs to the log that a page was read from, or precedes the first publication of it.
    pub(super) fn matches_log(&self, page: &LogPage) -> bool {
        let absent = self.provisional().zip(page.origin);
        match page.top {
            Some(top) => {
                self.matches(top.epoch)
                    || absent.is_some_and(|(absent, origin)| origin.is_first_since(absent))
            }
            None => {
                self.epoch == RecoveryEpoch::Any
                    || absent.is_some_and(|(absent, now)| now.is_same_absence(absent))
            }
        }
    }

    /// Whether the position belongs to the sequence with this epoch.
    pub fn matches(&self, epoch: Epoch) -> bool {
        match self.epoch {
            RecoveryEpoch::Any => true,
            RecoveryEpoch::Exact(own) => own == epoch,
            RecoveryEpoch::Invalid => false,
        }
    }
}

impl Recovery {
    /// A page without publications: nothing was missed, or nothing can be recovered.
    pub fn empty(top: StreamPosition, recovered: bool) -> Self {
        Self { top, start: top, publications: Vec::new(), recovered, is_complete: true }
    }

    /// The position after the last publication of the page.
    pub fn end(&self) -> StreamPosition {
        self.publications.last().map_or(self.start, |last| last.position)
    }
}

impl PageLimit {
    /// The limit of each of several pages that are written together.
    #[must_use]
    pub fn shared_by(self, pages: usize) -> Self {
        let pages = pages.max(1);
        Self { publications: self.publications / pages, bytes: self.bytes / pages }
    }

    /// How many publications of these costs fit; at least one if `at_least_one`.
    pub fn fitting(self, costs: impl Iterator<Item = usize>, at_least_one: bool) -> usize {
        let mut bytes = 0;
        let fits = |cost: &usize| {
            bytes += cost;
            bytes <= self.bytes
        };
        costs.take(self.publications).take_while(fits).count().max(usize::from(at_least_one))
    }
}
