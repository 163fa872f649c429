//! One Redis deployment: plain `PUBLISH` in, plain `PUBLISH` out; and logs, if a namespace configures them.
//!
//! Two links (more in a cluster), each a task with its own connection: the *subscriber link* carries only
//! subscriptions and PING, the *command link* carries publications. Both reconnect indefinitely. Must never report a
//! topic as active, or a message as published, before the server has confirmed it; and must never lose a message
//! without reporting a gap.
//!
//! - `settings`: the server, timeouts, bounds.
//! - `subscription_table`: desired and active topics. `subscribe_commands`: subscriptions in chunks.
//! - `receive_queue`, `pattern_dedup`: the bounded queue from a connection to the handler.
//! - `subscriber_task`, `subscriber_link`, `subscriber_connection`, `link_target`: the task of the subscriber link, its
//!   parts, one of its connections, its server. `desired_subscriptions`: the topics that its callers subscribe to.
//! - `command_queue`, `command_link`: the queue of commands, and the command link.
//! - `local_fallback`: delivery within this node while Redis is unavailable.
//! - `cluster`: the same over several servers. `sharded_links`: the subscriber links of sharded channels.
//! - `log`, `scripts`: logs of channels, and the scripts that keep them.
//! - `probe`, `probe_tracker`, `prober`, `ping`: whether a link receives; `status`: the reported state.
//! - `error_reply`: the meaning of an error reply.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};
use futures::future::BoxFuture;
use redis::Value;

use self::cluster::Cluster;
use self::cluster::command_link::ClusterCommandLink;
use self::command_link::CommandLink;
use self::command_queue::{CommandReply, CommandSender, RedisRequest};
use self::desired_subscriptions::DesiredSubscriptions;
use self::link_target::LinkTarget;
use self::local_fallback::LocalFallback;
use self::scripts::ScriptCall;
use self::sharded_links::ShardedLinks;
use self::status::LinkState;
use self::subscriber_link::SubscriberLink;
use super::log::{AppendOptions, LogConfig, LogPage};
use super::{
    Broker, BrokerError, BrokerEventHandler, BrokerReply, DeliveryScope, LinkStatus, PublishOptions, Topic,
    WhenUnavailable,
};
use crate::drain::Drain;
use earshot_redis_link::Dialer;

#[cfg(feature = "bench")]
pub mod bench;
mod cluster;
mod command_link;
mod command_queue;
mod desired_subscriptions;
mod error_reply;
mod link_target;
mod local_fallback;
mod log;
mod pattern_dedup;
mod ping;
mod probe;
mod probe_tracker;
mod prober;
mod receive_queue;
mod scripts;
mod settings;
mod sharded_links;
mod status;
mod subscribe_commands;
mod subscriber_connection;
mod subscriber_link;
mod subscriber_task;
mod subscription_table;
#[cfg(test)]
mod tests;

pub use settings::RedisSettings;

/// A broker on one Redis deployment.
pub struct RedisBroker {
    settings: Arc<RedisSettings>,
    subscriptions: Arc<DesiredSubscriptions>,
    command_sender: CommandSender,
    commands: Arc<LinkState>,
    /// Only in a cluster.
    shards: Option<Arc<ShardedLinks>>,
}

impl RedisBroker {
    /// Starts both links. They connect in the background, and reconnect until `drain` stops them.
    pub fn start(settings: RedisSettings, handler: Arc<dyn BrokerEventHandler>, drain: &Drain) -> Arc<Self> {
        let settings = Arc::new(settings);
        let address = settings.instance.location();
        let (subscribe_dialer, command_dialer) =
            (Dialer::new(&settings.instance, "subscriptions"), Dialer::new(&settings.instance, "commands"));
        let state = |link, dialer: &Dialer| {
            LinkState::new(&settings.instance.name, link, address.clone()).with_replica(dialer.replica_flag())
        };
        let subscriptions = Arc::new(DesiredSubscriptions::new(state("subscriptions", &subscribe_dialer)));
        let commands = Arc::new(state("commands", &command_dialer));
        let (command_sender, command_queue) = command_queue::command_queue(
            &settings,
            LocalFallback { state: commands.clone(), handler: handler.clone() },
        );
        let subscriber = |target, handler, is_partial| SubscriberLink {
            settings: settings.clone(),
            target,
            subscriptions: subscriptions.clone(),
            handler,
            command_sender: command_sender.clone(),
            commands: commands.clone(),
            is_partial,
        };
        let mut shards = None;
        if let Some(cluster) = Cluster::new(&settings) {
            let any_node = subscriber(LinkTarget::AnyNode(cluster.clone()), handler.clone(), true);
            drain.spawn(subscriber_task::run(any_node, drain.clone()));
            let link = ClusterCommandLink::new(&settings, &cluster, &commands, command_queue);
            drain.spawn(link.run(drain.clone()));
            let links = ShardedLinks::new(
                &settings,
                &cluster,
                (command_sender.clone(), commands.clone()),
                handler,
                drain,
            );
            drain.spawn(links.clone().run(drain.clone()));
            shards = Some(links);
            drain.spawn(cluster.run(drain.clone()));
        } else {
            let server = subscriber(LinkTarget::Server(Box::new(subscribe_dialer)), handler, false);
            drain.spawn(subscriber_task::run(server, drain.clone()));
            let link = CommandLink {
                settings: settings.clone(),
                dialer: command_dialer,
                state: commands.clone(),
                command_queue,
            };
            drain.spawn(link.run(drain.clone()));
        }
        Arc::new(Self { settings, subscriptions, command_sender, commands, shards })
    }

    async fn confirm(&self, topic: &Topic, when_unavailable: WhenUnavailable) -> Result<(), BrokerError> {
        let confirmation = match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.subscribe(topic),
            (Topic::Sharded(_), None) => {
                return Err(BrokerError::Rejected("sharded channels require a cluster".to_owned()));
            }
            (Topic::Channel(_) | Topic::Pattern(_), _) => self.subscriptions.subscribe(topic),
        };
        let Some(confirmation) = confirmation else { return Ok(()) };
        let limit = self.settings.instance.command_timeout;
        tokio::select! {
            biased;
            confirmed = tokio::time::timeout(limit, confirmation) => match confirmed {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(BrokerError::Unavailable("the gateway is shutting down".to_owned())),
                Err(_) => Err(BrokerError::Unavailable(format!("not confirmed within {limit:?}"))),
            },
            () = self.wait_for_fallback(topic), if when_unavailable == WhenUnavailable::Local => Ok(()),
        }
    }

    async fn wait_for_fallback(&self, topic: &Topic) {
        match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.wait_for_fallback(topic).await,
            (Topic::Sharded(_) | Topic::Channel(_) | Topic::Pattern(_), _) => {
                self.subscriptions.wait_for_fallback(topic).await
            }
        }
    }

    /// Runs a script, and reads its reply with `read`.
    fn call<T: 'static>(
        &self,
        call: ScriptCall,
        read: fn(Value) -> Result<T, BrokerError>,
    ) -> BrokerReply<T> {
        let answer = self.command_sender.submit(RedisRequest::Script(call));
        Box::pin(async move { answer.await.map(CommandReply::value).and_then(read) })
    }
}

impl Broker for RedisBroker {
    fn kind(&self) -> &'static str {
        "redis"
    }

    fn supports_attributes(&self) -> bool {
        false
    }

    fn links(&self) -> Vec<LinkStatus> {
        let sharded = self.shards.as_ref().and_then(|shards| shards.status());
        [self.commands.status(), self.subscriptions.status()].into_iter().chain(sharded).collect()
    }

    fn subscribe<'a>(
        &'a self,
        topic: &'a Topic,
        when_unavailable: WhenUnavailable,
    ) -> BoxFuture<'a, Result<(), BrokerError>> {
        Box::pin(self.confirm(topic, when_unavailable))
    }

    fn unsubscribe(&self, topic: &Topic) {
        match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.unsubscribe(topic),
            (Topic::Sharded(_) | Topic::Channel(_) | Topic::Pattern(_), _) => {
                self.subscriptions.unsubscribe(topic)
            }
        }
    }

    fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        options: PublishOptions,
    ) -> BrokerReply<DeliveryScope> {
        let (channel, allow_local) = (channel.clone(), options.when_unavailable == WhenUnavailable::Local);
        let answer = self.command_sender.submit(if options.sharded {
            RedisRequest::PublishSharded { channel, data, allow_local }
        } else {
            RedisRequest::Publish { channel, data, allow_local }
        });
        Box::pin(async move { answer.await.map(|reply| reply.scope()) })
    }

    fn append(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        data: Bytes,
        options: AppendOptions,
        seen: Option<StreamPosition>,
    ) -> BrokerReply<StreamPosition> {
        self.call(log::append(log, channel, data, options, seen), log::position)
    }

    fn open_log(&self, log: &LogConfig, channel: &ChannelName) -> BrokerReply<LogPage> {
        self.call(log::open(log, channel), log::page)
    }

    fn follow_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        seen: StreamPosition,
        limit: usize,
    ) -> BrokerReply<LogPage> {
        self.call(log::follow(log, channel, seen, limit), log::page)
    }

    fn read_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        after: u64,
        limit: usize,
    ) -> BrokerReply<LogPage> {
        self.call(log::read_after(log, channel, after, limit), log::page)
    }

    fn read_log_back(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        before: Option<u64>,
        limit: usize,
    ) -> BrokerReply<LogPage> {
        self.call(log::read_before(log, channel, before, limit), log::page)
    }

    fn clear_log(&self, log: &LogConfig, channel: &ChannelName) -> BrokerReply<()> {
        self.call(log::clear(log, channel), |_| Ok(()))
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("settings", &self.settings).finish_non_exhaustive()
    }
}
