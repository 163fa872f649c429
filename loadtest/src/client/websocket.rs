//! One WebSocket that speaks the Centrifuge client protocol: connect and subscribe in one frame, pings answered.
//! Never sends anything else, never reconnects.

use earshot_protocol::{
    Command, ConnectRequest, Encoding, Push, PushBody, Reply, ReplyBody, Request, SubscribeRequest,
};
use futures::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{ClientError, ClientPlan};
use crate::tally::Subscriber;

const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;
const MAX_MESSAGE: usize = 16 << 20;

/// An open connection.
#[derive(Debug)]
pub(crate) struct WebSocketClient {
    stream: WebSocketStream<TcpStream>,
    encoding: Encoding,
    channel: String,
    subscribed: bool,
}

impl WebSocketClient {
    /// Shakes hands, and waits for the reply to the subscription.
    pub(super) async fn open(
        stream: TcpStream,
        plan: &ClientPlan,
        encoding: Encoding,
        subscriber: &Subscriber,
    ) -> Result<Self, ClientError> {
        let request = handshake(plan.target.authority(), encoding)?;
        let opening = Box::pin(client_async_with_config(request, stream, Some(small_buffers())));
        let (stream, _response) = opening.await.map_err(refused)?;
        let mut client = Self { stream, encoding, channel: plan.channel.clone(), subscribed: false };
        let first_frame = client.first_frame();
        client.send(first_frame).await?;
        while !client.subscribed {
            client.read(subscriber).await?;
        }
        Ok(client)
    }

    /// Hears until the connection ends.
    pub(super) async fn listen(mut self, subscriber: &Subscriber) -> ClientError {
        loop {
            if let Err(error) = self.read(subscriber).await {
                return error;
            }
        }
    }

    fn first_frame(&self) -> Vec<u8> {
        let connect = ConnectRequest { name: "loadtest".to_owned(), ..ConnectRequest::default() };
        let subscribe = SubscribeRequest { channel: self.channel.clone(), ..SubscribeRequest::default() };
        let mut frame = Vec::new();
        self.encoding
            .encode_command(&Command { id: CONNECT, request: Request::Connect(connect) }, &mut frame);
        self.encoding.join(&mut frame);
        let subscribe = Command { id: SUBSCRIBE, request: Request::Subscribe(subscribe) };
        self.encoding.encode_command(&subscribe, &mut frame);
        frame
    }

    async fn send(&mut self, frame: Vec<u8>) -> Result<(), ClientError> {
        let message = match self.encoding {
            // What the JSON codec writes is UTF-8; were it not, the gateway would say so.
            Encoding::Json => Message::text(String::from_utf8_lossy(&frame).into_owned()),
            Encoding::Protobuf => Message::binary(frame),
        };
        self.stream.send(message).await.map_err(broken)
    }

    /// Waits for the next message and works it off.
    async fn read(&mut self, subscriber: &Subscriber) -> Result<(), ClientError> {
        let message = match self.stream.next().await {
            Some(message) => message.map_err(broken)?,
            None => return Err(ClientError::Closed("the connection ended".to_owned())),
        };
        let now = Instant::now();
        let frame = match message {
            Message::Text(text) => text.into(),
            Message::Binary(bytes) => bytes,
            Message::Close(frame) => return Err(closed(frame)),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(()),
        };
        let mut pings = 0;
        for reply in self.encoding.decode_replies(&frame) {
            pings += usize::from(self.take(reply?, now, subscriber)?);
        }
        for _ in 0..pings {
            self.pong().await?;
        }
        Ok(())
    }

    /// Works one reply off; true for a ping, which wants an answer.
    fn take(&mut self, reply: Reply, now: Instant, subscriber: &Subscriber) -> Result<bool, ClientError> {
        match reply.body {
            ReplyBody::Ping => return Ok(true),
            ReplyBody::Push(push) => self.hear(push, now, subscriber)?,
            ReplyBody::Error(error) => {
                return Err(ClientError::Rejected { code: error.code, message: error.message.into_owned() });
            }
            ReplyBody::Subscribe(_) => self.subscribed = true,
            _ => {}
        }
        Ok(false)
    }

    fn hear(&self, push: Push, now: Instant, subscriber: &Subscriber) -> Result<(), ClientError> {
        match push.body {
            PushBody::Publication(_) if push.channel != self.channel => subscriber.misrouted(),
            PushBody::Publication(publication) => subscriber.heard(publication.data.bytes(), now),
            PushBody::Unsubscribe(push) => {
                subscriber.gap();
                return Err(ClientError::Closed(format!("unsubscribed, {} {}", push.code, push.reason)));
            }
            PushBody::Disconnect(push) => {
                return Err(ClientError::Closed(format!("{} {}", push.code, push.reason)));
            }
            _ => {}
        }
        Ok(())
    }

    async fn pong(&mut self) -> Result<(), ClientError> {
        let mut frame = Vec::new();
        self.encoding.encode_command(&Command { id: 0, request: Request::Pong }, &mut frame);
        self.send(frame).await
    }
}

fn handshake(authority: &str, encoding: Encoding) -> Result<ClientRequestBuilder, ClientError> {
    let uri: Uri = format!("ws://{authority}/connection/websocket").parse().map_err(|error| {
        ClientError::from(Box::new(Error::from(tokio_tungstenite::tungstenite::http::Error::from(error))))
    })?;
    let request = ClientRequestBuilder::new(uri);
    Ok(match encoding {
        Encoding::Json => request,
        Encoding::Protobuf => request.with_sub_protocol("centrifuge-protobuf"),
    })
}

/// The defaults would cost more memory than everything else together: 128 KiB a connection.
fn small_buffers() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(4 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(64 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

fn refused(error: Error) -> ClientError {
    match error {
        Error::Http(response) => ClientError::Status(response.status().as_u16()),
        other => broken(other),
    }
}

fn broken(error: Error) -> ClientError {
    match error {
        Error::Io(error) => ClientError::Io(error),
        Error::ConnectionClosed => ClientError::Closed("the connection ended".to_owned()),
        other => ClientError::from(Box::new(other)),
    }
}

fn closed(frame: Option<CloseFrame>) -> ClientError {
    ClientError::Closed(match frame {
        Some(frame) => format!("{} {}", u16::from(frame.code), frame.reason),
        None => "closed without a code".to_owned(),
    })
}
