//! Publications from clients and from the API.
//!
//! Owns the checks of a publication, and ensures that an idempotency key publishes only once. Must never assign a
//! position.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::ChannelName;
use futures::future::Either;
use tokio::task::JoinError;

use super::channel_source::ChannelSource;
use super::messages::{PublishError, Published};
use super::namespace::{Namespace, ResolvedChannel};
use super::{BrokerBinding, Node};
use crate::broker::log::AppendOptions;
use crate::broker::{Broker, BrokerError, DeliveryScope, PublishOptions};

impl Node {
    /// Publishes a payload unchanged. The call itself takes the place in the order of publications; with an
    /// idempotency key, a task takes it after the first poll. Subscribers see the publishing client if the broker
    /// supports attributes.
    pub fn publish(
        &self,
        resolved: &ResolvedChannel,
        data: Bytes,
        options: AppendOptions,
    ) -> impl Future<Output = Result<Published, PublishError>> + Send + use<> {
        let metrics = Arc::clone(&self.metrics);
        let ResolvedChannel { name: channel, rules } = resolved;
        let namespace = &rules.namespace;
        let counters = Arc::clone(&namespace.counters);
        let BrokerBinding { broker, registry, .. } = self.binding(resolved);
        let taken = if data.len() + options.attributes.tag_bytes() > self.rules.publication_bytes {
            Err(PublishError::TooLarge { limit: self.rules.publication_bytes })
        } else {
            match &namespace.source {
                ChannelSource::Stream(log) => {
                    let seen = registry.find(channel).and_then(|channel| channel.logged_position());
                    Ok(Either::Left(broker.append(log, channel, data, options, seen)))
                }
                ChannelSource::PubSub | ChannelSource::ShardedPubSub => {
                    if !options.attributes.tags().is_empty() && !broker.supports_attributes() {
                        Err(PublishError::TagsUnsupported)
                    } else {
                        Ok(Either::Right(self.publish_plain(broker, namespace, channel, data, options)))
                    }
                }
            }
        };
        async move {
            let result = match taken {
                Ok(Either::Left(appended)) => {
                    appended.await.map(Published::Logged).map_err(PublishError::from)
                }
                Ok(Either::Right(published)) => {
                    published.await.map(Published::Broadcast).map_err(PublishError::from)
                }
                Err(error) => Err(error),
            };
            let count =
                if result.is_ok() { &metrics.control.published } else { &metrics.control.publish_failures };
            count.add(1);
            if result.is_ok() {
                counters.published.add(1);
            }
            result
        }
    }

    /// Publishes without a log; with an idempotency key, only once.
    fn publish_plain(
        &self,
        broker: &Arc<dyn Broker>,
        namespace: &Namespace,
        channel: &ChannelName,
        data: Bytes,
        options: AppendOptions,
    ) -> impl Future<Output = Result<DeliveryScope, BrokerError>> + Send + use<> {
        let AppendOptions { attributes, idempotency_key } = options;
        let (sharded, when_unavailable) = (namespace.source.is_sharded(), namespace.when_unavailable);
        let options = PublishOptions { attributes, sharded, when_unavailable };
        match idempotency_key {
            None => Either::Left(broker.publish(channel, data, options)),
            Some(key) => {
                let evicted = &self.metrics.control.idempotency_keys_evicted;
                let result = self.idempotency.result(channel, &key, evicted);
                let (broker, channel, drain) = (Arc::clone(broker), channel.clone(), self.drain.clone());
                Either::Right(async move {
                    if let Some(reach) = result.get() {
                        return Ok(*reach);
                    }
                    // A separate task: cancelling the caller must not cancel the publication, since later callers
                    // share its result.
                    let first = async move {
                        let publish = || broker.publish(&channel, data, options);
                        result.get_or_try_init(publish).await.copied()
                    };
                    let failed = |error: JoinError| BrokerError::Unavailable(error.to_string());
                    drain.spawn_connection(first).await.map_err(failed)?
                })
            }
        }
    }
}
