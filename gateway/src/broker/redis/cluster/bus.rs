//! Whether a node of a cluster hears the other nodes.
//!
//! A plain `PUBLISH` goes over the cluster's bus to the node that we listen to. An answered PING proves nothing about
//! that bus: a node that is cut off answers, too, and what was on a bus connection that broke is lost without a word.
//! Owns what a node says about its bus. Must never take a failing primary for a failing bus: a cluster that has lost
//! one still carries publications.

use std::collections::BTreeSet;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value};
use tokio::time::Instant;

use earshot_redis_link::LinkError;

/// What a node's bus is like at one moment.
#[derive(Clone, Debug)]
pub(in crate::broker::redis) struct Bus {
    /// When it was asked for.
    pub(in crate::broker::redis) asked: Instant,
    /// The connections by which other nodes send to this one, each with its age; another set means that something may
    /// have been lost. Before Redis 7.0, only the nodes that are reached at all.
    inbound: BTreeSet<(String, i64)>,
}

impl Bus {
    /// Asks a node. Fails when it is of no use: no answer, or cut off from the majority.
    pub(in crate::broker::redis) async fn look(
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
                return Err(LinkError::Unreachable(format!("no answer to CLUSTER NODES within {limit:?}")));
            }
        };
        let [nodes, links] = &answers[..] else {
            return Err(LinkError::Unreachable("no answer to CLUSTER NODES".to_owned()));
        };
        let nodes = judge(nodes)?;
        let inbound = inbound(links).unwrap_or_else(|| reached(&nodes));
        Ok(Self { asked, inbound })
    }

    /// Whether nothing can have been lost on the bus between two looks.
    pub(in crate::broker::redis) fn is_as_before(&self, before: &Self) -> bool {
        self.inbound == before.inbound
    }
}

/// The nodes as text, when the node that was asked is of use.
pub(super) fn judge(nodes: &Value) -> Result<String, LinkError> {
    let text = match nodes {
        Value::BulkString(text) => String::from_utf8_lossy(text).into_owned(),
        Value::VerbatimString { text, .. } => text.clone(),
        Value::ServerError(error)
            if error.details().is_some_and(|text| text.contains("cluster support disabled")) =>
        {
            return Err(LinkError::Rejected(
                "the server is no part of a cluster: leave `cluster` out".to_owned(),
            ));
        }
        // An ACL may forbid it; that is an answer, too.
        _ => return Ok(String::new()),
    };
    let (reached, all) = majority(&text);
    if reached * 2 > all {
        return Ok(text);
    }
    let cause = format!("the node reaches {reached} of {all} primaries: it is cut off from its cluster");
    Err(LinkError::Unreachable(cause))
}

/// How many of the primaries that own slots a node reaches, itself included, and how many there are.
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
    fn a_node_is_cut_off_when_it_reaches_no_majority() {
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
