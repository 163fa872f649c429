//! The part of a client's request that authentication needs.

use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, header};

use super::last_event_id::{LAST_EVENT_ID, last_event_id};
use super::{ClientNetwork, TrustedProxies, cookie};

/// The header fields that are kept.
const KEPT_HEADERS: [HeaderName; 6] = [
    header::HOST,
    header::ORIGIN,
    HeaderName::from_static("sec-fetch-site"),
    header::COOKIE,
    header::AUTHORIZATION,
    LAST_EVENT_ID,
];

/// The part of a client's request that is kept until its permissions are decided. Contains secrets:
/// cookies, tokens and the codes in event ids.
#[derive(Clone, PartialEq)]
pub struct ClientMeta {
    peer: SocketAddr,
    address: IpAddr,
    network: Option<ClientNetwork>,
    headers: HeaderMap,
    query: Option<Box<str>>,
    /// The part of the request that hooks receive.
    forwarded: HeaderMap,
}

/// The header fields and cookies that are forwarded to hooks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ForwardedFields {
    /// Names of header fields; not `Cookie`.
    pub headers: Vec<HeaderName>,
    /// Names of cookies.
    pub cookies: Vec<String>,
}

impl ForwardedFields {
    /// The fields of a request that are forwarded.
    fn select(&self, fields: &HeaderMap) -> HeaderMap {
        let mut selected = HeaderMap::new();
        for name in &self.headers {
            for value in fields.get_all(name) {
                selected.append(name, value.clone());
            }
        }
        let cookies = fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
        let cookies = cookie::values(cookies, &self.cookies);
        let pairs: Vec<Vec<u8>> =
            cookies.map(|(name, value)| [name.as_bytes(), b"=", value].concat()).collect();
        if let Ok(value) = HeaderValue::from_bytes(&pairs.join(&b"; "[..]))
            && !pairs.is_empty()
        {
            selected.insert(header::COOKIE, value);
        }
        selected
    }
}

impl ClientMeta {
    /// Keeps the parts of a request from this peer that authentication needs.
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
        Self {
            peer,
            address,
            network,
            headers,
            query: request.uri().query().map(Into::into),
            forwarded: HeaderMap::new(),
        }
    }

    /// Keeps these fields of the same request for hooks. Cookies are kept only with `trusts_cookies`.
    #[must_use]
    pub fn forwarding<B>(
        mut self,
        request: &Request<B>,
        fields: &ForwardedFields,
        trusts_cookies: bool,
    ) -> Self {
        self.forwarded = fields.select(request.headers());
        if !trusts_cookies {
            self.forwarded.remove(header::COOKIE);
        }
        self
    }

    /// The fields that hooks receive.
    pub fn forwarded(&self) -> &HeaderMap {
        &self.forwarded
    }

    /// Removes what only the connect command needs. Returns whether nothing remains.
    pub fn retain_forwarded(&mut self) -> bool {
        (self.headers, self.query) = Default::default();
        self.forwarded.is_empty()
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

    /// The id of the last event that the client has received.
    pub fn last_event_id(&self) -> Option<Cow<'_, str>> {
        last_event_id(&self.headers, self.query())
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
    fn forwards_listed_fields_only() {
        let request = Request::get("/ws")
            .header("x-request-id", "7")
            .header("x-other", "8")
            .header("cookie", "sid=1; other=2;sid2=3")
            .header("cookie", "lang = de; sid=4; sid");
        let request = request.body(()).unwrap();
        let forwarded = |headers: &[&'static str], cookies: &[&str], trusts_cookies| {
            let headers = headers.iter().map(|name| HeaderName::from_static(name)).collect();
            let cookies = cookies.iter().map(ToString::to_string).collect();
            let client = ClientMeta::new(&request, PEER, &TrustedProxies::default());
            let client = client.forwarding(&request, &ForwardedFields { headers, cookies }, trusts_cookies);
            let text = |name: &str| {
                let value = client.forwarded().get(name);
                value.map_or(String::new(), |value| value.to_str().unwrap().to_owned())
            };
            (text("x-request-id"), text("x-other"), text("cookie"))
        };
        let empty = String::new;
        assert_eq!(forwarded(&[], &[], true), (empty(), empty(), empty()));
        assert_eq!(forwarded(&["x-request-id"], &[], true), ("7".to_owned(), empty(), empty()));
        assert_eq!(forwarded(&[], &["sid"], true), (empty(), empty(), "sid=1; sid=4".to_owned()));
        assert_eq!(forwarded(&["x-request-id"], &["sid"], false), ("7".to_owned(), empty(), empty()));
    }

    #[test]
    fn debug_output_contains_no_secret() {
        let client = client("/ws?token=s3cret", &[("cookie", "s3cret"), ("authorization", "Bearer s3cret")]);
        assert!(!format!("{client:?}").contains("s3cret"), "{client:?}");
    }
}
