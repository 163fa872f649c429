//! Why there is no connection, in words for an operator: what failed, the likely cause, what to do.
//!
//! Owns which failures pass by themselves and which need somebody. The words never vary between two attempts that fail
//! alike, since only a change is logged. Must never hold a secret.

use std::error::Error;
use std::fmt;
use std::io;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use rustls::{AlertDescription, CertificateError};

use super::tls::TlsSettings;

/// Why a link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be reached, or no longer answers. Retried soon.
    Unreachable(String),
    /// It answers, and what is published is not heard. Retried soon.
    Deaf(String),
    /// It answered and will not have us: password, ACL, TLS, protocol. Somebody has to change something.
    Refused(String),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(cause) | Self::Deaf(cause) | Self::Refused(cause) => f.write_str(cause),
        }
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        if is_refusal(&error) { Self::Refused(said(&error)) } else { Self::Unreachable(said(&error)) }
    }
}

/// What the server said, in its own words, or else what the client says. A server that does not know a command repeats
/// its arguments, and those of HELLO are user and password: they are left out.
pub fn said(error: &RedisError) -> String {
    cut(match (error.code(), error.detail()) {
        (Some(code), Some(detail)) => format!("{code} {detail}"),
        _ => error.to_string(),
    })
}

fn cut(mut said: String) -> String {
    if let Some(arguments) = said.find(", with args beginning with") {
        said.truncate(arguments);
    }
    said
}

/// How one signs in, as far as it explains a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignIn<'a> {
    /// Where the password comes from, in words; `None`: there is none.
    pub(super) password: Option<&'a str>,
    /// What would give it one, in words.
    pub(super) keys: &'static str,
    /// The TLS that is spoken, if any.
    pub(super) tls: Option<&'a TlsSettings>,
}

impl Failure {
    /// TLS itself failed.
    pub(super) fn of_handshake(error: &io::Error, host: &str, tls: &TlsSettings) -> Self {
        match tls_error(error) {
            Some(error) => Self::Refused(tls_refusal(error, host, tls)),
            None => Self::Unreachable(format!(
                "{host} ended the connection during the TLS handshake ({error}): it went away, or a proxy has no server \
                 behind it"
            )),
        }
    }

    /// TLS was tried, and it speaks none.
    pub(super) fn of_plain(host: &str) -> Self {
        Self::Refused(format!(
            "{host} does not speak TLS: the URL begins with redis:// and `tls` is not set; or the port for TLS is another"
        ))
    }

    /// TLS was not tried, and it speaks nothing else.
    pub(super) fn of_tls(host: &str) -> Self {
        Self::Refused(format!(
            "{host} speaks TLS: the URL begins with rediss://, or `tls = true` (REDIS_TLS=true)"
        ))
    }

    /// The connection was there, and signing in failed.
    pub(super) fn of_sign_in(error: &RedisError, host: &str, sign_in: SignIn<'_>) -> Self {
        if let (Some(error), Some(tls)) = (io_error(error).and_then(tls_error), sign_in.tls) {
            return Self::Refused(tls_refusal(error, host, tls));
        }
        let said = said(error);
        match error.kind() {
            ErrorKind::Parse => {
                Self::Refused(format!("{host} answers in something else than Redis' protocol"))
            }
            ErrorKind::Io => Self::Unreachable(ended(&said, host, sign_in)),
            kind if kind == ErrorKind::RESP3NotSupported || said.contains("unknown command") => {
                Self::Refused(format!(
                    "{host} does not know HELLO 3: RESP3 needs Redis 6 or later, or Valkey"
                ))
            }
            _ if is_refusal(error) => Self::Refused(match remedy(error, sign_in) {
                Some(remedy) => format!("{said} ({remedy})"),
                None => said,
            }),
            _ => Self::Unreachable(said),
        }
    }

    /// The server said why, and ended the connection.
    pub(super) fn of_last_words(words: String) -> Self {
        if words.starts_with("DENIED") {
            let remedy = "give the server a password, or bind it to this network";
            return Self::Refused(format!("{} ({remedy})", cut(words)));
        }
        if words.contains("max number of clients") {
            let remedy = "`maxclients` of the server is used up: raise it, or look who holds its connections";
            return Self::Unreachable(format!("{} ({remedy})", cut(words)));
        }
        Self::Unreachable(cut(words))
    }
}

fn ended(said: &str, host: &str, sign_in: SignIn<'_>) -> String {
    let cause = match sign_in.tls {
        None => "it went away, or a proxy has no server behind it",
        Some(tls) if tls.client.is_none() => {
            "it went away; or it wants a client certificate: `cert_file` and `key_file`"
        }
        Some(_) => "it went away; or it does not take our client certificate",
    };
    format!("{host} ended the connection before it answered ({said}): {cause}")
}

fn remedy(error: &RedisError, sign_in: SignIn<'_>) -> Option<String> {
    match (error.code(), sign_in.password) {
        (Some("WRONGPASS"), Some(place)) => Some(format!(
            "user or password is wrong, or the user is switched off; the password is from {place}"
        )),
        (Some("NOAUTH" | "WRONGPASS"), None) => {
            Some(format!("the server wants a password, and none is configured: {}", sign_in.keys))
        }
        (Some("NOPERM"), _) => Some("the ACL of the user lacks a right: see ACL SETUSER".to_owned()),
        _ => None,
    }
}

fn is_refusal(error: &RedisError) -> bool {
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

/// What TLS said, when it was TLS that said no (an unknown issuer, a wrong name) rather than the network.
pub(super) fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

fn tls_refusal(error: &rustls::Error, host: &str, tls: &TlsSettings) -> String {
    use rustls::Error::{AlertReceived, InvalidCertificate, InvalidMessage, PeerIncompatible};
    match error {
        InvalidCertificate(error) => untrusted(error, host, tls),
        AlertReceived(alert) => alerted(*alert, host, tls),
        InvalidMessage(_) => Failure::of_plain(host).to_string(),
        PeerIncompatible(_) => {
            format!(
                "{host} and the gateway have no version of TLS in common ({error}): TLS 1.2 and 1.3 are spoken"
            )
        }
        other => format!("TLS with {host} failed: {other}"),
    }
}

fn untrusted(error: &CertificateError, host: &str, tls: &TlsSettings) -> String {
    let trusted = tls.trusted();
    match error {
        // An authority that was made anew under its old name has another key.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
            "the certificate of {host} is signed by none of the authorities that are trusted ({trusted}): name a file \
             with the certificate of its authority in `ca_file`"
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => format!(
            "the certificate of {host} has expired: renew it at the server, or set this machine's clock right"
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the certificate of {host} is not valid yet: look at this machine's clock")
        }
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate of {host} is for {}, not for {}: dial it by a name that it is for, or say that name in \
             `server_name`",
            names(presented),
            expected.to_str()
        ),
        CertificateError::NotValidForName => format!(
            "the certificate of {host} is for another name: dial it by that name, or say it in `server_name`"
        ),
        other => format!("the certificate of {host} is not good: {other}"),
    }
}

/// `DnsName("a.example")` as it is written in a certificate.
fn names(presented: &[String]) -> String {
    let bare = |name: &String| name.split('"').nth(1).unwrap_or(name).to_owned();
    match presented {
        [] => "no name at all".to_owned(),
        names => names.iter().map(bare).collect::<Vec<_>>().join(", "),
    }
}

fn alerted(alert: AlertDescription, host: &str, tls: &TlsSettings) -> String {
    match alert {
        AlertDescription::ProtocolVersion => {
            format!("{host} speaks neither TLS 1.2 nor 1.3")
        }
        AlertDescription::UnrecognisedName => {
            format!(
                "{host} knows no certificate for that name: dial it by its own, or say it in `server_name`"
            )
        }
        _ if tls.client.is_none() => format!(
            "{host} refuses the TLS handshake ({alert:?}), most likely because it wants a client certificate: \
             `cert_file` and `key_file`"
        ),
        _ => format!(
            "{host} refuses the TLS handshake ({alert:?}), most likely because it does not trust the authority of our \
             client certificate (`cert_file`), or that has expired"
        ),
    }
}
