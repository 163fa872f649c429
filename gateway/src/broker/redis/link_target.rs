//! The server that a subscriber link connects to.
//!
//! Owns the choice of the server at each attempt, and what belongs to a connection. Must never keep a connection.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;

use super::cluster::Cluster;
use super::cluster::bus::BusSnapshot;
use super::cluster::sharded_connection::ShardedConnection;
use super::probe::ProbeReplies;
use super::receive_queue::ReceiveQueue;
use super::settings::RedisSettings;
use earshot_redis_link::{Dialer, FailoverWatch, LinkError, NodeAddress};

/// The target of a link.
#[derive(Debug)]
pub(super) enum LinkTarget {
    /// One server; its name is resolved at each attempt.
    Server(Box<Dialer>),
    /// Any node of a cluster: each receives what is published at the others.
    AnyNode(Arc<Cluster>),
    /// One node of a cluster, for its sharded channels.
    Node(Arc<Cluster>, NodeAddress),
}

/// A connection of a subscriber link.
pub(super) struct SubscriberSocket {
    pub(super) connection: MultiplexedConnection,
    /// Resolves when the server is no longer the right one.
    pub(super) watch: FailoverWatch,
    pub(super) receive_queue: Arc<ReceiveQueue>,
    pub(super) probe_replies: Arc<ProbeReplies>,
    /// The state of the cluster bus before the first subscription; `None` outside of a cluster.
    pub(super) bus: Option<BusSnapshot>,
    /// The connection for sharded channels.
    pub(super) sharded_connection: Option<Arc<ShardedConnection>>,
}

impl LinkTarget {
    /// Connects.
    pub(super) async fn dial(&self, settings: &RedisSettings) -> Result<SubscriberSocket, LinkError> {
        let probe_replies = ProbeReplies::new(&settings.probe_prefix);
        let receive_queue = || Arc::new(ReceiveQueue::new(settings, Some(Arc::clone(&probe_replies))));
        let forever = || -> FailoverWatch { Box::pin(pending()) };
        match self {
            Self::Server(dialer) => {
                let receive_queue = receive_queue();
                let (connection, watch) = dialer.dial_watched(receive_queue.clone()).await?;
                Ok(SubscriberSocket {
                    connection,
                    watch,
                    receive_queue,
                    probe_replies,
                    bus: None,
                    sharded_connection: None,
                })
            }
            Self::AnyNode(cluster) => {
                let found = cluster.dial_any("subscriptions", |_| receive_queue()).await?;
                let (_, connection, bus, receive_queue) = found;
                Ok(SubscriberSocket {
                    connection,
                    watch: forever(),
                    receive_queue,
                    probe_replies,
                    bus: Some(bus),
                    sharded_connection: None,
                })
            }
            Self::Node(cluster, node) => {
                let receive_queue = receive_queue();
                let connection = cluster.dial(node, "sharded", receive_queue.clone()).await?;
                let sharded = ShardedConnection::new(cluster, node, connection.clone(), &receive_queue);
                let sharded_connection = Some(Arc::new(sharded));
                Ok(SubscriberSocket {
                    connection,
                    watch: forever(),
                    receive_queue,
                    probe_replies,
                    bus: None,
                    sharded_connection,
                })
            }
        }
    }

    /// Waits before the next attempt, at most until another server is known to be right.
    pub(super) async fn pause(&self, wait: Duration) {
        match self {
            Self::Server(dialer) => dialer.wait_before_retry(wait).await,
            Self::AnyNode(_) | Self::Node(..) => tokio::time::sleep(wait).await,
        }
    }

    /// Requests the placement of misplaced topics.
    pub(super) fn request_placement(&self) {
        if let Self::AnyNode(cluster) | Self::Node(cluster, _) = self {
            cluster.request_placement();
        }
    }

    /// Reports that the target may be wrong.
    pub(super) fn invalidate_topology(&self) {
        match self {
            Self::Server(_) => {}
            Self::AnyNode(cluster) | Self::Node(cluster, _) => cluster.invalidate_topology(),
        }
    }
}
