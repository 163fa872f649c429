//! How a node is spoken to that carries shard channels.
//!
//! Owns the conversation on such a connection. When a slot moves, the server pushes `sunsubscribe` unasked, and the
//! client takes that for the answer to whatever was asked last: from then on each answer stands in the place of another
//! one. So only one thing is asked at a time, each ends with a PING of its own, and what was confirmed is read from
//! the pushes themselves. Must never take the place of an answer for its meaning.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, PushKind, ServerError, ServerErrorKind, Value};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::super::handover::Handover;
use super::super::table::{Outcome, Round};
use super::Cluster;
use super::bus;
use super::topology::redirection;
use crate::broker::Topic;
use earshot_redis_link::{LinkError, NodeAddress};

/// PINGs until answers and questions must be in step again.
const RESYNC_MAX: u32 = 1000;

/// A connection on which one thing is asked at a time.
#[derive(Debug)]
pub(in crate::broker::redis) struct ShardLine {
    cluster: Arc<Cluster>,
    node: NodeAddress,
    connection: MultiplexedConnection,
    handover: Arc<Handover>,
    /// The number of the last PING; held while something is being asked.
    turn: Mutex<u64>,
}

/// What came back.
struct Answers {
    values: Vec<Value>,
    /// Each value is the answer to the command in its place.
    in_step: bool,
}

impl ShardLine {
    pub(in crate::broker::redis) fn new(
        cluster: &Arc<Cluster>,
        node: &NodeAddress,
        connection: MultiplexedConnection,
        handover: &Arc<Handover>,
    ) -> Self {
        let (cluster, node, handover) = (Arc::clone(cluster), node.clone(), Arc::clone(handover));
        Self { cluster, node, connection, handover, turn: Mutex::new(0) }
    }

    /// The node that is spoken to.
    pub(in crate::broker::redis) fn node(&self) -> &NodeAddress {
        &self.node
    }

    /// Whether the node owns a slot, as far as is known.
    pub(in crate::broker::redis) fn owns(&self, slot: u16) -> bool {
        self.cluster.topology().owner(slot) == Some(&self.node)
    }

    /// Begins to hear a channel of our own. Says why that is forbidden.
    pub(in crate::broker::redis) async fn hear(&self, channel: &ChannelName) -> Option<String> {
        self.try_own("SSUBSCRIBE", &[channel.as_str()]).await
    }

    /// Publishes for the shard. Says why that is forbidden.
    pub(in crate::broker::redis) async fn say(&self, channel: &ChannelName, data: &str) -> Option<String> {
        self.try_own("SPUBLISH", &[channel.as_str(), data]).await
    }

    async fn try_own(&self, verb: &str, words: &[&str]) -> Option<String> {
        let mut command = Pipeline::with_capacity(2);
        command.cmd(verb).arg(words);
        let answers = self.ask(command, 1).await.ok()?;
        match answers.values.first() {
            Some(Value::ServerError(error)) if answers.in_step && !is_elsewhere(error) => Some(text(error)),
            _ => None,
        }
    }

    /// Asks whether the node lives and is in touch with its cluster. Returns the moment of the question.
    pub(in crate::broker::redis) async fn ping(&self, limit: Duration) -> Result<Instant, LinkError> {
        let mut question = Pipeline::with_capacity(2);
        question.cmd("CLUSTER").arg("NODES");
        let asked = Instant::now();
        let Ok(answers) = tokio::time::timeout(limit, self.ask(question, 1)).await else {
            return Err(LinkError::Unreachable(format!("no answer to PING within {limit:?}")));
        };
        let answers = answers?;
        if answers.in_step {
            answers.values.first().map(bus::judge).transpose()?;
        }
        Ok(asked)
    }

    /// Carries out a round, each channel by a command of its own: those of one command would have to be of one slot.
    pub(in crate::broker::redis) async fn carry_out(
        &self,
        round: Round,
        chunk: usize,
    ) -> Result<Outcome, LinkError> {
        let mut outcome = Outcome::default();
        for topics in round.unsubscribe.chunks(chunk.max(1)) {
            self.handover.expect_end(topics);
            self.ask(commands("SUNSUBSCRIBE", topics), topics.len()).await?;
            self.handover.expect_no_end();
        }
        outcome.unsubscribed = round.unsubscribe;
        for topics in round.subscribe.chunks(chunk.max(1)) {
            let answers = self.ask(commands("SSUBSCRIBE", topics), topics.len()).await?;
            self.judge(topics, &answers, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn judge(&self, topics: &[Topic], answers: &Answers, outcome: &mut Outcome) -> Result<(), LinkError> {
        let carried = carried(&answers.values);
        for (place, topic) in topics.iter().enumerate() {
            let error = match answers.values.get(place) {
                Some(Value::ServerError(error)) if answers.in_step => Some(error),
                _ => None,
            };
            match (carried.get(topic.to_string().as_bytes()), error) {
                (Some(true), _) => outcome.subscribed.push(topic.clone()),
                (_, Some(error)) if is_elsewhere(error) => {
                    self.follow(error);
                    outcome.away.push(topic.clone());
                }
                (_, Some(error)) if matches!(error.code(), "NOAUTH" | "WRONGPASS" | "LOADING") => {
                    return Err(LinkError::Unreachable(text(error)));
                }
                (_, Some(error)) => outcome.refused.push((topic.clone(), text(error))),
                // Carried no longer, or nobody knows: it is asked for again.
                (_, None) => outcome.away.push(topic.clone()),
            }
        }
        Ok(())
    }

    /// A node that says where a slot is knows better than the map.
    fn follow(&self, error: &ServerError) {
        let moved = (error.kind() == Some(ServerErrorKind::Moved)).then(|| error.details()).flatten();
        match moved.and_then(|details| redirection(details, &self.node)) {
            Some((slot, node)) => self.cluster.moved(slot, &node),
            None => self.cluster.doubt(),
        }
    }

    /// Asks, and waits until nothing is on its way any more.
    async fn ask(&self, mut commands: Pipeline, count: usize) -> Result<Answers, LinkError> {
        let mut connection = self.connection.clone();
        let mut turn = self.turn.lock().await;
        let mut send = async |mut pipeline: Pipeline, count: usize| {
            *turn += 1;
            let number = turn.to_string();
            pipeline.cmd("PING").arg(&number);
            let mut values = connection.send_packed_commands(&pipeline, 0, count + 1).await?;
            let last = values.pop();
            let in_step = matches!(&last, Some(Value::BulkString(text)) if *text == number.as_bytes());
            values.extend(last.filter(|_| !in_step));
            Ok::<_, LinkError>(Answers { values, in_step })
        };
        let mut answers = send(std::mem::take(&mut commands), count).await?;
        let mut in_step = answers.in_step;
        for _ in 0..RESYNC_MAX {
            if in_step {
                return Ok(answers);
            }
            let more = send(Pipeline::new(), 0).await?;
            in_step = more.in_step;
            answers.values.extend(more.values);
        }
        Err(LinkError::Unreachable("answers do not fit the questions".to_owned()))
    }
}

fn commands(verb: &str, topics: &[Topic]) -> Pipeline {
    let mut pipeline = Pipeline::with_capacity(topics.len() + 1);
    for topic in topics {
        pipeline.cmd(verb).arg(topic.to_string());
    }
    pipeline
}

/// What the node carries after all that it said, by the last word on each channel.
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

/// Whether the slot is somewhere else, or nowhere for the moment.
fn is_elsewhere(error: &ServerError) -> bool {
    use ServerErrorKind::{Ask, ClusterDown, Moved, TryAgain};
    matches!(error.kind(), Some(Moved | Ask | ClusterDown | TryAgain))
}
