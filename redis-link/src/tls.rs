//! How a server proves who it is over TLS, and how we prove who we are.
//!
//! Owns the roots of trust and the certificate of ours, both read from their files at each attempt. Must never leave a
//! server unverified unless the setting that says `insecure` is on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::files;

/// A certificate with its chain, and its key.
pub type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// What TLS to one server needs beside its address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates (PEM) of the authorities that are trusted, in the place of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate with its chain, and its key (PEM).
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name that must stand in the server's certificate; `None`: the host that is dialled.
    pub server_name: Option<String>,
    /// Takes any certificate for good: whoever can bend the way to the server can read and change everything.
    pub insecure_skip_verify: bool,
}

impl TlsSettings {
    /// Reads the files and puts them together.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn load(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            builder.with_root_certificates(self.roots()?)
        };
        let (Some((cert_file, key_file)), Some((chain, key))) = (&self.client, self.identity()?) else {
            return Ok(builder.with_no_client_auth());
        };
        builder.with_client_auth_cert(chain, key).map_err(|error| {
            let (cert, key) = (cert_file.display(), key_file.display());
            format!("the certificate {cert} and the key {key} do not go together: {error}")
        })
    }

    /// Our certificate with its chain, and its key, if there is one.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn identity(&self) -> Result<Option<Identity>, String> {
        let Some((cert_file, key_file)) = &self.client else { return Ok(None) };
        let key = PrivateKeyDer::from_pem_slice(&files::read(key_file)?)
            .map_err(|_| format!("{} holds no private key in PEM form", key_file.display()))?;
        Ok(Some((certificates(cert_file)?, key)))
    }

    /// Where trust comes from, in words.
    pub(super) fn trusted(&self) -> String {
        match &self.ca_file {
            Some(path) => format!("`ca_file` {}", path.display()),
            None => "the system's store".to_owned(),
        }
    }

    /// The authorities that are trusted.
    ///
    /// # Errors
    /// Which file is wrong, and how.
    pub fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            return Ok(roots);
        }
        // One certificate of the system's that cannot be read must not cost the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            // A bare container has no store.
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        Ok(roots)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = files::read(path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("{} holds no certificate in PEM form", path.display())),
    }
}

/// Takes every certificate. The signatures of the handshake are still checked, which proves nothing about who it is.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
