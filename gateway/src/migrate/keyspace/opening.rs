//! How a side is connected to: one server, or all primaries of the cluster that it belongs to.
//!
//! Owns what is asked of a server before anything else. Must never show more of a URL than where it leads.

use super::{
    Clock, Dialer, Failure, InstanceSettings, Instant, Keyspace, MultiplexedConnection, Node, Topology,
    Trouble, Value, clock, cmd, shown,
};

/// What a server says of itself.
#[derive(Debug)]
struct Server {
    run_id: String,
    is_cluster: bool,
}

impl Keyspace {
    /// Connects to a side. `since` is the zero of the clock that both sides are measured by.
    pub(in crate::migrate) async fn open(
        settings: &InstanceSettings,
        since: Instant,
    ) -> Result<Self, Trouble> {
        let opened = Self::try_open(settings, since).await;
        opened.map_err(|failure| {
            Trouble::link(&format!("{} ({})", settings.name, shown(&settings.url)), &failure)
        })
    }

    async fn try_open(settings: &InstanceSettings, since: Instant) -> Result<Self, Failure> {
        let mut first = dial(settings).await?;
        let server = Server::ask(&mut first, "").await?;
        let lacking = lacking(&mut first).await?;
        let clock = clock(&mut first, since).await?;
        let mut keyspace = Self {
            settings: settings.clone(),
            nodes: vec![Node { run_id: server.run_id, address: String::new(), connection: first, clock }],
            slots: None,
            lacking,
            since,
            clocks_read: Instant::now(),
        };
        if server.is_cluster {
            keyspace.find_nodes().await?;
        }
        Ok(keyspace)
    }

    /// Asks the cluster anew which node has which slot, and connects to nodes that are new.
    pub(in crate::migrate) async fn learn_slots(&mut self) -> Result<(), Trouble> {
        let found = self.find_nodes().await;
        found.map_err(|failure| Trouble::link(&self.settings.name, &failure))
    }

    async fn find_nodes(&mut self) -> Result<(), Failure> {
        let mut slots = cmd("CLUSTER");
        slots.arg("SLOTS");
        let answer = self.nodes[0].connection.send_packed_command(&slots).await?;
        let topology = Topology::read(&answer)
            .ok_or_else(|| Failure::Unreachable("CLUSTER SLOTS is not understood".to_owned()))?;
        if topology.unserved() > 0 {
            return Err(Failure::Unreachable(format!(
                "the cluster has no node for {} slots",
                topology.unserved()
            )));
        }
        let mut nodes = Vec::with_capacity(topology.primaries.len());
        for address in &topology.primaries {
            nodes.push(self.node(address).await?);
        }
        self.nodes = nodes;
        self.slots = Some(topology.of_slot.into_iter().flatten().collect());
        Ok(())
    }

    /// The node at an address: the connection that is there, or a new one.
    async fn node(&self, address: &str) -> Result<Node, Failure> {
        if let Some(known) = self.nodes.iter().find(|node| node.address == address) {
            let (run_id, connection, clock) = (known.run_id.clone(), known.connection.clone(), known.clock);
            return Ok(Node { run_id, address: address.to_owned(), connection, clock });
        }
        let settings = InstanceSettings { url: moved(&self.settings.url, address), ..self.settings.clone() };
        let mut connection = dial(&settings).await?;
        let server = Server::ask(&mut connection, address).await?;
        let clock: Clock = clock(&mut connection, self.since).await?;
        Ok(Node { run_id: server.run_id, address: address.to_owned(), connection, clock })
    }
}

async fn dial(settings: &InstanceSettings) -> Result<MultiplexedConnection, Failure> {
    let nobody = |_: redis::PushInfo| Ok::<_, redis::aio::SendError>(());
    Dialer::new(settings, "migrate").dial(nobody).await
}

impl Server {
    /// An ACL may forbid INFO; then the server is taken for a single one without a name.
    async fn ask(connection: &mut MultiplexedConnection, address: &str) -> Result<Self, Failure> {
        let nameless = format!("?{address}");
        let answer = match connection.send_packed_command(cmd("INFO").arg("server")).await {
            Ok(answer) => answer,
            Err(error) => match Failure::from(error) {
                Failure::Refused(_) => return Ok(Self { run_id: nameless, is_cluster: false }),
                unreachable @ Failure::Unreachable(_) => return Err(unreachable),
            },
        };
        let text: String = redis::from_redis_value(answer).unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .trim()
        };
        let run_id = Some(field("run_id")).filter(|id| !id.is_empty()).map_or(nameless, str::to_owned);
        Ok(Self { run_id, is_cluster: field("redis_mode") == "cluster" })
    }
}

/// Commands that are newer than the oldest server, or that managed services and `rename-command` take away.
const OPTIONAL: [&str; 5] = ["DUMP", "RESTORE", "MEMORY", "PEXPIRETIME", "HPEXPIRETIME"];

/// Which of the optional commands the server does not know.
async fn lacking(connection: &mut MultiplexedConnection) -> Result<Vec<&'static str>, Failure> {
    let mut probe = redis::Pipeline::with_capacity(OPTIONAL.len());
    // Without arguments, a command that is known is answered with an error of its own.
    for name in OPTIONAL {
        probe.cmd(name);
    }
    let answers = connection.send_packed_commands(&probe, 0, OPTIONAL.len()).await?;
    let is_unknown = |answer: &Value| match answer {
        Value::ServerError(error) => error.details().is_some_and(|text| text.contains("unknown command")),
        _ => false,
    };
    Ok(OPTIONAL
        .into_iter()
        .zip(&answers)
        .filter(|(_, answer)| is_unknown(answer))
        .map(|(name, _)| name)
        .collect())
}

/// A URL that leads to another address with everything else the same.
fn moved(url: &str, address: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let end = rest.rfind('@').map_or(0, |at| at + 1);
    let (user, host_and_tail) = rest.split_at(end);
    let (host, tail) = host_and_tail.split_at(host_and_tail.find(['/', '?']).unwrap_or(host_and_tail.len()));
    // A node that does not know its own name is where it was asked.
    let address = match address.strip_prefix(':') {
        Some(port) => format!("{}:{port}", host.rsplit_once(':').map_or(host, |(name, _)| name)),
        None => address.to_owned(),
    };
    format!("{scheme}://{user}{address}{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_moved_with_all_that_belongs_to_it() {
        for (url, address, expected) in [
            ("redis://h:1/0", "10.0.0.1:2", "redis://10.0.0.1:2/0"),
            (
                "rediss://u:p%40w@h:1/0?ssl_cert_reqs=required",
                "x:2",
                "rediss://u:p%40w@x:2/0?ssl_cert_reqs=required",
            ),
            ("redis://:pw@h", ":7000", "redis://:pw@h:7000"),
            ("redis://[::1]:1/", "[::2]:3", "redis://[::2]:3/"),
        ] {
            assert_eq!(moved(url, address), expected);
        }
    }
}
