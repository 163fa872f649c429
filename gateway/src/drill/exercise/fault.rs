//! How each fault is brought about, and taken away again.
//!
//! Owns the order of signals, commands and cuts. A fault is taken away whether or not it was known. Must never change a
//! server that is not the drill's own without a note of how it was.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Exercise, Spell, Trouble};
use crate::drill::backend::{Backend, GatewayLink};
use crate::drill::scrape::{Numbers, Scrape};
use crate::drill::server::{Server, secret};
use crate::drill::stage::Stage;
use crate::drill::{GLANCE, until};

/// How long a short fault lasts.
const SHORT: Duration = Duration::from_secs(1);
/// How long it may take until a fault is known.
const KNOWN: Duration = Duration::from_secs(15);
/// What Redis keeps for a subscriber, and more than that.
const BUFFER: &str = "pubsub 262144 0 0";
const BURST: usize = 64;
const BURST_BYTES: usize = 16 * 1024;
/// How long a replica may take to be like its primary.
const IN_SYNC: Duration = Duration::from_secs(20);

/// Brings a fault about, waits until it is known, and takes it away.
pub(super) async fn bring(exercise: Exercise, stage: &mut Stage) -> Result<Spell, Trouble> {
    match exercise {
        Exercise::Steady => steady(stage).await,
        Exercise::Kill => kill(stage, SHORT).await,
        Exercise::Outage => kill(stage, stage.outage).await,
        Exercise::Stop => stop(stage).await,
        Exercise::HalfOpen => half_open(stage).await,
        Exercise::Cut => cut(stage).await,
        Exercise::SubscriberKilled => subscriber_killed(stage).await,
        Exercise::WrongPassword => wrong_password(stage).await,
        Exercise::OutputBuffer => output_buffer(stage).await,
        Exercise::RightRevoked => right_revoked(stage).await,
        Exercise::FailOver => Box::pin(fail_over(stage)).await,
        Exercise::GatewayKilled => gateway_killed(stage).await,
    }
}

async fn steady(stage: &Stage) -> Result<Spell, Trouble> {
    let fault = Instant::now();
    sleep(SHORT).await;
    Ok(Spell { fault, back: returned(stage), during: None })
}

async fn kill(stage: &mut Stage, long: Duration) -> Result<Spell, Trouble> {
    let servers = stage.servers.as_mut().ok_or(NO_SERVER)?;
    let fault = Instant::now();
    servers.active.kill();
    let during = hold(stage, fault, long, |_| true).await;
    let servers = stage.servers.as_mut().ok_or(NO_SERVER)?;
    Box::pin(servers.active.start_again()).await?;
    Ok(Spell { fault, back: returned(stage), during: during? })
}

async fn stop(stage: &mut Stage) -> Result<Spell, Trouble> {
    let fault = Instant::now();
    stage.servers.as_ref().ok_or(NO_SERVER)?.active.stop()?;
    let during = hold(stage, fault, stage.outage, |_| true).await;
    // A server that hangs would not even take an end.
    stage.servers.as_ref().ok_or(NO_SERVER)?.active.go_on()?;
    Ok(Spell { fault, back: returned(stage), during: during? })
}

async fn half_open(stage: &mut Stage) -> Result<Spell, Trouble> {
    let fault = Instant::now();
    proxy(stage)?.swallow();
    let during = hold(stage, fault, stage.outage, |_| true).await;
    proxy(stage)?.reset();
    Ok(Spell { fault, back: returned(stage), during: during? })
}

async fn cut(stage: &mut Stage) -> Result<Spell, Trouble> {
    let fault = Instant::now();
    proxy(stage)?.cut();
    brief(stage, fault).await
}

async fn subscriber_killed(stage: &mut Stage) -> Result<Spell, Trouble> {
    let (_, subscribers) = gateway_links(stage).await?;
    let fault = Instant::now();
    stage.redis().cut(&subscribers).await?;
    brief(stage, fault).await
}

async fn wrong_password(stage: &mut Stage) -> Result<Spell, Trouble> {
    let (links, subscribers) = gateway_links(stage).await?;
    let user = &subscribers[0].user;
    let undo = stage.redis().acl_user(user).await.map_err(Trouble::Refused)?.restores_passwords();
    let other = format!(">{}", secret());
    stage.change(&["ACL", "SETUSER", user, "resetpass", &other], undo).await.map_err(Trouble::Refused)?;
    let fault = Instant::now();
    stage.redis().cut(&links).await?;
    let during = hold(stage, fault, SHORT, |cause| cause.contains("WRONGPASS")).await?;
    stage.restore.carry_out().await?;
    Ok(Spell { fault, back: returned(stage), during })
}

async fn output_buffer(stage: &mut Stage) -> Result<Spell, Trouble> {
    const NAME: &str = "client-output-buffer-limit";
    let before = stage.redis().setting(NAME).await.map_err(Trouble::Refused)?;
    let undo = ["CONFIG", "SET", NAME, &before].map(ToOwned::to_owned).to_vec();
    stage.change(&["CONFIG", "SET", NAME, BUFFER], undo).await.map_err(Trouble::Refused)?;
    let mut link = stage.redis().connect().await?;
    let fill = format!("{{\"fill\":\"{}\"}}", "x".repeat(BURST_BYTES));
    let fault = Instant::now();
    link.publish_at_once(&stage.channel, &fill, BURST).await?;
    stage.restore.carry_out().await?;
    brief(stage, fault).await
}

async fn right_revoked(stage: &mut Stage) -> Result<Spell, Trouble> {
    let (_, subscribers) = gateway_links(stage).await?;
    let user = &subscribers[0].user;
    let undo = stage.redis().acl_user(user).await.map_err(Trouble::Refused)?.restores_channels();
    // What else the drill and the gateway need.
    let kept = ["&earshot:probe:*".to_owned(), stage.crowd.pattern()];
    let log = stage.stream_channel.iter().map(|channel| format!("&{channel}"));
    let kept: Vec<String> = kept.into_iter().chain(log).collect();
    let mut command = vec!["ACL", "SETUSER", user, "resetchannels"];
    command.extend(kept.iter().map(String::as_str));
    let fault = Instant::now();
    stage.change(&command, undo).await.map_err(Trouble::Refused)?;
    let during = hold(stage, fault, SHORT, |cause| cause.contains("refused now")).await?;
    stage.restore.carry_out().await?;
    Ok(Spell { fault, back: returned(stage), during })
}

/// A replica takes over, and the old primary, which closes nothing, becomes a replica of it.
async fn fail_over(stage: &mut Stage) -> Result<Spell, Trouble> {
    let servers = stage.servers.as_mut().ok_or(NO_SERVER)?;
    let name = format!("redis-{:08x}", fastrand::u32(..));
    let next = Server::start(&servers.program, &servers.passwords, &name, &servers.directory);
    let next = Box::pin(next).await?;
    let (old_port, new_port) = (servers.active.port().to_string(), next.port().to_string());
    next.backend().run(&["REPLICAOF", "127.0.0.1", &old_port]).await?;
    follows(&next).await?;
    let fault = Instant::now();
    let old = servers.active.backend();
    old.run(&["FAILOVER", "TO", "127.0.0.1", &new_port]).await.map_err(Trouble::Refused)?;
    leads(&next).await?;
    let (old, new) = (old.clone(), next.backend().clone());
    servers.former = Some(std::mem::replace(&mut servers.active, next));
    proxy(stage)?.lead_to(format!("127.0.0.1:{new_port}"));
    stage.backend.send_replace(new);
    // A replica hears what its primary is told, so only who has left it has something to come back from.
    is_left(&old).await?;
    Ok(Spell { fault, back: returned(stage), during: None })
}

async fn gateway_killed(stage: &mut Stage) -> Result<Spell, Trouble> {
    let gateway = stage.gateway.as_mut().ok_or("there is no gateway to kill")?;
    let fault = Instant::now();
    gateway.kill();
    let known = is_known(stage, |_| true).await;
    sleep(SHORT).await;
    stage.gateway.as_mut().ok_or("there is no gateway to start")?.start_again()?;
    known?;
    Ok(Spell { fault, back: returned(stage), during: None })
}

const NO_SERVER: &str = "there is no Redis of the drill's own";

impl From<&'static str> for Trouble {
    fn from(why: &'static str) -> Self {
        Self::Wrong(why.to_owned())
    }
}

fn proxy(stage: &Stage) -> Result<&crate::drill::proxy::Proxy, Trouble> {
    stage.proxy.as_ref().ok_or(Trouble::from("there is no proxy"))
}

/// From now on, what is heard was published after the return.
fn returned(stage: &Stage) -> Instant {
    stage.witnesses.look_out(stage.plain.last() + 1);
    Instant::now()
}

/// A fault that is over as soon as it came.
async fn brief(stage: &Stage, fault: Instant) -> Result<Spell, Trouble> {
    let back = returned(stage);
    is_known(stage, |_| true).await?;
    Ok(Spell { fault, back, during: None })
}

/// Waits until a fault is known, by a cause that is the right one.
async fn is_known(stage: &Stage, is_cause: impl Fn(&str) -> bool) -> Result<(), Trouble> {
    let known = || {
        let seen = stage.watch.seen();
        seen.known.is_some() && (seen.causes.is_empty() || seen.causes.iter().any(|cause| is_cause(cause)))
    };
    if until(KNOWN, GLANCE, known).await {
        return Ok(());
    }
    let (seen, last) = (stage.watch.seen(), stage.watch.last());
    let causes: Vec<_> = seen.causes.into_iter().collect();
    let said = last.said();
    Err(Trouble::Wrong(format!("{KNOWN:?} after the fault: {said}; causes: {}", causes.join("; "))))
}

/// Waits until a fault is known, looks at the metrics, and lets it last.
async fn hold(
    stage: &mut Stage,
    fault: Instant,
    long: Duration,
    is_cause: impl Fn(&str) -> bool,
) -> Result<Option<Numbers>, Trouble> {
    is_known(stage, is_cause).await?;
    let during = Scrape::take(&mut stage.client).await?.numbers();
    tokio::time::sleep_until(fault + long).await;
    Ok(Some(during))
}

/// The connections of the gateway, and of them those for subscriptions, of which there is at least one.
async fn gateway_links(stage: &Stage) -> Result<(Vec<GatewayLink>, Vec<GatewayLink>), Trouble> {
    let links = stage.redis().gateway_links().await.map_err(Trouble::Refused)?;
    let is_subscriber = |link: &&GatewayLink| link.purpose == "subscriptions";
    let subscribers: Vec<_> = links.iter().filter(is_subscriber).cloned().collect();
    if subscribers.is_empty() {
        return Err("CLIENT LIST shows no connection of a gateway (earshot:*:subscriptions)".into());
    }
    Ok((links, subscribers))
}

/// Waits until a replica has everything.
async fn follows(replica: &Server) -> Result<(), Trouble> {
    wait_for(replica, &["INFO", "replication"], |said| said.contains("master_link_status:up")).await
}

/// Waits until a server is the primary.
async fn leads(server: &Server) -> Result<(), Trouble> {
    wait_for(server, &["INFO", "replication"], |said| said.contains("role:master")).await
}

/// Waits until a server has no connection of a gateway's for subscriptions any more.
async fn is_left(server: &Backend) -> Result<(), Trouble> {
    let deadline = Instant::now() + IN_SYNC;
    while server.gateway_links().await?.iter().any(|link| link.purpose == "subscriptions") {
        if Instant::now() > deadline {
            return Err(format!("the gateway still listens to the old primary after {IN_SYNC:?}").into());
        }
        sleep(GLANCE).await;
    }
    Ok(())
}

async fn wait_for(server: &Server, question: &[&str], is_so: impl Fn(&str) -> bool) -> Result<(), Trouble> {
    let deadline = Instant::now() + IN_SYNC;
    loop {
        let said = server.backend().text(question).await?;
        if is_so(&said) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("a replica did not get there within {IN_SYNC:?}").into());
        }
        sleep(GLANCE).await;
    }
}
