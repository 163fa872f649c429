//! Errors of a connection to Redis, written for an operator: what failed, the likely cause, the fix.
//!
//! Owns the distinction between errors that are retried soon and errors that an operator must fix. The text of an error
//! must not vary between two attempts with the same cause, since only a change is logged. Must never contain a secret.

use std::error::Error;
use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use rustls::{AlertDescription, CertificateError};

use super::tls::TlsConfig;

/// Why a connection failed or ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkError {
    /// The server cannot be reached or no longer replies. Retried soon.
    Unreachable(String),
    /// The server replies, but publications do not arrive. Retried soon.
    NotReceiving(String),
    /// The server rejects the connection: password, ACL, TLS, protocol. Needs a change by an operator; retried slowly.
    Rejected(String),
}

impl fmt::Display for LinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) | Self::NotReceiving(cause) | Self::Rejected(cause) => {
                f.write_str(cause)
            }
        }
    }
}

impl From<RedisError> for LinkError {
    fn from(error: RedisError) -> Self {
        let message = server_message(&error);
        if is_rejection(&error) { Self::Rejected(message) } else { Self::Unreachable(message) }
    }
}

/// The error reply of the server verbatim, or else the error of the client library. Arguments are removed: a server
/// that does not know a command repeats them, and those of HELLO are user and password.
pub fn server_message(error: &RedisError) -> String {
    without_arguments(match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    })
}

fn without_arguments(mut message: String) -> String {
    if let Some(arguments) = message.find(", with args beginning with") {
        message.truncate(arguments);
    }
    message
}

/// The parts of the configuration that explain a failed authentication.
#[derive(Clone, Copy, Debug)]
pub(super) struct AuthContext<'a> {
    /// Where the password comes from; `None` without a password.
    pub(super) password_source: Option<&'a str>,
    /// The settings that would supply a password.
    pub(super) password_settings: &'static str,
    /// The TLS configuration, if TLS is used.
    pub(super) tls: Option<&'a TlsConfig>,
}

impl LinkError {
    /// The TLS handshake failed.
    pub(super) fn from_handshake(error: &io::Error, host: &str, tls: &TlsConfig) -> Self {
        match tls_error(error) {
            Some(error) => Self::Rejected(explain_tls(error, host, tls)),
            None => Self::Unreachable(format!(
                "{host} closed the connection during the TLS handshake ({error}): the server went away, or a proxy has \
                 no backend"
            )),
        }
    }

    /// The client used TLS, and the server does not.
    pub(super) fn plaintext_server(host: &str) -> Self {
        Self::Rejected(format!(
            "{host} does not speak TLS: use redis:// without `tls`, or the port that speaks TLS"
        ))
    }

    /// The client did not use TLS, and the server does.
    pub(super) fn tls_server(host: &str) -> Self {
        Self::Rejected(format!("{host} speaks TLS: use rediss://, or set `tls = true` (REDIS_TLS=true)"))
    }

    /// The connection was established, and authentication failed.
    pub(super) fn from_auth(error: &RedisError, host: &str, context: AuthContext<'_>) -> Self {
        if let (Some(error), Some(tls)) = (io_error(error).and_then(tls_error), context.tls) {
            return Self::Rejected(explain_tls(error, host, tls));
        }
        let message = server_message(error);
        match error.kind() {
            ErrorKind::Parse => Self::Rejected(format!("{host} does not speak the Redis protocol")),
            ErrorKind::Io => Self::Unreachable(explain_close(&message, host, context)),
            kind if kind == ErrorKind::RESP3NotSupported || message.contains("unknown command") => {
                Self::Rejected(format!(
                    "{host} does not support HELLO 3: RESP3 requires Redis 6 or later, or Valkey"
                ))
            }
            _ if is_rejection(error) => Self::Rejected(match fix(error, context) {
                Some(fix) => format!("{message} ({fix})"),
                None => message,
            }),
            _ => Self::Unreachable(message),
        }
    }

    /// The server sent this error reply and closed the connection.
    pub(super) fn from_early_reply(reply: String) -> Self {
        if reply.starts_with("DENIED") {
            let fix = "set a password on the server, or bind it to this network";
            return Self::Rejected(format!("{} ({fix})", without_arguments(reply)));
        }
        if reply.contains("max number of clients") {
            let fix =
                "`maxclients` of the server is reached: raise it, or find the clients that hold connections";
            return Self::Unreachable(format!("{} ({fix})", without_arguments(reply)));
        }
        Self::Unreachable(without_arguments(reply))
    }
}

fn explain_close(message: &str, host: &str, context: AuthContext<'_>) -> String {
    let cause = match context.tls {
        None => "the server went away, or a proxy has no backend",
        Some(tls) if tls.client_cert_files.is_none() => {
            "the server went away, or it requires a client certificate: set `cert_file` and `key_file`"
        }
        Some(_) => "the server went away, or it does not accept the client certificate",
    };
    format!("{host} closed the connection before it replied ({message}): {cause}")
}

fn fix(error: &RedisError, context: AuthContext<'_>) -> Option<String> {
    match (error.code(), context.password_source) {
        (Some("WRONGPASS"), Some(source)) => Some(format!(
            "the user or password is wrong, or the user is disabled; the password is from {source}"
        )),
        (Some("NOAUTH" | "WRONGPASS"), None) => Some(format!(
            "the server requires a password, and none is configured: set {}",
            context.password_settings
        )),
        (Some("NOPERM"), _) => Some("the ACL of the user lacks a permission: see ACL SETUSER".to_owned()),
        _ => None,
    }
}

fn is_rejection(error: &RedisError) -> bool {
    match error.kind() {
        ErrorKind::AuthenticationFailed
        | ErrorKind::InvalidClientConfig
        | ErrorKind::RESP3NotSupported
        | ErrorKind::Server(ServerErrorKind::NoPerm) => true,
        ErrorKind::Server(ServerErrorKind::ResponseError) => error.to_string().contains("switch database"),
        ErrorKind::Io => io_error(error).and_then(tls_error).is_some(),
        _ => matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "DENIED")),
    }
}

fn io_error(error: &RedisError) -> Option<&io::Error> {
    error.source().and_then(|source| source.downcast_ref())
}

/// The TLS error inside an I/O error; `None` if the network failed.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn explain_tls(error: &rustls::Error, host: &str, tls: &TlsConfig) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    match error {
        InvalidCertificate(error) => explain_certificate(error, host, tls),
        AlertReceived(alert) => explain_alert(*alert, host, tls),
        InvalidMessage(_) => LinkError::plaintext_server(host).to_string(),
        PeerIncompatible(_) => format!(
            "{host} and this client have no TLS version or cipher suite in common ({error}); TLS 1.2 and 1.3 are supported"
        ),
        other => format!("TLS with {host} failed: {other}"),
    }
}

fn explain_certificate(error: &CertificateError, host: &str, tls: &TlsConfig) -> String {
    let trust_source = tls.trust_source();
    match error {
        // A CA that was recreated under its old name has another key: its certificates have a bad signature.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {host} is not signed by a trusted CA ({trust_source}): set `ca_file` to the certificate \
             of its CA"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "the certificate of {host} has expired: renew it on the server, or correct the clock of this machine"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet: check the clock of this machine")
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate of {host} is for {}, not for {}: use a name of the certificate in the URL, or set it as \
             `server_name`",
            certificate_names(presented),
            expected.to_str()
        ),
        CertificateError::NotValidForName => format!(
            "the certificate of {host} is for another name: use its name in the URL, or set it as `server_name`"
        ),
        other => format!("the certificate of {host} is invalid: {other}"),
    }
}

/// Formats `DnsName("a.example")` as `a.example`.
fn certificate_names(presented: &[String]) -> String {
    let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    match presented {
        [] => "no name".to_owned(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn explain_alert(alert: AlertDescription, host: &str, tls: &TlsConfig) -> String {
    match alert {
        AlertDescription::ProtocolVersion => format!("{host} supports neither TLS 1.2 nor TLS 1.3"),
        AlertDescription::UnrecognisedName => format!(
            "{host} has no certificate for this name: use its own name in the URL, or set it as `server_name`"
        ),
        _ if tls.client_cert_files.is_none() => format!(
            "{host} rejects the TLS handshake ({alert:?}), most likely because it requires a client certificate: set \
             `cert_file` and `key_file`"
        ),
        _ => format!(
            "{host} rejects the TLS handshake ({alert:?}), most likely because it does not trust the CA of the client \
             certificate (`cert_file`), or the certificate has expired"
        ),
    }
}
