//! Whether a server speaks the other one of TLS and plain Redis.
//!
//! Owns the second look at a server that went away, or said nothing, when it was spoken to: a plain connection to TLS is
//! reset before the alert is read, and TLS to a plain server may wait for ever. Must never send a secret: whoever
//! answers here was not asked for anything.

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

use super::failure::tls_error;
use super::tls::TlsSettings;

/// How long a second look may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether it answers PING without TLS.
pub(super) async fn speaks_plain(peer: SocketAddr) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(peer).await?;
        stream.write_all(b"PING\r\n").await?;
        let first = stream.read_u8().await?;
        // `+PONG`, or why not: `-NOAUTH`, `-DENIED`.
        io::Result::Ok(matches!(first, b'+' | b'-'))
    };
    timeout(PATIENCE, ask).await.is_ok_and(|answer| answer.unwrap_or(false))
}

/// Resolves when a server that says nothing in a TLS handshake turns out to answer without one.
pub(super) async fn turns_out_plain(peer: Option<SocketAddr>) {
    sleep(PATIENCE).await;
    match peer {
        Some(peer) if speaks_plain(peer).await => {}
        _ => std::future::pending().await,
    }
}

/// Whether it answers a TLS handshake, however it goes on from there.
pub(super) async fn speaks_tls(peer: SocketAddr) -> bool {
    let unverified = TlsSettings { insecure_skip_verify: true, ..TlsSettings::default() };
    let Ok(config) = unverified.load() else { return false };
    let ask = async {
        let stream = TcpStream::connect(peer).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::from(peer.ip()), stream).await
    };
    match timeout(PATIENCE, ask).await {
        Ok(Ok(_)) => true,
        Ok(Err(error)) => {
            tls_error(&error).is_some_and(|error| !matches!(error, rustls::Error::InvalidMessage(_)))
        }
        Err(_) => false,
    }
}

/// What TLS says of us after the handshake, if it is nothing good. In TLS 1.3 a server judges a client certificate, or
/// that there is none, only then; and who has written something by that time is reset before it can read the alert.
pub(super) async fn late_alert(
    peer: SocketAddr,
    name: ServerName<'static>,
    config: Arc<ClientConfig>,
) -> Option<io::Error> {
    let ask = async {
        let stream = TcpStream::connect(peer).await?;
        let mut stream = TlsConnector::from(config).connect(name, stream).await?;
        stream.read_u8().await
    };
    match timeout(PATIENCE, ask).await {
        Ok(Err(error)) if tls_error(&error).is_some() => Some(error),
        _ => None,
    }
}
