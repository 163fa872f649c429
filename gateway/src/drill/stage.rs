//! Everything that an exercise needs: a gateway, its Redis, who publishes, who hears, who looks.
//!
//! Owns its building, for children and for what somebody else started, and so what is there to be broken. Must never
//! begin before everybody hears.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch as cell;

use super::backend::Backend;
use super::child::find;
use super::crowd::Crowd;
use super::directory::Directory;
use super::http::{Client, Target};
use super::own_gateway::{self, OwnGateway};
use super::proxy::Proxy;
use super::publisher::Publisher;
use super::restore::Restore;
use super::server::{Passwords, Server};
use super::watch::Watch;
use super::witnesses::{Mark, Witnesses};
use super::{GLANCE, Named, Place, Settings, until};
use crate::drain::Drain;
use crate::instance::address::Address;

/// How long a gateway may take to be ready, and everybody to be there.
const READY: Duration = Duration::from_secs(60);
/// What one request may take.
const ANSWER: Duration = Duration::from_secs(10);

/// See the module. Children end before their directory.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) gateway: Option<OwnGateway>,
    pub(super) servers: Option<Servers>,
    pub(super) proxy: Option<Proxy>,
    /// The Redis that backends publish to.
    pub(super) backend: cell::Sender<Backend>,
    pub(super) restore: Restore,
    pub(super) watch: Watch,
    pub(super) client: Client,
    pub(super) plain: Publisher,
    /// There is one only where there is a channel for it.
    pub(super) log: Option<Publisher>,
    pub(super) witnesses: Witnesses,
    pub(super) crowd: Crowd,
    /// The plain channel.
    pub(super) channel: String,
    /// The one with a log.
    pub(super) stream_channel: Option<String>,
    pub(super) outage: Duration,
    authority: String,
}

/// Servers of the drill's own.
#[derive(Debug)]
pub(super) struct Servers {
    /// The one that is broken.
    pub(super) active: Server,
    /// One that has handed over to it.
    pub(super) former: Option<Server>,
    pub(super) passwords: Passwords,
    pub(super) program: std::path::PathBuf,
    pub(super) directory: Directory,
}

/// What a stage is built of.
struct Parts {
    gateway: Option<OwnGateway>,
    servers: Option<Servers>,
    proxy: Option<Proxy>,
    backend: Backend,
    target: Target,
    channel: String,
    stream_channel: Option<String>,
    crowd_prefix: String,
}

impl Stage {
    /// Builds everything, and waits until everybody hears.
    pub(super) async fn set(settings: &Settings, drain: &Drain, restore: &Restore) -> Result<Self, String> {
        let parts = match &settings.place {
            Place::Own { redis_server, keep } => own(redis_server, *keep, drain).await?,
            Place::Named(named) => self::named(named, drain).await?,
        };
        let Parts { mut gateway, servers, proxy, backend, target, channel, stream_channel, crowd_prefix } =
            parts;
        let watch = Watch::start(&target);
        let mut client = Client::new(target.clone(), ANSWER);
        is_ready(&watch, gateway.as_mut()).await?;
        if let Some(log) = &stream_channel {
            keeps_log(&mut client, log).await?;
        }
        let witnesses = Witnesses::start(&target, &channel, stream_channel.as_deref());
        let crowd = Crowd::start(&target, &crowd_prefix, settings.channels);
        if !until(READY, GLANCE, || crowd.is_there() && witnesses.are_there()).await {
            let absent = witnesses.absent();
            let who = if absent.is_empty() { format!("{} more channels", settings.channels) } else { absent };
            return Err(format!("not everybody could subscribe within {READY:?}: {who}"));
        }
        let (backend, present) = cell::channel(backend);
        let plain = Publisher::plain(present, channel.clone(), drain);
        let log = stream_channel.clone().map(|channel| Publisher::of_log(&target, channel));
        let (restore, outage, authority) = (restore.clone(), settings.outage, target.authority);
        Ok(Self {
            gateway,
            servers,
            proxy,
            backend,
            restore,
            watch,
            client,
            plain,
            log,
            witnesses,
            crowd,
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

    /// The Redis as it is now.
    pub(super) fn redis(&self) -> Backend {
        self.backend.borrow().clone()
    }

    /// The last numbers that were published.
    pub(super) fn published(&self) -> Mark {
        Mark { plain: self.plain.last(), log: self.log.as_ref().map_or(0, Publisher::last) }
    }

    /// Runs one command at that Redis, and notes how it is undone.
    pub(super) async fn change(&self, command: &[&str], undo: Vec<String>) -> Result<(), String> {
        let redis = self.redis();
        self.restore.note(&redis, undo);
        redis.run(command).await.map(|_| ())
    }
}

async fn own(redis_server: &Path, keep: bool, drain: &Drain) -> Result<Parts, String> {
    let program = find(redis_server).ok_or_else(|| {
        format!(
            "{} is not there: install Redis, or name the program by --redis-server",
            redis_server.display()
        )
    })?;
    let directory = Directory::make(keep)?;
    let passwords = Passwords::random();
    let active = Box::pin(Server::start(&program, &passwords, "redis-1", &directory)).await?;
    let proxy = Proxy::start("127.0.0.1:0", format!("127.0.0.1:{}", active.port()), drain).await?;
    let gateway = OwnGateway::start(proxy.address(), &passwords, &directory)?;
    let target = Target {
        authority: format!("127.0.0.1:{}", gateway.port()),
        api_key: Some(passwords.api.clone()),
        drain: drain.clone(),
    };
    let backend = active.backend().clone();
    Ok(Parts {
        gateway: Some(gateway),
        servers: Some(Servers { active, former: None, passwords, program, directory }),
        proxy: Some(proxy),
        backend,
        target,
        channel: own_gateway::PLAIN.to_owned(),
        stream_channel: Some(own_gateway::LOG.to_owned()),
        crowd_prefix: own_gateway::CROWD.to_owned(),
    })
}

async fn named(named: &Named, drain: &Drain) -> Result<Parts, String> {
    let backend = Backend::of(&named.redis);
    backend.run(&["PING"]).await.map_err(|why| format!("{}: {why}", backend.location()))?;
    let proxy = match &named.proxy {
        None => None,
        Some(listen) => {
            let server = Address::parse(&named.redis.url)?.host_port();
            Some(Proxy::start(listen, server, drain).await?)
        }
    };
    let target =
        Target { authority: named.gateway.clone(), api_key: named.api_key.clone(), drain: drain.clone() };
    Ok(Parts {
        gateway: None,
        servers: None,
        proxy,
        backend,
        target,
        channel: named.channel.clone(),
        stream_channel: named.stream_channel.clone(),
        crowd_prefix: format!("{}:crowd:", named.channel),
    })
}

/// Waits until the gateway is well.
async fn is_ready(watch: &Watch, mut gateway: Option<&mut OwnGateway>) -> Result<(), String> {
    let mut last_words = None;
    until(READY, GLANCE, || {
        last_words = gateway.as_mut().and_then(|gateway| gateway.last_words());
        last_words.is_some() || watch.last().is_well()
    })
    .await;
    let last = watch.last();
    match last_words {
        Some(words) => Err(format!("the gateway of the drill's own has ended: {words}")),
        None if last.is_well() => Ok(()),
        None if last.answers && last.links == 0 => Err("the gateway has no Redis".to_owned()),
        None => {
            let causes: Vec<_> = watch.seen().causes.into_iter().collect();
            Err(format!("the gateway is not well before any fault: {}; {}", last.said(), causes.join("; ")))
        }
    }
}

/// Whether a channel is numbered by Redis.
async fn keeps_log(client: &mut Client, channel: &str) -> Result<(), String> {
    let body = json!({ "channel": channel, "data": "drill" });
    let (status, answer) = client.call("publish", &body).await?;
    if answer["result"]["offset"].is_u64() {
        return Ok(());
    }
    Err(match status {
        401 | 403 => format!("the HTTP API refuses us ({status}): set EARSHOT_API_KEY to its key"),
        _ if answer["result"].is_object() => format!("{channel} is no channel with source = \"stream\""),
        _ => format!("nothing can be published on {channel}: {status} {}", answer["error"]),
    })
}
