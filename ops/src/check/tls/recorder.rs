//! A certificate verifier that accepts every certificate and records it.
//!
//! Owns the record of a handshake. Must never be used for real connections: signatures are verified, the
//! certificate is not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Later than the expiry of any certificate.
const LATER_THAN_ANY_EXPIRY: Duration = Duration::from_secs(1 << 42);

/// What the server presented.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    shown: Option<Shown>,
    /// The server requested a client certificate.
    pub(super) asked_for_identity: bool,
}

#[derive(Clone, Debug)]
struct Shown {
    leaf: CertificateDer<'static>,
    chain: Vec<CertificateDer<'static>>,
    name: ServerName<'static>,
    now: UnixTime,
}

impl Seen {
    /// Number of certificates that the server sent.
    pub(super) fn certificates(&self) -> usize {
        self.shown.as_ref().map_or(0, |shown| 1 + shown.chain.len())
    }

    /// Time of the handshake, in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.shown.as_ref().map_or(0, |shown| shown.now.as_secs())
    }
}

/// The recording verifier.
#[derive(Debug)]
pub(super) struct TlsRecorder {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Seen>,
}

impl TlsRecorder {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>) -> Arc<Self> {
        Arc::new(Self { inner, seen: Mutex::default() })
    }

    pub(super) fn inner(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.inner)
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Result of the verification at a time after the handshake.
    pub(super) fn verdict(&self, seen: &Seen, later: Duration) -> Result<(), Error> {
        let Some(shown) = &seen.shown else { return Err(Error::NoCertificatesPresented) };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(shown.now.as_secs()) + later);
        self.inner.verify_server_cert(&shown.leaf, &shown.chain, &shown.name, &[], at).map(drop)
    }

    /// Expiry of the server's certificate, in seconds since 1970. Obtained from the verifier, which checks the expiry
    /// first and reports it in its error.
    pub(super) fn not_after(&self, seen: &Seen) -> Option<u64> {
        match self.verdict(seen, LATER_THAN_ANY_EXPIRY) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Some(not_after.as_secs())
            }
            _ => None,
        }
    }
}

impl ServerCertVerifier for TlsRecorder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let shown = Shown {
            leaf: end_entity.clone().into_owned(),
            chain: intermediates.iter().map(|one| one.clone().into_owned()).collect(),
            name: server_name.to_owned(),
            now,
        };
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).shown = Some(shown);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Client certificate resolver without a certificate; records that one was requested.
impl ResolvesClientCert for TlsRecorder {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).asked_for_identity = true;
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
