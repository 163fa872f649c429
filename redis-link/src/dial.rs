//! Dialling: one attempt to connect to the server that is right at this moment.
//!
//! Owns the choice of the server (what the URL names, or what the Sentinels call the primary), and the watch over that
//! choice while the connection lives. Must never keep an address from one attempt to the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::aio::{AsyncPushSender, MultiplexedConnection};

use super::InstanceSettings;
use super::failure::Failure;
use super::role::{Role, Watched, role};
use super::sentinel::{Sentinels, View};
use super::server::Server;
use super::stream::Deadline;

/// The shortest wait before an attempt that the Sentinels call for.
const HASTE: Duration = Duration::from_millis(100);

/// Resolves, with the reason, when another server should be dialled in the place of the connected one: after a
/// fail-over Redis need not close anything.
pub type Watch = BoxFuture<'static, Failure>;

/// Where and how to connect.
#[derive(Debug)]
pub struct Dialer {
    server: Result<Server, String>,
    sentinels: Option<Arc<Sentinels>>,
    connect_timeout: Duration,
    primary_check_interval: Duration,
    /// What the Sentinels said last.
    seen: Mutex<Option<View>>,
    /// Whether the server is a replica, and it was said.
    replica: Arc<AtomicBool>,
}

impl Dialer {
    /// A dialler for one purpose, which the server shows in CLIENT LIST. A URL that cannot be read makes every attempt fail.
    pub fn new(settings: &InstanceSettings, purpose: &str) -> Self {
        let sentinels = settings.sentinel.as_ref();
        Self {
            server: Server::of(settings, purpose),
            sentinels: sentinels.map(|sentinel| Arc::new(Sentinels::new(settings, sentinel, purpose))),
            connect_timeout: settings.connect_timeout,
            primary_check_interval: settings.primary_check_interval,
            seen: Mutex::default(),
            replica: Arc::default(),
        }
    }

    /// One attempt. Pushes of the new connection, its end included, go to `pushes`, which must not block.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial(&self, pushes: impl AsyncPushSender) -> Result<MultiplexedConnection, Failure> {
        let server = self.server()?;
        let deadline = Deadline::after(self.connect_timeout);
        match &self.sentinels {
            None => Ok(server.connect(pushes, deadline).await?.0),
            Some(sentinels) => Ok(Box::pin(self.dial_primary(server, sentinels, pushes)).await?.0),
        }
    }

    /// One attempt, as [`Dialer::dial`], with the watch over what was dialled. Without Sentinels, a replica is taken as
    /// it is, and warned of.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn dial_watched(
        &self,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, Watch), Failure> {
        let server = self.server()?;
        if let Some(sentinels) = &self.sentinels {
            return Box::pin(self.dial_primary(server, sentinels, pushes)).await;
        }
        let deadline = Deadline::after(self.connect_timeout);
        let watched = reach(server, pushes, deadline).await?;
        let is_replica = watched.role == Role::Replica;
        if is_replica && !self.replica.swap(is_replica, Ordering::Relaxed) {
            let server = watched.address.location();
            tracing::warn!(
                %server,
                "this Redis is a replica: what is published through it reaches its own subscribers alone, and logs \
                 cannot be written; the URL should name the primary"
            );
        }
        self.replica.store(is_replica, Ordering::Relaxed);
        let connection = watched.connection.clone();
        let moved = watched.moved(self.primary_check_interval, Arc::clone(&self.replica));
        Ok((connection, moved.boxed()))
    }

    /// Whether the server that was dialled last is a replica at this moment, as a flag that follows.
    pub fn replica(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.replica)
    }

    /// Waits before the next attempt, though not past the moment at which the Sentinels name another primary.
    pub async fn pause(&self, wait: Duration) {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(sentinels), Some(seen)) = (&self.sentinels, seen) else {
            return tokio::time::sleep(wait).await;
        };
        let news = async {
            // An attempt that fails at once must not become a loop without any wait.
            tokio::time::sleep(HASTE).await;
            Arc::clone(sentinels).moved(seen).await
        };
        let _ = tokio::time::timeout(wait, Box::pin(news)).await;
    }

    fn server(&self) -> Result<&Server, Failure> {
        self.server.as_ref().map_err(|reason| Failure::Refused(reason.clone()))
    }

    async fn dial_primary(
        &self,
        server: &Server,
        sentinels: &Arc<Sentinels>,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, Watch), Failure> {
        let seen = sentinels.primary().await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen.clone());
        let server = server.at(seen.host.clone(), seen.port);
        let mut elsewhere = Arc::clone(sentinels).moved(seen).boxed();
        let reached = reach(&server, pushes, Deadline::after(self.connect_timeout));
        // A primary that hangs is waited for only until its successor is there.
        let watched = tokio::select! {
            watched = Box::pin(reached) => watched?,
            failure = &mut elsewhere => return Err(failure),
        };
        if watched.role == Role::Replica {
            let shown = server.address.host_port();
            return Err(Failure::Unreachable(format!(
                "{shown} is a replica, although the Sentinels call it the primary: a fail-over is under way"
            )));
        }
        let connection = watched.connection.clone();
        let demoted = watched.moved(self.primary_check_interval, Arc::clone(&self.replica));
        let moved = async move {
            tokio::select! {
                failure = elsewhere => failure,
                failure = demoted => failure,
            }
        };
        Ok((connection, moved.boxed()))
    }
}

/// Connects, and asks which role the server has.
async fn reach(
    server: &Server,
    pushes: impl AsyncPushSender,
    deadline: Deadline,
) -> Result<Watched, Failure> {
    let (mut connection, peer) = server.connect(pushes, deadline).await?;
    let shown = server.address.host_port();
    let asked = async { Ok(role(&mut connection).await) };
    let late = |limit| format!("{shown} signs us in, but does not answer within {limit:?}: it hangs");
    match deadline.keep(asked, late).await? {
        None => {
            Err(Failure::Unreachable(format!("{shown} ended the connection when it was asked for its role")))
        }
        Some(Role::Sentinel) => Err(Failure::Refused(format!(
            "{shown} is a Sentinel, which holds no data: name it in `sentinels`, with `sentinel_master`, in the place \
             of `url`"
        ))),
        Some(role) => Ok(Watched { connection, role, address: server.address.clone(), peer }),
    }
}
