//! Whether a node of a cluster receives from the other nodes.
//!
//! A plain `PUBLISH` reaches the node of the subscription over the cluster bus. An answered PING proves nothing about
//! the bus: a node that is cut off also replies, and messages on a broken bus connection are lost silently. Owns what
//! a node reports about its bus. Must never take a failing primary for a failing bus: a cluster without one of its
//! primaries still carries publications.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use earshot_redis_link::LinkError;

/// The bus of a node at one moment.
#[derive(Clone, Debug)]
pub(in crate::broker::redis) struct BusSnapshot {
    /// When it was requested.
    pub(in crate::broker::redis) asked: Instant,
    /// The inbound connections from other nodes, each with its creation time; a change means that messages may have
    /// been lost. Before Redis 7.0, only the connected nodes.
    inbound: BTreeSet<(String, i64)>,
}

impl BusSnapshot {
    /// Reads the state of the bus. Fails if the node does not reply or is cut off from the majority.
    pub(in crate::broker::redis) async fn read(
        mut connection: MultiplexedConnection,
        limit: Duration,
    ) -> Result<Self, LinkError> {
        let asked = Instant::now();
        let mut questions = Pipeline::with_capacity(2);
        questions.cmd("CLUSTER").arg("NODES");
        questions.cmd("CLUSTER").arg("LINKS");
        let answers = connection.send_packed_commands(&questions, 0, 2);
        let answers = match tokio::time::timeout(limit, answers).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(LinkError::Unreachable(error.to_string())),
            Err(_) => {
                return Err(LinkError::Unreachable(format!("no reply to CLUSTER NODES within {limit:?}")));
            }
        };
        let [nodes, links] = &answers[..] else {
            return Err(LinkError::Unreachable("no reply to CLUSTER NODES".to_owned()));
        };
        let nodes = check_majority(nodes)?;
        let inbound = inbound(links).unwrap_or_else(|| reached(&nodes));
        Ok(Self { asked, inbound })
    }

    /// Whether no message can have been lost on the bus between two snapshots.
    pub(in crate::broker::redis) fn same_links(&self, before: &Self) -> bool {
        self.inbound == before.inbound
    }
}

/// The nodes as text, if the node reaches the majority.
pub(super) fn check_majority(nodes: &Value) -> Result<String, LinkError> {
    let text = match nodes {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::ServerError(error)
            if error.details().is_some_and(|text| text.contains("cluster support disabled")) =>
        {
            return Err(LinkError::Rejected(
                "cluster support is disabled on the server: remove `cluster`".to_owned(),
            ));
        }
        // An ACL may deny it.
        _ => return Ok(String::new()),
    };
    let (reached, all) = majority(&text);
    if reached * 2 > all {
        return Ok(text);
    }
    let cause = format!("the node reaches {reached} of {all} primaries: it is cut off from its cluster");
    Err(LinkError::Unreachable(cause))
}

/// The number of slot-owning primaries that a node reaches, itself included, and their total number.
fn majority(nodes: &str) -> (usize, usize) {
    let primaries = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>()).filter(|fields| {
        let owns = fields.get(8..).is_some_and(|slots| slots.iter().any(|slot| !slot.starts_with('[')));
        owns && fields[2].split(',').any(|flag| flag == "master")
    });
    primaries.fold((0, 0), |(reached, all), fields| {
        let flags: Vec<_> = fields[2].split(',').collect();
        let failing = flags.iter().any(|flag| matches!(*flag, "fail" | "fail?"));
        let reaches = flags.contains(&"myself") || (fields[7] == "connected" && !failing);
        (reached + usize::from(reaches), all + 1)
    })
}

fn reached(nodes: &str) -> BTreeSet<(String, i64)> {
    let nodes = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let connected = nodes.filter(|fields| fields.get(7) == Some(&"connected"));
    connected.map(|fields| (fields[0].to_owned(), 0)).collect()
}

fn inbound(links: &Value) -> Option<BTreeSet<(String, i64)>> {
    let Value::Array(links) = links else { return None };
    Some(links.iter().filter_map(inbound_link).collect())
}

fn inbound_link(link: &Value) -> Option<(String, i64)> {
    let Value::Map(fields) = link else { return None };
    let field = |name: &str| {
        let found = fields.iter().find(|(key, _)| text(key).as_deref() == Some(name));
        found.map(|(_, value)| value)
    };
    let inbound = text(field("direction")?)? == "from";
    let Value::Int(created) = field("create-time")? else { return None };
    inbound.then(|| Some((text(field("node")?)?, *created)))?
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes.clone()).ok(),
        Value::SimpleString(text) => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detects_a_node_without_a_majority() {
        let me = "a 127.0.0.1:1@2 myself,master - 0 0 1 connected 0-5\n";
        let good = "b 127.0.0.1:3@4,host master - 0 0 2 connected 6-9 [7->-c]\n";
        let gone = "c 127.0.0.1:5@6 master,fail - 0 0 3 disconnected 10-16383\n";
        let doubted = "c 127.0.0.1:5@6 master,fail? - 0 0 3 connected 10-16383\n";
        let replica = "d 127.0.0.1:7@8 slave a 0 0 1 connected\n";
        let empty = "e 127.0.0.1:9@10 master - 0 0 0 connected\n";
        for (nodes, counts) in [
            (vec![me, good, gone, replica], (2, 3)),
            (vec![me, good, doubted, empty], (2, 3)),
            (vec![me, gone], (1, 2)),
            (vec![me], (1, 1)),
            (vec![empty], (0, 0)),
        ] {
            assert_eq!(majority(&nodes.concat()), counts, "{nodes:?}");
        }
    }
}
