//! Determines who sends a request for a stream.

use std::sync::Arc;

use axum::http::{Version, header};

use super::StreamContext;
use super::head::RequestHead;
use super::http_server::Peer;
use super::routes::{self, Endpoint};
use crate::auth::{ClientMeta, Denial, Identity};

/// Who sent a request, or why that client is rejected.
pub(super) type Login = Result<Arc<Identity>, Denial>;

impl StreamContext {
    /// Determines who sent a request for an event stream, if that requires I/O. `None` for other requests.
    pub(super) async fn log_in_by_store(&self, head: &RequestHead, peer: Peer) -> Option<Login> {
        let request = head.request();
        if !self.hosts.is_allowed(request.headers().get(header::HOST), peer.via_loopback) {
            return None;
        }
        let route = routes::find(request.uri().path()).filter(|route| route.method == request.method())?;
        if route.endpoint != Endpoint::EventStream || request.version() != Version::HTTP_11 {
            return None;
        }
        let client = self.client_meta(request, peer);
        match self.log_in(&client) {
            Some(_) => None,
            None => Some(self.authenticator.authenticate(Some(&client), "").await),
        }
    }

    /// Determines who sent a request. `None` if that requires I/O.
    pub(super) fn log_in(&self, client: &ClientMeta) -> Option<Login> {
        if let Err(denial) = self.authorizer.connect(client) {
            return Some(Err(denial));
        }
        self.authenticator.authenticate_now(Some(client), "")
    }
}
