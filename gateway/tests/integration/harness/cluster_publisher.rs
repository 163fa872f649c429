//! A backend that counts through whatever happens to its cluster: it publishes 1, 2, 3 and so on on one channel, for
//! the shard or for all, and follows where nodes send it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::cluster::Cluster;

/// Between two numbers, and before it tries again.
const PAUSE: Duration = Duration::from_millis(2);
/// A node that takes longer is left.
const PATIENCE: Duration = Duration::from_millis(500);

/// A publisher at work; ended when dropped.
pub(crate) struct ClusterPublisher {
    sent: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

struct Run {
    verb: &'static str,
    channel: String,
    nodes: Vec<String>,
    sent: Arc<AtomicU64>,
}

impl ClusterPublisher {
    /// For the shard: at the node that owns the channel's slot.
    pub(crate) fn sharded(cluster: &Cluster, channel: &str) -> Self {
        let nodes = (0..cluster.len()).map(|node| cluster.url(node)).collect();
        Self::start("SPUBLISH", nodes, channel)
    }

    /// For all: at these nodes, one after the other.
    pub(crate) fn plain(cluster: &Cluster, nodes: &[usize], channel: &str) -> Self {
        Self::start("PUBLISH", nodes.iter().map(|node| cluster.url(*node)).collect(), channel)
    }

    fn start(verb: &'static str, nodes: Vec<String>, channel: &str) -> Self {
        let sent = Arc::new(AtomicU64::new(0));
        let run = Run { verb, channel: channel.to_owned(), nodes, sent: Arc::clone(&sent) };
        Self { sent, task: tokio::spawn(run.publish()) }
    }

    /// The last number that was given to a node; it may have been lost with it.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for ClusterPublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What became of a number.
enum Outcome {
    /// A node has it, or may have it: it is not given to another one.
    Given,
    /// Certainly nobody took it; this node may know better.
    Elsewhere(String),
    /// Certainly nobody took it.
    Refused,
}

impl Run {
    async fn publish(self) {
        let mut place = 0;
        let mut connections: Vec<Option<MultiplexedConnection>> = vec![None; self.nodes.len()];
        let mut number = 1;
        loop {
            let outcome = self.one(number, &self.nodes[place], &mut connections[place]).await;
            let leaves = self.verb == "PUBLISH" || connections[place].is_none();
            match outcome {
                Outcome::Given => number += 1,
                Outcome::Elsewhere(_) | Outcome::Refused => {}
            }
            place = match outcome {
                Outcome::Elsewhere(port) => self.nodes.iter().position(|url| url.contains(&port)).unwrap(),
                Outcome::Given if !leaves => place,
                Outcome::Given | Outcome::Refused => (place + 1) % self.nodes.len(),
            };
            sleep(PAUSE).await;
        }
    }

    async fn one(&self, number: u64, url: &str, connection: &mut Option<MultiplexedConnection>) -> Outcome {
        if connection.is_none() {
            *connection = connect(url).await;
        }
        let Some(open) = connection else { return Outcome::Refused };
        self.sent.store(number, Ordering::Relaxed);
        match redis::cmd(self.verb).arg(&self.channel).arg(number).query_async::<i64>(open).await {
            Ok(_) => Outcome::Given,
            Err(error) if error.is_io_error() || error.is_timeout() => {
                *connection = None;
                Outcome::Given
            }
            Err(error) => match error.redirect_node() {
                Some((node, _)) => Outcome::Elsewhere(format!(":{}/", node.rsplit(':').next().unwrap())),
                None => Outcome::Refused,
            },
        }
    }
}

async fn connect(url: &str) -> Option<MultiplexedConnection> {
    let times = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(PATIENCE))
        .set_response_timeout(Some(PATIENCE));
    Client::open(url).unwrap().get_multiplexed_async_connection_with_config(&times).await.ok()
}
