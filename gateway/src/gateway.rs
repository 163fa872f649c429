//! The composition root: a [`Config`] becomes a running [`Gateway`].
//!
//! Owns the order in which parts start and stop. Wiring only: it must never contain a rule of the product.

mod api_keys;
mod explain;
mod hooks;
mod logins;

pub use explain::explain;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use uuid::Uuid;

use crate::admission::{Admission, AdmissionLimits, KeyedLimit};
use crate::auth::Authorizer;
use crate::broker::redis::RedisSettings;
use crate::broker::{BrokerEventHandler, MemoryBroker, RedisBroker};
use crate::config::{self, Config};
use crate::drain::Drain;
use crate::http::body::BodyLimits;
use crate::http::{self, AppState};
use crate::ingress::routes::ListenerRole;
use crate::ingress::{self, Acceptor, StreamContext};
use crate::login::Authenticator;
use crate::metrics::Metrics;
use crate::node::history::HistoryBudget;
use crate::node::namespace::Namespaces;
use crate::node::registry::{ChannelLimits, ChannelRegistry};
use crate::node::shard_queue::{ShardQueueLimits, ShardSender, shard_queue};
use crate::node::{BrokerBinding, Node, NodeRules};
use crate::shard::Shards;
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
        let authenticator = logins::start(config, hooks::start(config, &drain)?, &drain)?;
        let node = node(config, &authenticator, shard_senders.into(), &metrics, &drain);
        node.start();
        check_servers(config, &drain);

        let limits = config.shard_limits();
        let shards = Shards::start(&node, shard_receivers, limits, &metrics, &drain)?;
        logins::disconnect_ended(&authenticator, &shards, &drain);
        let reserved = config.limits.reserved_connections;
        let connections = config.limits.connections.unwrap_or_else(|| connections_by_descriptors(reserved));
        let streams = Arc::new(StreamContext {
            node: Arc::clone(&node),
            shards: Arc::clone(&shards),
            limits,
            request_header_bytes: config.limits.request_header_bytes,
            authorizer: Authorizer::new(config.origin_policy(), api_keys::start(config, &drain)?),
            authenticator,
            hosts: config.host_policy(),
            trusted_proxies: config.trusted_proxies(),
            admission: Admission::new(AdmissionLimits { connections, reserved }),
            connections_per_address: KeyedLimit::new(config.limits.connections_per_address),
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
                Acceptor::new(Arc::clone(&streams), router, role, config.ingress_limits(), drain.clone());
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
        let close_limit = self.timeouts.client_close_timeout();
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
    authenticator: &Arc<Authenticator>,
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
        let servers = redis.servers(config).into_iter();
        bindings.extend(
            servers.map(|settings| redis_binding(settings, redis.affects_readiness, registry(), drain)),
        );
    }
    if config.namespaces.iter().any(|namespace| namespace.redis.is_none()) {
        let registry = registry();
        let listener: Arc<dyn BrokerEventHandler> = Arc::<ChannelRegistry>::clone(&registry);
        let broker = Arc::new(MemoryBroker::new(listener));
        bindings.push(BrokerBinding { name: "memory".to_owned(), registry, broker, affects_readiness: true });
    }
    let namespaces = config
        .namespaces
        .iter()
        .map(|space| space.rules(broker_indexes(space.redis.as_deref(), &bindings)))
        .collect();
    let namespaces = Namespaces::new(namespaces, &config.probe_prefixes());
    let rules = NodeRules {
        namespaces,
        authenticator: Arc::clone(authenticator),
        publication_bytes: config.limits.publication_bytes,
    };
    Node::new(rules, bindings, shard_senders, budget, drain.clone(), Arc::clone(metrics))
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

fn redis_binding(
    settings: RedisSettings,
    affects_readiness: bool,
    registry: Arc<ChannelRegistry>,
    drain: &Drain,
) -> BrokerBinding {
    let name = settings.instance.name.clone();
    let listener: Arc<dyn BrokerEventHandler> = Arc::<ChannelRegistry>::clone(&registry);
    let broker = RedisBroker::start(settings, listener, drain);
    BrokerBinding { name, registry, broker, affects_readiness }
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

/// The indexes of the brokers of an instance: one, or one for each server in order.
fn broker_indexes(redis: Option<&str>, bindings: &[BrokerBinding]) -> Box<[usize]> {
    let name = redis.unwrap_or("memory");
    let belongs = |binding: &BrokerBinding| {
        binding.name == name || binding.name.rsplit_once('.').is_some_and(|(own, _)| own == name)
    };
    bindings.iter().enumerate().filter(|(_, binding)| belongs(binding)).map(|(index, _)| index).collect()
}

/// An error in a setting or a file of secrets.
fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}
