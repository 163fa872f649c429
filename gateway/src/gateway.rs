//! The composition root: a [`Config`] becomes a running [`Gateway`].
//!
//! Owns the order in which parts start and stop. Wiring only: it must never contain a rule of the product.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use uuid::Uuid;
use wildmatch::WildMatch;

use crate::admission::{Admission, AdmissionLimits};
use crate::auth::Authorizer;
use crate::auth::api_key::ApiAuth;
use crate::auth::origin::{HostPolicy, OriginPolicy};
use crate::broker::log::LogConfig;
use crate::broker::redis::RedisSettings;
use crate::broker::{Broker, BrokerEventHandler, MemoryBroker, RedisBroker, WhenUnavailable};
use crate::config::{self, Config};
use crate::drain::Drain;
use crate::http::body::BodyLimits;
use crate::http::{self, AppState};
use crate::ingress::activity::DrainTimeouts;
use crate::ingress::http_server::HttpLimits;
use crate::ingress::routes::ListenerRole;
use crate::ingress::{self, Acceptor, IngressLimits, StreamContext};
use crate::metrics::Metrics;
use crate::node::backpressure_policy::{BackpressurePolicy, TerminalStates};
use crate::node::history::{HistoryBudget, HistoryRules};
use crate::node::namespace::{Access, ChannelPattern, Namespace, Namespaces};
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::shard_queue::{ShardQueueLimits, ShardSender, shard_queue};
use crate::node::{BrokerBinding, Node};
use crate::shard::{ShardLimits, Shards};
use earshot_ops::check;

/// Maximum time to read the settings of a Redis server.
const SERVER_CHECK_TIMEOUT: Duration = Duration::from_secs(10);

/// Delay after a server check that failed.
const SERVER_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// File descriptors that are not for clients: listeners, Redis, polls, the log.
const RESERVED_DESCRIPTORS: usize = 128;

/// The limit of open files if the system reports none.
const DEFAULT_DESCRIPTORS: u64 = 1024;

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    addresses: Vec<SocketAddr>,
    internal_addresses: Vec<SocketAddr>,
    shards: Arc<Shards>,
    drain: Drain,
    timeouts: config::DrainConfig,
}

impl Gateway {
    /// Starts all parts. Redis is connected in the background and may be unavailable.
    ///
    /// # Errors
    /// If an address cannot be bound, or a thread cannot be started.
    pub fn start(config: &Config) -> io::Result<Self> {
        let drain = Drain::default();
        let metrics = Metrics::new(config.gateway.shards);
        let (listeners, addresses) = listen(&config.listen, "--listen or `listen`")?;
        let (internal_listeners, internal_addresses) = listen(&config.internal_listen, "`internal_listen`")?;

        let queue_limits = ShardQueueLimits {
            items: config.limits.shard_queue_items,
            bytes: config.limits.shard_queue_bytes,
        };
        let (shard_senders, shard_receivers): (Vec<ShardSender>, Vec<_>) =
            (0..config.gateway.shards).map(|_| shard_queue(queue_limits)).unzip();
        let node = node(config, shard_senders.into(), &metrics, &drain);
        node.start();
        check_servers(config, &drain);

        let limits = shard_limits(config);
        let shards = Shards::start(&node, shard_receivers, limits, &metrics, &drain)?;
        let allowed = config.allowed_origins.clone();
        let origins =
            if config.development { OriginPolicy::development(allowed) } else { OriginPolicy::new(allowed) };
        let reserved = config.limits.reserved_connections;
        let connections = config.limits.connections.unwrap_or_else(|| connections_by_descriptors(reserved));
        let streams = Arc::new(StreamContext {
            node: Arc::clone(&node),
            shards: Arc::clone(&shards),
            limits,
            request_header_bytes: config.limits.request_header_bytes,
            authorizer: Authorizer::new(origins, api_auth(config)),
            hosts: HostPolicy::new(&config.allowed_hosts, &config.allowed_origins),
            admission: Admission::new(AdmissionLimits { connections, reserved }),
            metrics: Arc::clone(&metrics),
        });

        let state = AppState {
            node,
            streams: Arc::clone(&streams),
            metrics: Arc::clone(&metrics),
            drain: drain.clone(),
            history_limit_max: config.limits.recovery_publications,
            body: BodyLimits::new(
                config.limits.api_body_bytes,
                config.limits.request_header_timeout,
                config.limits.api_buffer_bytes,
            ),
            started: Instant::now(),
            uid: Uuid::new_v4().to_string(),
        };
        let state = Arc::new(state);
        let serve = |role: Option<ListenerRole>, listeners: Vec<TcpListener>| {
            let router = http::router(Arc::clone(&state), config.console, role);
            let acceptor =
                Acceptor::new(Arc::clone(&streams), router, role, ingress_limits(config), drain.clone());
            listeners.into_iter().try_for_each(|listener| acceptor.serve(listener))
        };
        if internal_listeners.is_empty() {
            serve(None, listeners)?;
        } else {
            serve(Some(ListenerRole::Public), listeners)?;
            serve(Some(ListenerRole::Internal), internal_listeners)?;
        }
        Ok(Self { addresses, internal_addresses, shards, drain, timeouts: config.drain.clone() })
    }

    /// The bound addresses of `internal_listen`.
    pub fn internal_addresses(&self) -> &[SocketAddr] {
        &self.internal_addresses
    }

    /// The bound addresses of `listen`.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Shuts down: closes the listeners, disconnects all clients within `drain.disconnect_window`, and ends all tasks.
    /// Returns whether this was complete within `drain.shutdown_timeout`.
    pub async fn stop(self) -> bool {
        self.drain.begin();
        let config::DrainConfig { shutdown_timeout, disconnect_window, .. } = self.timeouts;
        let close_limit = client_close_timeout(&self.timeouts);
        let ended = timeout(shutdown_timeout, async {
            self.shards.drain(disconnect_window, close_limit).await;
            let shards = Arc::clone(&self.shards);
            // Joining a thread blocks.
            let joined = tokio::task::spawn_blocking(move || shards.join());
            let _ = joined.await;
            // Requests complete and publications are sent before the links to Redis close.
            self.drain.idle().await;
            self.drain.stop().await;
        });
        ended.await.is_ok()
    }
}

/// Binds all addresses; `setting` names the setting in errors.
fn listen(configured: &[config::Listen], setting: &str) -> io::Result<(Vec<TcpListener>, Vec<SocketAddr>)> {
    let mut listeners = Vec::new();
    for listen in configured {
        let mut bound = Vec::new();
        let mut failed = None;
        for addr in &listen.addrs {
            match ingress::bind(*addr) {
                Ok(listener) => bound.push(listener),
                // A name may resolve to both address families on a system with only one.
                Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable => failed = Some(error),
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                    let what = format!("{error}; choose another address with {setting}");
                    return Err(io::Error::new(error.kind(), what));
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) if bound.is_empty() => return Err(error),
            _ => listeners.extend(bound),
        }
    }
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<io::Result<Vec<_>>>()?;
    Ok((listeners, addresses))
}

fn node(
    config: &Config,
    shard_senders: Arc<[ShardSender]>,
    metrics: &Arc<Metrics>,
    drain: &Drain,
) -> Arc<Node> {
    let limits = ChannelLimits {
        channels: config.limits.channels,
        idle_per_creator: config.limits.idle_channels_per_address,
        unsubscribe_delay: config.gateway.unsubscribe_delay,
        publication_bytes: config.limits.publication_bytes,
        recovery_publications: config.limits.recovery_publications,
    };
    let budget = HistoryBudget::new(config.limits.history_bytes);
    let registry =
        || ChannelRegistry::new(Arc::clone(&shard_senders), limits, Arc::clone(&budget), Arc::clone(metrics));
    let mut bindings: Vec<BrokerBinding> = Vec::new();
    for redis in &config.redis {
        let servers = servers(redis, config).into_iter();
        bindings.extend(
            servers.map(|settings| redis_binding(settings, redis.affects_readiness, registry(), drain)),
        );
    }
    if config.namespaces.iter().any(|namespace| namespace.redis.is_none()) {
        let registry = registry();
        let listener: Arc<dyn BrokerEventHandler> = Arc::<ChannelRegistry>::clone(&registry);
        let broker = Broker::Memory(Arc::new(MemoryBroker::new(listener)));
        bindings.push(BrokerBinding { name: "memory".to_owned(), registry, broker, affects_readiness: true });
    }
    let namespaces = config.namespaces.iter().map(|ns| namespace(ns, &bindings)).collect();
    let probe_prefixes: Vec<String> = config.redis.iter().map(|redis| redis.probe_prefix.clone()).collect();
    let namespaces = Namespaces::new(namespaces, &probe_prefixes);
    let publication_bytes = config.limits.publication_bytes;
    Node::new(
        namespaces,
        bindings,
        shard_senders,
        budget,
        publication_bytes,
        drain.clone(),
        Arc::clone(metrics),
    )
}

/// Logs warnings about the version and settings of each Redis server, once, as soon as it can be reached.
fn check_servers(config: &Config, drain: &Drain) {
    for server in config.servers() {
        let stop = drain.clone();
        drain.spawn(async move {
            let findings = async {
                loop {
                    if let Some(findings) = check::redis::warnings(&server, SERVER_CHECK_TIMEOUT).await {
                        break findings;
                    }
                    tokio::time::sleep(SERVER_CHECK_INTERVAL).await;
                }
            };
            let findings = tokio::select! {
                findings = findings => findings,
                () = stop.stopped() => return,
            };
            for finding in findings {
                let (check, redis) = (finding.check, &server.name);
                tracing::warn!(redis, check, "Redis: {}", finding.one_line());
            }
        });
    }
}

/// The connection settings of each server of an instance.
fn servers(redis: &config::RedisInstance, config: &Config) -> Vec<RedisSettings> {
    match &redis.servers {
        config::Servers::ClientSharded(urls) => {
            let one = |(index, url)| redis_settings(format!("{}.{index}", redis.name), url, redis, config);
            urls.iter().enumerate().map(one).collect()
        }
        config::Servers::One | config::Servers::Cluster(_) => {
            let url = redis.pubsub_url.as_ref().unwrap_or(&redis.url);
            vec![redis_settings(redis.name.clone(), url, redis, config)]
        }
    }
}

fn redis_settings(
    name: String,
    url: &config::RedisUrl,
    redis: &config::RedisInstance,
    config: &Config,
) -> RedisSettings {
    RedisSettings {
        instance: redis.settings(name, url),
        ping_interval: redis.times.ping_interval,
        probe_interval: redis.times.probe_interval,
        probe_prefix: redis.probe_prefix.clone(),
        receive_queue_bytes: config.limits.redis_queue_bytes,
        message_bytes: config.limits.publication_bytes,
        ..RedisSettings::default()
    }
}

fn redis_binding(
    settings: RedisSettings,
    affects_readiness: bool,
    registry: Arc<ChannelRegistry>,
    drain: &Drain,
) -> BrokerBinding {
    let name = settings.instance.name.clone();
    let listener: Arc<dyn BrokerEventHandler> = Arc::<ChannelRegistry>::clone(&registry);
    let broker = Broker::Redis(RedisBroker::start(settings, listener, drain));
    BrokerBinding { name, registry, broker, affects_readiness }
}

/// The indexes of the brokers of an instance: one, or one for each server in order.
fn broker_indexes(name: &str, bindings: &[BrokerBinding]) -> Box<[usize]> {
    let belongs = |binding: &BrokerBinding| {
        binding.name == name || binding.name.rsplit_once('.').is_some_and(|(own, _)| own == name)
    };
    bindings.iter().enumerate().filter(|(_, binding)| belongs(binding)).map(|(index, _)| index).collect()
}

fn namespace(namespace: &config::Namespace, bindings: &[BrokerBinding]) -> Namespace {
    let name = namespace.redis.as_deref().unwrap_or("memory");
    let pattern = |pattern: &config::ChannelPattern| ChannelPattern {
        glob: WildMatch::new(&pattern.text),
        is_exact: pattern.is_exact(),
        broker_pattern: (namespace.subscribe_pattern && !pattern.is_exact())
            .then(|| pattern.as_redis_pattern().into()),
    };
    Namespace {
        name: namespace.name.clone(),
        channels: namespace.channels.iter().map(pattern).collect(),
        brokers: broker_indexes(name, bindings),
        subscribe: access(namespace.subscribe),
        publish: access(namespace.publish),
        history: HistoryRules {
            size: namespace.history.size,
            ttl: namespace.history.ttl,
            bytes: namespace.history.bytes,
        },
        log: (namespace.source == config::Source::Stream).then(|| {
            Arc::new(LogConfig {
                key_prefix: namespace.key_prefix.clone(),
                channel_hash_tag: namespace.spread,
                sharded: namespace.sharded_pubsub,
                size: namespace.history.size,
                ttl: namespace.history.ttl,
            })
        }),
        sharded: namespace.sharded_pubsub,
        when_unavailable: match namespace.when_redis_down {
            config::WhenRedisDown::Local => WhenUnavailable::Local,
            config::WhenRedisDown::Reject => WhenUnavailable::Reject,
        },
        replay_last: namespace.replay == config::Replay::Last,
        backpressure: backpressure(namespace).map(Arc::new),
    }
}

fn backpressure(namespace: &config::Namespace) -> Option<BackpressurePolicy> {
    let terminal = |terminal: &config::TerminalStates| TerminalStates {
        key: terminal.key.clone(),
        values: terminal.values.clone(),
    };
    let config::SlowConsumer { policy, conflation_key, terminal: states } = &namespace.slow_consumer;
    match policy {
        config::SlowConsumerPolicy::Disconnect => None,
        config::SlowConsumerPolicy::DropOldest => Some(BackpressurePolicy::DropOldest),
        config::SlowConsumerPolicy::Latest => Some(BackpressurePolicy::Latest {
            key: conflation_key.clone(),
            terminal: states.as_ref().map(terminal),
        }),
    }
}

fn access(access: config::Who) -> Access {
    match access {
        config::Who::Anyone => Access::Anyone,
        config::Who::Subscribers => Access::Subscribers,
        config::Who::Nobody => Access::Nobody,
    }
}

fn shard_limits(config: &Config) -> ShardLimits {
    ShardLimits {
        message_bytes: config.limits.message_bytes,
        client_queue_bytes: config.limits.client_queue_bytes,
        recovery_page: crate::shard::RECOVERY_PAGE,
        pending_command_bytes: config.limits.pending_command_bytes,
        client_queue_age: config.limits.client_queue_age,
        channels_per_connection: config.limits.channels_per_connection,
        commands_per_frame: config.limits.commands_per_frame,
        recovery_publications: config.limits.recovery_publications,
        inflight_requests: config.limits.inflight_requests,
        ping_interval: config.websocket.ping_interval,
        pong_timeout: config.websocket.pong_timeout,
        connect_timeout: config.websocket.connect_timeout,
        close_timeout: config.websocket.close_timeout,
        sse_heartbeat: config.sse.heartbeat,
        sse_retry: config.sse.retry,
        sse_max_age: config.sse.max_age,
    }
}

fn ingress_limits(config: &Config) -> IngressLimits {
    let (limits, http) = (&config.limits, &config.http);
    let window = config.drain.disconnect_window;
    let close_limit = client_close_timeout(&config.drain);
    let close_timeout = config.websocket.close_timeout.min(close_limit);
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

/// Maximum time for a client to close its connection, so that the shutdown timeout is kept.
fn client_close_timeout(drain: &config::DrainConfig) -> Duration {
    drain.shutdown_timeout.saturating_sub(drain.disconnect_window) * 3 / 4
}

/// Raises the limit of open files, and returns the number of connections that it permits.
fn connections_by_descriptors(reserved: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::RLIMIT_NOFILE);
    let (current, most) = limit.unwrap_or((DEFAULT_DESCRIPTORS, DEFAULT_DESCRIPTORS));
    let raised = setrlimit(Resource::RLIMIT_NOFILE, most, most).is_ok();
    let descriptors = usize::try_from(if raised { most } else { current }).unwrap_or(usize::MAX);
    descriptors.saturating_sub(RESERVED_DESCRIPTORS + reserved).max(1)
}

fn api_auth(config: &Config) -> ApiAuth {
    match &config.api_key {
        Some(key) => ApiAuth::Key(key.expose().to_owned()),
        None if config.development => ApiAuth::Development,
        None => ApiAuth::Disabled,
    }
}
