//! Checks TLS of a server: versions, certificate, names, expiry, client certificates.
//!
//! Owns the evaluation of certificates and failed handshakes. Must never be used outside of checks: the handshake
//! accepts any certificate, so that the remaining checks can run.
//!
//! - `recorder`: a verifier that accepts and records certificates.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::network::open;
use super::report::Finding;
use earshot_redis_link::{ClientCert, TlsConfig};
use recorder::{Seen, TlsRecorder};

mod expiry;
mod recorder;

/// Certificates that expire within this time cause a warning.
const EXPIRY_WARNING: Duration = Duration::from_secs(21 * 86_400);

/// Trust settings and client certificate.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// Name that the certificate must be valid for.
    pub(super) name: String,
    /// Trusted CAs.
    pub(super) roots: Arc<RootCertStore>,
    /// Client certificate with chain and key.
    pub(super) identity: Option<Arc<ClientCert>>,
    /// Whether the gateway's connections verify the certificate.
    pub(super) verifies: bool,
    /// ALPN protocols, in order of preference.
    pub(super) protocols: Vec<Vec<u8>>,
    /// Name of the setting for CA certificates.
    pub(super) authorities_key: &'static str,
}

impl Trust {
    /// Expectations for a host, according to the gateway's settings.
    pub(super) fn new(host: &str, tls: &TlsConfig, authorities_key: &'static str) -> Result<Self, String> {
        Ok(Self {
            name: tls.server_name.clone().unwrap_or_else(|| host.to_owned()),
            roots: Arc::new(tls.load_roots()?),
            identity: tls.load_client_cert()?.map(Arc::new),
            verifies: !tls.insecure_skip_verify,
            protocols: Vec::new(),
            authorities_key,
        })
    }
}

/// A completed handshake, with any certificate.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) findings: Vec<Finding>,
    /// The server requested a client certificate, and none is configured.
    pub(super) wants_identity: bool,
}

/// A failed handshake.
pub(super) struct Insecure {
    pub(super) finding: Finding,
    /// The server may not use TLS at all.
    pub(super) may_be_plain: bool,
}

/// Checks the TLS of a server.
pub(super) async fn inspect(
    address: SocketAddr,
    trust: &Trust,
    limit: Duration,
) -> Result<Secured, Insecure> {
    let refuse = |message: String| Insecure { finding: Finding::failed("tls", message), may_be_plain: false };
    let recorder = TlsRecorder::new(verifier(trust).map_err(refuse)?);
    let (outcome, seen) =
        handshake(address, trust, &[&TLS13, &TLS12], &recorder, limit).await.map_err(refuse)?;
    let stream = outcome.map_err(|error| handshake_failure(&error, &seen, trust, limit))?;
    let (_, session) = stream.get_ref();
    let version = session.protocol_version();
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let mut offered = vec![version_name(version)];
    if version == Some(ProtocolVersion::TLSv1_3) {
        let older = handshake(address, trust, &[&TLS12], &TlsRecorder::new(recorder.inner()), limit).await;
        if matches!(older, Ok((Ok(_), _))) {
            offered.push("TLS 1.2");
        }
    }
    let message =
        format!("{} with {}", offered.join(" and "), suite.as_deref().unwrap_or("an unknown cipher suite"));
    let mut findings = vec![Finding::ok("tls", message).with("versions", offered)];
    findings.push(evaluate_certificate(&seen, &recorder, trust));
    let wants_identity = seen.asked_for_identity && trust.identity.is_none();
    Ok(Secured { stream, findings, wants_identity })
}

/// Opens a TLS connection with any certificate, which has been evaluated before.
pub(super) async fn connect(
    address: SocketAddr,
    trust: &Trust,
    limit: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let recorder = TlsRecorder::new(verifier(trust).map_err(io::Error::other)?);
    handshake(address, trust, &[&TLS13, &TLS12], &recorder, limit).await.map_err(io::Error::other)?.0
}

/// One handshake; returns what was recorded, even if it fails.
async fn handshake(
    address: SocketAddr,
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
    recorder: &Arc<TlsRecorder>,
    limit: Duration,
) -> Result<(io::Result<TlsStream<TcpStream>>, Seen), String> {
    let mut config = client(trust, versions, recorder)?;
    config.alpn_protocols.clone_from(&trust.protocols);
    let name = ServerName::try_from(trust.name.clone())
        .map_err(|_| format!("{} is not a valid server name for TLS", trust.name))?;
    let attempt = async {
        let stream = open(address, limit).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let outcome = tokio::time::timeout(limit, attempt).await;
    let outcome = outcome.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    Ok((outcome, recorder.seen()))
}

fn client(
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
    recorder: &Arc<TlsRecorder>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<TlsRecorder>::clone(recorder));
    let Some(identity) = &trust.identity else {
        return Ok(builder.with_client_cert_resolver(Arc::<TlsRecorder>::clone(recorder)));
    };
    let (chain, key) = (identity.0.clone(), identity.1.clone_key());
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("client certificate: {error}"))
}

fn verifier(trust: &Trust) -> Result<Arc<WebPkiServerVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.roots), provider)
        .build()
        .map_err(|error| format!("certificate authorities in {}: {error}", trust.authorities_key))
}

fn evaluate_certificate(seen: &Seen, recorder: &TlsRecorder, trust: &Trust) -> Finding {
    let ends = recorder.not_after(seen);
    let until = ends.map_or_else(String::new, |ends| format!(", until {}", expiry::day(ends)));
    let finding = match recorder.verdict(seen, Duration::ZERO) {
        Ok(()) => match recorder.verdict(seen, EXPIRY_WARNING) {
            Ok(()) if trust.verifies => {
                Finding::ok("certificate", format!("valid for {}{until}", trust.name))
            }
            Ok(()) => Finding::warning(
                "certificate",
                format!("valid for {}{until}, but not verified", trust.name),
            )
            .cause("insecure_skip_verify is on: an attacker on the network can read and change all traffic")
            .fix("remove insecure_skip_verify: this certificate passes verification"),
            Err(_) => {
                Finding::warning("certificate", format!("valid for {}, but expires soon{until}", trust.name))
                    .cause("the certificate, or one of its chain, has not been renewed yet")
                    .fix("renew it; the server may need to reload it (CONFIG SET tls-cert-file)")
            }
        },
        Err(error) => expiry::refused(&error, seen, trust, ends),
    };
    let finding = match ends {
        Some(ends) => finding.with("expires_unix_seconds", ends),
        None => finding,
    };
    finding.with("chain", seen.certificates())
}

/// Interprets a failed handshake.
fn handshake_failure(error: &io::Error, seen: &Seen, trust: &Trust, limit: Duration) -> Insecure {
    let finding = |message: &str| Finding::failed("tls", message);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (finding, may_be_plain) = match (inner, error.kind()) {
        (Some(rustls::Error::InvalidMessage(_)), _) => (
            finding("the response is not TLS: no TLS on this port")
                .cause("the server expects unencrypted connections on this port"),
            true,
        ),
        (Some(rustls::Error::AlertReceived(alert)), _) => (alert_failure(*alert, seen, trust), false),
        (Some(error), _) => (finding(&format!("the handshake failed: {error}")), false),
        (None, io::ErrorKind::TimedOut) => (
            finding(&format!("no reply to the TLS handshake within {limit:?}"))
                .cause("the server hangs, or does not support TLS on this port"),
            true,
        ),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
            if wants_identity(seen, trust) =>
        {
            (no_identity(), false)
        }
        (None, _) => (
            finding(&format!("the connection was closed during the TLS handshake: {error}"))
                .cause("no TLS on this port, or a device in between closes the connection"),
            true,
        ),
    };
    Insecure { finding, may_be_plain }
}

fn alert_failure(alert: AlertDescription, seen: &Seen, trust: &Trust) -> Finding {
    let finding = Finding::failed("tls", format!("the server rejected the TLS handshake: {alert:?}"));
    match alert {
        _ if wants_identity(seen, trust) => no_identity(),
        AlertDescription::ProtocolVersion => finding
            .cause("the server supports only TLS 1.1 or older")
            .fix("allow TLS 1.2 or 1.3 on the server (tls-protocols)"),
        AlertDescription::UnrecognisedName => finding
            .cause("the server has no certificate for this name")
            .fix("connect to a name of the certificate"),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => finding
            .cause("the server does not accept the client certificate")
            .fix("use a valid certificate issued by a CA that the server trusts"),
        _ if trust.identity.is_some() => finding
            .cause("the server does not accept the client certificate (its CA is not trusted there), or there is no common cipher suite")
            .fix("compare the issuer of the client certificate with the server's tls-ca-cert-file"),
        _ => finding.cause("there is no common cipher suite, or the server requires a client certificate"),
    }
}

fn wants_identity(seen: &Seen, trust: &Trust) -> bool {
    seen.asked_for_identity && trust.identity.is_none()
}

/// Finding for a server that requires a client certificate.
pub(super) fn no_identity() -> Finding {
    Finding::failed("tls", "the server requires a client certificate, and none is configured")
        .cause("the server requires one from every client (tls-auth-clients yes)")
        .fix("set cert_file and key_file, or set tls-auth-clients to optional on the server")
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "an unknown version of TLS",
    }
}
