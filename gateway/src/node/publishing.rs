//! Publications of clients and of the API, on their way to the broker of their channel.
//!
//! Owns the checks before a publication, and that an idempotency key publishes once. Must never number a publication.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ErrorCode, StreamPosition};
use futures::future::Either;
use tokio::task::JoinError;

use super::namespace::Namespace;
use super::{Ear, Node};
use crate::broker::log::Append;
use crate::broker::{Broker, BrokerError, Reach};

/// Why a publication was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// No namespace has the channel.
    #[error("no namespace has this channel")]
    UnknownChannel,
    /// Redis's plain pub/sub carries the payload and nothing else.
    #[error("tags need a namespace with source = \"stream\": a plain PUBLISH carries the payload alone")]
    NoTags,
    /// Payload and tags are larger than `limits.publication_bytes`.
    #[error("the publication is larger than {limit} bytes (limits.publication_bytes)")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The broker could not or would not.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

impl PublishError {
    /// The error code that the client gets.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownChannel => ErrorCode::UnknownChannel,
            Self::NoTags => ErrorCode::NotAvailable,
            Self::TooLarge { .. } => ErrorCode::LimitExceeded,
            Self::Broker(BrokerError::Unavailable(_)) => ErrorCode::Internal,
            Self::Broker(BrokerError::Busy) => ErrorCode::TooManyRequests,
            Self::Broker(BrokerError::Refused(_)) => ErrorCode::PermissionDenied,
        }
    }
}

/// What came of a publication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Published {
    /// It has this place in its log.
    Numbered(StreamPosition),
    /// It came so far; each node that hears it numbers it for itself.
    Plain(Reach),
}

impl Node {
    /// Publishes a payload, untouched. The place in the order of publications is taken by the call itself; with an
    /// idempotency key, by a task after the first poll. The client that publishes is told to others where the way carries that.
    pub fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        extras: Append,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        let metrics = Arc::clone(&self.metrics);
        let taken = match self.namespace(channel) {
            None => Err(PublishError::UnknownChannel),
            Some(_) if data.len() + extras.attributes.tag_bytes() > self.publication_bytes => {
                Err(PublishError::TooLarge { limit: self.publication_bytes })
            }
            Some(namespace) => {
                let Ear { broker, registry, .. } = &self.ears[namespace.broker(channel)];
                match &namespace.log {
                    Some(log) => {
                        let seen = registry.seen(channel);
                        Ok(Either::Left(broker.append_behind(log, channel, data, extras, seen)))
                    }
                    None if !extras.attributes.tags().is_empty() && !broker.carries_attributes() => {
                        Err(PublishError::NoTags)
                    }
                    None => Ok(Either::Right(self.publish_plain(broker, namespace, channel, data, extras))),
                }
            }
        };
        async move {
            let result = match taken {
                Ok(Either::Left(appended)) => {
                    appended.await.map(Published::Numbered).map_err(PublishError::from)
                }
                Ok(Either::Right(published)) => {
                    published.await.map(Published::Plain).map_err(PublishError::from)
                }
                Err(error) => Err(error),
            };
            let count =
                if result.is_ok() { &metrics.control.published } else { &metrics.control.publish_failures };
            count.add(1);
            result
        }
    }

    /// Publishes outside of a log; with an idempotency key, only the first time.
    fn publish_plain(
        &self,
        broker: &Broker,
        namespace: &Namespace,
        channel: &ChannelName,
        data: Bytes,
        extras: Append,
    ) -> impl Future<Output = Result<Reach, BrokerError>> + Send + use<> {
        let (sharded, on_loss) = (namespace.sharded, namespace.on_loss);
        let Append { attributes, idempotency_key } = extras;
        let publish = move |broker: &Broker, channel: &ChannelName| match sharded {
            true => Either::Left(broker.publish_sharded(channel, data, on_loss)),
            false => Either::Right(broker.publish(channel, data, attributes, on_loss)),
        };
        match idempotency_key {
            None => Either::Left(publish(broker, channel)),
            Some(key) => {
                let forgotten = &self.metrics.control.idempotency_keys_evicted;
                let result = self.idempotency.result(channel, &key, forgotten);
                let (broker, channel, drain) = (broker.clone(), channel.clone(), self.drain.clone());
                Either::Right(async move {
                    if let Some(reach) = result.get() {
                        return Ok(*reach);
                    }
                    // A task of its own: a caller that is cancelled cannot take back a publication that is under way,
                    // and its result belongs to the callers after it.
                    let first =
                        async move { result.get_or_try_init(|| publish(&broker, &channel)).await.copied() };
                    let failed = |error: JoinError| BrokerError::Unavailable(error.to_string());
                    drain.spawn_connection(first).await.map_err(failed)?
                })
            }
        }
    }
}
