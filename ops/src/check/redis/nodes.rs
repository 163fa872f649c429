//! Checks the nodes of a cluster: whether each is reachable at its announced address, and whether publications on one
//! arrive at another.
//!
//! Owns the evaluation of the announced addresses. Must never publish on a channel that others may use.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use redis::aio::{MultiplexedConnection, SendError};
use redis::{FromRedisValue, PushInfo, Value};
use tokio::time::{Instant, timeout_at};

use super::super::report::Finding;
use super::super::test_names::random_name;
use super::live_probes::is_message;
use super::plan::CheckPlan;
use super::push_buffer::PushBuffer;
use super::query;
use earshot_redis_link::{ConnectConfig, Dialer, NodeAddress, SlotRange, server_message};

const CHECK: &str = "nodes";

/// State of a node according to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct ClusterNode {
    slots: u64,
    is_primary: bool,
    replicas: usize,
}

/// Checks all nodes with slots and their replicas.
pub(super) async fn inspect(
    connection: &mut MultiplexedConnection,
    instance: &ConnectConfig,
    plan: &CheckPlan,
    limit: Duration,
) -> Vec<Finding> {
    let queried = NodeAddress::from_config(instance);
    let mut nodes = match query(connection, &["CLUSTER", "SLOTS"]).await {
        Ok(reply) => read(&reply, queried.as_ref()),
        Err(error) => {
            let finding = Finding::failed(
                CHECK,
                format!("cannot read the nodes of the cluster: {}", server_message(&error)),
            );
            return vec![finding.cause("the ACL forbids CLUSTER SLOTS").fix("ACL SETUSER … +cluster|slots")];
        }
    };
    let members = query(connection, &["CLUSTER", "NODES"]).await.map(String::from_redis_value);
    if let Ok(Ok(members)) = members {
        add_replicas(&mut nodes, &members);
    }
    // The whole check must finish within the time limit of the step.
    let limit = limit / 3;
    let probe = PubsubProbe::begin(instance, plan, limit).await;
    let mut reached = join_all(nodes.keys().map(|address| connect_to(address, instance, limit))).await;
    let received = match &probe {
        Some(probe) => probe.collect(&mut reached, limit).await,
        None => HashMap::new(),
    };
    let mut findings: Vec<Finding> = reached
        .iter()
        .map(|(address, outcome)| evaluate(address, &nodes[address], outcome, received.get(address).copied()))
        .collect();
    findings.sort_by(|one, other| one.message.cmp(&other.message));
    let unknown_nodes = instance.cluster.iter().flatten().filter(|seed| !nodes.contains_key(*seed));
    findings.extend(unknown_nodes.map(unknown_node));
    findings
}

/// Slots and replicas of each node, from a reply to CLUSTER SLOTS.
fn read(reply: &Value, queried: Option<&NodeAddress>) -> HashMap<NodeAddress, ClusterNode> {
    let mut nodes: HashMap<NodeAddress, ClusterNode> = HashMap::new();
    for range in SlotRange::parse_reply(reply, queried).unwrap_or_default() {
        let (slots, replicas) = (range.slots(), range.replicas.len());
        if let Some(primary) = range.primary {
            let node = nodes.entry(primary).or_default();
            node.is_primary = true;
            node.slots += slots;
            node.replicas = node.replicas.max(replicas);
        }
        for replica in range.replicas {
            nodes.entry(replica).or_default().slots += slots;
        }
    }
    nodes
}

/// Adds replicas from CLUSTER NODES: CLUSTER SLOTS omits those that have not synchronised yet.
fn add_replicas(nodes: &mut HashMap<NodeAddress, ClusterNode>, members: &str) {
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

type Reached = (NodeAddress, Result<(MultiplexedConnection, Duration), String>);

async fn connect_to(address: &NodeAddress, instance: &ConnectConfig, limit: Duration) -> Reached {
    let settings = ConnectConfig { connect_timeout: limit, ..instance.for_node(address) };
    let began = Instant::now();
    let ignore_pushes = |_: PushInfo| Ok::<_, SendError>(());
    let outcome = Box::pin(Dialer::new(&settings, "check").dial(ignore_pushes)).await;
    (
        address.clone(),
        outcome.map(|connection| (connection, began.elapsed())).map_err(|failure| failure.to_string()),
    )
}

/// Subscription to a unique channel on the queried node.
struct PubsubProbe {
    channel: String,
    pushes: PushBuffer,
    /// Keeps the subscription open.
    _subscriber: MultiplexedConnection,
}

impl PubsubProbe {
    /// `None` if it is not permitted; the pubsub check reports that.
    async fn begin(instance: &ConnectConfig, plan: &CheckPlan, limit: Duration) -> Option<Self> {
        let prefix = plan.probe_prefix.as_deref().unwrap_or_default();
        let (channel, pushes) = (format!("{prefix}{}", random_name()), PushBuffer::default());
        let settings = ConnectConfig { connect_timeout: limit, ..instance.clone() };
        let connected = Box::pin(Dialer::new(&settings, "check").dial(pushes.clone().sender())).await;
        let mut subscriber = connected.ok()?;
        subscriber.subscribe(&channel).await.ok()?;
        Some(Self { channel, pushes, _subscriber: subscriber })
    }

    /// Publishes on each node; returns from which ones the message arrived. Omits nodes on which publishing is not
    /// permitted.
    async fn collect(&self, reached: &mut [Reached], limit: Duration) -> HashMap<NodeAddress, bool> {
        let mut tokens = HashMap::new();
        for (address, outcome) in reached {
            let Ok((connection, _)) = outcome else { continue };
            let token = random_name();
            if query(connection, &["PUBLISH", &self.channel, &token]).await.is_ok() {
                tokens.insert(address.clone(), token);
            }
        }
        let mut received: HashMap<NodeAddress, bool> =
            tokens.keys().map(|address| (address.clone(), false)).collect();
        let until = Instant::now() + limit;
        while received.values().any(|received| !received) {
            let Ok(push) = timeout_at(until, self.pushes.next()).await else { break };
            let from = tokens.iter().find(|(_, token)| is_message(&push, &self.channel, token));
            if let Some((address, _)) = from {
                received.insert(address.clone(), true);
            }
        }
        received
    }
}

fn evaluate(
    address: &NodeAddress,
    node: &ClusterNode,
    outcome: &Result<(MultiplexedConnection, Duration), String>,
    received: Option<bool>,
) -> Finding {
    let what = match (node.is_primary, node.replicas) {
        (true, replicas) => format!("{address}: primary of {} slots, replicas: {replicas}", node.slots),
        (false, _) => format!("{address}: replica"),
    };
    match outcome {
        Err(why) => Finding::failed(CHECK, format!("{what}; {why}"))
            .cause(
                "the address that the cluster announces is unreachable from here: behind NAT or in containers it \
                 announces addresses of its own network",
            )
            .fix("set cluster-announce-ip, or cluster-announce-hostname with cluster-preferred-endpoint-type hostname"),
        Ok(_) if received == Some(false) => {
            Finding::failed(CHECK, format!("{what}; publications on it are not received here"))
                .cause("the nodes cannot connect to each other's cluster bus (port + 10000), or one is isolated")
                .fix("allow the bus port between the nodes; see CLUSTER LINKS")
        }
        Ok(_) if node.is_primary && node.replicas == 0 => {
            Finding::warning(CHECK, what).cause("there is no failover if it fails").fix("add a replica")
        }
        Ok(_) => Finding::ok(CHECK, if received == Some(true) { format!("{what}; publications on it are received") } else { what }),
    }
}

fn unknown_node(seed: &NodeAddress) -> Finding {
    Finding::warning(CHECK, format!("{seed} is listed in `cluster`, but is not a node with slots"))
        .cause("it was removed from the cluster, or the cluster uses another address for it")
        .fix("use the addresses of CLUSTER SLOTS")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node_address(host: Option<&str>, port: i64) -> Value {
        let host = host.map_or(Value::Nil, |host| Value::BulkString(host.into()));
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"id".to_vec())])
    }

    #[test]
    fn nodes_are_parsed_with_slots_and_replicas() {
        let range = |first, last, mut owners: Vec<Value>| {
            let mut range = vec![Value::Int(first), Value::Int(last)];
            range.append(&mut owners);
            Value::Array(range)
        };
        let answer = Value::Array(vec![
            range(0, 9, vec![node_address(Some("a"), 1), node_address(Some("b"), 2)]),
            range(20, 29, vec![node_address(Some("a"), 1), node_address(Some("b"), 2)]),
            range(30, 30, vec![node_address(None, 3)]),
        ]);
        let node = |host: &str, port| NodeAddress { host: host.to_owned(), port };
        let nodes = read(&answer, Some(&node("here", 9)));
        assert_eq!(nodes[&node("a", 1)], ClusterNode { slots: 20, is_primary: true, replicas: 1 });
        assert!(!nodes[&node("b", 2)].is_primary);
        let members = "i a:1@11 master - 0 1 1 connected 0-9\nj c:4@14,h slave i 0 1 1 connected\nk b:2@12 slave i 0 1 1 connected\n";
        let mut more = nodes.clone();
        add_replicas(&mut more, members);
        assert_eq!((more[&node("a", 1)].replicas, &more[&node("c", 4)]), (2, &ClusterNode::default()));
        assert_eq!(nodes[&node("here", 3)], ClusterNode { slots: 1, is_primary: true, replicas: 0 });
    }
}
