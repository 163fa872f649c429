//! One Redis server, looked at as the gateway would use it.
//!
//! Owns the order: from the name up to a publication that is heard, as far as it goes. Must never dial otherwise than
//! the gateway does ([`Dialer`]), but below it, to see what a failed attempt hides.
//!
//! - `plan`: what the gateway is to do with the server, and so what it must be allowed.
//! - `sentinel`: whether the Sentinels know where the primary is.
//! - `greeting`: who answers on the port at all.
//! - `sign_in`: the gateway's own way in, and why it is refused.
//! - `rights`: whether each command may be run.
//! - `facts`, `settings`: what the server says of itself, and what that means.
//! - `nodes`: the other servers of a cluster.
//! - `trial`, `ears`: a test key, a publication that must be heard, latency, clock.

use std::net::SocketAddr;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{PushInfo, RedisResult, Value};

use self::facts::Facts;
use super::endpoint::Endpoint;
use super::report::{Finding, Level, Section};
use super::tls::{self, Trust};
use super::{network, within};
use crate::instance::address::{Address, Place};
use crate::instance::{Dialer, InstanceSettings};

mod ears;
mod facts;
mod greeting;
mod nodes;
mod plan;
mod rights;
mod sentinel;
mod settings;
mod sign_in;
mod trial;

pub use plan::{Plan, PlannedChannel, PlannedLog};

/// A server to look at.
#[derive(Clone, Debug)]
pub struct Server {
    /// What the report calls it.
    pub name: String,
    /// How it is reached.
    pub instance: InstanceSettings,
    /// What it is for.
    pub plan: Plan,
}

/// Looks at everything, as far as it goes; each step takes at most `limit`.
pub async fn inspect(server: &Server, limit: Duration) -> Section {
    let mut section = Section::new("redis", &server.name, server.instance.location());
    // Of a cluster, the first of the named nodes that can be reached tells of the others.
    let seeds = server.instance.cluster.iter().flatten();
    let places = std::iter::once(server.instance.clone()).chain(seeds.map(|seed| server.instance.at(seed)));
    for instance in places {
        if Box::pin(visit(server, &instance, &mut section, limit)).await {
            return section;
        }
    }
    section.add(Finding::skipped("rest", "not looked at, for want of a connection"));
    section
}

/// What a server's version and settings will do to a gateway, without trying anything: the findings that somebody
/// should see. `None`: it cannot be asked now.
pub async fn advise(server: &Server, limit: Duration) -> Option<Vec<Finding>> {
    let deaf = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
    let dialled = Box::pin(Dialer::new(&server.instance, "check").dial(deaf)).await;
    let mut connection = dialled.ok()?;
    let facts = tokio::time::timeout(limit, Facts::read(&mut connection)).await.ok()?;
    let findings = settings::judge(&facts, &server.plan).into_iter();
    Some(findings.filter(|finding| finding.level >= Level::Warning).collect())
}

/// Looks at one server; whether it let us in.
async fn visit(server: &Server, instance: &InstanceSettings, section: &mut Section, limit: Duration) -> bool {
    let seen_before = section.findings.len();
    let is_local = below(instance, section, limit).await;
    // The gateway's own way in counts, whatever was seen below it.
    let dialer = Dialer::new(instance, "check");
    let deaf = |_: PushInfo| Ok::<_, redis::aio::SendError>(());
    match Box::pin(dialer.dial(deaf)).await {
        Ok(connection) => {
            let mut visit = Visit { connection, server, instance, is_local, limit, section };
            Box::pin(visit.make(&dialer)).await;
            true
        }
        Err(failure) => {
            // What was seen below it says more than the attempt does.
            if section.findings[seen_before..].iter().all(|finding| finding.level < Level::Failed) {
                section.add(sign_in::refused(&failure, instance));
            }
            false
        }
    }
}

/// What lies below Redis' protocol: name, TCP, TLS, and who answers. Whether only this machine gets there.
async fn below(instance: &InstanceSettings, section: &mut Section, limit: Duration) -> bool {
    let address = match &instance.sentinel {
        None => Address::parse(&instance.url).ok(),
        Some(sentinels) => {
            let (findings, primary) = sentinel::inspect(instance, sentinels).await;
            section.findings.extend(findings);
            primary
        }
    };
    match address {
        // That the URL cannot be read is told by the attempt to dial it.
        None => false,
        Some(Address { place: Place::Unix(path), .. }) => {
            section.findings.extend(greeting::over_socket(&path, limit).await);
            true
        }
        Some(Address { place: Place::Tcp { host, port }, tls, .. }) => {
            let endpoint = Endpoint { host, port: port.unwrap_or(6379), tls };
            over_network(instance, &endpoint, section, limit).await
        }
    }
}

async fn over_network(
    instance: &InstanceSettings,
    endpoint: &Endpoint,
    section: &mut Section,
    limit: Duration,
) -> bool {
    let (finding, addresses) = network::resolve(endpoint, limit).await;
    section.add(finding);
    let (findings, reached) = network::connect(&addresses, limit).await;
    section.findings.extend(findings);
    let Some(address) = reached.first() else { return false };
    let found = match Trust::new(&endpoint.host, &instance.tls, "ca_file (--ca-file)") {
        Ok(trust) if endpoint.tls => secured(*address, &trust, limit).await,
        Ok(trust) => greeting::plain(*address, &instance.name, &trust, limit).await.into_iter().collect(),
        Err(why) => vec![unreadable(why)],
    };
    section.findings.extend(found);
    reached.iter().all(|address| address.ip().is_loopback())
}

fn unreadable(why: String) -> Finding {
    Finding::failed("tls", why)
        .because("the file is not there, is not what it should be, or may not be read by this user")
        .advise("look at ca_file, cert_file and key_file, and at who may read them")
}

async fn secured(address: SocketAddr, trust: &Trust, limit: Duration) -> Vec<Finding> {
    match Box::pin(tls::inspect(address, trust, limit)).await {
        Ok(mut secured) => {
            let refused = greeting::over_tls(&mut secured, limit).await;
            secured.findings.into_iter().chain(refused).collect()
        }
        Err(insecure) => vec![greeting::instead_of_tls(address, insecure, limit).await],
    }
}

/// A connection that stands, and what is looked at over it.
struct Visit<'a> {
    connection: MultiplexedConnection,
    server: &'a Server,
    /// How it was reached.
    instance: &'a InstanceSettings,
    /// Only this machine reaches the server by the address that was dialled.
    is_local: bool,
    limit: Duration,
    section: &'a mut Section,
}

impl Visit<'_> {
    async fn make(&mut self, dialer: &Dialer) {
        let Self { connection, server, limit, .. } = self;
        let plan = &server.plan;
        let facts = within(*limit, "facts", Facts::read(connection)).await;
        let facts = match facts {
            Ok(facts) => facts,
            Err(finding) => {
                self.section.add(finding);
                self.section.add(Finding::skipped("rest", "not looked at, for want of answers"));
                return;
            }
        };
        let signed_in = sign_in::accepted(&facts, self.instance, self.is_local);
        self.section.add(signed_in);
        self.step("rights", async |visit| rights::inspect(&mut visit.connection, plan, &facts).await).await;
        self.section.findings.extend(settings::judge(&facts, plan));
        if facts.is_cluster() {
            let (instance, limit) = (self.instance, self.limit);
            self.step("nodes", async |visit| {
                nodes::inspect(&mut visit.connection, instance, plan, limit).await
            })
            .await;
        }
        self.step("keys", async |visit| trial::keys(&mut visit.connection, plan, &facts).await).await;
        self.step("hearing", async |visit| trial::hearing(&mut visit.connection, dialer, plan).await).await;
        let half = self.limit / 2;
        self.step("latency", async |visit| vec![trial::latency(&mut visit.connection, half).await]).await;
        self.step("clock", async |visit| vec![trial::clock(&mut visit.connection).await]).await;
    }

    /// Does one step, for as long as it may take.
    async fn step(&mut self, check: &'static str, step: impl AsyncFnOnce(&mut Self) -> Vec<Finding>) {
        let found = within(self.limit, check, Box::pin(step(self))).await;
        self.section.findings.extend(found.unwrap_or_else(|late| vec![late]));
    }
}

/// Asks for one thing.
async fn ask<A: AsRef<str>>(connection: &mut MultiplexedConnection, words: &[A]) -> RedisResult<Value> {
    connection.send_packed_command(&command(words)).await.and_then(Value::extract_error)
}

fn command<A: AsRef<str>>(words: &[A]) -> redis::Cmd {
    let mut command = redis::Cmd::new();
    words.iter().for_each(|word| {
        command.arg(word.as_ref());
    });
    command
}
