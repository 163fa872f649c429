//! The connections to backends: a bounded number, kept for the next request.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use hyper::Method;
use hyper::header::HeaderMap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::error::HookError;
use super::lock;
use crate::http_client::{HttpConnection, HttpResponse, HttpUrl};

/// How long a connection is kept for the next request. Shorter than the timeout of common servers (Node.js: 5 s), which
/// close a connection while a request is on its way.
const IDLE_MAX: Duration = Duration::from_secs(4);

/// The connections to all backends.
#[derive(Debug)]
pub(super) struct Pool {
    tls: Arc<rustls::ClientConfig>,
    permits: Semaphore,
    idle: Mutex<Vec<IdleConnection>>,
}

#[derive(Debug)]
struct IdleConnection {
    /// Scheme, host and port.
    server: (bool, String),
    connection: HttpConnection,
    since: Instant,
}

impl Pool {
    /// At most this number of connections.
    pub(super) fn new(connections: usize, tls: Arc<rustls::ClientConfig>) -> Self {
        Self { tls, permits: Semaphore::new(connections), idle: Mutex::default() }
    }

    /// Sends one `POST`. Waits at most `limit` for a free connection, and again at most `limit` for the response.
    pub(super) async fn post(
        &self,
        url: &HttpUrl,
        headers: HeaderMap,
        body: Bytes,
        body_max: usize,
        limit: Duration,
    ) -> Result<HttpResponse, HookError> {
        let permit = timeout(limit, self.permits.acquire()).await;
        let Ok(Ok(_permit)) = permit else { return Err(HookError::Busy(limit)) };
        // Boxed: its size is that of a TLS handshake.
        let exchange = Box::pin(self.exchange(url, headers, body, body_max));
        timeout(limit, exchange).await.map_err(|_| HookError::Timeout(limit))?
    }

    async fn exchange(
        &self,
        url: &HttpUrl,
        headers: HeaderMap,
        body: Bytes,
        body_max: usize,
    ) -> Result<HttpResponse, HookError> {
        let server = (url.is_tls(), url.authority().to_owned());
        let mut connection = match self.take(&server) {
            Some(connection) => connection,
            None => HttpConnection::open(url, &self.tls).await?,
        };
        let response = connection.exchange(Method::POST, url, headers, body, body_max).await?;
        if connection.is_usable() {
            lock(&self.idle).push(IdleConnection { server, connection, since: Instant::now() });
        }
        Ok(response)
    }

    /// A connection to this server on which a request can be sent. Removes all that are closed or too old.
    fn take(&self, server: &(bool, String)) -> Option<HttpConnection> {
        let now = Instant::now();
        let mut idle = lock(&self.idle);
        idle.retain(|idle| now.duration_since(idle.since) < IDLE_MAX);
        while let Some(place) = idle.iter().rposition(|idle| idle.server == *server) {
            let mut connection = idle.remove(place).connection;
            if connection.is_usable() {
                return Some(connection);
            }
        }
        None
    }
}
