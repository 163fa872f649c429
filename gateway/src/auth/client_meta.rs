//! The part of a client's request that authentication needs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::{ClientNetwork, TrustedProxies};

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
    address: IpAddr,
    network: Option<ClientNetwork>,
    headers: HeaderMap,
    query: Option<Box<str>>,
}

impl ClientMeta {
    /// Keeps what authentication needs of a request from this peer.
    pub fn new<B>(request: &Request<B>, peer: SocketAddr, proxies: &TrustedProxies) -> Self {
        let mut headers = HeaderMap::new();
        for name in KEPT_HEADERS {
            for value in request.headers().get_all(&name) {
                headers.append(&name, value.clone());
            }
        }
        // HTTP/2 sends the host as `:authority`.
        if let Some(authority) = request.uri().authority().filter(|_| !headers.contains_key(header::HOST))
            && let Ok(host) = HeaderValue::from_str(authority.as_str())
        {
            headers.insert(header::HOST, host);
        }
        let address = proxies.client_address(peer.ip(), request.headers());
        let network = proxies.counted_network(address);
        Self { peer, address, network, headers, query: request.uri().query().map(Into::into) }
    }

    /// The address of the peer: the client or a proxy.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The address of the client: of the peer, or as reported by trusted proxies.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The network to which limits per address apply; `None` if many clients may share the address.
    pub fn network(&self) -> Option<ClientNetwork> {
        self.network
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
            .field("address", &self.address)
            .field("origin", &self.origin())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

    fn client(uri: &str, headers: &[(&str, &str)]) -> ClientMeta {
        let add =
            |request: axum::http::request::Builder, header: &(&str, &str)| request.header(header.0, header.1);
        let request = headers.iter().fold(Request::get(uri), add).body(()).unwrap();
        ClientMeta::new(&request, PEER, &TrustedProxies::new(vec![PEER.ip().into()]))
    }

    #[test]
    fn keeps_what_authentication_needs() {
        let fields = [
            ("origin", "https://a.example"),
            ("cookie", "a=1"),
            ("cookie", "b=2"),
            ("authorization", "Basic dTpw"),
            ("user-agent", "x"),
            ("x-forwarded-for", "203.0.113.7"),
        ];
        let client = client("/ws?a=b", &fields);
        assert_eq!((client.peer(), client.query()), (PEER, Some("a=b")));
        assert_eq!(client.origin().unwrap(), "https://a.example");
        let address = IpAddr::from([203, 0, 113, 7]);
        assert_eq!((client.address(), client.network()), (address, Some(ClientNetwork::of(address))));
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
