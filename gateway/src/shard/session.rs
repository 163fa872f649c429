//! The rules of a WebSocket session: what each command does and what it is answered.
//!
//! Owns the order of replies: they are written in the order of the commands, also when one has to wait for the node,
//! and the reply to a subscribe stands before its first publication. Must never write onto a link.

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Command, ConnectRequest, ConnectResult, Disconnect, ErrorCode, PublishRequest, Reply,
    ReplyBody, ReplyError, Request, SubscribeResult,
};
use uuid::Uuid;

use super::channels::{ChannelId, ConnectionId};
use super::connection::{Connection, Deadline, Session, Slot, Status};
use super::reactor::Shard;
use super::websocket::{self, Decoder, Message, Violation};
use crate::node::lane::{Ask, Ticket};
use crate::node::namespace::Who;
use crate::node::{PublishError, SubscribeError};

/// What a command comes to.
enum Outcome {
    /// An answer at once.
    Reply(ReplyBody),
    /// An answer later.
    Slot(Slot),
    /// No answer at all.
    Silence,
    /// The end.
    Disconnect(Disconnect),
}

impl From<ErrorCode> for Outcome {
    fn from(code: ErrorCode) -> Self {
        Self::Reply(ReplyBody::Error(code.into()))
    }
}

impl Shard {
    /// What a client sent, as one read brought it.
    pub(super) fn received(&mut self, at: ConnectionId, bytes: &mut [u8]) {
        let limit = self.limits.message_bytes;
        let Some(mut inbound) = self.session(at).map(|session| std::mem::take(&mut session.inbound)) else {
            return;
        };
        if let Err(Violation { code, reason }) = self.messages(at, &mut inbound.decode(bytes, limit)) {
            self.counters.protocol_errors.add(1);
            return self.close(at, Some(code), reason);
        }
        if let Some(session) = self.session(at) {
            session.inbound = inbound;
        }
    }

    fn messages(&mut self, at: ConnectionId, decoder: &mut Decoder<'_>) -> Result<(), Violation> {
        while self.is_open(at) {
            match decoder.next()? {
                Some(message) => self.message(at, &message),
                None => break,
            }
        }
        Ok(())
    }

    fn message(&mut self, at: ConnectionId, message: &Message<'_>) {
        let protobuf =
            self.session(at).is_some_and(|session| session.encoding == earshot_protocol::Encoding::Protobuf);
        match message {
            // React Native's ping is an empty binary message.
            Message::Pong | Message::Binary([]) => {}
            Message::Ping(payload) => self.push(at, websocket::pong(payload)),
            Message::Close(code) => self.close(at, *code, ""),
            Message::Text(bytes) if !protobuf => self.commands(at, bytes),
            Message::Binary(bytes) if protobuf => self.commands(at, bytes),
            Message::Text(_) | Message::Binary(_) => {
                self.disconnect(at, Disconnect::InappropriateProtocol);
            }
        }
    }

    fn commands(&mut self, at: ConnectionId, frame: &[u8]) {
        let Some(encoding) = self.session(at).map(|session| session.encoding) else { return };
        for (count, command) in encoding.decode_commands(frame).enumerate() {
            if count == self.limits.commands_per_frame {
                return self.disconnect(at, Disconnect::BadRequest);
            }
            match command {
                Ok(command) => self.command(at, command),
                Err(_) => return self.disconnect(at, Disconnect::BadRequest),
            }
            if !self.is_open(at) {
                return;
            }
        }
    }

    fn command(&mut self, at: ConnectionId, command: Command) {
        self.counters.commands.add(1);
        let Some(session) = self.session(at) else { return };
        let connected = session.client.is_some();
        let answerless = matches!(command.request, Request::Pong | Request::Send(_));
        if connected == matches!(command.request, Request::Connect(_)) || (command.id == 0 && !answerless) {
            return self.disconnect(at, Disconnect::BadRequest);
        }
        if session.slots.len() >= super::REPLIES_WAITING_MAX {
            return self.disconnect(at, Disconnect::TooManyRequests);
        }
        if let Some(channel) = self.must_wait(at, &command.request) {
            return self.place(at, Slot::Deferred { channel, command });
        }
        let id = command.id;
        match self.execute(at, command) {
            Outcome::Reply(body) => self.reply(at, id, body),
            Outcome::Slot(slot) => {
                self.place(at, slot);
                self.advance(at);
            }
            Outcome::Silence => {}
            Outcome::Disconnect(disconnect) => self.disconnect(at, disconnect),
        }
    }

    /// The channel for whose pending subscription this command must wait.
    fn must_wait(&mut self, at: ConnectionId, request: &Request) -> Option<ChannelName> {
        let name = match request {
            Request::Subscribe(request) => &request.channel,
            Request::Unsubscribe(request) => &request.channel,
            Request::Publish(request) => &request.channel,
            _ => return None,
        };
        let name = ChannelName::parse(name).ok()?;
        let connection = self.connections.get_mut(at as usize)?;
        let pending = self
            .channels
            .find(&name)
            .and_then(|channel| connection.subscription(channel))
            .is_some_and(|subscription| !matches!(subscription.status, Status::Joined(_)));
        let waits = pending || connection.session().is_some_and(|session| session.defers(&name));
        waits.then_some(name)
    }

    fn execute(&mut self, at: ConnectionId, command: Command) -> Outcome {
        let id = command.id;
        match command.request {
            Request::Pong => self.pong(at),
            Request::Ping => Outcome::Reply(ReplyBody::Pong),
            Request::Connect(request) => self.connect(at, id, &request),
            Request::Subscribe(request) => match self.subscribe(at, &request.channel) {
                Ok(channel) => Outcome::Slot(Slot::Subscribe { id, channel, failed: None }),
                Err(code) => code.into(),
            },
            Request::Unsubscribe(request) => self.unsubscribe(at, &request.channel),
            Request::Publish(request) => self.publish(at, id, request),
            // There is no application behind the gateway that messages could go to.
            Request::Send(_) => Outcome::Silence,
            Request::Rpc(_)
            | Request::Presence(_)
            | Request::PresenceStats(_)
            | Request::History(_)
            | Request::Refresh(_)
            | Request::SubRefresh(_) => ErrorCode::NotAvailable.into(),
        }
    }

    fn pong(&mut self, at: ConnectionId) -> Outcome {
        let Some(session) = self.session(at) else { return Outcome::Silence };
        if !std::mem::take(&mut session.pong_due) {
            return Outcome::Disconnect(Disconnect::BadRequest);
        }
        let pause = self.limits.ping_interval;
        self.set_deadline(at, Deadline::Ping, pause);
        Outcome::Silence
    }

    fn connect(&mut self, at: ConnectionId, id: u32, request: &ConnectRequest) -> Outcome {
        let client = Uuid::from_u128(fastrand::u128(..));
        let Some(session) = self.session(at) else { return Outcome::Silence };
        session.client = Some(uuid::Builder::from_random_bytes(*client.as_bytes()).into_uuid());
        // The first ping comes somewhere in the second half of the interval, so that pings of many are spread.
        let interval = self.limits.ping_interval;
        self.set_deadline(at, Deadline::Ping, interval / 2 + interval.mul_f64(fastrand::f64() / 2.0));
        // A channel that may not be heard is left out of the reply; by that the client knows.
        let channels = request.subs.iter().filter_map(|(name, _)| self.subscribe(at, name).ok()).collect();
        Outcome::Slot(Slot::Connect { id, channels })
    }

    /// Enters a subscription that waits for its reply.
    fn subscribe(&mut self, at: ConnectionId, name: &str) -> Result<ChannelId, ErrorCode> {
        let name = ChannelName::parse(name).map_err(|_| ErrorCode::BadRequest)?;
        let namespace = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?;
        if namespace.subscribe != Who::Anyone {
            return Err(ErrorCode::PermissionDenied);
        }
        let connection = self.connections.get(at as usize).ok_or(ErrorCode::Internal)?;
        if self.channels.find(&name).is_some_and(|channel| connection.subscription(channel).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if connection.subscriptions.len() >= self.limits.channels_per_connection {
            return Err(ErrorCode::LimitExceeded);
        }
        self.wish(at, name)
    }

    fn unsubscribe(&mut self, at: ConnectionId, name: &str) -> Outcome {
        let Ok(name) = ChannelName::parse(name) else { return ErrorCode::BadRequest.into() };
        if let Some(channel) = self.channels.find(&name) {
            self.leave(at, channel);
        }
        Outcome::Reply(ReplyBody::Unsubscribe)
    }

    fn publish(&mut self, at: ConnectionId, id: u32, request: PublishRequest) -> Outcome {
        match self.try_publish(at, request) {
            Ok(reply) => Outcome::Slot(Slot::Publish { id, reply, result: None }),
            Err(code) => code.into(),
        }
    }

    fn try_publish(&mut self, at: ConnectionId, request: PublishRequest) -> Result<u32, ErrorCode> {
        let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        if request.data.is_empty() {
            return Err(ErrorCode::BadRequest);
        }
        let who = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?.publish;
        let connection = self.connections.get_mut(at as usize).ok_or(ErrorCode::Internal)?;
        let subscribed =
            self.channels.find(&name).is_some_and(|channel| connection.subscription(channel).is_some());
        let allowed = match who {
            Who::Anyone => true,
            Who::Subscribers => subscribed,
            Who::Nobody => false,
        };
        if !allowed {
            return Err(ErrorCode::PermissionDenied);
        }
        let key = super::reactor::key(at, connection.generation);
        let session = connection.session().ok_or(ErrorCode::Internal)?;
        session.next_reply = session.next_reply.wrapping_add(1);
        let ticket = Ticket { connection: key, reply: session.next_reply };
        let ask = Ask::Publish { channel: name, data: request.data, ticket };
        self.asks.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
        Ok(ticket.reply)
    }

    /// What came of a publication.
    pub(super) fn answered(&mut self, ticket: Ticket, result: &Result<(), PublishError>) {
        let Some(at) = self.find(ticket.connection) else { return };
        let code = result.as_ref().map(|&()| ()).map_err(publish_code);
        let Some(session) = self.session(at) else { return };
        for slot in &mut session.slots {
            if let Slot::Publish { reply, result, .. } = slot
                && *reply == ticket.reply
            {
                *result = Some(code);
                break;
            }
        }
        self.advance(at);
    }

    /// The channel cannot be heard: whoever waits for it is told.
    pub(super) fn refused(&mut self, at: ConnectionId, channel: ChannelId, error: &SubscribeError) {
        let code = subscribe_code(error);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.forget(channel);
        let Some(session) = connection.session() else { return self.stream_refused(at, code) };
        for slot in &mut session.slots {
            match slot {
                Slot::Subscribe { channel: waits, failed, .. } if *waits == channel && failed.is_none() => {
                    *failed = Some(code);
                    break;
                }
                Slot::Connect { channels, .. } => channels.retain(|waits| *waits != channel),
                _ => {}
            }
        }
        self.advance(at);
    }

    fn place(&mut self, at: ConnectionId, slot: Slot) {
        if let Some(session) = self.session(at) {
            session.slots.push_back(slot);
        }
    }

    fn reply(&mut self, at: ConnectionId, id: u32, body: ReplyBody) {
        let Some(session) = self.session(at) else { return };
        let frame = encode(session, &Reply { id, body });
        if session.slots.is_empty() {
            self.push(at, frame);
        } else {
            session.slots.push_back(Slot::Ready(frame));
        }
    }

    /// Writes the replies whose turn has come.
    pub(super) fn advance(&mut self, at: ConnectionId) {
        while self.is_open(at)
            && let Some(slot) = self.next_slot(at)
        {
            let (id, body) = match slot {
                Slot::Ready(frame) => {
                    self.push(at, frame);
                    continue;
                }
                Slot::Connect { id, channels } => (id, self.connected(at, &channels)),
                Slot::Subscribe { id, failed: Some(code), .. } => (id, ReplyBody::Error(code.into())),
                Slot::Subscribe { id, channel, failed: None } => {
                    (id, ReplyBody::Subscribe(self.joined(at, channel)))
                }
                Slot::Publish { id, result, .. } => (id, published(result)),
                Slot::Deferred { command, .. } => {
                    self.resume(at, command);
                    continue;
                }
            };
            if let Some(session) = self.session(at) {
                let frame = encode(session, &Reply { id, body });
                self.push(at, frame);
            }
        }
    }

    /// The first slot, unless it has to wait.
    fn next_slot(&mut self, at: ConnectionId) -> Option<Slot> {
        let connection = self.connections.get_mut(at as usize)?;
        let waits = |connection: &Connection, channel: ChannelId| {
            connection.subscription(channel).is_some_and(|s| s.status == Status::Waiting)
        };
        let super::connection::Kind::WebSocket(session) = &connection.kind else { return None };
        let held = match session.slots.front()? {
            Slot::Ready(_) | Slot::Deferred { .. } => false,
            Slot::Connect { channels, .. } => channels.iter().any(|channel| waits(connection, *channel)),
            Slot::Subscribe { channel, failed, .. } => failed.is_none() && waits(connection, *channel),
            Slot::Publish { result, .. } => result.is_none(),
        };
        if held {
            return None;
        }
        let session = connection.session()?;
        let slot = session.slots.pop_front();
        if session.slots.is_empty() {
            session.slots = std::collections::VecDeque::new();
        }
        slot
    }

    /// Carries out a command that was put off, in the place of its slot.
    fn resume(&mut self, at: ConnectionId, command: Command) {
        let id = command.id;
        let slot = match self.execute(at, command) {
            Outcome::Reply(body) => match self.session(at) {
                Some(session) => Slot::Ready(encode(session, &Reply { id, body })),
                None => return,
            },
            Outcome::Slot(slot) => slot,
            Outcome::Silence => return,
            Outcome::Disconnect(disconnect) => return self.disconnect(at, disconnect),
        };
        if let Some(session) = self.session(at) {
            session.slots.push_front(slot);
        }
    }

    fn connected(&mut self, at: ConnectionId, channels: &[ChannelId]) -> ReplyBody {
        let subs = channels
            .iter()
            .map(|channel| (self.channels.at(*channel).name.to_string(), self.joined(at, *channel)))
            .collect();
        let client = self.session(at).and_then(|session| session.client).unwrap_or_default();
        ReplyBody::Connect(ConnectResult {
            client: client.to_string(),
            version: concat!("earshot ", env!("CARGO_PKG_VERSION")).to_owned(),
            subs,
            ping: u32::try_from(self.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        })
    }

    fn joined(&mut self, at: ConnectionId, channel: ChannelId) -> SubscribeResult {
        self.join(at, channel);
        SubscribeResult::default()
    }
}

fn published(result: Option<Result<(), ErrorCode>>) -> ReplyBody {
    match result {
        Some(Ok(())) => ReplyBody::Publish,
        Some(Err(code)) => ReplyBody::Error(ReplyError::from(code)),
        None => ReplyBody::Error(ErrorCode::Internal.into()),
    }
}

/// One message of the server in a frame of the session's encoding.
pub(super) fn encode(session: &Session, reply: &Reply) -> Bytes {
    let mut payload = Vec::with_capacity(128);
    session.encoding.encode_reply(reply, &mut payload);
    match session.encoding {
        earshot_protocol::Encoding::Json => websocket::text(&payload),
        earshot_protocol::Encoding::Protobuf => websocket::binary(&payload),
    }
}

fn subscribe_code(error: &SubscribeError) -> ErrorCode {
    use crate::broker::BrokerError;
    match error {
        SubscribeError::UnknownChannel => ErrorCode::UnknownChannel,
        SubscribeError::TooManyChannels => ErrorCode::LimitExceeded,
        SubscribeError::Broker(BrokerError::Unavailable(_)) => ErrorCode::Internal,
        SubscribeError::Broker(BrokerError::Busy) => ErrorCode::TooManyRequests,
        SubscribeError::Broker(BrokerError::Refused(_)) => ErrorCode::PermissionDenied,
    }
}

fn publish_code(error: &PublishError) -> ErrorCode {
    use crate::broker::BrokerError;
    match error {
        PublishError::UnknownChannel => ErrorCode::UnknownChannel,
        PublishError::TooLarge { .. } => ErrorCode::LimitExceeded,
        PublishError::Broker(BrokerError::Unavailable(_)) => ErrorCode::Internal,
        PublishError::Broker(BrokerError::Busy) => ErrorCode::TooManyRequests,
        PublishError::Broker(BrokerError::Refused(_)) => ErrorCode::PermissionDenied,
    }
}
