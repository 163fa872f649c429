//! Connects to an endpoint: one server, or all primaries of its cluster.
//!
//! Owns the initial queries. Must never show credentials of a URL.

use super::{
    Clock, ConnectConfig, Dialer, Error, Instant, Keyspace, KeyspaceNode, LinkError, MultiplexedConnection,
    Value, clock, cmd,
};
use earshot_redis_link::slot::SLOT_COUNT;
use earshot_redis_link::{NodeAddress, Topology};

/// Identity of a server.
#[derive(Debug)]
struct KeyspaceServer {
    run_id: String,
    is_cluster: bool,
}

impl Keyspace {
    /// Connects to an endpoint. `since` is the zero point of the local clock with which all endpoints are measured.
    pub(in crate::migrate) async fn open(settings: &ConnectConfig, since: Instant) -> Result<Self, Error> {
        let opened = Box::pin(Self::try_open(settings, since)).await;
        opened
            .map_err(|failure| Error::link(&format!("{} ({})", settings.name, settings.location()), &failure))
    }

    async fn try_open(settings: &ConnectConfig, since: Instant) -> Result<Self, LinkError> {
        let mut first = dial_any(settings).await?;
        let server = KeyspaceServer::query(&mut first, "").await?;
        let unsupported = unsupported(&mut first).await?;
        let clock = clock(&mut first, since).await?;
        let mut keyspace = Self {
            settings: settings.clone(),
            nodes: vec![KeyspaceNode { run_id: server.run_id, address: None, connection: first, clock }],
            slots: None,
            unsupported,
            since,
            clocks_read: Instant::now(),
        };
        if server.is_cluster {
            Box::pin(keyspace.find_nodes()).await?;
        }
        Ok(keyspace)
    }

    /// Refreshes the slot assignment and connects to new nodes.
    pub(in crate::migrate) async fn refresh_slots(&mut self) -> Result<(), Error> {
        let found = Box::pin(self.find_nodes()).await;
        found.map_err(|failure| Error::link(&self.settings.name, &failure))
    }

    async fn find_nodes(&mut self) -> Result<(), LinkError> {
        let mut query = cmd("CLUSTER");
        query.arg("SLOTS");
        let answer = self.nodes[0].connection.send_packed_command(&query).await?;
        let queried = NodeAddress::from_config(&self.settings);
        let topology = Topology::parse_reply(&answer, queried.as_ref())
            .ok_or_else(|| LinkError::Unreachable("unexpected reply to CLUSTER SLOTS".to_owned()))?;
        if topology.unserved_slots() > 0 {
            return Err(LinkError::Unreachable(format!(
                "the cluster has {} slots without a primary",
                topology.unserved_slots()
            )));
        }
        let mut primaries: Vec<&NodeAddress> = Vec::new();
        let mut slots = Vec::with_capacity(usize::from(SLOT_COUNT));
        for owner in (0..SLOT_COUNT).filter_map(|slot| topology.owner(slot)) {
            slots.push(primaries.iter().position(|known| *known == owner).unwrap_or_else(|| {
                primaries.push(owner);
                primaries.len() - 1
            }));
        }
        let mut nodes = Vec::with_capacity(primaries.len());
        for primary in primaries {
            nodes.push(self.node(primary).await?);
        }
        self.nodes = nodes;
        self.slots = Some(slots);
        Ok(())
    }

    /// Reuses the connection to an address, or opens one.
    async fn node(&self, address: &NodeAddress) -> Result<KeyspaceNode, LinkError> {
        if let Some(known) = self.nodes.iter().find(|node| node.address.as_ref() == Some(address)) {
            let (run_id, connection, clock) = (known.run_id.clone(), known.connection.clone(), known.clock);
            return Ok(KeyspaceNode { run_id, address: known.address.clone(), connection, clock });
        }
        let mut connection =
            dial(&self.settings.for_node(address)).await.map_err(|failure| failure.with_node(address))?;
        let server = KeyspaceServer::query(&mut connection, &address.to_string()).await?;
        let clock: Clock = clock(&mut connection, self.since).await?;
        Ok(KeyspaceNode { run_id: server.run_id, address: Some(address.clone()), connection, clock })
    }
}

async fn dial(settings: &ConnectConfig) -> Result<MultiplexedConnection, LinkError> {
    let discard = |_: redis::PushInfo| Ok::<_, redis::aio::SendError>(());
    Dialer::new(settings, "migrate").dial(discard).await
}

/// Connects to the server or, for a cluster, to any of its configured nodes.
async fn dial_any(settings: &ConnectConfig) -> Result<MultiplexedConnection, LinkError> {
    let failure = match dial(settings).await {
        Err(failure @ (LinkError::Unreachable(_) | LinkError::NotReceiving(_))) => failure,
        other => return other,
    };
    for seed in settings.cluster.iter().flatten() {
        if let Ok(connection) = dial(&settings.for_node(seed)).await {
            return Ok(connection);
        }
    }
    Err(failure)
}

impl KeyspaceServer {
    /// If the ACL forbids INFO, the server is treated as a single one without a run id.
    async fn query(connection: &mut MultiplexedConnection, address: &str) -> Result<Self, LinkError> {
        let no_run_id = format!("?{address}");
        let answer = match connection.send_packed_command(cmd("INFO").arg("server")).await {
            Ok(answer) => answer,
            Err(error) => match LinkError::from(error) {
                LinkError::Rejected(_) => return Ok(Self { run_id: no_run_id, is_cluster: false }),
                away @ (LinkError::Unreachable(_) | LinkError::NotReceiving(_)) => return Err(away),
            },
        };
        let text: String = redis::from_redis_value(answer).unwrap_or_default();
        let field = |name: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .unwrap_or_default()
                .trim()
        };
        let run_id = Some(field("run_id")).filter(|id| !id.is_empty()).map_or(no_run_id, str::to_owned);
        Ok(Self { run_id, is_cluster: field("redis_mode") == "cluster" })
    }
}

/// Commands that older versions lack, or that managed services and `rename-command` disable.
const OPTIONAL: [&str; 5] = ["DUMP", "RESTORE", "MEMORY", "PEXPIRETIME", "HPEXPIRETIME"];

/// Optional commands that the server does not support.
async fn unsupported(connection: &mut MultiplexedConnection) -> Result<Vec<&'static str>, LinkError> {
    let mut probe = redis::Pipeline::with_capacity(OPTIONAL.len());
    // Without arguments, a supported command returns a different error.
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
