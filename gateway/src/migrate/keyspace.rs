//! One side of a move: the keys of one server, or of all primaries of a cluster.
//!
//! Owns the connections and the way of a key to its node. Must never read or write anything by itself, and must never
//! hold more than the commands it is given.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};
use tokio::time::Instant;

use super::clock::{Clock, ClockSample, Expiry};
use super::error::{Error, check_reply};
use super::topology::Topology;
use crate::instance::slot::slot_of;
use crate::instance::{Dialer, Failure, InstanceSettings, NodeAddress};

mod connect;

/// How often a command follows its slot to another node before the cluster is given time.
const REDIRECTS_MAX: usize = 5;

/// PEXPIRETIME for servers before 7.0, which do not know it.
const EXPIRE_TIME: &str = "local now, left = redis.call('TIME'), redis.call('PTTL', KEYS[1]) \
     if left < 0 then return left end \
     return now[1] * 1000 + math.floor(now[2] / 1000) + left";

/// A command with the key that says which node it is for.
#[derive(Clone, Debug)]
pub(super) struct KeyCommand {
    pub(super) key: Vec<u8>,
    pub(super) cmd: Cmd,
}

impl KeyCommand {
    /// A command whose first argument is the key.
    pub(super) fn new(name: &str, key: &[u8]) -> Self {
        let mut cmd = cmd(name);
        cmd.arg(key);
        Self { key: key.to_vec(), cmd }
    }

    /// A command of two words whose third is the key, such as `XINFO STREAM key`.
    pub(super) fn sub(name: &str, word: &str, key: &[u8]) -> Self {
        let mut cmd = cmd(name);
        cmd.arg(word).arg(key);
        Self { key: key.to_vec(), cmd }
    }

    pub(super) fn arg(mut self, argument: impl redis::ToRedisArgs) -> Self {
        self.cmd.arg(argument);
        self
    }
}

/// One server of a side.
#[derive(Debug)]
pub(super) struct KeyspaceNode {
    /// Tells one incarnation of a server from another; see [`KeyspaceNode::has_no_run_id`].
    pub(super) run_id: String,
    /// Where the cluster says that it is; `None`: of a single server.
    address: Option<NodeAddress>,
    connection: MultiplexedConnection,
    clock: Clock,
}

impl KeyspaceNode {
    /// Whether the server does not say who it is: then its address stands in, which may be another's after a while.
    pub(super) fn has_no_run_id(&self) -> bool {
        has_no_run_id(&self.run_id)
    }
}

/// Whether this stands in for a name.
pub(super) fn has_no_run_id(run_id: &str) -> bool {
    run_id.starts_with('?')
}

/// One side.
#[derive(Debug)]
pub(super) struct Keyspace {
    settings: InstanceSettings,
    pub(super) nodes: Vec<KeyspaceNode>,
    /// The node of each slot; `None` for a single server.
    slots: Option<Vec<usize>>,
    /// Commands that it does not know, of those that may be missing.
    unsupported: Vec<&'static str>,
    since: Instant,
    clocks_read: Instant,
}

impl Keyspace {
    /// Its name, for messages.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    /// Which node has which slots, as one text; empty for a single server.
    pub(super) fn slots_text(&self) -> String {
        let Some(slots) = &self.slots else { return String::new() };
        let mut text = String::new();
        for (slot, node) in slots.iter().enumerate() {
            if slot == 0 || slots[slot - 1] != *node {
                text.push_str(&format!("{slot}@{} ", self.nodes[*node].run_id));
            }
        }
        text
    }

    fn node_of(&self, key: &[u8]) -> usize {
        self.slots.as_ref().map_or(0, |slots| slots[usize::from(slot_of(key))])
    }

    /// The clock of the node that has a key.
    pub(super) fn clock_of(&self, key: &[u8]) -> Clock {
        self.nodes[self.node_of(key)].clock
    }

    /// Asks everything, in as few round trips as there are nodes; the answers stand in the order of the calls, errors of
    /// single commands among them.
    pub(super) async fn query(&mut self, calls: Vec<KeyCommand>) -> Result<Vec<Value>, Error> {
        if self.slots.is_some() {
            return self.query_cluster(calls).await;
        }
        let mut pipeline = Pipeline::with_capacity(calls.len());
        for call in calls {
            pipeline.add_command(call.cmd);
        }
        let sent = send(&mut self.nodes[0].connection, &pipeline).await;
        sent.map_err(|failure| Error::link(&self.settings.name, &failure))
    }

    /// Asks one thing and reads the answer.
    pub(super) async fn query_one<T: FromRedisValue>(&mut self, call: KeyCommand) -> Result<T, Error> {
        let value = self.query(vec![call]).await?.pop().unwrap_or_default();
        read(&self.settings.name, value)
    }

    /// Asks a node, whatever its keys.
    pub(super) async fn query_node<T: FromRedisValue>(&mut self, node: usize, cmd: Cmd) -> Result<T, Error> {
        let mut pipeline = Pipeline::with_capacity(1);
        pipeline.add_command(cmd);
        let sent = send(&mut self.nodes[node].connection, &pipeline).await;
        let mut values = sent.map_err(|failure| Error::link(&self.settings.name, &failure))?;
        read(&self.settings.name, values.pop().unwrap_or_default())
    }

    async fn query_cluster(&mut self, calls: Vec<KeyCommand>) -> Result<Vec<Value>, Error> {
        let mut answers = vec![Value::Nil; calls.len()];
        let mut open: Vec<usize> = (0..calls.len()).collect();
        for _ in 0..REDIRECTS_MAX {
            let mut by_node: Vec<Vec<usize>> = vec![Vec::new(); self.nodes.len()];
            for index in open.drain(..) {
                by_node[self.node_of(&calls[index].key)].push(index);
            }
            for (node, indexes) in by_node.into_iter().enumerate() {
                let mut pipeline = Pipeline::with_capacity(indexes.len());
                indexes.iter().for_each(|index| {
                    pipeline.add_command(calls[*index].cmd.clone());
                });
                let sent = send(&mut self.nodes[node].connection, &pipeline).await;
                let values = sent.map_err(|failure| Error::link(&self.settings.name, &failure))?;
                for (index, value) in indexes.into_iter().zip(values) {
                    match redirected(&value) {
                        true => open.push(index),
                        false => answers[index] = value,
                    }
                }
            }
            if open.is_empty() {
                return Ok(answers);
            }
            self.refresh_slots().await?;
        }
        Err(Error::Transient(format!("{}: slots of the cluster are being moved", self.settings.name)))
    }

    /// Whether it supports a command. One that it does not know must not be sent: the error quotes the arguments, and
    /// those are bytes that no client takes for text.
    pub(super) fn supports(&self, command: &str) -> bool {
        !self.unsupported.contains(&command)
    }

    /// The command that says when a key ends; read its answer with [`Expiry::read`].
    pub(super) fn expiry(&self, key: &[u8]) -> KeyCommand {
        if self.supports("PEXPIRETIME") {
            return KeyCommand::new("PEXPIRETIME", key);
        }
        let mut script = cmd("EVAL");
        script.arg(EXPIRE_TIME).arg(1).arg(key);
        KeyCommand { key: key.to_vec(), cmd: script }
    }

    /// The answer to [`Keyspace::expiry`].
    pub(super) fn read_expiry(&self, value: Value) -> Result<Expiry, Error> {
        read::<i64>(&self.settings.name, value).map(Expiry::read)
    }

    /// How many keys there are, about.
    pub(super) async fn size(&mut self) -> Result<u64, Error> {
        let mut keys = 0;
        for node in 0..self.nodes.len() {
            keys += self.query_node::<u64>(node, cmd("DBSIZE")).await?;
        }
        Ok(keys)
    }

    /// Reads the nodes' clocks again when they were read a while ago: they drift.
    pub(super) async fn refresh_clocks(&mut self) -> Result<(), Error> {
        if self.clocks_read.elapsed() > Duration::from_secs(60) {
            for node in 0..self.nodes.len() {
                let read = clock(&mut self.nodes[node].connection, self.since).await;
                self.nodes[node].clock =
                    read.map_err(|failure| Error::link(&self.settings.name, &failure))?;
            }
            self.clocks_read = Instant::now();
        }
        Ok(())
    }
}

/// Whether a node says that another one has the slot.
fn redirected(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"))
}

/// An answer as what it should be.
pub(super) fn read<T: FromRedisValue>(name: &str, value: Value) -> Result<T, Error> {
    redis::from_redis_value(check_reply(name, value)?)
        .map_err(|_| Error::Key(format!("{name}: an answer that nobody understands")))
}

async fn send(connection: &mut MultiplexedConnection, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(Failure::from)
}

/// Asks for the time a few times; see [`Clock::best`].
async fn clock(connection: &mut MultiplexedConnection, since: Instant) -> Result<Clock, Failure> {
    let mut samples = Vec::with_capacity(8);
    for _ in 0..8 {
        let sent = since.elapsed();
        let time = connection.send_packed_command(&cmd("TIME")).await?;
        let answered = since.elapsed();
        let (seconds, micros): (i64, i64) = redis::from_redis_value(time).map_err(redis::RedisError::from)?;
        samples.push(ClockSample { sent, answered, server: seconds * 1_000_000 + micros });
    }
    Clock::from_samples(samples).ok_or_else(|| Failure::Unreachable("it does not tell the time".to_owned()))
}
