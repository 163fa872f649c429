//! The part of a client's request that authentication needs.

use std::fmt;
use std::net::SocketAddr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};

/// The header fields that are kept.
const KEPT_HEADERS: [HeaderName; 5] = [
    header::HOST,
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-site"),
    header::COOKIE,
    header::AUTHORIZATION,
];

/// What is kept of a client's request until its permissions are decided. It contains secrets: cookies and tokens.
#[derive(Clone, PartialEq)]
pub struct ClientMeta {
    peer: SocketAddr,
    headers: HeaderMap,
    query: Option<Box<str>>,
}

impl ClientMeta {
    /// Keeps what authentication needs of a request from this peer.
    pub fn new<B>(request: &Request<B>, peer: SocketAddr) -> Self {
        let mut headers = HeaderMap::new();
        for name in KEPT_HEADERS {
            for value in request.headers().get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        Self { peer, headers, query: request.uri().query().map(Into::into) }
    }

    /// The address of the peer.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The kept header fields.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The value of `Origin`.
    pub fn origin(&self) -> Option<&HeaderValue> {
        self.headers.get(header::ORIGIN)
    }

    /// The values of `Cookie`.
    pub fn cookies(&self) -> impl Iterator<Item = &HeaderValue> {
        self.headers.get_all(header::COOKIE).iter()
    }

    /// The values of `Authorization`.
    pub fn authorization(&self) -> impl Iterator<Item = &HeaderValue> {
        self.headers.get_all(header::AUTHORIZATION).iter()
    }

    /// The query of the request target.
    pub fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }
}

impl fmt::Debug for ClientMeta {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMeta")
            .field("peer", &self.peer)
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn client(uri: &str, headers: &[(&str, &str)]) -> ClientMeta {
        let add =
            |request: axum::http::request::Builder, header: &(&str, &str)| request.header(header.0, header.1);
        ClientMeta::new(&headers.iter().fold(Request::get(uri), add).body(()).unwrap(), PEER)
    }

    #[test]
    fn keeps_what_authentication_needs() {
        let fields = [
            ("origin", "https://a.example"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Basic dTpw"),
            ("user-agent", "x"),
        ];
        let client = client("/ws?a=b", &fields);
        assert_eq!((client.peer(), client.query()), (PEER, Some("a=b")));
        assert_eq!(client.origin().unwrap(), "https://a.example");
        assert!(client.cookies().eq(["a=1", "b=2"]));
        assert!(client.authorization().eq(["Basic dTpw"]));
        assert_eq!(client.headers().len(), 4);
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let client = client("/ws?token=s3cret", &[("cookie", "s3cret"), ("authorization", "Bearer s3cret")]);
        assert!(!format!("{client:?}").contains("s3cret"), "{client:?}");
    }
}
