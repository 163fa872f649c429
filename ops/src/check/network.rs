//! Name resolution and TCP connections.
//!
//! Must never send a byte.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

use super::endpoint::TcpEndpoint;
use super::report::Finding;

/// Resolves all addresses of a host.
pub(super) async fn resolve(endpoint: &TcpEndpoint, limit: Duration) -> (Finding, Vec<SocketAddr>) {
    let TcpEndpoint { host, port, .. } = endpoint;
    if let Some(ip) = endpoint.ip() {
        return (Finding::ok("dns", format!("{ip} needs no resolution")), vec![SocketAddr::new(ip, *port)]);
    }
    let began = Instant::now();
    match tokio::time::timeout(limit, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            // A hosts file can list an address twice.
            found.for_each(|address| {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            });
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            let message = format!("{host} resolves to {} ({})", shown.join(", "), millis(began.elapsed()));
            (Finding::ok("dns", message).with("addresses", shown), addresses)
        }
        Ok(Err(error)) => {
            let finding = Finding::failed("dns", format!("{host} cannot be resolved: {error}"))
                .cause(
                    "a typo, or a private name that the DNS server of this machine does not resolve \
                     (another VPC, another container network, no VPN)",
                )
                .fix(format!("run `getent hosts {host}` on the machine of the gateway"));
            (finding, Vec::new())
        }
        Err(_) => {
            let finding = Finding::failed("dns", format!("{host} did not resolve within {limit:?}"))
                .cause("the DNS server does not respond")
                .fix("check /etc/resolv.conf and firewalls for port 53");
            (finding, Vec::new())
        }
    }
}

/// Connects to all addresses concurrently. Returns those that accept, in order.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> (Vec<Finding>, Vec<SocketAddr>) {
    let attempts = addresses.iter().map(|address| async move {
        let began = Instant::now();
        let outcome = open(*address, limit).await;
        (*address, began.elapsed(), outcome)
    });
    let attempts = join_all(attempts).await;
    let reached: Vec<SocketAddr> =
        attempts.iter().filter(|(.., outcome)| outcome.is_ok()).map(|(address, ..)| *address).collect();
    let evaluate = |(address, took, outcome): &(SocketAddr, Duration, io::Result<TcpStream>)| match outcome {
        Ok(_) => Finding::ok("tcp", format!("connected to {address} in {}", millis(*took)))
            .with("address", address.to_string())
            .with("microseconds", micros(*took)),
        Err(error) => unreached(*address, error, !reached.is_empty(), limit),
    };
    (attempts.iter().map(evaluate).collect(), reached)
}

/// Opens one connection.
pub(super) async fn open(address: SocketAddr, limit: Duration) -> io::Result<TcpStream> {
    let stream = tokio::time::timeout(limit, TcpStream::connect(address))
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn unreached(address: SocketAddr, error: &io::Error, others_answer: bool, limit: Duration) -> Finding {
    let level = if others_answer { Finding::warning } else { Finding::failed };
    let finding = match error.kind() {
        io::ErrorKind::ConnectionRefused => level("tcp", format!("{address} refused the connection"))
            .cause("nothing listens there: the server is not running, uses another port, or is bound to another address (`bind`)")
            .fix("check the server's port and `bind`; in a container, localhost is the container itself"),
        io::ErrorKind::TimedOut => level("tcp", format!("{address} did not respond within {limit:?}"))
            .cause("packets are dropped by a security group, a firewall or a network ACL, or the subnet is wrong")
            .fix(format!("allow TCP port {} from this machine in the server's security group or firewall", address.port())),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            level("tcp", format!("{address} is unreachable: {error}"))
                .cause("no route: a VPN or peering is missing, or this machine has no IPv6")
                .fix("check the routes of this machine")
        }
        _ => level("tcp", format!("{address}: {error}")).cause("the network or the server closed the connection"),
    };
    finding.with("address", address.to_string())
}

/// Formats a duration for display.
pub(super) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// A duration in microseconds for scripts.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    const LIMIT: Duration = Duration::from_secs(10);

    fn endpoint(host: &str) -> TcpEndpoint {
        TcpEndpoint { host: host.to_owned(), port: 1, tls: false }
    }

    #[tokio::test]
    async fn unknown_name_is_reported() {
        let (finding, addresses) = resolve(&endpoint("no-such-host.invalid"), LIMIT).await;
        assert_eq!((finding.level, addresses.len()), (Level::Failed, 0));
        let (finding, addresses) = resolve(&endpoint("::1"), LIMIT).await;
        assert_eq!((finding.level, addresses.len()), (Level::Ok, 1));
    }

    #[tokio::test]
    async fn one_reachable_address_is_sufficient() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        // A port that has just been closed.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (findings, reached) = connect(&[gone, there], LIMIT).await;
        assert_eq!(reached, [there]);
        assert_eq!(findings.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Warning, Level::Ok]);
        let (findings, reached) = connect(&[gone], LIMIT).await;
        assert!(reached.is_empty() && findings[0].level == Level::Failed);
        assert!(findings[0].message.contains("refused"), "{findings:?}");
    }
}
