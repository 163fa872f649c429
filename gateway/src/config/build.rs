//! Builds the settings of the inner modules.
//!
//! Owns the mapping from sections of the file to those settings. Must never start anything.

use std::sync::Arc;
use std::time::Duration;

use super::channel_pattern::redis_pattern;
use super::{Config, DrainConfig, NamespaceConfig, RedisInstance, RedisUrl, Replay, Servers, Source};
use crate::auth::TrustedProxies;
use crate::auth::origin::{HostPolicy, OriginPolicy};
use crate::broker::log::LogConfig;
use crate::broker::redis::RedisSettings;
use crate::ingress::IngressLimits;
use crate::ingress::activity::DrainTimeouts;
use crate::ingress::http_server::HttpLimits;
use crate::login::ClientLimitSettings;
use crate::node::channel_pattern::ChannelPattern;
use crate::node::channel_source::ChannelSource;
use crate::node::namespace::Namespace;
use crate::shard::ShardLimits;

impl Config {
    /// The limits of the shards.
    pub fn shard_limits(&self) -> ShardLimits {
        ShardLimits {
            message_bytes: self.limits.message_bytes,
            client_queue_bytes: self.limits.client_queue_bytes,
            recovery_page: crate::shard::RECOVERY_PAGE,
            pending_command_bytes: self.limits.pending_command_bytes,
            client_queue_age: self.limits.client_queue_age,
            channels_per_connection: self.limits.channels_per_connection,
            commands_per_frame: self.limits.commands_per_frame,
            recovery_publications: self.limits.recovery_publications,
            inflight_requests: self.limits.inflight_requests,
            ping_interval: self.websocket.ping_interval,
            pong_timeout: self.websocket.pong_timeout,
            connect_timeout: self.websocket.connect_timeout,
            close_timeout: self.websocket.close_timeout,
            sse_heartbeat: self.sse.heartbeat,
            sse_retry: self.sse.retry,
            sse_max_age: self.sse.max_age,
        }
    }

    /// The limits of users and addresses.
    pub fn client_limits(&self) -> ClientLimitSettings {
        let limits = &self.limits;
        ClientLimitSettings {
            connections_per_user: limits.connections_per_user,
            failed_logins_per_minute: limits.failed_logins_per_minute,
            publishes_per_second: limits.publishes_per_second,
            publishes_per_second_per_user: limits.publishes_per_second_per_user,
        }
    }

    /// The limits of new connections.
    pub fn ingress_limits(&self) -> IngressLimits {
        let (limits, http) = (&self.limits, &self.http);
        let window = self.drain.disconnect_window;
        let close_limit = self.drain.client_close_timeout();
        let close_timeout = self.websocket.close_timeout.min(close_limit);
        IngressLimits {
            request_header_bytes: limits.request_header_bytes,
            request_header_timeout: limits.request_header_timeout,
            http: HttpLimits {
                idle_timeout: http.idle_timeout,
                ping_interval: http.ping_interval,
                ping_timeout: http.ping_timeout,
                max_concurrent_streams: u32::try_from(http.max_concurrent_streams).unwrap_or(u32::MAX),
                reserved_timeout: limits.reserved_timeout,
                drain: DrainTimeouts {
                    idle: close_timeout,
                    streams: window + close_timeout,
                    requests: window + close_limit,
                },
                request_header_bytes: limits.request_header_bytes,
            },
        }
    }

    /// The allowed origins.
    pub fn origin_policy(&self) -> OriginPolicy {
        let allowed = self.allowed_origins.clone();
        if self.development { OriginPolicy::development(allowed) } else { OriginPolicy::new(allowed) }
    }

    /// The hosts that requests may name.
    pub fn host_policy(&self) -> HostPolicy {
        HostPolicy::new(&self.allowed_hosts, &self.allowed_origins)
    }

    /// The proxies that report the addresses of clients.
    pub fn trusted_proxies(&self) -> TrustedProxies {
        TrustedProxies::new(self.trusted_proxies.clone())
    }
}

impl DrainConfig {
    /// Maximum time for a client to close its connection, so that the shutdown timeout is kept.
    pub fn client_close_timeout(&self) -> Duration {
        self.shutdown_timeout.saturating_sub(self.disconnect_window) * 3 / 4
    }
}

impl RedisInstance {
    /// The connection settings of each server of the instance.
    pub fn servers(&self, config: &Config) -> Vec<RedisSettings> {
        match &self.servers {
            Servers::ClientSharded(urls) => {
                let one = |(index, url)| self.server_settings(format!("{}.{index}", self.name), url, config);
                urls.iter().enumerate().map(one).collect()
            }
            Servers::One | Servers::Cluster(_) => {
                let url = self.pubsub_url.as_ref().unwrap_or(&self.url);
                vec![self.server_settings(self.name.clone(), url, config)]
            }
        }
    }

    fn server_settings(&self, name: String, url: &RedisUrl, config: &Config) -> RedisSettings {
        RedisSettings {
            instance: self.settings(name, url),
            ping_interval: self.times.ping_interval,
            probe_interval: self.times.probe_interval,
            probe_prefix: self.probe_prefix.clone(),
            receive_queue_bytes: config.limits.redis_queue_bytes,
            message_bytes: config.limits.publication_bytes,
            ..RedisSettings::default()
        }
    }
}

impl NamespaceConfig {
    /// The rules of the namespace; `brokers` are the indexes of its brokers.
    pub fn rules(&self, brokers: Box<[usize]>) -> Namespace {
        let pattern = |pattern: &ChannelPattern| match self.redis_pattern(pattern) {
            Some(by_pattern) => pattern.clone().subscribed_by(by_pattern.into()),
            None => pattern.clone(),
        };
        Namespace {
            name: self.name.clone(),
            channels: self.channels.iter().map(pattern).collect(),
            brokers,
            access: self.access.clone(),
            history: self.history,
            source: self.channel_source(),
            when_unavailable: self.when_redis_down,
            replay_last: self.replay == Replay::Last,
            backpressure: self.slow_consumer.clone().map(Arc::new),
            counters: Arc::default(),
        }
    }

    /// The pattern in the syntax of `PSUBSCRIBE`; `None` when the names of channels are subscribed.
    pub(super) fn redis_pattern(&self, pattern: &ChannelPattern) -> Option<String> {
        (self.subscribe_pattern && !pattern.is_exact()).then(|| redis_pattern(pattern))
    }

    fn channel_source(&self) -> ChannelSource {
        match self.source {
            Source::PubSub if self.sharded_pubsub => ChannelSource::ShardedPubSub,
            Source::PubSub => ChannelSource::PubSub,
            Source::Stream => ChannelSource::Stream(Arc::new(LogConfig {
                key_prefix: self.key_prefix.clone(),
                channel_hash_tag: self.spread,
                sharded: self.sharded_pubsub,
                size: self.history.size,
                ttl: self.history.ttl,
            })),
        }
    }
}
