//! Sentinels: who is asked where the primary is, and who tells when that changes.
//!
//! Owns the judgement of answers that differ. Must never follow a Sentinel that is behind: the highest configuration
//! epoch counts, as it does among Sentinels.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use redis::aio::{MultiplexedConnection, SendError};
use redis::{ErrorKind, PushInfo, PushKind, RedisError};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::InstanceSettings;
use super::address::Address;
use super::failure::{Failure, said};
use super::server::Server;
use super::stream::Deadline;

/// The longest that one Sentinel is waited for.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long the others are waited for once most have answered: one of them may be the first to know.
const STRAGGLERS: Duration = Duration::from_millis(200);

/// How Sentinels are reached, and what they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// Host and port of each. All of them are asked, so all should stand here.
    pub addresses: Vec<(String, u16)>,
    /// What they call the primary.
    pub master: String,
    /// The ACL user of theirs.
    pub username: Option<String>,
    /// The file of their password.
    pub password_file: Option<PathBuf>,
    /// Whether they speak TLS; certificates are as for the servers.
    pub tls: bool,
}

/// Where a Sentinel sees the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    pub(super) host: String,
    pub(super) port: u16,
    /// Of two views, the one with the higher epoch is newer.
    epoch: u64,
}

impl View {
    fn is_elsewhere(&self, other: &Self) -> bool {
        (&self.host, self.port) != (&other.host, other.port)
    }
}

/// The Sentinels of one primary.
#[derive(Debug)]
pub(super) struct Sentinels {
    servers: Vec<Server>,
    master: String,
    patience: Duration,
    interval: Duration,
}

impl Sentinels {
    pub(super) fn new(settings: &InstanceSettings, sentinel: &SentinelSettings, purpose: &str) -> Self {
        let server = |(host, port): &(String, u16)| Server {
            address: Address { tls: sentinel.tls, ..Address::at(host.clone(), Some(*port)) },
            username: sentinel.username.clone(),
            password_file: sentinel.password_file.clone(),
            password_keys: "`sentinel_password_file`",
            // The name in `server_name` is that of the primary.
            tls: super::TlsSettings { server_name: None, ..settings.tls.clone() },
            client_name: format!("earshot:{}:{purpose}", settings.name),
            command_timeout: settings.command_timeout.min(PATIENCE),
        };
        Self {
            servers: sentinel.addresses.iter().map(server).collect(),
            master: sentinel.master.clone(),
            patience: (settings.connect_timeout / 2).min(PATIENCE),
            interval: settings.primary_check_interval,
        }
    }

    /// Where the primary is. All are asked at once: most must have answered, or nobody else answers.
    pub(super) async fn primary(&self) -> Result<View, Failure> {
        let mut asked: FuturesUnordered<_> =
            self.servers.iter().map(|server| Box::pin(self.ask_once(server))).collect();
        let (mut newest, mut answered, mut failures) = (None::<View>, 0, Vec::new());
        let mut until = Instant::now() + self.patience;
        while let Ok(Some(answer)) = timeout_at(until, asked.next()).await {
            match answer {
                Ok(view) => {
                    answered += 1;
                    newest = Some(match newest {
                        Some(best) => newer(best, view),
                        None => view,
                    });
                }
                Err(failure) => failures.push(failure),
            }
            if newest.is_some() && answered * 2 > self.servers.len() {
                until = until.min(Instant::now() + STRAGGLERS);
            }
        }
        newest.ok_or_else(|| self.nobody_knows(&mut failures))
    }

    fn nobody_knows(&self, failures: &mut [Failure]) -> Failure {
        failures.sort_by_key(ToString::to_string);
        let told: Vec<_> = failures.iter().map(ToString::to_string).collect();
        let told = format!("no Sentinel tells where `{}` is: {}", self.master, told.join("; "));
        // One that will not have us does so until somebody changes something; the others may come back.
        if failures.iter().any(|failure| matches!(failure, Failure::Refused(_))) {
            Failure::Refused(told)
        } else {
            Failure::Unreachable(told)
        }
    }

    async fn ask_once(&self, server: &Server) -> Result<View, Failure> {
        let shown = server.address.host_port();
        let ignore = |_: PushInfo| Ok::<_, SendError>(());
        let ask = async {
            let connected = server.connect(ignore, Deadline::after(self.patience)).await;
            let (mut connection, _) = connected.map_err(|failure| of_sentinel(failure, &shown))?;
            self.ask(&mut connection, &shown).await
        };
        let late = || {
            Failure::Unreachable(format!("the Sentinel {shown} does not answer within {:?}", self.patience))
        };
        timeout(self.patience, ask).await.unwrap_or_else(|_| Err(late()))
    }

    async fn ask(&self, connection: &mut MultiplexedConnection, shown: &str) -> Result<View, Failure> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("MASTER").arg(&self.master);
        let answer: Result<HashMap<String, String>, _> = question.query_async(connection).await;
        let fields = answer.map_err(|error| refusal(&error, shown))?;
        let field = |name: &str| fields.get(name).map(String::as_str).unwrap_or_default();
        match field("port").parse() {
            Ok(port) if !field("ip").is_empty() => Ok(View {
                host: field("ip").to_owned(),
                port,
                epoch: field("config-epoch").parse().unwrap_or_default(),
            }),
            _ => Err(Failure::Unreachable(format!("the Sentinel {shown} names no address"))),
        }
    }

    /// Resolves when the primary is somewhere else than where it was seen. Each Sentinel is listened to and, at each
    /// word of a switch and from time to time, asked again.
    pub(super) async fn moved(self: Arc<Self>, seen: View) -> Failure {
        let (views, mut heard) = mpsc::channel(self.servers.len().max(1));
        let ears = (0..self.servers.len()).map(|index| Box::pin(self.listen(index, views.clone())));
        let mut ears: FuturesUnordered<_> = ears.collect();
        let mut opinions: HashMap<usize, Option<View>> = HashMap::new();
        let mut deserted = false;
        loop {
            let (index, view) = tokio::select! {
                Some(opinion) = heard.recv() => opinion,
                Some(()) = ears.next() => continue,
            };
            opinions.insert(index, view);
            if let Some(now) = elsewhere(&seen, &opinions, self.servers.len()) {
                let (master, host, port) = (&self.master, &now.host, now.port);
                return Failure::Unreachable(format!("`{master}` is {host}:{port} now, say the Sentinels"));
            }
            let nobody = opinions.len() == self.servers.len() && opinions.values().all(Option::is_none);
            if nobody && !deserted {
                tracing::warn!(master = %self.master, "no Sentinel answers: a fail-over would not be noticed");
            }
            deserted = nobody;
        }
    }

    /// Asks one Sentinel for ever, and tells what it says; `None` when it cannot be asked.
    async fn listen(&self, index: usize, views: mpsc::Sender<(usize, Option<View>)>) {
        let server = &self.servers[index];
        loop {
            let failure = self.follow(index, server, &views).await;
            tracing::debug!(master = %self.master, %failure, "a Sentinel cannot be followed");
            let _ = views.send((index, None)).await;
            sleep(self.interval).await;
        }
    }

    async fn follow(
        &self,
        index: usize,
        server: &Server,
        views: &mpsc::Sender<(usize, Option<View>)>,
    ) -> Failure {
        let shown = server.address.host_port();
        let told = Arc::new(Notify::new());
        let bell = Arc::clone(&told);
        let ring = move |push: PushInfo| {
            if matches!(push.kind, PushKind::Message | PushKind::Disconnection) {
                bell.notify_one();
            }
            Ok::<_, SendError>(())
        };
        let mut connection = match server.connect(ring, Deadline::after(self.patience)).await {
            Ok((connection, _)) => connection,
            Err(failure) => return failure,
        };
        // Where the ACL forbids it, asking from time to time has to do.
        let _ = connection.subscribe("+switch-master").await;
        loop {
            match self.ask(&mut connection, &shown).await {
                Ok(view) => drop(views.send((index, Some(view))).await),
                Err(failure) => return failure,
            }
            let _ = timeout(self.interval, told.notified()).await;
        }
    }
}

/// A failure that says which Sentinel it is about.
fn of_sentinel(failure: Failure, shown: &str) -> Failure {
    let told =
        |told: String| if told.contains(shown) { told } else { format!("the Sentinel {shown} says {told}") };
    match failure {
        Failure::Unreachable(cause) | Failure::Deaf(cause) => Failure::Unreachable(told(cause)),
        Failure::Refused(cause) => Failure::Refused(told(cause)),
    }
}

fn refusal(error: &RedisError, shown: &str) -> Failure {
    let told = format!("the Sentinel {shown} says {}", said(error));
    match error.kind() {
        ErrorKind::Server(_) if told.contains("No such master") => {
            Failure::Refused(format!("{told}: `sentinel_master` must be the name in its `sentinel monitor`"))
        }
        ErrorKind::Server(_) if told.contains("unknown command") => {
            Failure::Refused(format!("{told}: it is no Sentinel; these usually listen on port 26379"))
        }
        ErrorKind::Server(_) | ErrorKind::Extension => Failure::Refused(told),
        _ => Failure::Unreachable(told),
    }
}

fn newer(one: View, other: View) -> View {
    if other.epoch > one.epoch { other } else { one }
}

/// Where the primary is, if that is elsewhere: a newer epoch says so, or most Sentinels do (whose epochs begin anew when
/// somebody takes the primary out of their care and puts it back).
fn elsewhere(seen: &View, opinions: &HashMap<usize, Option<View>>, sentinels: usize) -> Option<View> {
    let others = || opinions.values().flatten().filter(|view| view.is_elsewhere(seen));
    let newest = others().max_by_key(|view| view.epoch)?;
    if newest.epoch > seen.epoch {
        return Some(newest.clone());
    }
    others().find(|view| 2 * others().filter(|other| !other.is_elsewhere(view)).count() > sentinels).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(host: &str, epoch: u64) -> View {
        View { host: host.to_owned(), port: 1, epoch }
    }

    fn opinions(views: &[Option<View>]) -> HashMap<usize, Option<View>> {
        views.iter().cloned().enumerate().collect()
    }

    #[test]
    fn a_newer_epoch_counts_and_an_older_one_does_not() {
        let seen = view("a", 5);
        let told = |views: &[Option<View>]| elsewhere(&seen, &opinions(views), 3).map(|view| view.host);
        assert_eq!(told(&[Some(view("a", 5)), Some(view("a", 6)), None]), None);
        assert_eq!(told(&[Some(view("a", 5)), Some(view("b", 4)), None]), None, "it is behind");
        assert_eq!(told(&[Some(view("a", 5)), Some(view("b", 6)), None]), Some("b".into()));
        assert_eq!(told(&[Some(view("c", 6)), Some(view("b", 7)), None]), Some("b".into()));
    }

    #[test]
    fn most_sentinels_count_whatever_their_epochs() {
        let seen = view("a", 5);
        let told = |views: &[Option<View>]| elsewhere(&seen, &opinions(views), 3).map(|view| view.host);
        assert_eq!(told(&[Some(view("b", 0)), Some(view("a", 5)), None]), None);
        assert_eq!(told(&[Some(view("b", 0)), Some(view("a", 5)), Some(view("b", 0))]), Some("b".into()));
        assert_eq!(told(&[Some(view("b", 0)), Some(view("c", 0)), None]), None);
    }

    #[test]
    fn of_two_answers_the_newer_is_taken() {
        assert_eq!(newer(view("a", 1), view("b", 2)).host, "b");
        assert_eq!(newer(view("a", 2), view("b", 1)).host, "a");
        assert_eq!(newer(view("a", 2), view("b", 2)).host, "a", "the first that answered");
    }
}
