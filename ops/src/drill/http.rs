//! HTTP requests to the gateway, and the connections of event streams.
//!
//! Owns the limits of each exchange. Must never repeat a request by itself, since it may have been processed.

use std::time::Duration;

use bytes::Bytes;
use earshot_client::Tasks;
use earshot_client::http::{HttpConnection, RequestBody};
use hyper::{Method, Request, header};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Time limit of a connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum size of a response body.
const BODY_LIMIT: usize = 4 * 1024 * 1024;

/// The gateway, as seen by clients.
#[derive(Clone, Debug)]
pub(super) struct HttpTarget {
    /// `host:port`.
    pub(super) authority: String,
    /// Key of its API, if it has one.
    pub(super) api_key: Option<String>,
    pub(super) tasks: Tasks,
}

impl HttpTarget {
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
    pub(super) async fn open(&self) -> Result<HttpConnection, String> {
        HttpConnection::start(self.connect().await?, false, &self.tasks).await
    }

    /// Builds a request.
    pub(super) fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: RequestBody,
    ) -> Result<Request<RequestBody>, String> {
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
    target: HttpTarget,
    limit: Duration,
    connection: Option<HttpConnection>,
}

impl Client {
    /// `limit`: time limit of each exchange.
    pub(super) fn new(target: HttpTarget, limit: Duration) -> Self {
        Self { target, limit, connection: None }
    }

    /// GET: returns status and body.
    pub(super) async fn fetch(&mut self, path: &str) -> Result<(u16, Bytes), String> {
        let request = self.target.request(Method::GET, path, &[], RequestBody::default())?;
        self.exchange(request).await
    }

    /// Calls a method of the HTTP API: returns status and result.
    pub(super) async fn call(&mut self, method: &str, body: &Value) -> Result<(u16, Value), String> {
        let key = self.target.api_key.clone().unwrap_or_default();
        let mut headers = vec![("content-type", "application/json")];
        headers.extend((!key.is_empty()).then_some(("x-api-key", key.as_str())));
        let path = format!("/api/{method}");
        let request =
            self.target.request(Method::POST, &path, &headers, RequestBody::from(body.to_string()))?;
        let (status, body) = self.exchange(request).await?;
        Ok((status, serde_json::from_slice(&body).unwrap_or_default()))
    }

    async fn exchange(&mut self, request: Request<RequestBody>) -> Result<(u16, Bytes), String> {
        let outcome = timeout(self.limit, Box::pin(self.send(request))).await;
        let outcome = outcome.unwrap_or_else(|_| Err(format!("no response within {:?}", self.limit)));
        if outcome.is_err() {
            self.connection = None;
        }
        outcome
    }

    async fn send(&mut self, request: Request<RequestBody>) -> Result<(u16, Bytes), String> {
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.target.open().await?,
        };
        let response = connection.send(request).await?;
        let status = response.status;
        let body = response.bytes(BODY_LIMIT).await?;
        self.connection = Some(connection);
        Ok((status, body))
    }
}
