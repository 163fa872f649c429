//! Determines the identity of the client that requests a stream.

use std::sync::Arc;

use axum::http::{Request, Version, header};

use super::head::RequestHead;
use super::http_server::Peer;
use super::routes::{self, Endpoint};
use super::sse_request::{self, SseRequest};
use super::{StreamContext, StreamLogin};
use crate::auth::{ClientMeta, Denial, Identity};
use crate::hooks::{ChannelAnswers, ChannelQuestion, HookOutcome, HookQuestion, HookRequest, HookedClient};

/// The identity of the client, or why it is rejected.
pub(super) type Login = Result<Arc<Identity>, Denial>;

impl StreamContext {
    /// Keeps the parts of a request from this peer that authentication and hooks need.
    pub fn client_meta<B>(&self, request: &Request<B>, peer: Peer) -> ClientMeta {
        let client = ClientMeta::new(request, peer.address, &self.trusted_proxies);
        self.authenticator.forward(client, request)
    }

    /// Determines the identity for an event stream, and calls the hook for its channels, if either requires I/O. `None`
    /// for other requests.
    pub(super) async fn log_in_by_store(&self, head: &RequestHead, peer: Peer) -> Option<StreamLogin> {
        let request = head.request();
        if !self.hosts.is_allowed(request.headers().get(header::HOST), peer.via_loopback) {
            return None;
        }
        let route = routes::find(request.uri().path()).filter(|route| route.method == request.method())?;
        if route.endpoint != Endpoint::EventStream || request.version() != Version::HTTP_11 {
            return None;
        }
        let client = self.client_meta(request, peer);
        let login = match self.log_in(&client) {
            Some(login) => login,
            None => self.authenticator.authenticate(Some(&client), "").await,
        };
        let sse = sse_request::parse(request)?;
        Some(self.ask_hook(&sse, login, &client).await)
    }

    /// Asks the hook for the channels of an event stream for which it decides, in one request.
    pub async fn ask_hook(&self, sse: &SseRequest, login: Login, client: &ClientMeta) -> StreamLogin {
        let mut answers = ChannelAnswers::default();
        if let (Ok(identity), Some(hooks)) = (&login, self.authenticator.hooks()) {
            let channels = sse.hooked_channels(self, identity);
            if !channels.is_empty() {
                let question = |channel| ChannelQuestion { channel, token: String::new(), data: None };
                let client = HookedClient {
                    id: String::new(),
                    transport: "sse",
                    is_binary: false,
                    identity: Arc::clone(identity),
                    forwarded: client.forwarded().clone(),
                };
                let question = HookQuestion::Subscribe(channels.into_iter().map(question).collect());
                if let HookOutcome::Channels(replies) = hooks.ask(HookRequest { client, question }).await {
                    answers = replies;
                }
            }
        }
        StreamLogin { login, answers }
    }

    /// Determines the identity of the client. `None` if that requires I/O.
    pub(super) fn log_in(&self, client: &ClientMeta) -> Option<Login> {
        if let Err(denial) = self.authorizer.connect(client) {
            return Some(Err(denial));
        }
        self.authenticator.authenticate_now(Some(client), "")
    }
}
