//! TLS as a server offers it: versions, certificate, names, expiry, whether it wants a certificate of ours.
//!
//! Owns the judgement of certificates and of handshakes that fail. Must never be how anything but a check speaks TLS:
//! the handshake is let through whatever the certificate says, so that the rest can be seen, too.
//!
//! - `recorder`: the verifier that lets through and remembers.

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
use crate::instance::{Identity, TlsSettings};
use recorder::{Recorder, Seen};

mod expiry;
mod recorder;

/// Certificates that end within this time are warned of.
const EXPIRES_SOON: Duration = Duration::from_secs(21 * 86_400);

/// Whom to trust, and who we are.
#[derive(Clone, Debug)]
pub(super) struct Trust {
    /// The name that the certificate must be for.
    pub(super) name: String,
    /// The authorities that are trusted.
    pub(super) roots: Arc<RootCertStore>,
    /// Our own certificate with its chain, and its key.
    pub(super) identity: Option<Arc<Identity>>,
    /// Whether the connections that are not for looking verify at all.
    pub(super) verifies: bool,
    /// Protocols to offer, the preferred one first.
    pub(super) protocols: Vec<Vec<u8>>,
    /// What an operator changes to be given another authority.
    pub(super) authorities_key: &'static str,
}

impl Trust {
    /// What is expected of a host, as the gateway is told to expect it.
    pub(super) fn new(host: &str, tls: &TlsSettings, authorities_key: &'static str) -> Result<Self, String> {
        Ok(Self {
            name: tls.server_name.clone().unwrap_or_else(|| host.to_owned()),
            roots: Arc::new(tls.roots()?),
            identity: tls.identity()?.map(Arc::new),
            verifies: !tls.insecure_skip_verify,
            protocols: Vec::new(),
            authorities_key,
        })
    }
}

/// A handshake that went through, whatever the certificate is worth.
pub(super) struct Secured {
    pub(super) stream: TlsStream<TcpStream>,
    pub(super) findings: Vec<Finding>,
    /// The server asked for a certificate, and was given none.
    pub(super) wants_identity: bool,
}

/// A handshake that did not.
pub(super) struct Insecure {
    pub(super) finding: Finding,
    /// The other side may speak no TLS at all.
    pub(super) may_be_plain: bool,
}

/// Looks at the TLS of a server.
pub(super) async fn inspect(
    address: SocketAddr,
    trust: &Trust,
    limit: Duration,
) -> Result<Secured, Insecure> {
    let refuse = |said: String| Insecure { finding: Finding::failed("tls", said), may_be_plain: false };
    let recorder = Recorder::new(verifier(trust).map_err(refuse)?);
    let (outcome, seen) =
        handshake(address, trust, &[&TLS13, &TLS12], &recorder, limit).await.map_err(refuse)?;
    let stream = outcome.map_err(|error| judge_failure(&error, &seen, trust, limit))?;
    let (_, session) = stream.get_ref();
    let version = session.protocol_version();
    let suite = session.negotiated_cipher_suite().map(|suite| format!("{:?}", suite.suite()));
    let mut offered = vec![version_name(version)];
    if version == Some(ProtocolVersion::TLSv1_3) {
        let older = handshake(address, trust, &[&TLS12], &Recorder::new(recorder.inner()), limit).await;
        if matches!(older, Ok((Ok(_), _))) {
            offered.push("TLS 1.2");
        }
    }
    let said = format!("{} with {}", offered.join(" and "), suite.as_deref().unwrap_or("an unknown suite"));
    let mut findings = vec![Finding::ok("tls", said).with("versions", offered)];
    findings.push(judge_certificate(&seen, &recorder, trust));
    let wants_identity = seen.asked_for_identity && trust.identity.is_none();
    Ok(Secured { stream, findings, wants_identity })
}

/// A connection as it comes, whatever the certificate is worth: its worth has been told.
pub(super) async fn connect(
    address: SocketAddr,
    trust: &Trust,
    limit: Duration,
) -> io::Result<TlsStream<TcpStream>> {
    let recorder = Recorder::new(verifier(trust).map_err(io::Error::other)?);
    handshake(address, trust, &[&TLS13, &TLS12], &recorder, limit).await.map_err(io::Error::other)?.0
}

/// One handshake; what was seen of the other side comes with it even when it fails.
async fn handshake(
    address: SocketAddr,
    trust: &Trust,
    versions: &[&'static SupportedProtocolVersion],
    recorder: &Arc<Recorder>,
    limit: Duration,
) -> Result<(io::Result<TlsStream<TcpStream>>, Seen), String> {
    let mut config = client(trust, versions, recorder)?;
    config.alpn_protocols.clone_from(&trust.protocols);
    let name = ServerName::try_from(trust.name.clone())
        .map_err(|_| format!("{} is no name that a certificate can be for", trust.name))?;
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
    recorder: &Arc<Recorder>,
) -> Result<ClientConfig, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Recorder>::clone(recorder));
    let Some(identity) = &trust.identity else {
        return Ok(builder.with_client_cert_resolver(Arc::<Recorder>::clone(recorder)));
    };
    let (chain, key) = (identity.0.clone(), identity.1.clone_key());
    builder.with_client_auth_cert(chain, key).map_err(|error| format!("the client certificate: {error}"))
}

fn verifier(trust: &Trust) -> Result<Arc<WebPkiServerVerifier>, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    WebPkiServerVerifier::builder_with_provider(Arc::clone(&trust.roots), provider)
        .build()
        .map_err(|error| format!("the authorities in {}: {error}", trust.authorities_key))
}

fn judge_certificate(seen: &Seen, recorder: &Recorder, trust: &Trust) -> Finding {
    let ends = recorder.not_after(seen);
    let until = ends.map_or_else(String::new, |ends| format!(", until {}", expiry::day(ends)));
    let finding = match recorder.verdict(seen, Duration::ZERO) {
        Ok(()) => match recorder.verdict(seen, EXPIRES_SOON) {
            Ok(()) if trust.verifies => {
                Finding::ok("certificate", format!("it is for {}{until}", trust.name))
            }
            Ok(()) => Finding::warning(
                "certificate",
                format!("it is for {}{until}; but nobody looks at it", trust.name),
            )
            .because("insecure_skip_verify is on: whoever is on the way can read and change everything")
            .advise("take insecure_skip_verify out: this certificate needs none"),
            Err(_) => Finding::warning(
                "certificate",
                format!("it is for {}, but ends soon{until}", trust.name),
            )
            .because("it, or one of the chain above it, is not renewed yet")
            .advise("renew it; a server may have to be told to read the new one (CONFIG SET tls-cert-file)"),
        },
        Err(error) => expiry::refused(&error, seen, trust, ends),
    };
    let finding = match ends {
        Some(ends) => finding.with("expires_unix_seconds", ends),
        None => finding,
    };
    finding.with("chain", seen.certificates())
}

/// Why there was no handshake.
fn judge_failure(error: &io::Error, seen: &Seen, trust: &Trust, limit: Duration) -> Insecure {
    let finding = |said: &str| Finding::failed("tls", said);
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let (finding, may_be_plain) = match (inner, error.kind()) {
        (Some(rustls::Error::InvalidMessage(_)), _) => {
            (finding("what answers is no TLS").because("the server speaks plain on this port"), true)
        }
        (Some(rustls::Error::AlertReceived(alert)), _) => (judge_alert(*alert, seen, trust), false),
        (Some(error), _) => (finding(&format!("the handshake failed: {error}")), false),
        (None, io::ErrorKind::TimedOut) => (
            finding(&format!("no answer to the handshake within {limit:?}"))
                .because("the server hangs, or speaks no TLS on this port"),
            true,
        ),
        (None, io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset)
            if wants_identity(seen, trust) =>
        {
            (no_identity(), false)
        }
        (None, _) => (
            finding(&format!("the connection ended in the handshake: {error}"))
                .because("the server speaks no TLS on this port, or something between cuts it"),
            true,
        ),
    };
    Insecure { finding, may_be_plain }
}

fn judge_alert(alert: AlertDescription, seen: &Seen, trust: &Trust) -> Finding {
    let finding = Finding::failed("tls", format!("the server refuses the handshake: {alert:?}"));
    match alert {
        _ if wants_identity(seen, trust) => no_identity(),
        AlertDescription::ProtocolVersion => finding
            .because("it offers nothing newer than TLS 1.1")
            .advise("allow TLS 1.2 or 1.3 on the server (tls-protocols)"),
        AlertDescription::UnrecognisedName => finding
            .because("it serves no certificate for this name")
            .advise("dial the name that the certificate is for"),
        AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown => finding
            .because("it does not accept our client certificate")
            .advise("give one that is valid and that the server's authority has signed"),
        _ if trust.identity.is_some() => finding
            .because("it does not accept our client certificate (signed by another authority than it trusts), or no cipher suite is common")
            .advise("compare the authority that signed ours with the server's tls-ca-cert-file"),
        _ => finding.because("no cipher suite is common, or a client certificate is needed"),
    }
}

fn wants_identity(seen: &Seen, trust: &Trust) -> bool {
    seen.asked_for_identity && trust.identity.is_none()
}

/// The finding when a server cannot do without a certificate of ours.
pub(super) fn no_identity() -> Finding {
    Finding::failed("tls", "the server wants a client certificate, and there is none")
        .because("it asks every client for one (tls-auth-clients yes)")
        .advise("give cert_file and key_file, or set tls-auth-clients to optional on the server")
}

fn version_name(version: Option<ProtocolVersion>) -> &'static str {
    match version {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
        _ => "an unknown version of TLS",
    }
}
