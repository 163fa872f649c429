//! One attempt to connect to the current primary.
//!
//! Owns the choice of the server (the one in the URL, or the primary that the Sentinels report), and the watch for a
//! failover while the connection lives. Must never keep an address from one attempt to the next.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use redis::ProtocolVersion;
use redis::aio::{AsyncPushSender, MultiplexedConnection};

use super::ConnectConfig;
use super::error::LinkError;
use super::role::{Role, RoleWatch, role};
use super::sentinel::{PrimaryView, Sentinels};
use super::server::Server;
use super::stream::Deadline;

/// The shortest wait before an attempt after the Sentinels report another primary.
const RETRY_MIN: Duration = Duration::from_millis(100);

/// Resolves with the reason when a reconnect to another server is needed: Redis may close no connection at a failover.
pub type FailoverWatch = BoxFuture<'static, LinkError>;

/// Connects to one Redis server or to the primary of its Sentinels.
#[derive(Debug)]
pub struct Dialer {
    server: Result<Server, String>,
    sentinels: Option<Arc<Sentinels>>,
    connect_timeout: Duration,
    primary_check_interval: Duration,
    /// The primary of the last attempt, as reported by the Sentinels.
    last_view: Mutex<Option<PrimaryView>>,
    /// Whether the server of the last attempt is a replica; a warning is logged at each change to true.
    is_replica: Arc<AtomicBool>,
}

impl Dialer {
    /// A dialer for one purpose, which is part of the name in CLIENT LIST. With an invalid URL every attempt fails.
    pub fn new(config: &ConnectConfig, purpose: &str) -> Self {
        let sentinels = config.sentinel.as_ref();
        Self {
            server: Server::from_config(config, purpose),
            sentinels: sentinels.map(|sentinel| Arc::new(Sentinels::new(config, sentinel, purpose))),
            connect_timeout: config.connect_timeout,
            primary_check_interval: config.primary_check_interval,
            last_view: Mutex::default(),
            is_replica: Arc::default(),
        }
    }

    /// Uses RESP2, which servers before Redis 6 and some proxies require. The connections have no pushes: the end of one
    /// is found by the next command.
    #[must_use]
    pub fn with_resp2(mut self) -> Self {
        if let Ok(server) = &mut self.server {
            server.protocol = ProtocolVersion::RESP2;
        }
        self
    }

    /// Connects once. Pushes of the connection, including its end, go to `pushes`, which must not block.
    ///
    /// # Errors
    /// The cause, for an operator.
    pub async fn dial(&self, pushes: impl AsyncPushSender) -> Result<MultiplexedConnection, LinkError> {
        let server = self.server()?;
        let deadline = Deadline::after(self.connect_timeout);
        match &self.sentinels {
            None => Ok(server.connect(pushes, deadline).await?.0),
            Some(sentinels) => Ok(Box::pin(self.dial_primary(server, sentinels, pushes)).await?.0),
        }
    }

    /// Connects once, as [`Dialer::dial`], and watches for a failover. Without Sentinels, a replica is accepted with a
    /// warning.
    ///
    /// # Errors
    /// The cause, for an operator.
    pub async fn dial_watched(
        &self,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
        let server = self.server()?;
        if let Some(sentinels) = &self.sentinels {
            return Box::pin(self.dial_primary(server, sentinels, pushes)).await;
        }
        let deadline = Deadline::after(self.connect_timeout);
        let watch = connect_and_query_role(server, pushes, deadline).await?;
        let is_replica = watch.role == Role::Replica;
        if is_replica && !self.is_replica.swap(is_replica, Ordering::Relaxed) {
            let server = watch.address.location();
            tracing::warn!(
                %server,
                "this Redis is a replica: publications through it reach only its own subscribers, and logs cannot be \
                 written; set the URL to the primary"
            );
        }
        self.is_replica.store(is_replica, Ordering::Relaxed);
        let connection = watch.connection.clone();
        let changed = watch.until_changed(self.primary_check_interval, Arc::clone(&self.is_replica));
        Ok((connection, changed.boxed()))
    }

    /// Whether the server of the last [`Dialer::dial_watched`] is a replica. Updated while the connection lives.
    pub fn replica_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_replica)
    }

    /// Waits for the given time, or until the Sentinels report another primary.
    pub async fn wait_before_retry(&self, wait: Duration) {
        let last_view = self.last_view.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (Some(sentinels), Some(last_view)) = (&self.sentinels, last_view) else {
            return tokio::time::sleep(wait).await;
        };
        let moved = async {
            // Bounds the rate of attempts that fail immediately.
            tokio::time::sleep(RETRY_MIN).await;
            Arc::clone(sentinels).until_moved(last_view).await
        };
        let _ = tokio::time::timeout(wait, Box::pin(moved)).await;
    }

    fn server(&self) -> Result<&Server, LinkError> {
        self.server.as_ref().map_err(|reason| LinkError::Rejected(reason.clone()))
    }

    async fn dial_primary(
        &self,
        server: &Server,
        sentinels: &Arc<Sentinels>,
        pushes: impl AsyncPushSender,
    ) -> Result<(MultiplexedConnection, FailoverWatch), LinkError> {
        let view = sentinels.primary().await?;
        *self.last_view.lock().unwrap_or_else(PoisonError::into_inner) = Some(view.clone());
        let server = server.with_address(view.host.clone(), view.port);
        let mut moved = Arc::clone(sentinels).until_moved(view).boxed();
        let connected = connect_and_query_role(&server, pushes, Deadline::after(self.connect_timeout));
        // Stops waiting for a primary that hangs as soon as it has a successor.
        let watch = tokio::select! {
            watch = Box::pin(connected) => watch?,
            error = &mut moved => return Err(error),
        };
        if watch.role == Role::Replica {
            let shown = server.address.host_port();
            return Err(LinkError::Unreachable(format!(
                "{shown} is a replica, although the Sentinels call it the primary: a failover is in progress"
            )));
        }
        let connection = watch.connection.clone();
        let demoted = watch.until_changed(self.primary_check_interval, Arc::clone(&self.is_replica));
        let failover = async move {
            tokio::select! {
                error = moved => error,
                error = demoted => error,
            }
        };
        Ok((connection, failover.boxed()))
    }
}

/// Connects and queries the role of the server.
async fn connect_and_query_role(
    server: &Server,
    pushes: impl AsyncPushSender,
    deadline: Deadline,
) -> Result<RoleWatch, LinkError> {
    let (mut connection, peer) = server.connect(pushes, deadline).await?;
    let shown = server.address.host_port();
    let query = async { Ok(role(&mut connection).await) };
    let on_timeout =
        |limit| format!("{shown} accepted the authentication, but did not reply within {limit:?}: it hangs");
    match deadline.apply(query, on_timeout).await? {
        None => {
            Err(LinkError::Unreachable(format!("{shown} closed the connection when queried for its role")))
        }
        Some(Role::Sentinel) => Err(LinkError::Rejected(format!(
            "{shown} is a Sentinel and holds no data: set it in `sentinels`, with `sentinel_master`, instead of `url`"
        ))),
        Some(role) => Ok(RoleWatch { connection, role, address: server.address.clone(), peer }),
    }
}
