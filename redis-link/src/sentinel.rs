//! Sentinels: queried for the primary, and watched for a failover.
//!
//! Owns the decision between views that differ. Must never follow an outdated Sentinel: the highest configuration epoch
//! wins, as it does among Sentinels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use redis::aio::{MultiplexedConnection, SendError};
use redis::{ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisError};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::ConnectConfig;
use super::address::Address;
use super::error::{LinkError, server_message};
use super::server::Server;
use super::stream::Deadline;

/// Limit of the query to one Sentinel.
const QUERY_TIMEOUT: Duration = Duration::from_secs(2);
/// How long to wait for the remaining Sentinels after a majority has replied: one of them may have a newer view.
const STRAGGLER_TIMEOUT: Duration = Duration::from_millis(200);

/// How to reach the Sentinels, and the name of the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelConfig {
    /// Host and port of each Sentinel. All are queried, so the list should be complete.
    pub addresses: Vec<(String, u16)>,
    /// The name of the primary in `sentinel monitor`.
    pub master_name: String,
    /// The ACL user for the Sentinels.
    pub username: Option<String>,
    /// The file of the password for the Sentinels.
    pub password_file: Option<PathBuf>,
    /// Whether the Sentinels use TLS; certificates are those of the servers.
    pub tls: bool,
}

/// The address of the primary, as reported by a Sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PrimaryView {
    pub(super) host: String,
    pub(super) port: u16,
    /// The configuration epoch: of two views, the higher one is newer.
    epoch: u64,
}

impl PrimaryView {
    fn is_elsewhere(&self, other: &Self) -> bool {
        (&self.host, self.port) != (&other.host, other.port)
    }
}

/// The Sentinels of one primary.
#[derive(Debug)]
pub(super) struct Sentinels {
    servers: Vec<Server>,
    master_name: String,
    query_timeout: Duration,
    query_interval: Duration,
}

impl Sentinels {
    pub(super) fn new(config: &ConnectConfig, sentinel: &SentinelConfig, purpose: &str) -> Self {
        let server = |(host, port): &(String, u16)| Server {
            address: Address { tls: sentinel.tls, ..Address::tcp(host.clone(), Some(*port)) },
            username: sentinel.username.clone(),
            password_file: sentinel.password_file.clone(),
            password_settings: "`sentinel_password_file`",
            // `server_name` is the name of the primary.
            tls: super::TlsConfig { server_name: None, ..config.tls.clone() },
            client_name: format!("earshot:{}:{purpose}", config.name),
            command_timeout: config.command_timeout.min(QUERY_TIMEOUT),
            protocol: ProtocolVersion::RESP3,
        };
        Self {
            servers: sentinel.addresses.iter().map(server).collect(),
            master_name: sentinel.master_name.clone(),
            query_timeout: (config.connect_timeout / 2).min(QUERY_TIMEOUT),
            query_interval: config.primary_check_interval,
        }
    }

    /// Queries all Sentinels concurrently for the primary. Returns the newest view after a majority has replied, or after
    /// the timeout.
    pub(super) async fn primary(&self) -> Result<PrimaryView, LinkError> {
        let mut queries: FuturesUnordered<_> =
            self.servers.iter().map(|server| Box::pin(self.query_once(server))).collect();
        let (mut newest, mut replies, mut errors) = (None::<PrimaryView>, 0, Vec::new());
        let mut until = Instant::now() + self.query_timeout;
        while let Ok(Some(reply)) = timeout_at(until, queries.next()).await {
            match reply {
                Ok(view) => {
                    replies += 1;
                    newest = Some(match newest {
                        Some(best) => newer(best, view),
                        None => view,
                    });
                }
                Err(error) => errors.push(error),
            }
            if newest.is_some() && replies * 2 > self.servers.len() {
                until = until.min(Instant::now() + STRAGGLER_TIMEOUT);
            }
        }
        newest.ok_or_else(|| self.no_view(&mut errors))
    }

    fn no_view(&self, errors: &mut [LinkError]) -> LinkError {
        // Sorted, so that the text does not vary between attempts.
        errors.sort_by_key(ToString::to_string);
        let causes: Vec<_> = errors.iter().map(ToString::to_string).collect();
        let message =
            format!("no Sentinel reports the address of `{}`: {}", self.master_name, causes.join("; "));
        // A rejection persists until an operator changes something; the other errors may be temporary.
        if errors.iter().any(|error| matches!(error, LinkError::Rejected(_))) {
            LinkError::Rejected(message)
        } else {
            LinkError::Unreachable(message)
        }
    }

    async fn query_once(&self, server: &Server) -> Result<PrimaryView, LinkError> {
        let shown = server.address.host_port();
        let ignore_pushes = |_: PushInfo| Ok::<_, SendError>(());
        let query = async {
            let connected = server.connect(ignore_pushes, Deadline::after(self.query_timeout)).await;
            let (mut connection, _) = connected.map_err(|error| with_sentinel(error, &shown))?;
            self.query(&mut connection, &shown).await
        };
        let on_timeout = || {
            LinkError::Unreachable(format!(
                "the Sentinel {shown} did not reply within {:?}",
                self.query_timeout
            ))
        };
        timeout(self.query_timeout, query).await.unwrap_or_else(|_| Err(on_timeout()))
    }

    async fn query(
        &self,
        connection: &mut MultiplexedConnection,
        shown: &str,
    ) -> Result<PrimaryView, LinkError> {
        let mut command = redis::cmd("SENTINEL");
        command.arg("MASTER").arg(&self.master_name);
        let reply: Result<HashMap<String, String>, _> = command.query_async(connection).await;
        let fields = reply.map_err(|error| query_error(&error, shown))?;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        match field("port").parse() {
            Ok(port) if !field("ip").is_empty() => Ok(PrimaryView {
                host: field("ip").to_owned(),
                port,
                epoch: field("config-epoch").parse().unwrap_or_default(),
            }),
            _ => Err(LinkError::Unreachable(format!("the Sentinel {shown} reports no address"))),
        }
    }

    /// Resolves when the primary has another address than in `seen`. Each Sentinel is queried at every `+switch-master`
    /// event and at regular intervals.
    pub(super) async fn until_moved(self: Arc<Self>, seen: PrimaryView) -> LinkError {
        let (sender, mut receiver) = mpsc::channel(self.servers.len().max(1));
        let followers = (0..self.servers.len()).map(|index| Box::pin(self.follow(index, sender.clone())));
        let mut followers: FuturesUnordered<_> = followers.collect();
        let mut views: HashMap<usize, Option<PrimaryView>> = HashMap::new();
        let mut was_unreachable = false;
        loop {
            let (index, view) = tokio::select! {
                Some(view) = receiver.recv() => view,
                Some(()) = followers.next() => continue,
            };
            views.insert(index, view);
            if let Some(now) = moved_primary(&seen, &views, self.servers.len()) {
                let (name, host, port) = (&self.master_name, &now.host, now.port);
                return LinkError::Unreachable(format!(
                    "the Sentinels report that `{name}` is now {host}:{port}"
                ));
            }
            let unreachable = views.len() == self.servers.len() && views.values().all(Option::is_none);
            if unreachable && !was_unreachable {
                let master = &self.master_name;
                tracing::warn!(%master, "no Sentinel is reachable: a failover would not be detected");
            }
            was_unreachable = unreachable;
        }
    }

    /// Sends the views of one Sentinel without end; `None` while it is unreachable.
    async fn follow(&self, index: usize, views: mpsc::Sender<(usize, Option<PrimaryView>)>) {
        let server = &self.servers[index];
        loop {
            let error = self.follow_connection(index, server, &views).await;
            tracing::debug!(master = %self.master_name, %error, "connection to a Sentinel failed");
            let _ = views.send((index, None)).await;
            sleep(self.query_interval).await;
        }
    }

    async fn follow_connection(
        &self,
        index: usize,
        server: &Server,
        views: &mpsc::Sender<(usize, Option<PrimaryView>)>,
    ) -> LinkError {
        let shown = server.address.host_port();
        let event = Arc::new(Notify::new());
        let notify = Arc::clone(&event);
        let on_push = move |push: PushInfo| {
            if matches!(push.kind, PushKind::Message | PushKind::Disconnection) {
                notify.notify_one();
            }
            Ok::<_, SendError>(())
        };
        let mut connection = match server.connect(on_push, Deadline::after(self.query_timeout)).await {
            Ok((connection, _)) => connection,
            Err(error) => return error,
        };
        // If the ACL forbids it, the regular queries remain.
        let _ = connection.subscribe("+switch-master").await;
        loop {
            match self.query(&mut connection, &shown).await {
                Ok(view) => drop(views.send((index, Some(view))).await),
                Err(error) => return error,
            }
            let _ = timeout(self.query_interval, event.notified()).await;
        }
    }
}

/// Adds the address of the Sentinel, unless the error contains it.
fn with_sentinel(error: LinkError, shown: &str) -> LinkError {
    let with_address = |cause: String| {
        if cause.contains(shown) { cause } else { format!("the Sentinel {shown} replied {cause}") }
    };
    match error {
        LinkError::Unreachable(cause) | LinkError::NotReceiving(cause) => {
            LinkError::Unreachable(with_address(cause))
        }
        LinkError::Rejected(cause) => LinkError::Rejected(with_address(cause)),
    }
}

fn query_error(error: &RedisError, shown: &str) -> LinkError {
    let message = format!("the Sentinel {shown} replied {}", server_message(error));
    match error.kind() {
        ErrorKind::Server(_) if message.contains("No such master") => LinkError::Rejected(format!(
            "{message}: `sentinel_master` must be the name in its `sentinel monitor`"
        )),
        ErrorKind::Server(_) if message.contains("unknown command") => LinkError::Rejected(format!(
            "{message}: it is not a Sentinel; Sentinels usually listen on port 26379"
        )),
        ErrorKind::Server(_) | ErrorKind::Extension => LinkError::Rejected(message),
        _ => LinkError::Unreachable(message),
    }
}

fn newer(one: PrimaryView, other: PrimaryView) -> PrimaryView {
    if other.epoch > one.epoch { other } else { one }
}

/// The view of the primary at another address than in `seen`, if it has a newer epoch, or if a majority of the
/// Sentinels reports the same address: epochs start again after SENTINEL REMOVE and MONITOR.
fn moved_primary(
    seen: &PrimaryView,
    views: &HashMap<usize, Option<PrimaryView>>,
    sentinels: usize,
) -> Option<PrimaryView> {
    let others = || views.values().flatten().filter(|view| view.is_elsewhere(seen));
    let newest = others().max_by_key(|view| view.epoch)?;
    if newest.epoch > seen.epoch {
        return Some(newest.clone());
    }
    others().find(|view| 2 * others().filter(|other| !other.is_elsewhere(view)).count() > sentinels).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(host: &str, epoch: u64) -> PrimaryView {
        PrimaryView { host: host.to_owned(), port: 1, epoch }
    }

    fn moved(seen: &PrimaryView, views: &[Option<PrimaryView>]) -> Option<String> {
        moved_primary(seen, &views.iter().cloned().enumerate().collect(), 3).map(|view| view.host)
    }

    #[test]
    fn a_newer_epoch_wins_and_an_older_one_is_ignored() {
        let seen = view("a", 5);
        assert_eq!(moved(&seen, &[Some(view("a", 5)), Some(view("a", 6)), None]), None);
        assert_eq!(moved(&seen, &[Some(view("a", 5)), Some(view("b", 4)), None]), None, "outdated");
        assert_eq!(moved(&seen, &[Some(view("a", 5)), Some(view("b", 6)), None]), Some("b".into()));
        assert_eq!(moved(&seen, &[Some(view("c", 6)), Some(view("b", 7)), None]), Some("b".into()));
    }

    #[test]
    fn a_majority_wins_whatever_its_epochs() {
        let seen = view("a", 5);
        assert_eq!(moved(&seen, &[Some(view("b", 0)), Some(view("a", 5)), None]), None);
        let majority = [Some(view("b", 0)), Some(view("a", 5)), Some(view("b", 0))];
        assert_eq!(moved(&seen, &majority), Some("b".into()));
        assert_eq!(moved(&seen, &[Some(view("b", 0)), Some(view("c", 0)), None]), None);
    }

    #[test]
    fn the_newer_of_two_views_is_used() {
        assert_eq!(newer(view("a", 1), view("b", 2)).host, "b");
        assert_eq!(newer(view("a", 2), view("b", 1)).host, "a");
        assert_eq!(newer(view("a", 2), view("b", 2)).host, "a", "the first reply");
    }
}
