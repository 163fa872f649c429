//! Injects each fault and removes it.
//!
//! Owns the order of signals, commands and disconnects. A fault is removed even if it was not detected. Must never
//! change a server that the drill did not start without a command to undo the change.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{DrillError, Fault, FaultWindow};
use crate::drill::backend::{Backend, GatewayConnection};
use crate::drill::environment::DrillEnvironment;
use crate::drill::scrape::{Numbers, Scrape};
use crate::drill::server::{TestServer, secret};
use crate::drill::{POLL_INTERVAL, until};

/// Duration of a short fault.
const SHORT_FAULT: Duration = Duration::from_secs(1);
/// Time limit for the detection of a fault.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Output buffer limit that is set, and a burst that exceeds it.
const OUTPUT_BUFFER_LIMIT: &str = "pubsub 262144 0 0";
const BURST: usize = 64;
const BURST_BYTES: usize = 16 * 1024;
/// Time limit for the replication of a new replica.
const REPLICATION_TIMEOUT: Duration = Duration::from_secs(20);

/// Injects a fault, waits until it is detected, and removes it.
pub(super) async fn inject(
    fault: Fault,
    environment: &mut DrillEnvironment,
) -> Result<FaultWindow, DrillError> {
    match fault {
        Fault::Baseline => baseline(environment).await,
        Fault::Kill => kill(environment, SHORT_FAULT).await,
        Fault::Outage => kill(environment, environment.outage).await,
        Fault::Stop => suspend(environment).await,
        Fault::HalfOpen => half_open(environment).await,
        Fault::Cut => cut(environment).await,
        Fault::SubscriberKilled => subscriber_killed(environment).await,
        Fault::WrongPassword => wrong_password(environment).await,
        Fault::OutputBuffer => output_buffer(environment).await,
        Fault::PermissionRevoked => permission_revoked(environment).await,
        Fault::Failover => Box::pin(failover(environment)).await,
        Fault::GatewayKilled => gateway_killed(environment).await,
    }
}

async fn baseline(environment: &DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let injected_at = Instant::now();
    sleep(SHORT_FAULT).await;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: None })
}

async fn kill(environment: &mut DrillEnvironment, duration: Duration) -> Result<FaultWindow, DrillError> {
    let servers = environment.servers.as_mut().ok_or(NO_SERVER)?;
    let injected_at = Instant::now();
    servers.active.kill();
    let during = hold_fault(environment, injected_at, duration, |_| true).await;
    let servers = environment.servers.as_mut().ok_or(NO_SERVER)?;
    Box::pin(servers.active.restart()).await?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: during? })
}

async fn suspend(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let injected_at = Instant::now();
    environment.servers.as_ref().ok_or(NO_SERVER)?.active.suspend()?;
    let during = hold_fault(environment, injected_at, environment.outage, |_| true).await;
    // A suspended server does not even respond to SIGTERM.
    environment.servers.as_ref().ok_or(NO_SERVER)?.active.resume()?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: during? })
}

async fn half_open(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let injected_at = Instant::now();
    proxy(environment)?.blackhole();
    let during = hold_fault(environment, injected_at, environment.outage, |_| true).await;
    proxy(environment)?.reset();
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: during? })
}

async fn cut(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let injected_at = Instant::now();
    proxy(environment)?.cut();
    inject_momentary(environment, injected_at).await
}

async fn subscriber_killed(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let (_, subscribers) = gateway_connections(environment).await?;
    let injected_at = Instant::now();
    environment.redis().kill_connections(&subscribers).await?;
    inject_momentary(environment, injected_at).await
}

async fn wrong_password(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let (connections, subscribers) = gateway_connections(environment).await?;
    let user = &subscribers[0].user;
    let undo = environment.redis().acl_user(user).await.map_err(DrillError::Rejected)?.restore_passwords();
    let new_password = format!(">{}", secret());
    environment
        .change(&["ACL", "SETUSER", user, "resetpass", &new_password], undo)
        .await
        .map_err(DrillError::Rejected)?;
    let injected_at = Instant::now();
    environment.redis().kill_connections(&connections).await?;
    let during =
        hold_fault(environment, injected_at, SHORT_FAULT, |cause| cause.contains("WRONGPASS")).await?;
    environment.undo.run_all().await?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during })
}

async fn output_buffer(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    const SETTING: &str = "client-output-buffer-limit";
    let before = environment.redis().setting(SETTING).await.map_err(DrillError::Rejected)?;
    let undo = ["CONFIG", "SET", SETTING, &before].map(ToOwned::to_owned).to_vec();
    environment
        .change(&["CONFIG", "SET", SETTING, OUTPUT_BUFFER_LIMIT], undo)
        .await
        .map_err(DrillError::Rejected)?;
    let mut connection = environment.redis().connect().await?;
    let fill = format!("{{\"fill\":\"{}\"}}", "x".repeat(BURST_BYTES));
    let injected_at = Instant::now();
    connection.publish_at_once(&environment.channel, &fill, BURST).await?;
    environment.undo.run_all().await?;
    inject_momentary(environment, injected_at).await
}

async fn permission_revoked(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let (_, subscribers) = gateway_connections(environment).await?;
    let user = &subscribers[0].user;
    let undo = environment.redis().acl_user(user).await.map_err(DrillError::Rejected)?.restore_channels();
    // Channels that the drill and the gateway still need.
    let retained = ["&earshot:probe:*".to_owned(), environment.background.pattern()];
    let log = environment.stream_channel.iter().map(|channel| format!("&{channel}"));
    let retained: Vec<String> = retained.into_iter().chain(log).collect();
    let mut command = vec!["ACL", "SETUSER", user, "resetchannels"];
    command.extend(retained.iter().map(String::as_str));
    let injected_at = Instant::now();
    environment.change(&command, undo).await.map_err(DrillError::Rejected)?;
    let during =
        hold_fault(environment, injected_at, SHORT_FAULT, |cause| cause.contains("rejected now")).await?;
    environment.undo.run_all().await?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during })
}

/// Promotes a replica. The old primary becomes its replica and keeps its connections open.
async fn failover(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let servers = environment.servers.as_mut().ok_or(NO_SERVER)?;
    let name = format!("redis-{:08x}", fastrand::u32(..));
    let next = TestServer::start(&servers.program, &servers.passwords, &name, &servers.directory);
    let next = Box::pin(next).await?;
    let (old_port, new_port) = (servers.active.port().to_string(), next.port().to_string());
    next.backend().run(&["REPLICAOF", "127.0.0.1", &old_port]).await?;
    wait_for_replica(&next).await?;
    let injected_at = Instant::now();
    let old = servers.active.backend();
    old.run(&["FAILOVER", "TO", "127.0.0.1", &new_port]).await.map_err(DrillError::Rejected)?;
    wait_for_primary(&next).await?;
    let (old, new) = (old.clone(), next.backend().clone());
    servers.former = Some(std::mem::replace(&mut servers.active, next));
    proxy(environment)?.redirect(format!("127.0.0.1:{new_port}"));
    environment.backend.send_replace(new);
    // A replica receives what is published on its primary, so recovery is measured from the time the gateway has left
    // it.
    wait_until_left(&old).await?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: None })
}

async fn gateway_killed(environment: &mut DrillEnvironment) -> Result<FaultWindow, DrillError> {
    let gateway = environment.gateway.as_mut().ok_or("no gateway was started by the drill")?;
    let injected_at = Instant::now();
    gateway.kill();
    let detected = wait_until_detected(environment, |_| true).await;
    sleep(SHORT_FAULT).await;
    environment.gateway.as_mut().ok_or("no gateway was started by the drill")?.restart()?;
    detected?;
    Ok(FaultWindow { injected_at, removed_at: mark_recovery(environment), during: None })
}

const NO_SERVER: &str = "no Redis was started by the drill";

impl From<&'static str> for DrillError {
    fn from(reason: &'static str) -> Self {
        Self::Failed(reason.to_owned())
    }
}

fn proxy(environment: &DrillEnvironment) -> Result<&crate::drill::proxy::Proxy, DrillError> {
    environment.proxy.as_ref().ok_or(DrillError::from("this fault requires --proxy"))
}

/// Marks the time from which recovery is measured: messages published from now on count.
fn mark_recovery(environment: &DrillEnvironment) -> Instant {
    environment.clients.expect_from(environment.plain.last() + 1);
    Instant::now()
}

/// A fault that ends as soon as it is injected.
async fn inject_momentary(
    environment: &DrillEnvironment,
    injected_at: Instant,
) -> Result<FaultWindow, DrillError> {
    let removed_at = mark_recovery(environment);
    wait_until_detected(environment, |_| true).await?;
    Ok(FaultWindow { injected_at, removed_at, during: None })
}

/// Waits until the fault is detected, with an expected cause.
async fn wait_until_detected(
    environment: &DrillEnvironment,
    is_cause: impl Fn(&str) -> bool,
) -> Result<(), DrillError> {
    let detected = || {
        let summary = environment.monitor.summary();
        summary.detected.is_some()
            && (summary.causes.is_empty() || summary.causes.iter().any(|cause| is_cause(cause)))
    };
    if until(DETECTION_TIMEOUT, POLL_INTERVAL, detected).await {
        return Ok(());
    }
    let (summary, last) = (environment.monitor.summary(), environment.monitor.last());
    let causes: Vec<_> = summary.causes.into_iter().collect();
    let status = last.description();
    Err(DrillError::Failed(format!(
        "not detected within {DETECTION_TIMEOUT:?}: {status}; causes: {}",
        causes.join("; ")
    )))
}

/// Waits until the fault is detected, reads the metrics, and keeps the fault for its duration.
async fn hold_fault(
    environment: &mut DrillEnvironment,
    injected_at: Instant,
    duration: Duration,
    is_cause: impl Fn(&str) -> bool,
) -> Result<Option<Numbers>, DrillError> {
    wait_until_detected(environment, is_cause).await?;
    let during = Scrape::take(&mut environment.client).await?.numbers();
    tokio::time::sleep_until(injected_at + duration).await;
    Ok(Some(during))
}

/// The connections of the gateway, and those of them for subscriptions, at least one.
async fn gateway_connections(
    environment: &DrillEnvironment,
) -> Result<(Vec<GatewayConnection>, Vec<GatewayConnection>), DrillError> {
    let connections = environment.redis().gateway_connections().await.map_err(DrillError::Rejected)?;
    let is_subscriber = |connection: &&GatewayConnection| connection.purpose == "subscriptions";
    let subscribers: Vec<_> = connections.iter().filter(is_subscriber).cloned().collect();
    if subscribers.is_empty() {
        return Err("CLIENT LIST shows no connection of a gateway (earshot:*:subscriptions)".into());
    }
    Ok((connections, subscribers))
}

/// Waits until a replica is in sync.
async fn wait_for_replica(replica: &TestServer) -> Result<(), DrillError> {
    wait_for(replica, &["INFO", "replication"], |reply| reply.contains("master_link_status:up")).await
}

/// Waits until a server is the primary.
async fn wait_for_primary(server: &TestServer) -> Result<(), DrillError> {
    wait_for(server, &["INFO", "replication"], |reply| reply.contains("role:master")).await
}

/// Waits until no gateway is subscribed on a server.
async fn wait_until_left(server: &Backend) -> Result<(), DrillError> {
    let deadline = Instant::now() + REPLICATION_TIMEOUT;
    while server.gateway_connections().await?.iter().any(|connection| connection.purpose == "subscriptions") {
        if Instant::now() > deadline {
            return Err(format!(
                "the gateway is still subscribed on the old primary after {REPLICATION_TIMEOUT:?}"
            )
            .into());
        }
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

async fn wait_for(
    server: &TestServer,
    command: &[&str],
    condition: impl Fn(&str) -> bool,
) -> Result<(), DrillError> {
    let deadline = Instant::now() + REPLICATION_TIMEOUT;
    loop {
        let reply = server.backend().text(command).await?;
        if condition(&reply) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!(
                "replication or promotion of a replica did not complete within {REPLICATION_TIMEOUT:?}"
            )
            .into());
        }
        sleep(POLL_INTERVAL).await;
    }
}
