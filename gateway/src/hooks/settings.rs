//! The settings of hooks.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{ForwardedFields, MacKeys};
use crate::http_client::HttpUrl;

/// An event that a hook receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HookEvent {
    /// A client without another login connects.
    Connect,
    /// Clients request subscriptions.
    Subscribe,
    /// A client publishes.
    Publish,
    /// A client calls a method of the application.
    Rpc,
}

impl HookEvent {
    /// All events.
    pub const ALL: [Self; 4] = [Self::Connect, Self::Subscribe, Self::Publish, Self::Rpc];

    /// The key of its URL in the configuration, and its label in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Rpc => "rpc",
        }
    }

    /// Whether the question is idempotent, so a failed request can be repeated once.
    pub(super) const fn is_idempotent(self) -> bool {
        match self {
            Self::Connect | Self::Subscribe => true,
            Self::Publish | Self::Rpc => false,
        }
    }
}

/// The URL of the hook of each event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HookUrls([Option<HttpUrl>; HookEvent::ALL.len()]);

impl HookUrls {
    /// The URL for an event.
    pub fn of(&self, event: HookEvent) -> Option<&HttpUrl> {
        self.0[event as usize].as_ref()
    }

    /// Sets the URL for an event.
    pub fn set(&mut self, event: HookEvent, url: HttpUrl) {
        self.0[event as usize] = Some(url);
    }

    /// Whether no event has a hook.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }
}

/// The bounds of hooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookLimits {
    /// Maximum time for a response, and maximum time to wait for a free connection.
    pub timeout: Duration,
    /// How long a decision about a subscription is valid for equal questions; zero: it is not kept.
    pub cache: Duration,
    /// Maximum number of connections to backends: the requests in flight.
    pub connections: usize,
    /// Maximum size of a response.
    pub response_bytes: usize,
    /// Maximum number of `rpc` commands of one connection that wait for their response.
    pub rpc_inflight: usize,
    /// Number of consecutive failures after which a hook is not called.
    pub breaker_failures: usize,
    /// How long the hook is then not called.
    pub breaker_pause: Duration,
}

/// The newest secrets that sign requests.
#[derive(Clone)]
pub struct HookSigner(Arc<dyn Fn() -> Arc<MacKeys> + Send + Sync>);

impl HookSigner {
    /// Signs with the secrets that `keys` returns.
    pub fn new(keys: impl Fn() -> Arc<MacKeys> + Send + Sync + 'static) -> Self {
        Self(Arc::new(keys))
    }

    /// The code of a text.
    pub(super) fn sign(&self, text: &str) -> [u8; 32] {
        (self.0)().sign(text)
    }
}

impl fmt::Debug for HookSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookSigner")
    }
}

/// All settings.
#[derive(Clone, Debug)]
pub struct HookSettings {
    /// The URLs.
    pub urls: HookUrls,
    /// The bounds.
    pub limits: HookLimits,
    /// The parts of client requests that are forwarded to hooks.
    pub forwarded: ForwardedFields,
    /// Signs requests.
    pub signer: Option<HookSigner>,
}
