//! A client: what it does by itself, whichever wire it speaks.
//!
//! Must never know anything of the gateway but what it reads.

use fastrand::Rng;

use super::gateway::Gateway;
use super::line::Line;
use super::rules::Rules;
use super::sse_client::SseClient;
use super::truth::{Truth, Verdict};
use super::websocket_client::WebSocketClient;

/// What a client acts upon, and what it is judged by.
pub(super) struct Around<'a> {
    pub(super) gateway: &'a mut Gateway,
    pub(super) truth: &'a Truth,
    pub(super) rules: &'a Rules,
    pub(super) rng: &'a mut Rng,
    pub(super) story: &'a mut Story,
}

/// What happened, written down when a case is repeated.
#[derive(Debug, Default)]
pub(super) struct Story(pub(super) Option<Vec<String>>);

impl Story {
    pub(super) fn tell(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(line());
        }
    }
}

pub(super) enum Client {
    WebSocket(WebSocketClient),
    Sse(SseClient),
}

impl Client {
    pub(super) fn new(id: usize, rules: &Rules, rng: &mut Rng) -> Self {
        if rng.bool() {
            Self::WebSocket(WebSocketClient::new(id, rules, rng))
        } else {
            Self::Sse(SseClient::new(id, rules, rng))
        }
    }

    fn line(&mut self) -> &mut Option<Line> {
        match self {
            Self::WebSocket(client) => &mut client.line,
            Self::Sse(client) => &mut client.line,
        }
    }

    /// One thing that a client may do.
    pub(super) fn act(&mut self, around: &mut Around<'_>) -> Verdict {
        match self {
            Self::WebSocket(client) => client.act(around),
            Self::Sse(client) => client.act(around),
        }
    }

    /// The client reads everything and comes back where it was cut off; whether anything happened.
    pub(super) fn settle(&mut self, around: &mut Around<'_>) -> Verdict<bool> {
        match self {
            Self::WebSocket(client) => client.settle(around),
            Self::Sse(client) => client.settle(around),
        }
    }

    /// What it sent arrives.
    pub(super) fn arrive(&mut self, gateway: &mut Gateway) -> bool {
        self.line().as_mut().is_some_and(|line| line.arrive(gateway))
    }

    /// All is quiet: it must hear what it wants, and miss nothing that was not announced.
    pub(super) fn at_rest(&self, truth: &Truth, strictly: bool) -> Verdict {
        match self {
            Self::WebSocket(client) => client.at_rest(truth, strictly),
            Self::Sse(client) => client.at_rest(truth, strictly),
        }
    }
}
