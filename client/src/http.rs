//! HTTP client over any byte stream: HTTP/1.1 and HTTP/2, response bodies as chunks or as a whole.
//!
//! Must never repeat a request, since it may have been processed, nor decompress a response.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{HeaderMap, Request, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use crate::Tasks;

/// The body of a request.
pub type RequestBody = Full<Bytes>;

/// A connection for requests. HTTP/1.1 carries one at a time.
#[derive(Debug)]
pub struct HttpConnection(Sender);

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<RequestBody>),
    Http2(http2::SendRequest<RequestBody>),
}

impl HttpConnection {
    /// Starts HTTP on a connected stream. The connection is driven by a task.
    ///
    /// # Errors
    /// The HTTP/2 handshake failed.
    pub async fn start<S>(io: S, is_http2: bool, tasks: &Tasks) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        if is_http2 {
            let (sender, connection) =
                http2::handshake(tasks.clone(), io).await.map_err(|error| error.to_string())?;
            drive(connection, tasks);
            return Ok(Self(Sender::Http2(sender)));
        }
        let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
        drive(connection, tasks);
        Ok(Self(Sender::Http1(sender)))
    }

    /// Whether the connection has ended.
    pub fn is_closed(&self) -> bool {
        match &self.0 {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request, and waits for the head of the response.
    ///
    /// # Errors
    /// The connection ended or the response is invalid.
    pub async fn send(&mut self, request: Request<RequestBody>) -> Result<HttpResponse, String> {
        let began = Instant::now();
        let response = match &mut self.0 {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(|error| error.to_string())?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(|error| error.to_string())?;
                sender.send_request(request).await
            }
        };
        let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
        Ok(HttpResponse {
            version: head.version,
            status: head.status.as_u16(),
            headers: head.headers,
            took: began.elapsed(),
            body,
        })
    }
}

/// The head of a response, with the body to be read.
#[derive(Debug)]
pub struct HttpResponse {
    /// The HTTP version.
    pub version: Version,
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The time from the request to the head.
    pub took: Duration,
    body: Incoming,
}

impl HttpResponse {
    /// The value of a header, if present and valid text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next part of the body; `None` at the end.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, String>> {
        loop {
            match self.body.frame().await? {
                Ok(frame) => {
                    // Trailers have no data.
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error.to_string())),
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// The body is larger than `max_bytes`, or the connection ended.
    pub async fn bytes(self, max_bytes: usize) -> Result<Bytes, String> {
        let body = Limited::new(self.body, max_bytes).collect().await;
        Ok(body.map_err(|error| error.to_string())?.to_bytes())
    }
}

fn drive<T>(connection: impl Future<Output = T> + Send + 'static, tasks: &Tasks) {
    hyper::rt::Executor::execute(tasks, async move {
        let _ = connection.await;
    });
}
