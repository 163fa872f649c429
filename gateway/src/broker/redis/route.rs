//! Where a subscriber link connects to.
//!
//! Owns the choice of the server, made anew at each attempt, and what goes with a connection to be listened to. Must
//! never keep a connection.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::cluster::Cluster;
use super::cluster::bus::Bus;
use super::cluster::shard_line::ShardLine;
use super::handover::Handover;
use super::probe::Echoes;
use super::settings::RedisSettings;
use earshot_redis_link::{Dialer, FailoverWatch, LinkError, NodeAddress};

/// Where to connect to.
#[derive(Debug)]
pub(super) enum Route {
    /// One server, whatever is behind its name at the time.
    Server(Box<Dialer>),
    /// Any node of a cluster: each hears what is published at any other.
    Anywhere(Arc<Cluster>),
    /// One node of a cluster, for the shard channels that it carries.
    Node(Arc<Cluster>, NodeAddress),
}

/// A connection that can be listened to.
pub(super) struct Line {
    pub(super) connection: MultiplexedConnection,
    /// Whether the server is still the one to listen to.
    pub(super) watch: FailoverWatch,
    pub(super) handover: Arc<Handover>,
    pub(super) echoes: Arc<Echoes>,
    /// How the node heard the others before the first subscription; `None` where there are no others.
    pub(super) bus: Option<Bus>,
    /// How it is spoken to, when it is to carry shard channels.
    pub(super) shard_line: Option<Arc<ShardLine>>,
}

impl Route {
    /// One attempt.
    pub(super) async fn dial(&self, settings: &RedisSettings) -> Result<Line, LinkError> {
        let echoes = Echoes::new(&settings.probe_prefix);
        let handover = || Arc::new(Handover::new(settings, Some(Arc::clone(&echoes))));
        let forever = || -> FailoverWatch { Box::pin(pending()) };
        match self {
            Self::Server(dialer) => {
                let handover = handover();
                let (connection, watch) = dialer.dial_watched(handover.clone()).await?;
                Ok(Line { connection, watch, handover, echoes, bus: None, shard_line: None })
            }
            Self::Anywhere(cluster) => {
                let found = cluster.dial_any("subscriptions", |_| handover()).await?;
                let (_, connection, bus, handover) = found;
                Ok(Line { connection, watch: forever(), handover, echoes, bus: Some(bus), shard_line: None })
            }
            Self::Node(cluster, node) => {
                let handover = handover();
                let connection = cluster.dial(node, "sharded", handover.clone()).await?;
                let line = ShardLine::new(cluster, node, connection.clone(), &handover);
                let shard_line = Some(Arc::new(line));
                Ok(Line { connection, watch: forever(), handover, echoes, bus: None, shard_line })
            }
        }
    }

    /// Waits before the next attempt, though not past the moment at which another server is known to be right.
    pub(super) async fn pause(&self, wait: Duration) {
        match self {
            Self::Server(dialer) => dialer.wait_before_retry(wait).await,
            Self::Anywhere(_) | Self::Node(..) => tokio::time::sleep(wait).await,
        }
    }

    /// Topics are somewhere else: by what was said about them if anything was, else by the next reading.
    pub(super) fn misplaced(&self) {
        if let Self::Anywhere(cluster) | Self::Node(cluster, _) = self {
            cluster.place_again();
        }
    }

    /// What was connected to may not be right any more.
    pub(super) fn doubt(&self) {
        match self {
            Self::Server(_) => {}
            Self::Anywhere(cluster) | Self::Node(cluster, _) => cluster.doubt(),
        }
    }
}
