//! A simulated client of either protocol.
//!
//! Knows of the gateway only what it reads.

use fastrand::Rng;

use super::gateway::Gateway;
use super::parameters::Parameters;
use super::sse_client::SseClient;
use super::transport::Transport;
use super::truth::{CheckResult, Truth};
use super::websocket_client::WebSocketClient;

/// The gateway that a client uses, and the record that it is verified against.
pub(super) struct Context<'a> {
    pub(super) gateway: &'a mut Gateway,
    pub(super) truth: &'a Truth,
    pub(super) parameters: &'a Parameters,
    pub(super) rng: &'a mut Rng,
    pub(super) trace: &'a mut Trace,
}

/// The steps of a case, recorded when it is repeated.
#[derive(Debug, Default)]
pub(super) struct Trace(pub(super) Option<Vec<String>>);

impl Trace {
    pub(super) fn record(&mut self, entry: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(entry());
        }
    }
}

pub(super) enum Client {
    WebSocket(WebSocketClient),
    Sse(SseClient),
}

impl Client {
    pub(super) fn new(id: usize, parameters: &Parameters, rng: &mut Rng) -> Self {
        if rng.bool() {
            Self::WebSocket(WebSocketClient::new(id, parameters, rng))
        } else {
            Self::Sse(SseClient::new(id, parameters, rng))
        }
    }

    fn transport(&mut self) -> &mut Option<Transport> {
        match self {
            Self::WebSocket(client) => &mut client.transport,
            Self::Sse(client) => &mut client.transport,
        }
    }

    /// One step of the client.
    pub(super) fn act(&mut self, context: &mut Context<'_>) -> CheckResult {
        match self {
            Self::WebSocket(client) => client.act(context),
            Self::Sse(client) => client.act(context),
        }
    }

    /// Reads everything and reconnects if disconnected. Returns whether anything happened.
    pub(super) fn settle(&mut self, context: &mut Context<'_>) -> CheckResult<bool> {
        match self {
            Self::WebSocket(client) => client.settle(context),
            Self::Sse(client) => client.settle(context),
        }
    }

    /// Delivers to the shard what the client has sent. Returns whether there was anything.
    pub(super) fn deliver_sent(&mut self, gateway: &mut Gateway) -> bool {
        self.transport().as_mut().is_some_and(|transport| transport.deliver_sent(gateway))
    }

    /// When nothing is in flight: it must be subscribed to its channels and have received or been shown about every
    /// publication.
    pub(super) fn check_quiescent(&self, truth: &Truth, strictly: bool) -> CheckResult {
        match self {
            Self::WebSocket(client) => client.check_quiescent(truth, strictly),
            Self::Sse(client) => client.check_quiescent(truth, strictly),
        }
    }
}
