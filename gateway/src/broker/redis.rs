//! One Redis instance: a plain `PUBLISH` in, a plain `PUBLISH` out; and logs, where a namespace wants them.
//!
//! Two links (more in a cluster), each a task with a connection of its own: the *subscriber* carries nothing but subscriptions and PING,
//! the *command* link carries what is published. Both dial anew for ever. Must never say that something is heard, or
//! was published, before the server confirmed it; and must never lose anything without saying so.
//!
//! - `settings`: the server, time-outs, bounds.
//! - `table`: what is wanted, and what is confirmed.
//! - `requests`: subscriptions in chunks, each confirmed or refused.
//! - `handover`, `echo`: the bounded way from a connection to the listener, each publication once.
//! - `route`: where a subscriber link connects to.
//! - `subscriber`, `listening`: the life of the subscriber link, and of one connection of it.
//! - `outbox`, `commands`: what Redis is to be asked, and the command link.
//! - `alone`: what goes on in this node while Redis is away.
//! - `cluster`: the same over several servers.
//! - `log`, `log_script`: logs of channels, and the scripts that keep them.
//! - `probe`, `probe_tracker`, `ping`, `status`: whether a link receives and lives, and what is told about it.
//! - `error_reply`: what an error reply of a server means.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};
use redis::Value;

use self::alone::Alone;
use self::cluster::Cluster;
use self::cluster::commands::ClusterCommands;
use self::cluster::shards::Shards;
use self::commands::Commands;
use self::log_script::Call;
use self::outbox::{Outbox, Request, Told};
use self::route::Route;
use self::status::LinkState;
use self::subscriber::{Subscriber, Wishes};
use super::log::{AppendOptions, LogConfig, LogPage};
use super::{BrokerError, BrokerEventHandler, DeliveryScope, LinkStatus, Topic, WhenUnavailable};
use crate::drain::Drain;
use earshot_redis_link::Dialer;

mod alone;
#[doc(hidden)]
pub mod bench;
mod cluster;
mod commands;
mod echo;
mod error_reply;
mod handover;
mod listening;
mod log;
mod log_script;
mod outbox;
mod ping;
mod probe;
mod probe_tracker;
mod prober;
mod requests;
mod route;
mod settings;
mod status;
mod subscriber;
mod table;
#[cfg(test)]
mod tests;

pub use settings::RedisSettings;

/// A broker on one Redis instance.
pub struct RedisBroker {
    settings: Arc<RedisSettings>,
    wishes: Arc<Wishes>,
    outbox: Outbox,
    commands: Arc<LinkState>,
    /// Only a cluster has any.
    shards: Option<Arc<Shards>>,
}

impl RedisBroker {
    /// Starts both links. They connect in the background, and go on trying until `drain` stops them.
    pub fn start(settings: RedisSettings, listener: Arc<dyn BrokerEventHandler>, drain: &Drain) -> Arc<Self> {
        let settings = Arc::new(settings);
        let address = settings.instance.location();
        let (hears, says) =
            (Dialer::new(&settings.instance, "subscriptions"), Dialer::new(&settings.instance, "commands"));
        let state = |link, dialer: &Dialer| {
            LinkState::new(&settings.instance.name, link, address.clone()).with_replica(dialer.replica_flag())
        };
        let wishes = Arc::new(Wishes::new(state("subscriptions", &hears)));
        let commands = Arc::new(state("commands", &says));
        let (outbox, inbox) =
            outbox::outbox(&settings, Alone { state: commands.clone(), listener: listener.clone() });
        let subscriber = |route, listener, is_part| Subscriber {
            settings: settings.clone(),
            route,
            wishes: wishes.clone(),
            listener,
            outbox: outbox.clone(),
            commands: commands.clone(),
            is_part,
        };
        let mut shards = None;
        if let Some(cluster) = Cluster::new(&settings) {
            let anywhere = subscriber(Route::Anywhere(cluster.clone()), listener.clone(), true);
            drain.spawn(anywhere.run(drain.clone()));
            let link = ClusterCommands::new(&settings, &cluster, &commands, inbox);
            drain.spawn(link.run(drain.clone()));
            let place = Shards::new(&settings, &cluster, (outbox.clone(), commands.clone()), listener, drain);
            drain.spawn(place.clone().run(drain.clone()));
            shards = Some(place);
            drain.spawn(cluster.run(drain.clone()));
        } else {
            drain.spawn(subscriber(Route::Server(Box::new(hears)), listener, false).run(drain.clone()));
            let link = Commands { settings: settings.clone(), dialer: says, state: commands.clone(), inbox };
            drain.spawn(link.run(drain.clone()));
        }
        Arc::new(Self { settings, wishes, outbox, commands, shards })
    }

    /// Hears a topic from now on; resolves when the server has confirmed it. See [`super::Broker::subscribe`].
    ///
    /// # Errors
    /// [`BrokerError::Unavailable`] or [`BrokerError::Refused`].
    pub async fn subscribe(
        &self,
        topic: &Topic,
        when_unavailable: WhenUnavailable,
    ) -> Result<(), BrokerError> {
        let wish = match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.want(topic),
            (Topic::Sharded(_), None) => {
                return Err(BrokerError::Refused("only a cluster has shard channels".to_owned()));
            }
            (Topic::Channel(_) | Topic::Pattern(_), _) => self.wishes.want(topic),
        };
        let Some(confirmation) = wish else { return Ok(()) };
        let limit = self.settings.instance.command_timeout;
        tokio::select! {
            biased;
            confirmed = tokio::time::timeout(limit, confirmation) => match confirmed {
                Ok(Ok(answer)) => answer,
                Ok(Err(_)) => Err(BrokerError::Unavailable("the gateway stops".to_owned())),
                Err(_) => Err(BrokerError::Unavailable(format!("not confirmed within {limit:?}"))),
            },
            () = self.go_without(topic), if when_unavailable == WhenUnavailable::Local => Ok(()),
        }
    }

    async fn go_without(&self, topic: &Topic) {
        match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.go_without(topic).await,
            (Topic::Sharded(_) | Topic::Channel(_) | Topic::Pattern(_), _) => {
                self.wishes.go_without(topic).await
            }
        }
    }

    /// No longer hears a topic.
    pub fn unsubscribe(&self, topic: &Topic) {
        match (topic, &self.shards) {
            (Topic::Sharded(_), Some(shards)) => shards.forget(topic),
            (Topic::Sharded(_) | Topic::Channel(_) | Topic::Pattern(_), _) => self.wishes.forget(topic),
        }
    }

    /// Publishes one payload, untouched. The place in the order is taken at once. See [`super::Broker::publish`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn publish(
        &self,
        channel: &ChannelName,
        data: Bytes,
        when_unavailable: WhenUnavailable,
    ) -> impl Future<Output = Result<DeliveryScope, BrokerError>> + Send + 'static + use<> {
        let alone = when_unavailable == WhenUnavailable::Local;
        let answer = self.outbox.ask(Request::Publish { channel: channel.clone(), data, alone });
        async move { answer.await.map(|told| told.reach()) }
    }

    /// As [`RedisBroker::publish`], to those alone who hear the channel as [`Topic::Sharded`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn publish_sharded(
        &self,
        channel: &ChannelName,
        data: Bytes,
        when_unavailable: WhenUnavailable,
    ) -> impl Future<Output = Result<DeliveryScope, BrokerError>> + Send + 'static + use<> {
        let alone = when_unavailable == WhenUnavailable::Local;
        let answer = self.outbox.ask(Request::PublishSharded { channel: channel.clone(), data, alone });
        async move { answer.await.map(|told| told.reach()) }
    }

    /// Appends a payload to a log and publishes it as a [`super::log::LoggedMessage`], in one step. The place in the
    /// order, among plain publications too, is taken by the call itself. See [`super::Broker::append`].
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub fn append(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        data: Bytes,
        extras: AppendOptions,
        seen: Option<StreamPosition>,
    ) -> impl Future<Output = Result<StreamPosition, BrokerError>> + Send + 'static + use<> {
        let answer = self.call(log::append(log, channel, data, extras, seen));
        async move { answer.await.and_then(log::position) }
    }

    /// Says where a log stands. Writes nothing.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn open_log(&self, log: &LogConfig, channel: &ChannelName) -> Result<LogPage, BrokerError> {
        self.call(log::open(log, channel)).await.and_then(log::page)
    }

    /// Reads entries behind the last position that was handed out, in order; a log that is behind it begins anew.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn follow_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        seen: StreamPosition,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        self.call(log::follow(log, channel, seen, limit)).await.and_then(log::page)
    }

    /// Reads entries behind an offset, in order.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn read_log(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        after: u64,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        self.call(log::read_after(log, channel, after, limit)).await.and_then(log::page)
    }

    /// Reads entries before an offset (`None`: from the end), against their order.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn read_log_back(
        &self,
        log: &LogConfig,
        channel: &ChannelName,
        before: Option<u64>,
        limit: usize,
    ) -> Result<LogPage, BrokerError> {
        self.call(log::read_before(log, channel, before, limit)).await.and_then(log::page)
    }

    /// Removes the entries of a log; its numbers go on.
    ///
    /// # Errors
    /// See [`BrokerError`].
    pub async fn clear_log(&self, log: &LogConfig, channel: &ChannelName) -> Result<(), BrokerError> {
        self.call(log::clear(log, channel)).await.map(drop)
    }

    fn call(&self, call: Call) -> impl Future<Output = Result<Value, BrokerError>> + Send + 'static + use<> {
        let answer = self.outbox.ask(Request::Script(call));
        async move { answer.await.map(Told::value) }
    }

    /// How the links stand.
    pub fn links(&self) -> Vec<LinkStatus> {
        let sharded = self.shards.as_ref().and_then(|shards| shards.status());
        [self.commands.status(), self.wishes.status()].into_iter().chain(sharded).collect()
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker").field("settings", &self.settings).finish_non_exhaustive()
    }
}
