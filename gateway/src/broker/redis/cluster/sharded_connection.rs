//! A connection to a node that carries sharded channels.
//!
//! Owns the request and reply order on such a connection. When a slot moves, the server pushes `sunsubscribe`, and the
//! client treats that as the reply to the last command: from then on replies are shifted. So only one request is in
//! flight, each ends with a PING of its own, and confirmations are read from the pushes themselves. Must never derive
//! the meaning of a reply from its place.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushKind, ServerError, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::receive_queue::ReceiveQueue;
use super::super::subscription_table::{SyncBatch, SyncResult};
use super::Cluster;
use super::bus;
use crate::broker::Topic;
use earshot_redis_link::parse_redirection;
use earshot_redis_link::{LinkError, NodeAddress};

/// PINGs until requests and replies must be in sync again.
const RESYNC_MAX: u32 = 1000;

/// A connection with one request at a time.
#[derive(Debug)]
pub(in crate::broker::redis) struct ShardedConnection {
    cluster: Arc<Cluster>,
    node: NodeAddress,
    connection: MultiplexedConnection,
    receive_queue: Arc<ReceiveQueue>,
    /// The number of the last PING; the lock is held during a request.
    turn: Mutex<u64>,
}

/// The replies.
struct Answers {
    values: Vec<Value>,
    /// Each value is the reply to the command in its place.
    in_sync: bool,
}

impl ShardedConnection {
    pub(in crate::broker::redis) fn new(
        cluster: &Arc<Cluster>,
        node: &NodeAddress,
        connection: MultiplexedConnection,
        receive_queue: &Arc<ReceiveQueue>,
    ) -> Self {
        let (cluster, node, receive_queue) = (Arc::clone(cluster), node.clone(), Arc::clone(receive_queue));
        Self { cluster, node, connection, receive_queue, turn: Mutex::new(0) }
    }

    /// The node.
    pub(in crate::broker::redis) fn node(&self) -> &NodeAddress {
        &self.node
    }

    /// Whether the node owns a slot, as far as is known.
    pub(in crate::broker::redis) fn owns(&self, slot: u16) -> bool {
        self.cluster.topology().owner(slot) == Some(&self.node)
    }

    /// Subscribes to a probe channel. Returns the reason if that is denied.
    pub(in crate::broker::redis) async fn ssubscribe(&self, channel: &ChannelName) -> Option<String> {
        self.try_own("SSUBSCRIBE", &[channel.as_str()]).await
    }

    /// Publishes with `SPUBLISH`. Returns the reason if that is denied.
    pub(in crate::broker::redis) async fn spublish(
        &self,
        channel: &ChannelName,
        data: &str,
    ) -> Option<String> {
        self.try_own("SPUBLISH", &[channel.as_str(), data]).await
    }

    async fn try_own(&self, verb: &str, words: &[&str]) -> Option<String> {
        let mut command = Pipeline::with_capacity(2);
        command.cmd(verb).arg(words);
        let answers = self.submit(command, 1).await.ok()?;
        match answers.values.first() {
            Some(Value::ServerError(error)) if answers.in_sync && !is_elsewhere(error) => Some(text(error)),
            _ => None,
        }
    }

    /// Checks whether the node replies and reaches the majority. Returns the time before the check.
    pub(in crate::broker::redis) async fn ping(&self, limit: Duration) -> Result<Instant, LinkError> {
        let mut question = Pipeline::with_capacity(2);
        question.cmd("CLUSTER").arg("NODES");
        let asked = Instant::now();
        let Ok(answers) = tokio::time::timeout(limit, self.submit(question, 1)).await else {
            return Err(LinkError::Unreachable(format!("no reply to PING within {limit:?}")));
        };
        let answers = answers?;
        if answers.in_sync {
            answers.values.first().map(bus::check_majority).transpose()?;
        }
        Ok(asked)
    }

    /// Executes a batch, each channel by its own command: those of one command would have to share a slot.
    pub(in crate::broker::redis) async fn execute(
        &self,
        round: SyncBatch,
        chunk: usize,
    ) -> Result<SyncResult, LinkError> {
        let mut outcome = SyncResult::default();
        for topics in round.unsubscribe.chunks(chunk.max(1)) {
            self.receive_queue.expect_unsubscribes(topics);
            self.submit(commands("SUNSUBSCRIBE", topics), topics.len()).await?;
            self.receive_queue.clear_expected_unsubscribes();
        }
        outcome.unsubscribed = round.unsubscribe;
        for topics in round.subscribe.chunks(chunk.max(1)) {
            let answers = self.submit(commands("SSUBSCRIBE", topics), topics.len()).await?;
            self.judge(topics, &answers, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn judge(&self, topics: &[Topic], answers: &Answers, outcome: &mut SyncResult) -> Result<(), LinkError> {
        let carried = carried(&answers.values);
        for (place, topic) in topics.iter().enumerate() {
            let error = match answers.values.get(place) {
                Some(Value::ServerError(error)) if answers.in_sync => Some(error),
                _ => None,
            };
            match (carried.get(topic.to_string().as_bytes()), error) {
                (Some(true), _) => outcome.subscribed.push(topic.clone()),
                (_, Some(error)) if is_elsewhere(error) => {
                    self.follow(error);
                    outcome.misplaced.push(topic.clone());
                }
                (_, Some(error)) if matches!(error.code(), "NOAUTH" | "WRONGPASS" | "LOADING") => {
                    return Err(LinkError::Unreachable(text(error)));
                }
                (_, Some(error)) => outcome.rejected.push((topic.clone(), text(error))),
                // Unsubscribed, or unknown: it is subscribed again.
                (_, None) => outcome.misplaced.push(topic.clone()),
            }
        }
        Ok(())
    }

    /// A redirection is newer than the topology.
    fn follow(&self, error: &ServerError) {
        let moved = (error.kind() == Some(ServerErrorKind::Moved)).then(|| error.details()).flatten();
        match moved.and_then(|details| parse_redirection(details, &self.node)) {
            Some((slot, node)) => self.cluster.moved(slot, &node),
            None => self.cluster.invalidate_topology(),
        }
    }

    /// Sends commands, and waits until no reply is outstanding.
    async fn submit(&self, mut commands: Pipeline, count: usize) -> Result<Answers, LinkError> {
        let mut connection = self.connection.clone();
        let mut turn = self.turn.lock().await;
        let mut send = async |mut pipeline: Pipeline, count: usize| {
            *turn += 1;
            let number = turn.to_string();
            pipeline.cmd("PING").arg(&number);
            let mut values = connection.send_packed_commands(&pipeline, 0, count + 1).await?;
            let last = values.pop();
            let in_sync = matches!(&last, Some(Value::BulkString(text)) if *text == number.as_bytes());
            values.extend(last.filter(|_| !in_sync));
            Ok::<_, LinkError>(Answers { values, in_sync })
        };
        let mut answers = send(std::mem::take(&mut commands), count).await?;
        let mut in_sync = answers.in_sync;
        for _ in 0..RESYNC_MAX {
            if in_sync {
                return Ok(answers);
            }
            let more = send(Pipeline::new(), 0).await?;
            in_sync = more.in_sync;
            answers.values.extend(more.values);
        }
        Err(LinkError::Unreachable("replies do not match the commands".to_owned()))
    }
}

fn commands(verb: &str, topics: &[Topic]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(topics.len() + 1);
    for topic in topics {
        pipeline.cmd(verb).arg(topic.to_string());
    }
    pipeline
}

/// The channels that the node carries, by the last push about each.
fn carried(values: &[Value]) -> HashMap<&[u8], bool> {
    let mut carried = HashMap::new();
    for value in values {
        let Value::Push { kind, data } = value else { continue };
        let (Some(Value::BulkString(name)), carries) = (data.first(), *kind == PushKind::SSubscribe) else {
            continue;
        };
        if carries || *kind == PushKind::SUnsubscribe {
            carried.insert(&name[..], carries);
        }
    }
    carried
}

fn text(error: &ServerError) -> String {
    format!("{} {}", error.code(), error.details().unwrap_or_default())
}

/// Whether the slot has moved, or has no owner at the moment.
fn is_elsewhere(error: &ServerError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    matches!(error.kind(), Some(Moved | Ask | ClusterDown | TryAgain))
}
