//! The nodes of a cluster: whether each can be reached where the cluster says that it is, and whether what is published
//! on one is heard on another.
//!
//! Owns what the announced addresses are worth from here. Must never publish but on a channel of its own.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use redis::aio::{MultiplexedConnection, SendError};
use redis::{FromRedisValue, PushInfo, Value};
use tokio::time::{Instant, timeout_at};

use super::super::report::Finding;
use super::super::sample::random;
use super::ask;
use super::ears::Ears;
use super::plan::Plan;
use super::trial::is_word;
use crate::instance::{Dialer, InstanceSettings, NodeAddress, said};

const CHECK: &str = "nodes";

/// What the cluster says of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Node {
    slots: u64,
    is_primary: bool,
    replicas: usize,
}

/// Looks at every node that has slots, or copies of them.
pub(super) async fn inspect(
    connection: &mut MultiplexedConnection,
    instance: &InstanceSettings,
    plan: &Plan,
    limit: Duration,
) -> Vec<Finding> {
    let asked = NodeAddress::of(instance);
    let mut nodes = match ask(connection, &["CLUSTER", "SLOTS"]).await {
        Ok(answer) => read(answer, asked.as_ref()),
        Err(error) => {
            let finding =
                Finding::failed(CHECK, format!("the cluster does not tell its nodes: {}", said(&error)));
            return vec![
                finding.because("the ACL forbids CLUSTER SLOTS").advise("ACL SETUSER … +cluster|slots"),
            ];
        }
    };
    let members = ask(connection, &["CLUSTER", "NODES"]).await.map(String::from_redis_value);
    if let Ok(Ok(members)) = members {
        add_replicas(&mut nodes, &members);
    }
    // So that the whole of it ends within the step.
    let limit = limit / 3;
    let hearing = Hearing::begin(instance, plan, limit).await;
    let mut reached = join_all(nodes.keys().map(|address| reach(address, instance, limit))).await;
    let heard = match &hearing {
        Some(hearing) => hearing.collect(&mut reached, limit).await,
        None => HashMap::new(),
    };
    let mut findings: Vec<Finding> = reached
        .iter()
        .map(|(address, outcome)| judge(address, &nodes[address], outcome, heard.get(address).copied()))
        .collect();
    findings.sort_by(|one, other| one.said.cmp(&other.said));
    let strangers = instance.cluster.iter().flatten().filter(|seed| !nodes.contains_key(*seed));
    findings.extend(strangers.map(stranger));
    findings
}

/// Reads an answer to CLUSTER SLOTS: ranges, each with its primary and then its replicas.
fn read(answer: Value, asked: Option<&NodeAddress>) -> HashMap<NodeAddress, Node> {
    let mut nodes: HashMap<NodeAddress, Node> = HashMap::new();
    for range in <Vec<Vec<Value>>>::from_redis_value(answer).unwrap_or_default() {
        let [Value::Int(first), Value::Int(last), owners @ ..] = &range[..] else { continue };
        let slots = u64::try_from(last - first + 1).unwrap_or_default();
        for (place, owner) in owners.iter().filter_map(|owner| address(owner, asked)).enumerate() {
            let node = nodes.entry(owner).or_default();
            node.is_primary |= place == 0;
            node.slots += slots;
            node.replicas = node.replicas.max(owners.len() - 1);
        }
    }
    nodes
}

/// Adds what CLUSTER NODES says of replicas: CLUSTER SLOTS leaves out those that nothing was replicated to yet.
fn add_replicas(nodes: &mut HashMap<NodeAddress, Node>, members: &str) {
    let lines = || members.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let place = |fields: &[&str]| NodeAddress::parse(fields.get(1)?.split('@').next()?);
    let mut replicas: HashMap<&str, usize> = HashMap::new();
    for fields in lines() {
        let [_, _, flags, primary, ..] = fields[..] else { continue };
        if flags.contains("slave") && !flags.contains("noaddr") {
            *replicas.entry(primary).or_default() += 1;
            if let Some(address) = place(&fields) {
                nodes.entry(address).or_default();
            }
        }
    }
    for fields in lines() {
        let (Some(count), Some(address)) = (fields.first().and_then(|id| replicas.get(id)), place(&fields))
        else {
            continue;
        };
        if let Some(node) = nodes.get_mut(&address) {
            node.replicas = node.replicas.max(*count);
        }
    }
}

/// A node without a host is the one that was asked.
fn address(owner: &Value, asked: Option<&NodeAddress>) -> Option<NodeAddress> {
    let Value::Array(fields) = owner else { return None };
    let [host, Value::Int(port), ..] = &fields[..] else { return None };
    let host = match host {
        Value::BulkString(host) if !host.is_empty() => String::from_utf8_lossy(host).into_owned(),
        _ => asked?.host.clone(),
    };
    Some(NodeAddress { host, port: u16::try_from(*port).ok()? })
}

type Reached = (NodeAddress, Result<(MultiplexedConnection, Duration), String>);

async fn reach(address: &NodeAddress, instance: &InstanceSettings, limit: Duration) -> Reached {
    let settings = InstanceSettings { connect_timeout: limit, ..instance.at(address) };
    let began = Instant::now();
    let deaf = |_: PushInfo| Ok::<_, SendError>(());
    let outcome = Box::pin(Dialer::new(&settings, "check").dial(deaf)).await;
    (
        address.clone(),
        outcome.map(|connection| (connection, began.elapsed())).map_err(|failure| failure.to_string()),
    )
}

/// A subscription on the node that was asked, to a channel of our own.
struct Hearing {
    channel: String,
    ears: Ears,
    /// Kept, so that it hears.
    _subscriber: MultiplexedConnection,
}

impl Hearing {
    /// `None` when it may not be: hearing itself is looked at elsewhere.
    async fn begin(instance: &InstanceSettings, plan: &Plan, limit: Duration) -> Option<Self> {
        let prefix = plan.probe_prefix.as_deref().unwrap_or_default();
        let (channel, ears) = (format!("{prefix}{}", random()), Ears::default());
        let settings = InstanceSettings { connect_timeout: limit, ..instance.clone() };
        let dialled = Box::pin(Dialer::new(&settings, "check").dial(ears.clone().sender())).await;
        let mut subscriber = dialled.ok()?;
        subscriber.subscribe(&channel).await.ok()?;
        Some(Self { channel, ears, _subscriber: subscriber })
    }

    /// Publishes on each node; which of them were heard. Where it may not be published, nothing is said.
    async fn collect(&self, reached: &mut [Reached], limit: Duration) -> HashMap<NodeAddress, bool> {
        let mut words = HashMap::new();
        for (address, outcome) in reached {
            let Ok((connection, _)) = outcome else { continue };
            let word = random();
            if ask(connection, &["PUBLISH", &self.channel, &word]).await.is_ok() {
                words.insert(address.clone(), word);
            }
        }
        let mut heard: HashMap<NodeAddress, bool> =
            words.keys().map(|address| (address.clone(), false)).collect();
        let until = Instant::now() + limit;
        while heard.values().any(|heard| !heard) {
            let Ok(push) = timeout_at(until, self.ears.next()).await else { break };
            let from = words.iter().find(|(_, word)| is_word(&push, &self.channel, word));
            if let Some((address, _)) = from {
                heard.insert(address.clone(), true);
            }
        }
        heard
    }
}

fn judge(
    address: &NodeAddress,
    node: &Node,
    outcome: &Result<(MultiplexedConnection, Duration), String>,
    heard: Option<bool>,
) -> Finding {
    let what = match (node.is_primary, node.replicas) {
        (true, replicas) => format!("{address}: primary of {} slots, replicas: {replicas}", node.slots),
        (false, _) => format!("{address}: replica"),
    };
    match outcome {
        Err(why) => Finding::failed(CHECK, format!("{what}; {why}"))
            .because(
                "the address that the cluster announces cannot be reached from here: behind NAT or in containers it \
                 announces addresses of its own network",
            )
            .advise("cluster-announce-ip, or cluster-announce-hostname with cluster-preferred-endpoint-type hostname"),
        Ok(_) if heard == Some(false) => {
            Finding::failed(CHECK, format!("{what}; what is published there is not heard here"))
                .because("the nodes do not reach each other's bus (port + 10000), or one is cut off")
                .advise("let the nodes reach each other on the bus port; see CLUSTER LINKS")
        }
        Ok(_) if node.is_primary && node.replicas == 0 => {
            Finding::warning(CHECK, what).because("nobody takes over when it fails").advise("give it a replica")
        }
        Ok(_) => Finding::ok(CHECK, if heard == Some(true) { format!("{what}; heard from here") } else { what }),
    }
}

fn stranger(seed: &NodeAddress) -> Finding {
    Finding::warning(CHECK, format!("{seed} is named in `cluster`, but is no node that has slots"))
        .because("it was taken out of the cluster, or is known to it by another address")
        .advise("name nodes as CLUSTER SLOTS does")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(host: Option<&str>, port: i64) -> Value {
        let host = host.map_or(Value::Nil, |host| Value::BulkString(host.into()));
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    #[test]
    fn nodes_are_read_with_their_slots_and_replicas() {
        let range = |first, last, mut owners: Vec<Value>| {
            let mut range = vec![Value::Int(first), Value::Int(last)];
            range.append(&mut owners);
            Value::Array(range)
        };
        let answer = Value::Array(vec![
            range(0, 9, vec![told(Some("a"), 1), told(Some("b"), 2)]),
            range(20, 29, vec![told(Some("a"), 1), told(Some("b"), 2)]),
            range(30, 30, vec![told(None, 3)]),
        ]);
        let node = |host: &str, port| NodeAddress { host: host.to_owned(), port };
        let nodes = read(answer, Some(&node("here", 9)));
        assert_eq!(nodes[&node("a", 1)], Node { slots: 20, is_primary: true, replicas: 1 });
        assert!(!nodes[&node("b", 2)].is_primary);
        let members = "i a:1@11 master - 0 1 1 connected 0-9\nj c:4@14,h slave i 0 1 1 connected\nk b:2@12 slave i 0 1 1 connected\n";
        let mut more = nodes.clone();
        add_replicas(&mut more, members);
        assert_eq!((more[&node("a", 1)].replicas, &more[&node("c", 4)]), (2, &Node::default()));
        assert_eq!(nodes[&node("here", 3)], Node { slots: 1, is_primary: true, replicas: 0 });
    }
}
