//! The server under test: what it is, where it is, and which of its paths do what. Never opens a connection.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use clap::ValueEnum;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// What a path may hold as it is is left as it is.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What kind of server is under test.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// This gateway
    Earshot,
    /// Centrifugo: WebSockets of the same protocol, the same publish API
    Centrifugo,
    /// nginx with nchan: WebSocket and SSE at /sub/{channel}, POST /pub/{channel}
    Nchan,
    /// Any server of event streams
    RawSse,
    /// Any server of WebSockets
    RawWs,
    /// The bare loop of `limit`.
    #[value(skip)]
    KernelBaseline,
}

impl TargetKind {
    /// Whether its WebSockets speak the Centrifuge client protocol.
    pub(crate) fn speaks_centrifuge(self) -> bool {
        matches!(self, Self::Earshot | Self::Centrifugo)
    }

    /// Whether its event streams say when they are subscribed, and name what is no message.
    pub(crate) fn announces_streams(self) -> bool {
        self == Self::Earshot
    }

    /// Whether its HTTP API takes a JSON object with channel and data.
    pub(crate) fn wraps_publications(self) -> bool {
        self.speaks_centrifuge()
    }

    /// Whether a subscriber can come back to where it stood: over SSE, over WebSocket.
    pub(crate) fn resumes(self) -> (bool, bool) {
        match self {
            Self::Earshot => (true, true),
            Self::Centrifugo => (false, true),
            Self::Nchan | Self::RawSse => (true, false),
            Self::RawWs | Self::KernelBaseline => (false, false),
        }
    }

    /// Whether it serves event streams, and whether it serves WebSockets.
    pub(crate) fn serves(self) -> (bool, bool) {
        match self {
            Self::Earshot | Self::Nchan | Self::KernelBaseline => (true, true),
            Self::Centrifugo | Self::RawWs => (false, true),
            Self::RawSse => (true, false),
        }
    }

    /// As the command line has it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Earshot => "earshot",
            Self::Centrifugo => "centrifugo",
            Self::Nchan => "nchan",
            Self::RawSse => "raw-sse",
            Self::RawWs => "raw-ws",
            Self::KernelBaseline => "kernel-baseline",
        }
    }
}

/// Paths that are not those of the kind; `{channel}` stands for the channel's name, percent-encoded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    /// Where to subscribe, over either transport.
    pub(crate) subscribe: Option<String>,
    /// Where to publish.
    pub(crate) publish: Option<String>,
    /// Text frames that a WebSocket says first; `{channel}` is the plain name.
    pub(crate) hello: Vec<String>,
}

/// The server under test.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    kind: TargetKind,
    url: Url,
    paths: Paths,
}

impl Target {
    /// A server of this kind at this address.
    pub(crate) fn new(kind: TargetKind, url: Url, paths: Paths) -> Self {
        Self { kind, url, paths }
    }

    /// What it is.
    pub(crate) fn kind(&self) -> TargetKind {
        self.kind
    }

    /// `host:port` as it was given, for the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        &self.url.authority
    }

    /// The first address that the name resolves to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.url.address
    }

    /// Where a WebSocket to a channel is asked for.
    pub(crate) fn websocket_path(&self, channel: &str) -> String {
        let own = match self.kind {
            TargetKind::Earshot | TargetKind::Centrifugo => "/connection/websocket",
            TargetKind::Nchan => "/sub/{channel}",
            TargetKind::RawSse | TargetKind::RawWs | TargetKind::KernelBaseline => "/ws/{channel}",
        };
        fill(self.paths.subscribe.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// Where an event stream of a channel is asked for.
    pub(crate) fn sse_path(&self, channel: &str) -> String {
        let own = if self.kind == TargetKind::Nchan { "/sub/{channel}" } else { "/sse/{channel}" };
        fill(self.paths.subscribe.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// Where to POST a message for a channel.
    pub(crate) fn publish_path(&self, channel: &str) -> String {
        let own = match self.kind {
            TargetKind::Earshot | TargetKind::Centrifugo => "/api/publish",
            TargetKind::Nchan => "/pub/{channel}",
            TargetKind::RawSse | TargetKind::RawWs | TargetKind::KernelBaseline => "/publish/{channel}",
        };
        fill(self.paths.publish.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// What a WebSocket says first, beside its protocol.
    pub(crate) fn hello(&self, channel: &str) -> Vec<String> {
        self.paths.hello.iter().map(|text| fill(text, channel)).collect()
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.kind.name(), self.url)
    }
}

fn encoded(channel: &str) -> String {
    utf8_percent_encode(channel, ENCODED).to_string()
}

fn fill(template: &str, channel: &str) -> String {
    template.replace("{channel}", channel)
}

/// Why a `--url` is not one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    /// Another scheme, or none.
    #[error("the address of a target begins with http:// (TLS is not measured here)")]
    Scheme,
    /// Something after the port.
    #[error("the address of a target is http://host:port, without a path")]
    Path,
    /// The name does not resolve, or the port is no port.
    #[error("cannot resolve {authority:?}: {source}")]
    Resolve {
        /// What was asked for.
        authority: String,
        /// What the resolver said.
        source: std::io::Error,
    },
    /// The name resolves to nothing.
    #[error("{0:?} has no address")]
    NoAddress(String),
}

/// Where a server is, resolved once.
#[derive(Clone, Debug)]
pub(crate) struct Url {
    authority: String,
    address: SocketAddr,
}

impl From<SocketAddr> for Url {
    fn from(address: SocketAddr) -> Self {
        Self { authority: address.to_string(), address }
    }
}

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let rest = text.strip_prefix("http://").ok_or(UrlError::Scheme)?;
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('/') {
            return Err(UrlError::Path);
        }
        let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let authority = if has_port { authority.to_owned() } else { format!("{authority}:80") };
        let mut addresses = authority
            .to_socket_addrs()
            .map_err(|source| UrlError::Resolve { authority: authority.clone(), source })?;
        let address = addresses.next().ok_or_else(|| UrlError::NoAddress(authority.clone()))?;
        Ok(Self { authority, address })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> String {
        text.parse::<Url>().map_or_else(|error| error.to_string(), |url| url.address.to_string())
    }

    #[test]
    fn addresses_are_read() {
        assert_eq!(address("http://127.0.0.1:8000"), "127.0.0.1:8000");
        assert_eq!(address("http://127.0.0.1:8000/"), "127.0.0.1:8000");
        assert_eq!(address("http://127.0.0.1"), "127.0.0.1:80");
        assert_eq!(address("http://[::1]:9"), "[::1]:9");
        assert_eq!(address("http://[::1]"), "[::1]:80");
    }

    #[test]
    fn mistakes_are_named() {
        let scheme = "the address of a target begins with http:// (TLS is not measured here)";
        assert_eq!(address("127.0.0.1:8000"), scheme);
        assert_eq!(address("https://x"), scheme);
        assert_eq!(
            address("http://127.0.0.1:8000/ws"),
            "the address of a target is http://host:port, without a path"
        );
        assert!(address("http://127.0.0.1:99999").starts_with("cannot resolve"));
    }

    #[test]
    fn each_kind_has_its_paths_unless_others_are_given() {
        let target = |kind, paths| Target::new(kind, "http://127.0.0.1:1".parse().unwrap(), paths);
        let nchan = target(TargetKind::Nchan, Paths::default());
        assert_eq!(
            (nchan.sse_path("a b"), nchan.publish_path("a b")),
            ("/sub/a%20b".to_owned(), "/pub/a%20b".to_owned())
        );
        let paths = Paths {
            subscribe: Some("/x?id={channel}".to_owned()),
            publish: None,
            hello: vec!["join {channel}".to_owned()],
        };
        let raw = target(TargetKind::RawWs, paths);
        assert_eq!(raw.websocket_path("c"), "/x?id=c");
        assert_eq!(raw.publish_path("c"), "/publish/c");
        assert_eq!(raw.hello("c d"), ["join c d"]);
        assert_eq!(
            target(TargetKind::Earshot, Paths::default()).websocket_path("c"),
            "/connection/websocket"
        );
    }
}
