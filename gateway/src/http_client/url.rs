//! The URL of a server. It comes from the configuration only, never from a client.

use std::fmt;
use std::net::IpAddr;

use hyper::Uri;

use super::error::HttpUrlError;

/// The checked URL of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpUrl {
    uri: Uri,
    host: String,
    port: u16,
    is_tls: bool,
}

impl HttpUrl {
    /// Parses a URL. `http` is allowed for loopback hosts, and for other hosts only with `allow_http`.
    ///
    /// # Errors
    /// See [`HttpUrlError`].
    pub fn parse(text: &str, allow_http: bool) -> Result<Self, HttpUrlError> {
        let invalid = || HttpUrlError::Invalid(text.to_owned());
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid()),
        };
        let authority = uri.authority().ok_or_else(invalid)?;
        // Credentials would be shown in logs, and are never sent.
        if authority.as_str().contains('@') || text.contains('#') {
            return Err(invalid());
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            Some(port) if port > 0 => port,
            None if !has_port => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
            _ => return Err(invalid()),
        };
        if host.is_empty() {
            return Err(invalid());
        }
        if !is_tls && !allow_http && !is_loopback(&host) {
            return Err(HttpUrlError::Insecure(text.to_owned()));
        }
        Ok(Self { uri, host, port, is_tls })
    }

    /// The host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether the server is reached over TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// The value of the `Host` header.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The target of the request.
    pub fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }
}

impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.uri.fmt(f)
    }
}

/// Whether a host is this machine, decided without a name lookup.
fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_urls() {
        for (text, host, port, path) in [
            ("https://id.example/jwks", "id.example", 443, "/jwks"),
            ("https://id.example:8443", "id.example", 8443, "/"),
            ("https://[2001:db8::1]/a?b=c", "2001:db8::1", 443, "/a?b=c"),
            ("http://localhost:8080/jwks", "localhost", 8080, "/jwks"),
            ("http://127.0.0.9/jwks", "127.0.0.9", 80, "/jwks"),
            ("http://[::1]:81/jwks", "::1", 81, "/jwks"),
        ] {
            let url = HttpUrl::parse(text, false).unwrap();
            assert_eq!((url.host(), url.port(), url.path_and_query()), (host, port, path), "{text}");
            assert_eq!(url.is_tls(), text.starts_with("https"));
        }
    }

    #[test]
    fn rejects_insecure_and_invalid_urls() {
        for text in [
            "http://id.example/jwks",
            "http://localhost.evil.example/",
            "http://127.0.0.1.evil.example",
            "http://10.0.0.1/",
        ] {
            assert_eq!(HttpUrl::parse(text, false), Err(HttpUrlError::Insecure(text.to_owned())));
            assert!(HttpUrl::parse(text, true).is_ok());
        }
        for text in [
            "",
            "jwks",
            "/jwks",
            "file:///etc/passwd",
            "ftp://id.example/",
            "https://",
            "https://user:pw@id.example/",
            "https://user@id.example:443/",
            "https://id.example/#a",
            "https://id.example:0/",
            "https://id.example:99999/",
            "https://a b/",
        ] {
            assert_eq!(HttpUrl::parse(text, true), Err(HttpUrlError::Invalid(text.to_owned())), "{text}");
        }
    }
}
