//! Name resolution, TCP or a Unix socket, and TLS. Each stage has its own error message.
//!
//! Owns the socket options. Must never keep an address: each attempt resolves the name again, so that a failover behind
//! a DNS name needs no restart.

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

use super::address::{Address, ServerEndpoint};
use super::error::LinkError;
use super::tls::TlsConfig;
use super::tls_probe::until_plaintext_reply;

/// How long an address is tried before the next one is tried concurrently (RFC 8305).
const CONNECTION_ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// A connected byte stream, with or without TLS.
pub(super) type Stream = Pin<Box<dyn AsyncStream + Send + Sync>>;

/// The limit of one attempt, and when it is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    pub(super) limit: Duration,
    pub(super) at: Instant,
}

impl Deadline {
    pub(super) fn after(limit: Duration) -> Self {
        Self { limit, at: Instant::now() + limit }
    }

    /// Runs a stage until the deadline. After that, the error has the message of `on_timeout`.
    pub(super) async fn apply<T>(
        self,
        stage: impl Future<Output = Result<T, LinkError>>,
        on_timeout: impl FnOnce(Duration) -> String,
    ) -> Result<T, LinkError> {
        // Boxed: otherwise the caller's future has the size of all stages together.
        let stage = Box::pin(stage);
        timeout_at(self.at, stage)
            .await
            .unwrap_or_else(|_| Err(LinkError::Unreachable(on_timeout(self.limit))))
    }
}

/// Connects once. Returns the stream and, over TCP, the address of the peer.
pub(super) async fn connect(
    address: &Address,
    tls: Option<(Arc<ClientConfig>, &TlsConfig)>,
    deadline: Deadline,
) -> Result<(Stream, Option<SocketAddr>), LinkError> {
    let shown = address.host_port();
    let (host, port) = match &address.endpoint {
        ServerEndpoint::Tcp { host, port } => (host, Address::port_or_default(*port)),
        ServerEndpoint::Unix(path) => {
            let connected = UnixStream::connect(path).await;
            let stream = connected.map_err(|error| {
                LinkError::Unreachable(format!("cannot connect to the socket {shown}: {error}"))
            })?;
            return Ok((Box::pin(stream), None));
        }
    };
    let addresses = deadline
        .apply(resolve(host, port), |limit| {
            format!("name resolution of {host} failed: no reply from a name server within {limit:?}")
        })
        .await?;
    let on_timeout = |limit| {
        format!(
            "no connection to {shown} within {limit:?}: a firewall or security group may block it, or the machine is down"
        )
    };
    let tcp = deadline.apply(connect_any(addresses, &shown, deadline.limit), on_timeout).await?;
    let peer = tcp.peer_addr().ok();
    let Some((config, tls_config)) = tls else { return Ok((Box::pin(tcp), peer)) };
    let on_timeout = |limit| {
        format!(
            "{shown} accepts connections, but did not complete the TLS handshake within {limit:?}: it hangs"
        )
    };
    let handshake = async {
        tokio::select! {
            done = handshake(tcp, host, &shown, config, tls_config) => done,
            () = until_plaintext_reply(peer) => Err(LinkError::plaintext_server(&shown)),
        }
    };
    Ok((deadline.apply(handshake, on_timeout).await?, peer))
}

/// Resolves a name to its current addresses, at least one.
pub(super) async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, LinkError> {
    match lookup_host((host, port)).await {
        Ok(found) => {
            let found: Vec<_> = found.collect();
            let no_address = || LinkError::Unreachable(format!("the name {host} has no address"));
            (!found.is_empty()).then_some(found).ok_or_else(no_address)
        }
        Err(error) => Err(LinkError::Unreachable(format!("name resolution of {host} failed: {error}"))),
    }
}

/// Connects to the first address that accepts. An unreachable address delays the others by [`CONNECTION_ATTEMPT_DELAY`], not by the whole limit.
async fn connect_any(
    addresses: Vec<SocketAddr>,
    shown: &str,
    limit: Duration,
) -> Result<TcpStream, LinkError> {
    let mut rest = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = String::new();
    loop {
        let next = rest.next();
        if next.is_none() && attempts.is_empty() {
            return Err(LinkError::Unreachable(last));
        }
        let is_last = next.is_none();
        attempts.extend(next.map(|address| async move { (address, TcpStream::connect(address).await) }));
        tokio::select! {
            Some((address, outcome)) = attempts.next() => match outcome {
                Ok(stream) => {
                    set_options(&stream, limit);
                    return Ok(stream);
                }
                Err(error) => last = format!("no connection to {shown} ({address}): {error}"),
            },
            () = sleep(CONNECTION_ATTEMPT_DELAY), if !is_last => {}
        }
    }
}

/// Sets socket options, as far as possible: a failure does not end the connection.
fn set_options(stream: &TcpStream, limit: Duration) {
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
    tls: &TlsConfig,
) -> Result<Stream, LinkError> {
    let name = server_name(tls, host)?;
    match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => Ok(Box::pin(stream)),
        Err(error) => Err(LinkError::from_handshake(&error, shown, tls)),
    }
}

/// The name that the server's certificate must be valid for.
pub(super) fn server_name(tls: &TlsConfig, host: &str) -> Result<ServerName<'static>, LinkError> {
    let name = tls.server_name.as_deref().unwrap_or(host);
    let invalid = |_| LinkError::Rejected(format!("`{name}` is not a valid server name"));
    ServerName::try_from(name.to_owned()).map_err(invalid)
}
