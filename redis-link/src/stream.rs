//! The way to a server: name, TCP or a socket of this machine, TLS. Each stage fails in its own words.
//!
//! Owns the socket options. Must never keep an address: each attempt resolves the name anew, which is what makes a
//! fail-over behind a DNS name heal by itself.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt as _};
use redis::aio::AsyncStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, UnixStream, lookup_host};
use tokio::time::{Instant, sleep, timeout_at};
use tokio_rustls::TlsConnector;

use super::address::{Address, Place};
use super::failure::Failure;
use super::mismatch::turns_out_plain;
use super::tls::TlsSettings;

/// How long the first address of a name is tried alone before the next one is tried beside it.
const STAGGER: Duration = Duration::from_millis(250);

/// Bytes both ways.
pub(super) type Stream = Pin<Box<dyn AsyncStream + Send + Sync>>;

/// How long one attempt may take, and until when it may.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) limit: Duration,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { limit, at: Instant::now() + limit }
    }

    /// The outcome of a stage, or what it means that it took too long.
    pub(super) async fn keep<T>(
        self,
        stage: impl Future<Output = Result<T, Failure>>,
        late: impl FnOnce(Duration) -> String,
    ) -> Result<T, Failure> {
        // What a stage holds is its own size, not that of whoever awaits all of them.
        let stage = Box::pin(stage);
        timeout_at(self.at, stage).await.unwrap_or_else(|_| Err(Failure::Unreachable(late(self.limit))))
    }
}

/// Connects, and tells with whom where that has an address.
pub(super) async fn connect(
    address: &Address,
    tls: Option<(Arc<ClientConfig>, &TlsSettings)>,
    deadline: Deadline,
) -> Result<(Stream, Option<SocketAddr>), Failure> {
    let shown = address.host_port();
    let (host, port) = match &address.place {
        Place::Tcp { host, port } => (host, Address::port(*port)),
        Place::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            let stream = connected.map_err(|error| {
                Failure::Unreachable(format!("the socket {shown} cannot be used: {error}"))
            })?;
            return Ok((Box::pin(stream), None));
        }
    };
    let addresses = deadline
        .keep(resolve(host, port), |limit| {
            format!("no address for {host} within {limit:?}: no name server answers")
        })
        .await?;
    let late = |limit| {
        format!(
            "no connection to {shown} within {limit:?}: nothing answers there; a firewall or security group may keep us \
             out, or the machine is gone"
        )
    };
    let tcp = deadline.keep(first_of(addresses, &shown, deadline.limit), late).await?;
    let peer = tcp.peer_addr().ok();
    let Some((config, settings)) = tls else { return Ok((Box::pin(tcp), peer)) };
    let late = |limit| {
        format!("{shown} takes the connection, but there is no TLS handshake within {limit:?}: it hangs")
    };
    let handshake = async {
        tokio::select! {
            done = handshake(tcp, host, &shown, config, settings) => done,
            () = turns_out_plain(peer) => Err(Failure::of_plain(&shown)),
        }
    };
    Ok((deadline.keep(handshake, late).await?, peer))
}

/// The addresses of a name, as they are at this moment.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    match lookup_host((host, port)).await {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            let none = || Failure::Unreachable(format!("the name {host} has no address"));
            (!found.is_empty()).then_some(found).ok_or_else(none)
        }
        Err(error) => Err(Failure::Unreachable(format!("the name {host} cannot be resolved: {error}"))),
    }
}

/// The first address that takes the connection. One that is dead costs the others [`STAGGER`], not all the time.
async fn first_of(addresses: Vec<SocketAddr>, shown: &str, limit: Duration) -> Result<TcpStream, Failure> {
    let mut rest = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = String::new();
    loop {
        let next = rest.next();
        if next.is_none() && attempts.is_empty() {
            return Err(Failure::Unreachable(last));
        }
        let is_last = next.is_none();
        attempts.extend(next.map(|address| async move { (address, TcpStream::connect(address).await) }));
        tokio::select! {
            Some((address, outcome)) = attempts.next() => match outcome {
                Ok(stream) => {
                    options(&stream, limit);
                    return Ok(stream);
                }
                Err(error) => last = format!("no connection to {shown} ({address}): {error}"),
            },
            () = sleep(STAGGER), if !is_last => {}
        }
    }
}

/// None of these is worth a connection.
fn options(stream: &TcpStream, limit: Duration) {
    let _ = stream.set_nodelay(true);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(15))
        .with_interval(Duration::from_secs(5))
        .with_retries(3);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(limit));
    #[cfg(not(target_os = "linux"))]
    let _ = limit;
}

async fn handshake(
    tcp: TcpStream,
    host: &str,
    shown: &str,
    config: Arc<ClientConfig>,
    settings: &TlsSettings,
) -> Result<Stream, Failure> {
    let name = server_name(settings, host)?;
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Box::pin(stream)),
        Err(error) => Err(Failure::of_handshake(&error, shown, settings)),
    }
}

/// The name that the server's certificate must be for.
pub(super) fn server_name(settings: &TlsSettings, host: &str) -> Result<ServerName<'static>, Failure> {
    let name = settings.server_name.as_deref().unwrap_or(host);
    let refuse = |_| Failure::Refused(format!("`{name}` is no name that a certificate could be for"));
    ServerName::try_from(name.to_owned()).map_err(refuse)
}
