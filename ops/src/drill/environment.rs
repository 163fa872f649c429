//! The environment of a drill: gateway, Redis, publishers, clients, monitor.
//!
//! Owns its setup, with child processes or with external servers. Must never be complete before all clients are
//! subscribed.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;

use super::backend::Backend;
use super::background_load::BackgroundLoad;
use super::child::find;
use super::directory::Directory;
use super::gateway_process::{self, GatewayProcess};
use super::health_monitor::HealthMonitor;
use super::http::{Client, HttpTarget};
use super::proxy::Proxy;
use super::publisher::DrillPublisher;
use super::server::{Passwords, TestServer};
use super::undo::Undo;
use super::verifying_clients::{ClientProgress, VerifyingClients};
use super::{DrillTarget, External, POLL_INTERVAL, Settings, until};
use earshot_client::Tasks;
use earshot_redis_link::address::Address;

/// Time limit for the start of a gateway and for the subscriptions.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// Time limit of one request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// See the module. Child processes end before their directory.
#[derive(Debug)]
pub(super) struct DrillEnvironment {
    pub(super) gateway: Option<GatewayProcess>,
    pub(super) servers: Option<TestServers>,
    pub(super) proxy: Option<Proxy>,
    /// The Redis that publishers use.
    pub(super) backend: watch::Sender<Backend>,
    pub(super) undo: Undo,
    pub(super) monitor: HealthMonitor,
    pub(super) client: Client,
    pub(super) plain: DrillPublisher,
    /// `None` without a stream channel.
    pub(super) log: Option<DrillPublisher>,
    pub(super) clients: VerifyingClients,
    pub(super) background: BackgroundLoad,
    /// The pubsub channel.
    pub(super) channel: String,
    /// The stream channel.
    pub(super) stream_channel: Option<String>,
    pub(super) outage: Duration,
    authority: String,
}

/// Redis servers that the drill started.
#[derive(Debug)]
pub(super) struct TestServers {
    /// The server into which faults are injected.
    pub(super) active: TestServer,
    /// The previous primary, after a failover.
    pub(super) former: Option<TestServer>,
    pub(super) passwords: Passwords,
    pub(super) program: std::path::PathBuf,
    pub(super) directory: Directory,
}

/// Parts of an environment.
struct EnvironmentParts {
    gateway: Option<GatewayProcess>,
    servers: Option<TestServers>,
    proxy: Option<Proxy>,
    backend: Backend,
    target: HttpTarget,
    channel: String,
    stream_channel: Option<String>,
    background_prefix: String,
}

impl DrillEnvironment {
    /// Starts everything, and waits until all clients are subscribed.
    pub(super) async fn build(settings: &Settings, tasks: &Tasks, undo: &Undo) -> Result<Self, String> {
        let parts = match &settings.target {
            DrillTarget::Own { redis_server, keep } => own(redis_server, *keep, tasks).await?,
            DrillTarget::External(external) => self::external(external, tasks).await?,
        };
        let EnvironmentParts {
            mut gateway,
            servers,
            proxy,
            backend,
            target,
            channel,
            stream_channel,
            background_prefix,
        } = parts;
        let monitor = HealthMonitor::start(&target);
        let mut client = Client::new(target.clone(), REQUEST_TIMEOUT);
        wait_until_ready(&monitor, gateway.as_mut()).await?;
        if let Some(log) = &stream_channel {
            check_stream_channel(&mut client, log).await?;
        }
        let clients = VerifyingClients::start(&target, &channel, stream_channel.as_deref());
        let background = BackgroundLoad::start(&target, &background_prefix, settings.channels);
        if !until(STARTUP_TIMEOUT, POLL_INTERVAL, || background.is_subscribed() && clients.are_subscribed())
            .await
        {
            let not_subscribed = clients.not_subscribed();
            let who = if not_subscribed.is_empty() {
                format!("{} background channels", settings.channels)
            } else {
                not_subscribed
            };
            return Err(format!("not all clients could subscribe within {STARTUP_TIMEOUT:?}: {who}"));
        }
        let (backend, current) = watch::channel(backend);
        let plain = DrillPublisher::plain(current, channel.clone(), tasks);
        let log = stream_channel.clone().map(|channel| DrillPublisher::of_log(&target, channel));
        let (undo, outage, authority) = (undo.clone(), settings.outage, target.authority);
        Ok(Self {
            gateway,
            servers,
            proxy,
            backend,
            undo,
            monitor,
            client,
            plain,
            log,
            clients,
            background,
            channel,
            stream_channel,
            outage,
            authority,
        })
    }

    pub(super) fn redis_location(&self) -> String {
        self.backend.borrow().location().to_owned()
    }

    pub(super) fn gateway_location(&self) -> String {
        format!("http://{}", self.authority)
    }

    /// The current Redis.
    pub(super) fn redis(&self) -> Backend {
        self.backend.borrow().clone()
    }

    /// The numbers that were published last.
    pub(super) fn published(&self) -> ClientProgress {
        ClientProgress { plain: self.plain.last(), log: self.log.as_ref().map_or(0, DrillPublisher::last) }
    }

    /// Runs one command on the current Redis, after saving the command that undoes it.
    pub(super) async fn change(&self, command: &[&str], undo: Vec<String>) -> Result<(), String> {
        let redis = self.redis();
        self.undo.push(&redis, undo);
        redis.run(command).await.map(|_| ())
    }
}

async fn own(redis_server: &Path, keep: bool, tasks: &Tasks) -> Result<EnvironmentParts, String> {
    let program = find(redis_server).ok_or_else(|| {
        format!("{} not found: install Redis, or set --redis-server", redis_server.display())
    })?;
    let directory = Directory::make(keep)?;
    let passwords = Passwords::random();
    let active = Box::pin(TestServer::start(&program, &passwords, "redis-1", &directory)).await?;
    let proxy = Proxy::start("127.0.0.1:0", format!("127.0.0.1:{}", active.port()), tasks).await?;
    let gateway = GatewayProcess::start(proxy.address(), &passwords, &directory)?;
    let target = HttpTarget {
        authority: format!("127.0.0.1:{}", gateway.port()),
        api_key: Some(passwords.api.clone()),
        tasks: tasks.clone(),
    };
    let backend = active.backend().clone();
    Ok(EnvironmentParts {
        gateway: Some(gateway),
        servers: Some(TestServers { active, former: None, passwords, program, directory }),
        proxy: Some(proxy),
        backend,
        target,
        channel: gateway_process::PLAIN.to_owned(),
        stream_channel: Some(gateway_process::LOG.to_owned()),
        background_prefix: gateway_process::BACKGROUND_PREFIX.to_owned(),
    })
}

async fn external(external: &External, tasks: &Tasks) -> Result<EnvironmentParts, String> {
    let backend = Backend::of(&external.redis);
    backend.run(&["PING"]).await.map_err(|why| format!("{}: {why}", backend.location()))?;
    let proxy = match &external.proxy {
        None => None,
        Some(run) => {
            let server = Address::parse(&external.redis.url)?.host_port();
            Some(Proxy::start(run, server, tasks).await?)
        }
    };
    let target = HttpTarget {
        authority: external.gateway.clone(),
        api_key: external.api_key.clone(),
        tasks: tasks.clone(),
    };
    Ok(EnvironmentParts {
        gateway: None,
        servers: None,
        proxy,
        backend,
        target,
        channel: external.channel.clone(),
        stream_channel: external.stream_channel.clone(),
        background_prefix: format!("{}:background:", external.channel),
    })
}

/// Waits until the gateway is healthy.
async fn wait_until_ready(
    monitor: &HealthMonitor,
    mut gateway: Option<&mut GatewayProcess>,
) -> Result<(), String> {
    let mut exit_reason = None;
    until(STARTUP_TIMEOUT, POLL_INTERVAL, || {
        exit_reason = gateway.as_mut().and_then(|gateway| gateway.exit_reason());
        exit_reason.is_some() || monitor.last().is_healthy()
    })
    .await;
    let last = monitor.last();
    match exit_reason {
        Some(words) => Err(format!("the test gateway exited: {words}")),
        None if last.is_healthy() => Ok(()),
        None if last.responds && last.links == 0 => Err("the gateway has no Redis configured".to_owned()),
        None => {
            let causes: Vec<_> = monitor.summary().causes.into_iter().collect();
            Err(format!(
                "the gateway is unhealthy without a fault: {}; {}",
                last.description(),
                causes.join("; ")
            ))
        }
    }
}

/// Checks that messages of a channel have offsets.
async fn check_stream_channel(client: &mut Client, channel: &str) -> Result<(), String> {
    let body = json!({ "channel": channel, "data": "drill" });
    let (status, answer) = client.call("publish", &body).await?;
    if answer["result"]["offset"].is_u64() {
        return Ok(());
    }
    Err(match status {
        401 | 403 => {
            format!("the HTTP API rejected the request with {status}: set EARSHOT_API_KEY to its key")
        }
        _ if answer["result"].is_object() => format!("{channel} is not a channel with source = \"stream\""),
        _ => format!("cannot publish on {channel}: {status} {}", answer["error"]),
    })
}
