//! The requests of a shard, served by the node in their order.
//!
//! Owns the bound on requests in flight. Must never let a slow response delay the requests after it, nor change the order
//! in which the publications of one shard are published.

use std::sync::Arc;

use earshot_protocol::ErrorCode;
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::Node;
use super::messages::{NodeRequest, NodeResponse, PublishError};
use super::namespace::ResolvedChannel;
use super::shard_set::ShardId;
use crate::auth::Denial;
use crate::broker::log::AppendOptions;
use crate::broker::{Attributes, BrokerError};
use crate::drain::Drain;
use crate::hooks::{HookOutcome, HookReply};
use crate::login::LoginOutcome;

/// The end of the shard.
#[derive(Debug)]
pub struct NodeHandle {
    /// Sends requests; full when the node is too far behind.
    pub requests: mpsc::Sender<NodeRequest>,
    /// Receives the responses. Has room for the response to every request in flight.
    pub responses: mpsc::Receiver<NodeResponse>,
}

/// The end of the node.
#[derive(Debug)]
pub struct RequestServer {
    requests: mpsc::Receiver<NodeRequest>,
    responses: mpsc::Sender<NodeResponse>,
}

/// Creates the request queue of one shard for at most `inflight` requests (`limits.inflight_requests`).
pub fn request_queue(inflight: usize) -> (NodeHandle, RequestServer) {
    let (request_sender, requests) = mpsc::channel(inflight);
    let (responses, response_receiver) = mpsc::channel(inflight);
    let handle = NodeHandle { requests: request_sender, responses: response_receiver };
    (handle, RequestServer { requests, responses })
}

impl RequestServer {
    /// Serves the requests of one shard in a task, until the shard has ended and all its requests are done.
    pub fn serve(self, node: Arc<Node>, shard: ShardId, drain: &Drain) {
        drain.spawn_connection(async move { self.run(&node, shard).await });
    }

    pub(crate) async fn run(mut self, node: &Arc<Node>, shard: ShardId) {
        let inflight_max = self.requests.max_capacity();
        // Counted for each broker: one that does not reply must not delay requests to the others.
        // Logins and hooks are counted as well, in the last counters.
        let mut inflight_counts = vec![0; node.bindings.len() + 2];
        let mut inflight: FuturesUnordered<InFlightRequest<'_>> = FuturesUnordered::new();
        loop {
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(request) => {
                        inflight.extend(begin(node, shard, request, inflight_max, &mut inflight_counts));
                    }
                    None => break,
                },
                Some((broker, response)) = inflight.next() => {
                    inflight_counts[broker] -= 1;
                    self.respond(response).await;
                }
            }
        }
        while let Some((_, response)) = inflight.next().await {
            self.respond(response).await;
        }
    }

    async fn respond(&self, response: Option<NodeResponse>) {
        if let Some(response) = response {
            // Fails only if the shard has ended, and then the response is not needed.
            let _ = self.responses.send(response).await;
        }
    }
}

/// A request in flight; resolves to the index of its broker, and the response if the request has one.
type InFlightRequest<'a> = BoxFuture<'a, (usize, Option<NodeResponse>)>;

fn begin<'a>(
    node: &'a Arc<Node>,
    shard: ShardId,
    request: NodeRequest,
    inflight_max: usize,
    inflight_counts: &mut [usize],
) -> Option<InFlightRequest<'a>> {
    let without_broker = node.bindings.len() + usize::from(request.is_for_hook());
    let broker = request.channel().map_or(without_broker, ResolvedChannel::broker);
    if let NodeRequest::Detach { channel, shared } = &request {
        node.detach(shard, channel, *shared);
        return None;
    }
    let is_busy = inflight_counts[broker] >= inflight_max;
    inflight_counts[broker] += 1;
    let response = if is_busy { reject_busy(node, shard, request) } else { execute(node, shard, request) };
    Some(response.map(move |response| (broker, response)).boxed())
}

fn execute(node: &Arc<Node>, shard: ShardId, request: NodeRequest) -> BoxFuture<'_, Option<NodeResponse>> {
    match request {
        NodeRequest::Attach { channel, network } => {
            node.attach(shard, channel, network).map(|()| None).boxed()
        }
        NodeRequest::Detach { .. } => std::future::ready(None).boxed(),
        // Also before the hook is asked: publications that it denies cost the backend as much.
        NodeRequest::LogIn { ref credentials, request_id }
            if credentials.publishing_user().is_some_and(|user| {
                !node.authenticator().limits().permit_publish((shard, request_id.connection), user)
            }) =>
        {
            let reply = HookReply::Failed(ErrorCode::TooManyRequests.into());
            let outcome = Ok(LoginOutcome::Hook(HookOutcome::Publish(reply)));
            std::future::ready(Some(NodeResponse::LoggedIn(request_id, outcome))).boxed()
        }
        NodeRequest::LogIn { credentials, request_id } => {
            let result = node.rules.authenticator.check(credentials);
            result.map(move |result| Some(NodeResponse::LoggedIn(request_id, result))).boxed()
        }
        NodeRequest::Publish { ref info, request_id, asked_hook: false, .. }
            if !node.authenticator().limits().permit_publish((shard, request_id.connection), &info.user) =>
        {
            let rejected = Err(PublishError::TooMany);
            std::future::ready(Some(NodeResponse::Published(request_id, rejected))).boxed()
        }
        NodeRequest::Publish { channel, data, info, request_id, .. } => {
            let attributes = Attributes::new(Vec::new(), Some(info));
            let published = node.publish(&channel, data, AppendOptions { attributes, idempotency_key: None });
            published.map(move |result| Some(NodeResponse::Published(request_id, result))).boxed()
        }
        NodeRequest::Recover { channel, request, request_id } => {
            node.recover(shard, channel, request, request_id).map(|()| None).boxed()
        }
        NodeRequest::History { channel, query, request_id } => {
            async move { Some(NodeResponse::History(request_id, node.history(&channel, &query).await)) }
                .boxed()
        }
    }
}

/// Rejects a request because too many requests wait for the same broker. Requests that need no broker are executed.
fn reject_busy(
    node: &Arc<Node>,
    shard: ShardId,
    request: NodeRequest,
) -> BoxFuture<'_, Option<NodeResponse>> {
    match request {
        NodeRequest::Attach { channel, .. } => node.reject_attach(shard, channel.name).map(|()| None).boxed(),
        NodeRequest::LogIn { request_id, .. } => {
            let busy = Err(Denial::LoginUnavailable);
            std::future::ready(Some(NodeResponse::LoggedIn(request_id, busy))).boxed()
        }
        NodeRequest::Publish { request_id, .. } => {
            let busy = Err(PublishError::Broker(BrokerError::Busy));
            std::future::ready(Some(NodeResponse::Published(request_id, busy))).boxed()
        }
        NodeRequest::Detach { .. } | NodeRequest::Recover { .. } | NodeRequest::History { .. } => {
            execute(node, shard, request)
        }
    }
}
