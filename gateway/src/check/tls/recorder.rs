//! The verifier that lets every certificate through and remembers it.
//!
//! Owns what was seen in a handshake. Must never stand where anything but a look depends on it: signatures are
//! verified, the certificate's worth is not.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, Error, SignatureScheme};

/// Later than any certificate ends.
const FOREVER: Duration = Duration::from_secs(1 << 42);

/// What a server showed.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    shown: Option<Shown>,
    /// The server asked for a certificate of ours.
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
    /// How many certificates the server sent.
    pub(super) fn certificates(&self) -> usize {
        self.shown.as_ref().map_or(0, |shown| 1 + shown.chain.len())
    }

    /// The moment at which it was looked at, in seconds since 1970.
    pub(super) fn now(&self) -> u64 {
        self.shown.as_ref().map_or(0, |shown| shown.now.as_secs())
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Recorder {
    inner: Arc<WebPkiServerVerifier>,
    seen: Mutex<Seen>,
}

impl Recorder {
    pub(super) fn new(inner: Arc<WebPkiServerVerifier>) -> Arc<Self> {
        Arc::new(Self { inner, seen: Mutex::default() })
    }

    pub(super) fn inner(&self) -> Arc<WebPkiServerVerifier> {
        Arc::clone(&self.inner)
    }

    pub(super) fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What verification says of what was seen, at a time after the look.
    pub(super) fn verdict(&self, seen: &Seen, later: Duration) -> Result<(), Error> {
        let Some(shown) = &seen.shown else { return Err(Error::NoCertificatesPresented) };
        let at = UnixTime::since_unix_epoch(Duration::from_secs(shown.now.as_secs()) + later);
        self.inner.verify_server_cert(&shown.leaf, &shown.chain, &shown.name, &[], at).map(drop)
    }

    /// When the server's own certificate ends, in seconds since 1970. Asked of the verifier itself: it names the end
    /// when it refuses a certificate for being too old, and looks at that first.
    pub(super) fn not_after(&self, seen: &Seen) -> Option<u64> {
        match self.verdict(seen, FOREVER) {
            Err(Error::InvalidCertificate(CertificateError::ExpiredContext { not_after, .. })) => {
                Some(not_after.as_secs())
            }
            _ => None,
        }
    }
}

impl ServerCertVerifier for Recorder {
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

/// Stands where a certificate of ours would be: it has none, and notes that it was asked.
impl ResolvesClientCert for Recorder {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).asked_for_identity = true;
        None
    }

    fn has_certs(&self) -> bool {
        true
    }
}
