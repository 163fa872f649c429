//! HTTP requests to the gateway, and the connections of event streams.
//!
//! Owns the limits of each exchange. Must never repeat a request by itself, since it may have been processed.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, header};
use bytes::Bytes;
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::tasks::Tasks;

/// Time limit of a connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response body.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The gateway, as seen by clients.
#[derive(Clone, Debug)]
pub(super) struct Target {
    /// `host:port`.
    pub(super) authority: String,
    /// Key of its API, if it has one.
    pub(super) api_key: Option<String>,
    pub(super) tasks: Tasks,
}

impl Target {
    /// Opens a TCP connection.
    pub(super) async fn connect(&self) -> Result<TcpStream, String> {
        let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(&self.authority)).await;
        let stream = connected.map_err(|_| format!("no connection within {CONNECT_TIMEOUT:?}"))?;
        let stream = stream.map_err(|error| error.to_string())?;
        // Requests are small, so Nagle's algorithm only delays them.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Opens a connection for HTTP requests.
    pub(super) async fn open(&self) -> Result<SendRequest<Body>, String> {
        let stream = TokioIo::new(self.connect().await?);
        let (sender, connection) = http1::handshake(stream).await.map_err(|error| error.to_string())?;
        let tasks = self.tasks.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                _ = connection => {}
                () = tasks.stopped() => {}
            }
        });
        Ok(sender)
    }

    /// Builds a request.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Result<Request<Body>, String> {
        let mut request =
            Request::builder().method(method).uri(path).header(header::HOST, self.authority.as_str());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(body).map_err(|error| error.to_string())
    }
}

/// One connection for requests, which is reopened after it has ended.
#[derive(Debug)]
pub(super) struct Client {
    target: Target,
    limit: Duration,
    sender: Option<SendRequest<Body>>,
}

impl Client {
    /// `limit`: time limit of each exchange.
    pub(super) fn new(target: Target, limit: Duration) -> Self {
        Self { target, limit, sender: None }
    }

    /// GET: returns status and body.
    pub(super) async fn fetch(&mut self, path: &str) -> Result<(u16, Bytes), String> {
        let request = self.target.request(Method::GET, path, &[], Body::empty())?;
        self.exchange(request).await
    }

    /// Calls a method of the HTTP API: returns status and result.
    pub(super) async fn call(&mut self, method: &str, body: &Value) -> Result<(u16, Value), String> {
        let key = self.target.api_key.clone().unwrap_or_default();
        let mut headers = vec![("content-type", "application/json")];
        headers.extend((!key.is_empty()).then_some(("x-api-key", key.as_str())));
        let path = format!("/api/{method}");
        let request = self.target.request(Method::POST, &path, &headers, Body::from(body.to_string()))?;
        let (status, body) = self.exchange(request).await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn exchange(&mut self, request: Request<Body>) -> Result<(u16, Bytes), String> {
        let outcome = timeout(self.limit, Box::pin(self.send(request))).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no response within {:?}", self.limit)));
        if outcome.is_err() {
            self.sender = None;
        }
        outcome
    }

    async fn send(&mut self, request: Request<Body>) -> Result<(u16, Bytes), String> {
        let mut sender = match self.sender.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => self.target.open().await?,
        };
        sender.ready().await.map_err(|error| error.to_string())?;
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = whole(response).await?;
        self.sender = Some(sender);
        Ok((status, body))
    }
}

async fn whole(response: Response<Incoming>) -> Result<Bytes, String> {
    axum::body::to_bytes(Body::new(response.into_body()), BODY_LIMIT).await.map_err(|error| error.to_string())
}
