//! Checks one Redis server as the gateway would use it.
//!
//! Owns the order of the checks, from name resolution to the delivery of a publication. Must connect like the gateway
//! ([`Dialer`]), in addition to lower-level checks that explain a failure.
//!
//! - `plan`: how the gateway will use the server, and which permissions it needs.
//! - `sentinel`: whether the Sentinels know the primary.
//! - `protocol_detect`: which protocol the port speaks.
//! - `auth`: authentication.
//! - `acl`: permission for each command.
//! - `server_info`, `settings`: state and settings of the server, and their consequences.
//! - `nodes`: other servers of a cluster.
//! - `live_probes`, `push_buffer`: a test key, a test publication, latency, clock.

use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisResult, Value};

use self::server_info::ServerInfo;
use super::endpoint::TcpEndpoint;
use super::report::{Finding, Level, ReportSection};
use super::tls::{self, Trust};
use super::{network, within};
use earshot_redis_link::address::{Address, ServerEndpoint};
use earshot_redis_link::{ConnectConfig, Dialer};

mod acl;
mod auth;
mod live_probes;
mod nodes;
mod plan;
mod protocol_detect;
mod push_buffer;
mod sentinel;
mod server_info;
mod settings;

pub use plan::{CheckPlan, PlannedChannel, PlannedLog};

/// A server to check.
#[derive(Clone, Debug)]
pub struct CheckedServer {
    /// Name in the report.
    pub name: String,
    /// Connection settings.
    pub instance: ConnectConfig,
    /// How the gateway will use it.
    pub plan: CheckPlan,
}

/// Runs all checks; each step takes at most `limit`.
pub async fn inspect(server: &CheckedServer, limit: Duration) -> ReportSection {
    let mut section = ReportSection::new("redis", &server.name, server.instance.location());
    // In a cluster, the first reachable seed node provides the others.
    let seeds = server.instance.cluster.iter().flatten();
    let places =
        std::iter::once(server.instance.clone()).chain(seeds.map(|seed| server.instance.for_node(seed)));
    for instance in places {
        if Box::pin(inspect_server(server, &instance, &mut section, limit)).await {
            return section;
        }
    }
    section.add(Finding::skipped("rest", "skipped: no connection"));
    section
}

/// Warnings about the version and settings of a server, without active tests. `None` if it cannot be queried now.
pub async fn warnings(server: &CheckedServer, limit: Duration) -> Option<Vec<Finding>> {
    let ignore_pushes = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
    let connected = Box::pin(Dialer::new(&server.instance, "check").dial(ignore_pushes)).await;
    let mut connection = connected.ok()?;
    let facts = tokio::time::timeout(limit, ServerInfo::read(&mut connection)).await.ok()?;
    let findings = settings::evaluate(&facts, &server.plan).into_iter();
    Some(findings.filter(|finding| finding.level >= Level::Warning).collect())
}

/// Checks one server; returns whether it accepted the connection.
async fn inspect_server(
    server: &CheckedServer,
    instance: &ConnectConfig,
    section: &mut ReportSection,
    limit: Duration,
) -> bool {
    let findings_before = section.findings.len();
    let is_local = inspect_network(instance, section, limit).await;
    // The connection of the gateway decides, regardless of the lower-level checks.
    let dialer = Dialer::new(instance, "check");
    let ignore_pushes = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
    match Box::pin(dialer.dial(ignore_pushes)).await {
        Ok(connection) => {
            let mut inspection = Inspection { connection, server, instance, is_local, limit, section };
            Box::pin(inspection.run(&dialer)).await;
            true
        }
        Err(failure) => {
            // The lower-level checks explain the failure better.
            if section.findings[findings_before..].iter().all(|finding| finding.level < Level::Failed) {
                section.add(auth::refused(&failure, instance));
            }
            false
        }
    }
}

/// Checks name, TCP, TLS and protocol. Returns whether the server is reachable only from this machine.
async fn inspect_network(instance: &ConnectConfig, section: &mut ReportSection, limit: Duration) -> bool {
    let address = match &instance.sentinel {
        None => Address::parse(&instance.url).ok(),
        Some(sentinels) => {
            let (findings, primary) = sentinel::inspect(instance, sentinels).await;
            section.findings.extend(findings);
            primary
        }
    };
    match address {
        // The connection attempt reports an invalid URL.
        None => false,
        Some(Address { endpoint: ServerEndpoint::Unix(path), .. }) => {
            section.findings.extend(protocol_detect::over_socket(&path, limit).await);
            true
        }
        Some(Address { endpoint: ServerEndpoint::Tcp { host, port }, tls, .. }) => {
            let endpoint = TcpEndpoint { host, port: port.unwrap_or(6379), tls };
            inspect_tcp(instance, &endpoint, section, limit).await
        }
    }
}

async fn inspect_tcp(
    instance: &ConnectConfig,
    endpoint: &TcpEndpoint,
    section: &mut ReportSection,
    limit: Duration,
) -> bool {
    let (finding, addresses) = network::resolve(endpoint, limit).await;
    section.add(finding);
    let (findings, reached) = network::connect(&addresses, limit).await;
    section.findings.extend(findings);
    let Some(address) = reached.first() else { return false };
    let found = match Trust::new(&endpoint.host, &instance.tls, "ca_file (--ca-file)") {
        Ok(trust) if endpoint.tls => inspect_tls(*address, &trust, limit).await,
        Ok(trust) => {
            protocol_detect::plain(*address, &instance.name, &trust, limit).await.into_iter().collect()
        }
        Err(why) => vec![unreadable_file(why)],
    };
    section.findings.extend(found);
    reached.iter().all(|address| address.ip().is_loopback())
}

fn unreadable_file(why: String) -> Finding {
    Finding::failed("tls", why)
        .cause("the file does not exist, is not a valid PEM file, or is not readable by this user")
        .fix("check the paths and permissions of ca_file, cert_file and key_file")
}

async fn inspect_tls(address: SocketAddr, trust: &Trust, limit: Duration) -> Vec<Finding> {
    match Box::pin(tls::inspect(address, trust, limit)).await {
        Ok(mut inspect_tls) => {
            let refused = protocol_detect::over_tls(&mut inspect_tls, limit).await;
            inspect_tls.findings.into_iter().chain(refused).collect()
        }
        Err(insecure) => vec![protocol_detect::instead_of_tls(address, insecure, limit).await],
    }
}

/// An established connection and the checks that use it.
struct Inspection<'a> {
    connection: MultiplexedConnection,
    server: &'a CheckedServer,
    /// How it was reached.
    instance: &'a ConnectConfig,
    /// The address is reachable only from this machine.
    is_local: bool,
    limit: Duration,
    section: &'a mut ReportSection,
}

impl Inspection<'_> {
    async fn run(&mut self, dialer: &Dialer) {
        let Self { connection, server, limit, .. } = self;
        let plan = &server.plan;
        let facts = within(*limit, "server-info", ServerInfo::read(connection)).await;
        let facts = match facts {
            Ok(facts) => facts,
            Err(finding) => {
                self.section.add(finding);
                self.section.add(Finding::skipped("rest", "skipped: no replies"));
                return;
            }
        };
        let signed_in = auth::accepted(&facts, self.instance, self.is_local);
        self.section.add(signed_in);
        self.step("permissions", async |inspection| {
            acl::inspect(&mut inspection.connection, plan, &facts).await
        })
        .await;
        self.section.findings.extend(settings::evaluate(&facts, plan));
        if facts.is_cluster() {
            let (instance, limit) = (self.instance, self.limit);
            self.step("nodes", async |inspection| {
                nodes::inspect(&mut inspection.connection, instance, plan, limit).await
            })
            .await;
        }
        self.step("keys", async |inspection| {
            live_probes::keys(&mut inspection.connection, plan, &facts).await
        })
        .await;
        self.step("pubsub", async |inspection| {
            live_probes::pubsub(&mut inspection.connection, dialer, plan).await
        })
        .await;
        let half = self.limit / 2;
        self.step("latency", async |inspection| {
            vec![live_probes::latency(&mut inspection.connection, half).await]
        })
        .await;
        self.step("clock", async |inspection| vec![live_probes::clock(&mut inspection.connection).await])
            .await;
    }

    /// Runs one step with the time limit.
    async fn step(&mut self, check: &'static str, step: impl AsyncFnOnce(&mut Self) -> Vec<Finding>) {
        let found = within(self.limit, check, Box::pin(step(self))).await;
        self.section.findings.extend(found.unwrap_or_else(|late| vec![late]));
    }
}

/// Executes one command.
async fn query<A: AsRef<str>>(connection: &mut MultiplexedConnection, words: &[A]) -> RedisResult<Value> {
    connection.send_packed_command(&command(words)).await.and_then(Value::extract_error)
}

fn command<A: AsRef<str>>(words: &[A]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word.as_ref());
    });
    command
}
