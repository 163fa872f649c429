//! Names and addresses: what a host resolves to, and which of it can be connected to.
//!
//! Must never send a byte: what is spoken over a connection is for others to know.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::Instant;

use super::endpoint::Endpoint;
use super::report::Finding;

/// Every address of a host.
pub(super) async fn resolve(endpoint: &Endpoint, limit: Duration) -> (Finding, Vec<SocketAddr>) {
    let Endpoint { host, port, .. } = endpoint;
    if let Some(ip) = endpoint.ip() {
        return (Finding::ok("name", format!("{ip} is an address")), vec![SocketAddr::new(ip, *port)]);
    }
    let began = Instant::now();
    match tokio::time::timeout(limit, lookup_host((host.as_str(), *port))).await {
        Ok(Ok(found)) => {
            let mut addresses: Vec<SocketAddr> = Vec::new();
            // A hosts file may name one address twice.
            found.for_each(|address| {
                if !addresses.contains(&address) {
                    addresses.push(address);
                }
            });
            let shown: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
            let said = format!("{host} is {} ({})", shown.join(", "), millis(began.elapsed()));
            (Finding::ok("name", said).with("addresses", shown), addresses)
        }
        Ok(Err(error)) => {
            let finding = Finding::failed("name", format!("{host} cannot be resolved: {error}"))
                .because(
                    "a typing error, or a private name that the name server of this machine does not know \
                     (another VPC, another container network, no VPN)",
                )
                .advise(format!("run `getent hosts {host}` on the machine that the gateway runs on"));
            (finding, Vec::new())
        }
        Err(_) => {
            let finding = Finding::failed("name", format!("{host} is not resolved within {limit:?}"))
                .because("the name server does not answer")
                .advise("look at /etc/resolv.conf, and at what filters port 53");
            (finding, Vec::new())
        }
    }
}

/// Connects to every address at once. Those that answer come back, in their order.
pub(super) async fn connect(addresses: &[SocketAddr], limit: Duration) -> (Vec<Finding>, Vec<SocketAddr>) {
    let attempts = addresses.iter().map(|address| async move {
        let began = Instant::now();
        let outcome = open(*address, limit).await;
        (*address, began.elapsed(), outcome)
    });
    let attempts = join_all(attempts).await;
    let reached: Vec<SocketAddr> =
        attempts.iter().filter(|(.., outcome)| outcome.is_ok()).map(|(address, ..)| *address).collect();
    let judge = |(address, took, outcome): &(SocketAddr, Duration, io::Result<TcpStream>)| match outcome {
        Ok(_) => Finding::ok("tcp", format!("{address} answers in {}", millis(*took)))
            .with("address", address.to_string())
            .with("microseconds", micros(*took)),
        Err(error) => unreached(*address, error, !reached.is_empty(), limit),
    };
    (attempts.iter().map(judge).collect(), reached)
}

/// One connection.
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
        io::ErrorKind::ConnectionRefused => level("tcp", format!("{address} refuses the connection"))
            .because("nobody listens there: the server is not running, has another port, or is bound to another address (`bind`)")
            .advise("look at the server's port and `bind`; in containers, localhost is the container itself"),
        io::ErrorKind::TimedOut => level("tcp", format!("{address} does not answer within {limit:?}"))
            .because("packets are dropped on the way: a security group, a firewall, a network ACL, or a wrong subnet")
            .advise(format!("allow TCP port {} from this machine in the server's security group or firewall", address.port())),
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => {
            level("tcp", format!("there is no way to {address}: {error}"))
                .because("no route: a VPN or peering is missing, or this machine has no IPv6")
                .advise("look at the routes of this machine")
        }
        _ => level("tcp", format!("{address}: {error}")).because("the network or the server ended the attempt"),
    };
    finding.with("address", address.to_string())
}

/// A time for people, with as many digits as mean something.
pub(super) fn millis(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

/// A time for scripts.
pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    const LIMIT: Duration = Duration::from_secs(10);

    fn endpoint(host: &str) -> Endpoint {
        Endpoint { host: host.to_owned(), port: 1, tls: false }
    }

    #[tokio::test]
    async fn a_name_that_nobody_has_is_said_to_be_one() {
        let (finding, addresses) = resolve(&endpoint("no-such-host.invalid"), LIMIT).await;
        assert_eq!((finding.level, addresses.len()), (Level::Failed, 0));
        let (finding, addresses) = resolve(&endpoint("::1"), LIMIT).await;
        assert_eq!((finding.level, addresses.len()), (Level::Ok, 1));
    }

    #[tokio::test]
    async fn one_address_of_several_is_enough() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = listener.local_addr().unwrap();
        // A port that was ours a moment ago and is nobody's now.
        let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let (findings, reached) = connect(&[gone, there], LIMIT).await;
        assert_eq!(reached, [there]);
        assert_eq!(findings.iter().map(|f| f.level).collect::<Vec<_>>(), [Level::Warning, Level::Ok]);
        let (findings, reached) = connect(&[gone], LIMIT).await;
        assert!(reached.is_empty() && findings[0].level == Level::Failed);
        assert!(findings[0].said.contains("refuses"), "{findings:?}");
    }
}
