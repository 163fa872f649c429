//! Detects a mismatch between TLS and plaintext, and alerts that arrive after the handshake.
//!
//! Owns the short second connection to a server that closed the first one or did not reply: a plaintext connection to a
//! TLS port is reset before the alert is read, and a TLS connection to a plaintext port may wait without end. Must
//! never send a secret: the peer is not authenticated.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;

use super::error::tls_error;
use super::tls::TlsConfig;

/// Limit of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// Whether the server replies to PING without TLS.
async fn replies_to_plaintext(peer: SocketAddr) -> bool {
    let probe = async {
        let mut stream = TcpStream::connect(peer).await?;
        stream.write_all(b"PING\r\n").await?;
        let first = stream.read_u8().await?;
        // `+PONG`, or an error: `-NOAUTH`, `-DENIED`.
        io::Result::Ok(matches!(first, b'+' | b'-'))
    };
    timeout(PROBE_TIMEOUT, probe).await.is_ok_and(|reply| reply.unwrap_or(false))
}

/// Resolves when the server replies to a plaintext PING after a TLS handshake has had no reply for a while; otherwise
/// never.
pub(super) async fn until_plaintext_reply(peer: Option<SocketAddr>) {
    sleep(PROBE_TIMEOUT).await;
    match peer {
        Some(peer) if replies_to_plaintext(peer).await => {}
        _ => std::future::pending().await,
    }
}

/// Whether the server replies to a TLS handshake, even with an alert.
pub(super) async fn is_tls_server(peer: SocketAddr) -> bool {
    let unverified = TlsConfig { insecure_skip_verify: true, ..TlsConfig::default() };
    let Ok(config) = unverified.load() else { return false };
    let probe = async {
        let stream = TcpStream::connect(peer).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(peer.ip()), stream).await
    };
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tls_error(&error).is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
        }
        Err(_) => false,
    }
}

/// The alert that the server sends after the handshake, if any. A TLS 1.3 server checks the client certificate only
/// then, and a client that has already written is reset before it can read the alert.
pub(super) async fn post_handshake_alert(
    peer: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Option<io::Error> {
    let probe = async {
        let stream = TcpStream::connect(peer).await?;
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.read_u8().await
    };
    match timeout(PROBE_TIMEOUT, probe).await {
        Ok(Err(error)) if tls_error(&error).is_some() => Some(error),
        _ => None,
    }
}
