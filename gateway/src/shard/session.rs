//! A WebSocket session: its messages and the order of its replies.
//!
//! Owns the order of replies: they are written in the order of the commands, also when one has to wait for the node,
//! and the reply to a subscribe stands before its first publication. Must never write onto a link, nor judge a command:
//! that is for [`super::commands`].

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Command, ConnectResult, Disconnect, ErrorCode, PublishResult, Reply, ReplyBody, Request,
};

use super::channels::{ChannelId, ConnectionId};
use super::commands::{self, CommandRefusal, Outcome};
use super::connection::{Opening, Session, Status};
use super::pending::Slot;
use super::reactor::Shard;
use super::websocket::{self, Decoder, Message, Violation};
use crate::broker::DeliveryScope;
use crate::node::messages::{NodeResponse, Published, SubscribeError};

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
        if self.is_open(at)
            && let Some(session) = self.session(at)
        {
            session.inbound = inbound;
        }
    }

    fn messages(&mut self, at: ConnectionId, decoder: &mut Decoder<'_>) -> Result<(), Violation> {
        while self.is_open(at) {
            if self.is_paused(at) {
                decoder.stop();
                break;
            }
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
        if session.pending.len() >= super::REPLIES_WAITING_MAX {
            return self.disconnect(at, Disconnect::TooManyRequests);
        }
        let id = command.id;
        if let Some(channel) = self.must_wait(at, &command.request) {
            return match self.check_deferred(&command.request) {
                Ok(()) => self.place(at, Slot::Deferred { channel, command }),
                Err(CommandRefusal::Error(code)) => self.reply(at, id, ReplyBody::Error(code.into())),
                Err(CommandRefusal::Disconnect(disconnect)) => self.disconnect(at, disconnect),
            };
        }
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

    /// The channel of a command that must wait for the commands before it: for the subscription to its channel, or for
    /// the page of history before it.
    fn must_wait(&mut self, at: ConnectionId, request: &Request) -> Option<ChannelName> {
        let name = match request {
            Request::Subscribe(request) => &request.channel,
            Request::Unsubscribe(request) => &request.channel,
            Request::Publish(request) => &request.channel,
            Request::History(request) if self.session(at)?.pending.has_history() => &request.channel,
            _ => return None,
        };
        let name = ChannelName::parse(name).ok()?;
        if matches!(request, Request::History(_)) {
            return Some(name);
        }
        let connection = self.connections.get_mut(at as usize)?;
        let id = self.channels.find(&name);
        // Joined for a recovery, but not answered yet: to the client it is as if it were not there.
        let opening = id.is_some_and(|id| connection.openings().iter().any(|opening| opening.channel == id));
        let pending = opening
            || id
                .and_then(|id| connection.subscription(id))
                .is_some_and(|subscription| matches!(subscription.status, Status::Waiting | Status::Ready));
        let waits = pending || connection.session().is_some_and(|session| session.pending.defers(&name));
        waits.then_some(name)
    }

    /// The node has answered.
    pub(super) fn answered(&mut self, answer: NodeResponse) {
        let (request_id, body) = match answer {
            NodeResponse::Published(request_id, Ok(published)) => {
                let local = published == Published::Broadcast(DeliveryScope::ThisNode);
                (request_id, ReplyBody::Publish(PublishResult { local }))
            }
            NodeResponse::Published(request_id, Err(error)) => {
                (request_id, ReplyBody::Error(error.code().into()))
            }
            NodeResponse::History(request_id, history) => (request_id, commands::history_body(history)),
        };
        let Some(at) = self.find(request_id.connection) else { return };
        let Some(session) = self.session(at) else { return };
        let waiting = session.pending.iter_mut().find_map(|slot| match slot {
            Slot::Asked { reply, body, .. } if *reply == request_id.reply => Some(body),
            _ => None,
        });
        if let Some(waiting) = waiting {
            *waiting = Some(body);
        }
        self.advance(at);
    }

    /// The channel cannot be heard: whoever waits for it is told.
    pub(super) fn refused(&mut self, at: ConnectionId, channel: ChannelId, error: &SubscribeError) {
        let code = commands::subscribe_code(error);
        let Some(connection) = self.connections.get_mut(at as usize) else { return };
        connection.forget(channel);
        let Some(session) = connection.session() else { return self.stream_refused(at, code) };
        for slot in session.pending.iter_mut() {
            match slot {
                Slot::Subscribe { opening, failed, .. } if opening.channel == channel && failed.is_none() => {
                    *failed = Some(code);
                    break;
                }
                Slot::Connect { openings, .. } => openings.retain(|opening| opening.channel != channel),
                _ => {}
            }
        }
        self.advance(at);
    }

    fn place(&mut self, at: ConnectionId, slot: Slot) {
        if let Some(session) = self.session(at) {
            session.pending.push_back(slot);
        }
        self.pause_if_full(at);
    }

    fn reply(&mut self, at: ConnectionId, id: u32, body: ReplyBody) {
        let Some(session) = self.session(at) else { return };
        let frame = encode(session, &Reply { id, body });
        if session.pending.is_empty() {
            self.push(at, frame);
        } else {
            self.place(at, Slot::Ready(frame));
        }
    }

    /// Stops reading from a client of whose commands too much waits.
    fn pause_if_full(&mut self, at: ConnectionId) {
        let limit = self.limits.pending_command_bytes;
        let Some(session) = self.session(at) else { return };
        if session.pending.bytes() > limit && !std::mem::replace(&mut session.paused, true) {
            self.counters.reads_paused.add(1);
        }
    }

    /// Goes on reading once no more than half of the limit waits.
    fn unpause_if_relieved(&mut self, at: ConnectionId) {
        let limit = self.limits.pending_command_bytes;
        let Some(session) = self.session(at) else { return };
        if session.paused && session.pending.bytes() <= limit / 2 {
            session.paused = false;
            self.read_later(at);
        }
    }

    /// Writes the replies whose turn has come.
    pub(super) fn advance(&mut self, at: ConnectionId) {
        while self.is_open(at)
            && let Some(slot) = self.next_slot(at)
        {
            match slot {
                Slot::Ready(frame) => self.push(at, frame),
                Slot::Connect { id, openings } => self.connected(at, id, openings),
                Slot::Subscribe { id, failed: Some(code), .. } => {
                    self.push_reply(at, id, ReplyBody::Error(code.into()));
                }
                Slot::Subscribe { id, opening, strict, failed: None } => {
                    self.subscribed(at, id, opening, strict);
                }
                Slot::Asked { id, body, .. } => {
                    self.push_reply(at, id, body.unwrap_or(ReplyBody::Error(ErrorCode::Internal.into())));
                }
                Slot::Deferred { command, .. } => self.resume(at, command),
            }
        }
        self.unpause_if_relieved(at);
    }

    fn push_reply(&mut self, at: ConnectionId, id: u32, body: ReplyBody) {
        if let Some(session) = self.session(at) {
            let frame = encode(session, &Reply { id, body });
            self.push(at, frame);
        }
    }

    /// The first slot, unless it has to wait.
    fn next_slot(&mut self, at: ConnectionId) -> Option<Slot> {
        let connection = self.connections.get_mut(at as usize)?;
        let held = match connection.session()?.pending.front_mut()? {
            Slot::Ready(_) | Slot::Deferred { .. } | Slot::Subscribe { failed: Some(_), .. } => false,
            Slot::Connect { .. } | Slot::Subscribe { .. } => !self.opened(at),
            Slot::Asked { body, .. } => body.is_none(),
        };
        if held {
            return None;
        }
        self.session(at)?.pending.pop_front()
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
            session.pending.push_front(slot);
        }
    }

    fn connected(&mut self, at: ConnectionId, id: u32, openings: Vec<Opening>) {
        let mut subs = Vec::with_capacity(openings.len());
        for opening in openings {
            let name = self.channels.at(opening.channel).name.clone();
            subs.push((name.to_string(), self.begin(at, opening)));
            if let Some(session) = self.session(at) {
                session.server_side.push(name);
            }
        }
        let client = self.session(at).and_then(|session| session.client).unwrap_or_default();
        let result = ConnectResult {
            client: client.to_string(),
            version: concat!("earshot ", env!("CARGO_PKG_VERSION")).to_owned(),
            subs,
            ping: u32::try_from(self.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        self.push_first(at, id, ReplyBody::Connect(result));
    }

    fn subscribed(&mut self, at: ConnectionId, id: u32, opening: Opening, strict: bool) {
        let channel = opening.channel;
        let remembers = self.remembers(channel);
        let lost =
            opening.since.is_some() && opening.recovery.as_ref().is_some_and(|r| !(r.recovered && remembers));
        if strict && lost {
            self.leave(at, channel);
            return self.push_reply(at, id, ReplyBody::Error(ErrorCode::UnrecoverablePosition.into()));
        }
        let result = self.begin(at, opening);
        self.push_first(at, id, ReplyBody::Subscribe(result));
    }

    /// A reply with the first page of what was recovered, and what came in meanwhile.
    fn push_first(&mut self, at: ConnectionId, id: u32, body: ReplyBody) {
        let Some(session) = self.session(at) else { return };
        let frame = encode(session, &Reply { id, body });
        self.push_recovered(at, frame);
        self.release(at);
        self.want_page(at);
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
