//! TLS configuration: trusted CAs and the client certificate.
//!
//! Both are read from their files at each attempt to connect. Must never skip verification unless
//! `insecure_skip_verify` is set.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::files;

/// A client certificate with its chain, and its key.
pub type ClientCert = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// TLS settings for one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Trusted CA certificates (PEM), instead of the system's trust store.
    pub ca_file: Option<PathBuf>,
    /// The client certificate with its chain, and its key (PEM).
    pub client_cert_files: Option<(PathBuf, PathBuf)>,
    /// The name that the server's certificate must be valid for; `None`: the host in the address.
    pub server_name: Option<String>,
    /// Accepts any certificate. An attacker on the network path can then read and change all traffic.
    pub insecure_skip_verify: bool,
}

impl TlsConfig {
    /// Reads the files and builds the configuration for rustls.
    ///
    /// # Errors
    /// The file that is invalid, and why.
    pub fn load(&self) -> Result<ClientConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = if self.insecure_skip_verify {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(Unverified(provider)))
        } else {
            builder.with_root_certificates(self.load_roots()?)
        };
        let (Some((cert_file, key_file)), Some((chain, key))) =
            (&self.client_cert_files, self.load_client_cert()?)
        else {
            return Ok(builder.with_no_client_auth());
        };
        builder.with_client_auth_cert(chain, key).map_err(|error| {
            let (cert, key) = (cert_file.display(), key_file.display());
            format!("the certificate {cert} and the key {key} do not match: {error}")
        })
    }

    /// Reads the client certificate and its key, if configured.
    ///
    /// # Errors
    /// The file that is invalid, and why.
    pub fn load_client_cert(&self) -> Result<Option<ClientCert>, String> {
        let Some((cert_file, key_file)) = &self.client_cert_files else { return Ok(None) };
        let key = PrivateKeyDer::from_pem_slice(&files::read(key_file)?)
            .map_err(|_| format!("{} contains no private key in PEM format", key_file.display()))?;
        Ok(Some((certificates(cert_file)?, key)))
    }

    /// The source of the trusted CAs, for error messages.
    pub(super) fn trust_source(&self) -> String {
        match &self.ca_file {
            Some(path) => format!("`ca_file` {}", path.display()),
            None => "the system's trust store".to_owned(),
        }
    }

    /// Reads the trusted CA certificates.
    ///
    /// # Errors
    /// The file that is invalid, and why.
    pub fn load_roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &self.ca_file {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            return Ok(roots);
        }
        // An unreadable certificate in the system's store must not affect the others.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            // A minimal container has no trust store.
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
        _ => Err(format!("{} contains no certificate in PEM format", path.display())),
    }
}

/// Accepts every certificate. The handshake signatures are still checked, but do not authenticate the server.
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
