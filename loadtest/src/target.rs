//! The server under test: its kind, address and paths. Opens no connection.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use clap::ValueEnum;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// Characters that a path segment may contain unencoded are not encoded.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Kind of server under test.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetKind {
    /// Earshot
    Earshot,
    /// Centrifugo: same WebSocket protocol and publish API as Earshot
    Centrifugo,
    /// nginx with nchan: WebSocket and SSE at /sub/{channel}, POST /pub/{channel}
    Nchan,
    /// Any server of event streams
    RawSse,
    /// Any WebSocket server
    RawWs,
    /// Server of the `kernel-baseline` scenario.
    #[value(skip)]
    KernelBaseline,
}

impl TargetKind {
    /// Whether its WebSockets speak the Centrifuge client protocol.
    pub(crate) fn speaks_centrifuge(self) -> bool {
        matches!(self, Self::Earshot | Self::Centrifugo)
    }

    /// Whether its event streams confirm subscriptions and name events that are not messages.
    pub(crate) fn announces_streams(self) -> bool {
        self == Self::Earshot
    }

    /// Whether its HTTP API expects a JSON object with channel and data.
    pub(crate) fn wraps_publications(self) -> bool {
        self.speaks_centrifuge()
    }

    /// Whether subscribers can resume from a position: over SSE, over WebSocket.
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

    /// Name on the command line.
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

/// Paths that override the defaults of the kind; `{channel}` is replaced by the percent-encoded channel name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Paths {
    /// Path to subscribe at, over both transports.
    pub(crate) subscribe: Option<String>,
    /// Path to publish at.
    pub(crate) publish: Option<String>,
    /// Text frames that a WebSocket sends first; `{channel}` is replaced by the plain name.
    pub(crate) hello: Vec<String>,
}

/// The server under test.
#[derive(Clone, Debug)]
pub(crate) struct BenchTarget {
    kind: TargetKind,
    url: Url,
    paths: Paths,
}

impl BenchTarget {
    /// Creates a target.
    pub(crate) fn new(kind: TargetKind, url: Url, paths: Paths) -> Self {
        Self { kind, url, paths }
    }

    /// Kind of server.
    pub(crate) fn kind(&self) -> TargetKind {
        self.kind
    }

    /// `host:port` as given, for the `Host` header.
    pub(crate) fn authority(&self) -> &str {
        &self.url.authority
    }

    /// First address that the name resolves to.
    pub(crate) fn address(&self) -> SocketAddr {
        self.url.address
    }

    /// Path of the WebSocket for a channel.
    pub(crate) fn websocket_path(&self, channel: &str) -> String {
        let own = match self.kind {
            TargetKind::Earshot | TargetKind::Centrifugo => "/connection/websocket",
            TargetKind::Nchan => "/sub/{channel}",
            TargetKind::RawSse | TargetKind::RawWs | TargetKind::KernelBaseline => "/ws/{channel}",
        };
        fill(self.paths.subscribe.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// Path of the event stream for a channel.
    pub(crate) fn sse_path(&self, channel: &str) -> String {
        let own = if self.kind == TargetKind::Nchan { "/sub/{channel}" } else { "/sse/{channel}" };
        fill(self.paths.subscribe.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// Path to POST a message for a channel.
    pub(crate) fn publish_path(&self, channel: &str) -> String {
        let own = match self.kind {
            TargetKind::Earshot | TargetKind::Centrifugo => "/api/publish",
            TargetKind::Nchan => "/pub/{channel}",
            TargetKind::RawSse | TargetKind::RawWs | TargetKind::KernelBaseline => "/publish/{channel}",
        };
        fill(self.paths.publish.as_deref().unwrap_or(own), &encoded(channel))
    }

    /// Text frames to send first, before the protocol.
    pub(crate) fn hello(&self, channel: &str) -> Vec<String> {
        self.paths.hello.iter().map(|text| fill(text, channel)).collect()
    }
}

impl fmt::Display for BenchTarget {
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

/// Why a `--url` is invalid.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UrlError {
    /// Missing or unsupported scheme.
    #[error("a target URL must begin with http:// (TLS is not supported)")]
    Scheme,
    /// Path after the port.
    #[error("a target URL must be http://host:port, without a path")]
    Path,
    /// The name does not resolve, or the port is invalid.
    #[error("cannot resolve {authority:?}: {source}")]
    Resolve {
        /// Authority of the URL.
        authority: String,
        /// Error of the resolver.
        source: std::io::Error,
    },
    /// The name resolves to no address.
    #[error("{0:?} resolves to no address")]
    NoAddress(String),
}

/// Address of a server, resolved once.
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
    fn invalid_urls_are_rejected() {
        let scheme = "a target URL must begin with http:// (TLS is not supported)";
        assert_eq!(address("127.0.0.1:8000"), scheme);
        assert_eq!(address("https://x"), scheme);
        assert_eq!(
            address("http://127.0.0.1:8000/ws"),
            "a target URL must be http://host:port, without a path"
        );
        assert!(address("http://127.0.0.1:99999").starts_with("cannot resolve"));
    }

    #[test]
    fn paths_default_to_the_kind() {
        let target = |kind, paths| BenchTarget::new(kind, "http://127.0.0.1:1".parse().unwrap(), paths);
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
