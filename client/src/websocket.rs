//! Centrifuge client over a WebSocket on any byte stream.

use std::time::Duration;

use bytes::Bytes;
use earshot_protocol::{Encoding, Reply, ReplyBody, Request};
use futures::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::centrifuge::ClientSession;

/// Size of the read buffer. The default of 128 KiB would use too much memory with many connections.
const READ_BUFFER_BYTES: usize = 4096;

/// A connection on which the WebSocket handshake has succeeded.
#[derive(Debug)]
pub struct CentrifugeSocket<S> {
    stream: WebSocketStream<S>,
    session: ClientSession,
}

impl<S: AsyncRead + AsyncWrite + Unpin> CentrifugeSocket<S> {
    /// Performs the WebSocket handshake on `io`, with the origin of a browser if there is one. Sends no command.
    ///
    /// # Errors
    /// The handshake failed.
    pub async fn open(
        io: S,
        url: &str,
        origin: Option<&str>,
        encoding: Encoding,
    ) -> Result<Self, tungstenite::Error> {
        let mut request = url.into_client_request()?;
        if let Some(origin) = origin.and_then(|origin| origin.parse().ok()) {
            request.headers_mut().insert("origin", origin);
        }
        if encoding == Encoding::Protobuf {
            let protocol = HeaderValue::from_static("centrifuge-protobuf");
            request.headers_mut().insert("sec-websocket-protocol", protocol);
        }
        let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES).write_buffer_size(0);
        let (stream, _) = client_async_with_config(request, io, Some(config)).await?;
        Ok(Self { stream, session: ClientSession::new(encoding) })
    }

    /// The session, to queue commands.
    pub fn session(&mut self) -> &mut ClientSession {
        &mut self.session
    }

    /// Sends the queued commands.
    ///
    /// # Errors
    /// Why the connection ended.
    pub async fn flush(&mut self) -> Result<(), String> {
        let Some(frame) = self.session.take_frame() else { return Ok(()) };
        let message = match self.session.encoding() {
            Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
            Encoding::Protobuf => Message::binary(frame),
        };
        self.stream.send(message).await.map_err(|error| error.to_string())
    }

    /// Waits for the next frame, and returns its replies and pushes. Pings are answered at the next flush.
    ///
    /// # Errors
    /// Why the connection ended: the close frame, or the error.
    pub async fn receive(&mut self) -> Result<Vec<Reply>, String> {
        let frame: Bytes = match self.stream.next().await {
            Some(Ok(Message::Text(text))) => text.into(),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(Some(close)))) => {
                return Err(format!("closed with {} {}", u16::from(close.code), close.reason));
            }
            Some(Ok(Message::Close(None))) => return Err("closed without a code".to_owned()),
            Some(Ok(_)) => return Ok(Vec::new()),
            Some(Err(error)) => return Err(error.to_string()),
            None => return Err("the connection was closed".to_owned()),
        };
        let replies: Result<Vec<Reply>, _> = self.session.decode(&frame).collect();
        let mut replies = replies.map_err(|error| error.to_string())?;
        replies.retain(|reply| !self.session.answer_ping(reply));
        Ok(replies)
    }

    /// Sends a command and waits for its reply; other replies and pushes are dropped.
    ///
    /// # Errors
    /// The connection ended, or there was no reply within `limit`.
    pub async fn call(&mut self, request: Request, limit: Duration) -> Result<ReplyBody, String> {
        let id = self.session.queue(request);
        let reply = async {
            loop {
                self.flush().await?;
                if let Some(reply) = self.receive().await?.into_iter().find(|reply| reply.id == id) {
                    return Ok(reply.body);
                }
            }
        };
        timeout(limit, reply).await.unwrap_or_else(|_| Err(format!("no reply within {limit:?}")))
    }
}
