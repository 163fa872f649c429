//! A backend that publishes 1, 2, 3 and so on to one channel of a cluster, with SPUBLISH or PUBLISH. It continues
//! through node failures and follows redirections.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::cluster::Cluster;

/// Interval between numbers, and before a retry.
const RETRY_INTERVAL: Duration = Duration::from_millis(2);
/// Timeout of a command, after which the publisher tries another node.
const COMMAND_TIMEOUT: Duration = Duration::from_millis(500);

/// A running publisher; stopped when dropped.
pub(crate) struct ClusterPublisher {
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

struct Run {
    command: &'static str,
    channel: String,
    nodes: Vec<String>,
    sent: Arc<AtomicU64>,
}

impl ClusterPublisher {
    /// With SPUBLISH, at the node that owns the slot of the channel.
    pub(crate) fn sharded(cluster: &Cluster, channel: &str) -> Self {
        let nodes = (0..cluster.len()).map(|node| cluster.url(node)).collect();
        Self::start("SPUBLISH", nodes, channel)
    }

    /// With PUBLISH, round-robin over these nodes.
    pub(crate) fn plain(cluster: &Cluster, nodes: &[usize], channel: &str) -> Self {
        Self::start("PUBLISH", nodes.iter().map(|node| cluster.url(*node)).collect(), channel)
    }

    fn start(command: &'static str, nodes: Vec<String>, channel: &str) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let run = Run { command, channel: channel.to_owned(), nodes, sent: Arc::clone(&sent) };
        Self { sent, task: tokio::spawn(run.publish()) }
    }

    /// The last number sent to a node; it may be lost with the node.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for ClusterPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The result of one attempt.
enum Outcome {
    /// A node has it, or may have it: the number is not sent again.
    Sent,
    /// Not published; redirected to the node with this port.
    Redirected(String),
    /// Not published.
    Rejected,
}

impl Run {
    async fn publish(self) {
        let mut index = 0;
        let mut connections: Vec<Option<MultiplexedConnection>> = vec![None; self.nodes.len()];
        let mut number = 1;
        loop {
            let outcome = self.try_publish(number, &self.nodes[index], &mut connections[index]).await;
            let leaves = self.command == "PUBLISH" || connections[index].is_none();
            match outcome {
                Outcome::Sent => number += 1,
                Outcome::Redirected(_) | Outcome::Rejected => {}
            }
            index = match outcome {
                Outcome::Redirected(port) => self.nodes.iter().position(|url| url.contains(&port)).unwrap(),
                Outcome::Sent if !leaves => index,
                Outcome::Sent | Outcome::Rejected => (index + 1) % self.nodes.len(),
            };
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn try_publish(
        &self,
        number: u64,
        url: &str,
        connection: &mut Option<MultiplexedConnection>,
    ) -> Outcome {
        if connection.is_none() {
            *connection = connect(url).await;
        }
        let Some(open) = connection else { return Outcome::Rejected };
        self.sent.store(number, Ordering::Relaxed);
        match redis::cmd(self.command).arg(&self.channel).arg(number).query_async::<i64>(open).await {
            Ok(_) => Outcome::Sent,
            Err(error) if error.is_io_error() || error.is_timeout() => {
                *connection = None;
                Outcome::Sent
            }
            Err(error) => match error.redirect_node() {
                Some((node, _)) => Outcome::Redirected(format!(":{}/", node.rsplit(':').next().unwrap())),
                None => Outcome::Rejected,
            },
        }
    }
}

async fn connect(url: &str) -> Option<MultiplexedConnection> {
    let times = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(COMMAND_TIMEOUT))
        .set_response_timeout(Some(COMMAND_TIMEOUT));
    Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&times).await.ok()
}
