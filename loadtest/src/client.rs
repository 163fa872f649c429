//! Subscribers: one connection each, over SSE or WebSocket. A client connects, subscribes, and gives what it hears to
//! its [`Subscriber`]. It never publishes, never reconnects, and never judges what it heard.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use earshot_protocol::Encoding;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::tally::Subscriber;
use crate::target::Target;

mod events;
pub(crate) mod http;
mod sse;
mod websocket;

/// How long connecting and subscribing may take together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// How a subscriber is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// `GET /sse/{channel}`.
    Sse,
    /// The Centrifuge client protocol.
    WebSocket(Encoding),
}

/// One subscriber as the scenario wants it.
#[derive(Clone, Debug)]
pub(crate) struct ClientPlan {
    /// Which gateway.
    pub(crate) target: Target,
    /// How.
    pub(crate) transport: Transport,
    /// What to subscribe to.
    pub(crate) channel: String,
    /// The local address, where one alone has too few ports.
    pub(crate) source: Option<Ipv4Addr>,
}

/// Why a subscriber could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection, or it broke while subscribing.
    #[error("cannot connect: {0}")]
    Io(#[from] io::Error),
    /// Not subscribed in time.
    #[error("not subscribed within {} s", OPEN_TIMEOUT.as_secs())]
    Timeout,
    /// Another status than the one that opens a stream.
    #[error("refused with HTTP status {0}")]
    Status(u16),
    /// The answer is not HTTP.
    #[error(transparent)]
    Http(#[from] http::HttpError),
    /// The WebSocket handshake or its frames.
    #[error("WebSocket: {0}")]
    WebSocket(#[from] Box<tokio_tungstenite::tungstenite::Error>),
    /// A frame that is none of the protocol.
    #[error("not the protocol: {0}")]
    Protocol(#[from] earshot_protocol::DecodeError),
    /// The gateway answered with an error of the protocol.
    #[error("error {code}: {message}")]
    Rejected {
        /// The protocol's error code.
        code: u32,
        /// The same in words.
        message: String,
    },
    /// The gateway ended the connection; the text tells how.
    #[error("closed by the gateway: {0}")]
    Closed(String),
}

/// A subscriber's connection.
#[derive(Debug)]
pub(crate) enum Client {
    /// Over SSE.
    Sse(sse::SseClient),
    /// Over WebSocket.
    WebSocket(websocket::WebSocketClient),
}

impl Client {
    /// Connects and subscribes; from then on every publication is expected.
    pub(crate) async fn open(plan: &ClientPlan, subscriber: &Subscriber) -> Result<Self, ClientError> {
        timeout(OPEN_TIMEOUT, Self::open_patiently(plan, subscriber))
            .await
            .unwrap_or(Err(ClientError::Timeout))
    }

    async fn open_patiently(plan: &ClientPlan, subscriber: &Subscriber) -> Result<Self, ClientError> {
        let stream = dial(plan).await?;
        Ok(match plan.transport {
            Transport::Sse => Self::Sse(sse::SseClient::open(stream, plan, subscriber).await?),
            Transport::WebSocket(encoding) => {
                Self::WebSocket(websocket::WebSocketClient::open(stream, plan, encoding, subscriber).await?)
            }
        })
    }

    /// Hears until the connection ends, and tells how it ended.
    pub(crate) async fn listen(self, subscriber: &Subscriber) -> ClientError {
        match self {
            Self::Sse(client) => client.listen(subscriber).await,
            Self::WebSocket(client) => client.listen(subscriber).await,
        }
    }
}

async fn dial(plan: &ClientPlan) -> io::Result<TcpStream> {
    let address = plan.target.address();
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = plan.source {
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
