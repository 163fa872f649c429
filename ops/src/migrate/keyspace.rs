//! One endpoint of a migration: a server, or all primaries of a cluster.
//!
//! Owns the connections and the mapping of keys to nodes. Must never issue data commands by itself, and never hold
//! more than the commands passed to it.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, Value, cmd};
use tokio::time::Instant;

use super::clock::{Clock, ClockSample, Expiry};
use super::error::{Error, check_reply};
use earshot_redis_link::slot::slot;
use earshot_redis_link::{ConnectConfig, Dialer, LinkError, NodeAddress};

mod connect;

/// Number of redirects that a command follows before the run backs off.
const REDIRECTS_MAX: usize = 5;

/// PEXPIRETIME for servers before 7.0.
const EXPIRE_TIME: &str = "local now, left = redis.call('TIME'), redis.call('PTTL', KEYS[1]) \
     if left < 0 then return left end \
     return now[1] * 1000 + math.floor(now[2] / 1000) + left";

/// A command with the key that determines its node.
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

    /// A command with a subcommand before the key, such as `XINFO STREAM key`.
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

/// One server of an endpoint.
#[derive(Debug)]
pub(super) struct KeyspaceNode {
    /// Identifies a process of a server; see [`KeyspaceNode::has_no_run_id`].
    pub(super) run_id: String,
    /// Address in the cluster; `None` for a single server.
    address: Option<NodeAddress>,
    connection: MultiplexedConnection,
    clock: Clock,
}

impl KeyspaceNode {
    /// Whether the server does not report a run id. Its address is used instead, which may belong to another server
    /// later.
    pub(super) fn has_no_run_id(&self) -> bool {
        has_no_run_id(&self.run_id)
    }
}

/// Whether this is an address instead of a run id.
pub(super) fn has_no_run_id(run_id: &str) -> bool {
    run_id.starts_with('?')
}

/// One endpoint.
#[derive(Debug)]
pub(super) struct Keyspace {
    settings: ConnectConfig,
    pub(super) nodes: Vec<KeyspaceNode>,
    /// Node of each slot; `None` for a single server.
    slots: Option<Vec<usize>>,
    /// Optional commands that the endpoint does not support.
    unsupported: Vec<&'static str>,
    since: Instant,
    clocks_read: Instant,
}

impl Keyspace {
    /// Name for messages.
    pub(super) fn name(&self) -> &str {
        &self.settings.name
    }

    pub(super) fn is_cluster(&self) -> bool {
        self.slots.is_some()
    }

    /// Slot assignment as text; empty for a single server.
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
        self.slots.as_ref().map_or(0, |slots| slots[usize::from(slot(key))])
    }

    /// Clock of the node that has a key.
    pub(super) fn clock_of(&self, key: &[u8]) -> Clock {
        self.nodes[self.node_of(key)].clock
    }

    /// Executes commands, with one round trip per node. Replies are in the order of the commands and may be errors.
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

    /// Executes one command and converts its reply.
    pub(super) async fn query_one<T: FromRedisValue>(&mut self, call: KeyCommand) -> Result<T, Error> {
        let value = self.query(vec![call]).await?.pop().unwrap_or_default();
        read(&self.settings.name, value)
    }

    /// Executes a command on a node.
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
        Err(Error::Transient(format!("{}: cluster slots are being moved", self.settings.name)))
    }

    /// Whether a command is supported. An unsupported command must not be sent: its error quotes the arguments, and
    /// binary data in an error breaks the client's parser.
    pub(super) fn supports(&self, command: &str) -> bool {
        !self.unsupported.contains(&command)
    }

    /// Command for the expiry of a key; convert its reply with [`Expiry::read`].
    pub(super) fn expiry(&self, key: &[u8]) -> KeyCommand {
        if self.supports("PEXPIRETIME") {
            return KeyCommand::new("PEXPIRETIME", key);
        }
        let mut script = cmd("EVAL");
        script.arg(EXPIRE_TIME).arg(1).arg(key);
        KeyCommand { key: key.to_vec(), cmd: script }
    }

    /// Converts the reply to [`Keyspace::expiry`].
    pub(super) fn read_expiry(&self, value: Value) -> Result<Expiry, Error> {
        read::<i64>(&self.settings.name, value).map(Expiry::read)
    }

    /// Approximate number of keys.
    pub(super) async fn size(&mut self) -> Result<u64, Error> {
        let mut keys = 0;
        for node in 0..self.nodes.len() {
            keys += self.query_node::<u64>(node, cmd("DBSIZE")).await?;
        }
        Ok(keys)
    }

    /// Measures the clocks again if the last measurement is old: clocks drift.
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

/// Whether a node redirects to another one.
fn redirected(value: &Value) -> bool {
    matches!(value, Value::ServerError(error) if matches!(error.code(), "MOVED" | "ASK"))
}

/// Converts a reply.
pub(super) fn read<T: FromRedisValue>(name: &str, value: Value) -> Result<T, Error> {
    redis::from_redis_value(check_reply(name, value)?)
        .map_err(|_| Error::Key(format!("{name}: unexpected reply")))
}

async fn send(connection: &mut MultiplexedConnection, pipeline: &Pipeline) -> Result<Vec<Value>, LinkError> {
    if pipeline.is_empty() {
        return Ok(Vec::new());
    }
    connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map_err(LinkError::from)
}

/// Takes several clock samples; see [`Clock::from_samples`].
async fn clock(connection: &mut MultiplexedConnection, since: Instant) -> Result<Clock, LinkError> {
    let mut samples = Vec::with_capacity(8);
    for _ in 0..8 {
        let sent = since.elapsed();
        let time = connection.send_packed_command(&cmd("TIME")).await?;
        let answered = since.elapsed();
        let (seconds, micros): (i64, i64) = redis::from_redis_value(time).map_err(redis::RedisError::from)?;
        samples.push(ClockSample { sent, answered, server: seconds * 1_000_000 + micros });
    }
    Clock::from_samples(samples).ok_or_else(|| LinkError::Unreachable("no sample of TIME".to_owned()))
}
