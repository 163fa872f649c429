//! A WebSocket session: its messages and the order of its replies.
//!
//! Owns the order of replies: they are written in the order of the commands, also if one waits for the node, and the
//! reply to a subscribe command precedes its first publication. The commands are in [`super::commands`].

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Command, ConnectResult, Disconnect, ErrorCode, PublishResult, Reply, ReplyBody, Request,
};

use super::channels::{ChannelId, ConnectionId};
use super::commands::{self, CommandError, Outcome};
use super::connection::Status;
use super::event_loop::Shard;
use super::pending_replies::PendingReply;
use super::pending_subscription::PendingSubscription;
use super::websocket::{Decoder, Message, ProtocolError};
use super::websocket_frames;
use crate::broker::DeliveryScope;
use crate::node::messages::{NodeResponse, Published, SubscribeError};

impl Shard {
    /// Handles bytes of a client, as one read returned them.
    pub(super) fn on_bytes(&mut self, connection_id: ConnectionId, bytes: &mut [u8]) {
        let limit = self.limits.message_bytes;
        let Some(mut reader) = self.session(connection_id).map(|session| std::mem::take(&mut session.reader))
        else {
            return;
        };
        if let Err(ProtocolError { code, reason }) =
            self.on_messages(connection_id, &mut reader.decode(bytes, limit))
        {
            self.counters.protocol_errors.add(1);
            return self.close(connection_id, Some(code), reason);
        }
        if self.is_open(connection_id)
            && let Some(session) = self.session(connection_id)
        {
            session.reader = reader;
        }
    }

    fn on_messages(
        &mut self,
        connection_id: ConnectionId,
        decoder: &mut Decoder<'_>,
    ) -> Result<(), ProtocolError> {
        while self.is_open(connection_id) {
            if self.is_paused(connection_id) {
                decoder.stop();
                break;
            }
            match decoder.next()? {
                Some(message) => self.on_message(connection_id, &message),
                None => break,
            }
        }
        Ok(())
    }

    fn on_message(&mut self, connection_id: ConnectionId, message: &Message<'_>) {
        let protobuf = self
            .session(connection_id)
            .is_some_and(|session| session.encoding == earshot_protocol::Encoding::Protobuf);
        match message {
            // React Native's ping is an empty binary message.
            Message::Pong | Message::Binary([]) => {}
            Message::Ping(payload) => self.enqueue(connection_id, websocket_frames::pong(payload)),
            Message::Close(code) => self.close(connection_id, *code, ""),
            Message::Text(bytes) if !protobuf => self.on_commands(connection_id, bytes),
            Message::Binary(bytes) if protobuf => self.on_commands(connection_id, bytes),
            Message::Text(_) | Message::Binary(_) => {
                self.disconnect(connection_id, Disconnect::InappropriateProtocol);
            }
        }
    }

    fn on_commands(&mut self, connection_id: ConnectionId, frame: &[u8]) {
        let Some(encoding) = self.session(connection_id).map(|session| session.encoding) else { return };
        for (count, command) in encoding.decode_commands(frame).enumerate() {
            if count == self.limits.commands_per_frame {
                return self.disconnect(connection_id, Disconnect::BadRequest);
            }
            match command {
                Ok(command) => self.on_client_command(connection_id, command),
                Err(_) => return self.disconnect(connection_id, Disconnect::BadRequest),
            }
            if !self.is_open(connection_id) {
                return;
            }
        }
    }

    fn on_client_command(&mut self, connection_id: ConnectionId, command: Command) {
        self.counters.commands.add(1);
        let Some(session) = self.session(connection_id) else { return };
        let connected = session.client.is_some();
        let answerless = matches!(command.request, Request::Pong | Request::Send(_));
        if connected == matches!(command.request, Request::Connect(_)) || (command.id == 0 && !answerless) {
            return self.disconnect(connection_id, Disconnect::BadRequest);
        }
        if session.pending.len() >= super::PENDING_REPLIES_MAX {
            return self.disconnect(connection_id, Disconnect::TooManyRequests);
        }
        let id = command.id;
        if let Some(channel) = self.blocking_channel(connection_id, &command.request) {
            return match self.check_deferred(&command.request) {
                Ok(()) => self.push_pending(connection_id, PendingReply::Deferred { channel, command }),
                Err(CommandError::Error(code)) => {
                    self.reply(connection_id, id, ReplyBody::Error(code.into()))
                }
                Err(CommandError::Disconnect(disconnect)) => self.disconnect(connection_id, disconnect),
            };
        }
        match self.execute(connection_id, command) {
            Outcome::Reply(body) => self.reply(connection_id, id, body),
            Outcome::Pending(slot) => {
                self.push_pending(connection_id, slot);
                self.flush_ready_replies(connection_id);
            }
            Outcome::NoReply => {}
            Outcome::Disconnect(disconnect) => self.disconnect(connection_id, disconnect),
        }
    }

    /// The channel of a command that must wait for earlier commands: for the subscription to its channel, or for the
    /// previous page of history.
    fn blocking_channel(&mut self, connection_id: ConnectionId, request: &Request) -> Option<ChannelName> {
        let name = match request {
            Request::Subscribe(request) => &request.channel,
            Request::Unsubscribe(request) => &request.channel,
            Request::Publish(request) => &request.channel,
            Request::History(request) if self.session(connection_id)?.pending.has_history() => {
                &request.channel
            }
            _ => return None,
        };
        let name = ChannelName::parse(name).ok()?;
        if matches!(request, Request::History(_)) {
            return Some(name);
        }
        let connection = self.connections.get_mut(connection_id as usize)?;
        let id = self.channels.find(&name);
        // Active because of a recovery, but not answered yet: the client does not know of it.
        let pending_subscription = id.is_some_and(|id| {
            connection
                .pending_subscriptions()
                .iter()
                .any(|pending_subscription| pending_subscription.channel == id)
        });
        let pending = pending_subscription
            || id
                .and_then(|id| connection.subscription(id))
                .is_some_and(|subscription| matches!(subscription.status, Status::Waiting | Status::Ready));
        let waits = pending || connection.session().is_some_and(|session| session.pending.defers(&name));
        waits.then_some(name)
    }

    /// Handles a reply of the node.
    pub(super) fn on_node_reply(&mut self, answer: NodeResponse) {
        let (request_id, body) = match answer {
            NodeResponse::Published(request_id, Ok(published)) => {
                let local = published == Published::Broadcast(DeliveryScope::ThisNode);
                (request_id, ReplyBody::Publish(PublishResult { local }))
            }
            NodeResponse::Published(request_id, Err(error)) => {
                (request_id, ReplyBody::Error(ErrorCode::from(&error).into()))
            }
            NodeResponse::History(request_id, history) => (request_id, commands::history_body(history)),
        };
        let Some(connection_id) = self.find(request_id.connection) else { return };
        let Some(session) = self.session(connection_id) else { return };
        let waiting = session.pending.iter_mut().find_map(|slot| match slot {
            PendingReply::AwaitingNode { reply, body, .. } if *reply == request_id.reply => Some(body),
            _ => None,
        });
        if let Some(waiting) = waiting {
            *waiting = Some(body);
        }
        self.flush_ready_replies(connection_id);
    }

    /// Fails the subscriptions that wait for a channel.
    pub(super) fn on_subscribe_failed(
        &mut self,
        connection_id: ConnectionId,
        channel: ChannelId,
        error: &SubscribeError,
    ) {
        let code = ErrorCode::from(error);
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        connection.remove(channel);
        let Some(session) = connection.session() else { return self.reject_stream(connection_id, code) };
        for slot in session.pending.iter_mut() {
            match slot {
                PendingReply::AwaitingSubscribe { pending_subscription, failed, .. }
                    if pending_subscription.channel == channel && failed.is_none() =>
                {
                    *failed = Some(code);
                    break;
                }
                PendingReply::AwaitingConnect { pending_subscriptions, .. } => pending_subscriptions
                    .retain(|pending_subscription| pending_subscription.channel != channel),
                _ => {}
            }
        }
        self.flush_ready_replies(connection_id);
    }

    fn push_pending(&mut self, connection_id: ConnectionId, slot: PendingReply) {
        if let Some(session) = self.session(connection_id) {
            session.pending.push_back(slot);
        }
        self.pause_if_full(connection_id);
    }

    fn reply(&mut self, connection_id: ConnectionId, id: u32, body: ReplyBody) {
        let Some(frame) = self.encode(connection_id, id, body) else { return };
        if self.session(connection_id).is_some_and(|session| session.pending.is_empty()) {
            self.enqueue(connection_id, frame);
        } else {
            self.push_pending(connection_id, PendingReply::Ready(frame));
        }
    }

    /// Pauses reading if too many bytes of commands wait.
    fn pause_if_full(&mut self, connection_id: ConnectionId) {
        let limit = self.limits.pending_command_bytes;
        let Some(session) = self.session(connection_id) else { return };
        if session.pending.bytes() > limit && !std::mem::replace(&mut session.paused, true) {
            self.counters.reads_paused.add(1);
        }
    }

    /// Resumes reading when at most half of the limit waits.
    fn unpause_if_relieved(&mut self, connection_id: ConnectionId) {
        let limit = self.limits.pending_command_bytes;
        let Some(session) = self.session(connection_id) else { return };
        if session.paused && session.pending.bytes() <= limit / 2 {
            session.paused = false;
            self.read_later(connection_id);
        }
    }

    /// Writes the replies that are ready.
    pub(super) fn flush_ready_replies(&mut self, connection_id: ConnectionId) {
        while self.is_open(connection_id)
            && let Some(slot) = self.pop_ready(connection_id)
        {
            match slot {
                PendingReply::Ready(frame) => self.enqueue(connection_id, frame),
                PendingReply::AwaitingConnect { id, pending_subscriptions } => {
                    self.finish_connect(connection_id, id, pending_subscriptions)
                }
                PendingReply::AwaitingSubscribe { id, failed: Some(code), .. } => {
                    self.push_reply(connection_id, id, ReplyBody::Error(code.into()));
                }
                PendingReply::AwaitingSubscribe {
                    id,
                    pending_subscription,
                    reject_unrecovered,
                    failed: None,
                } => {
                    self.finish_subscribe_command(
                        connection_id,
                        id,
                        pending_subscription,
                        reject_unrecovered,
                    );
                }
                PendingReply::AwaitingNode { id, body, .. } => {
                    self.push_reply(
                        connection_id,
                        id,
                        body.unwrap_or(ReplyBody::Error(ErrorCode::Internal.into())),
                    );
                }
                PendingReply::Deferred { command, .. } => self.execute_deferred(connection_id, command),
            }
        }
        self.unpause_if_relieved(connection_id);
    }

    fn push_reply(&mut self, connection_id: ConnectionId, id: u32, body: ReplyBody) {
        if let Some(frame) = self.encode(connection_id, id, body) {
            self.enqueue(connection_id, frame);
        }
    }

    /// The first reply, unless it has to wait.
    fn pop_ready(&mut self, connection_id: ConnectionId) -> Option<PendingReply> {
        let connection = self.connections.get_mut(connection_id as usize)?;
        let deferred = match connection.session()?.pending.front_mut()? {
            PendingReply::Ready(_)
            | PendingReply::Deferred { .. }
            | PendingReply::AwaitingSubscribe { failed: Some(_), .. } => false,
            PendingReply::AwaitingConnect { .. } | PendingReply::AwaitingSubscribe { .. } => {
                !self.is_ready_to_reply(connection_id)
            }
            PendingReply::AwaitingNode { body, .. } => body.is_none(),
        };
        if deferred {
            return None;
        }
        self.session(connection_id)?.pending.pop_front()
    }

    /// Executes a deferred command, in its place in the order of replies.
    fn execute_deferred(&mut self, connection_id: ConnectionId, command: Command) {
        let id = command.id;
        let slot = match self.execute(connection_id, command) {
            Outcome::Reply(body) => match self.encode(connection_id, id, body) {
                Some(frame) => PendingReply::Ready(frame),
                None => return,
            },
            Outcome::Pending(slot) => slot,
            Outcome::NoReply => return,
            Outcome::Disconnect(disconnect) => return self.disconnect(connection_id, disconnect),
        };
        if let Some(session) = self.session(connection_id) {
            session.pending.push_front(slot);
        }
    }

    fn finish_connect(
        &mut self,
        connection_id: ConnectionId,
        id: u32,
        pending_subscriptions: Vec<PendingSubscription>,
    ) {
        let mut subs = Vec::with_capacity(pending_subscriptions.len());
        for pending_subscription in pending_subscriptions {
            let name = self.channels.get(pending_subscription.channel).name.clone();
            subs.push((name.to_string(), self.finish_subscribe(connection_id, pending_subscription)));
            if let Some(session) = self.session(connection_id) {
                session.server_side.push(name);
            }
        }
        let client = self.session(connection_id).and_then(|session| session.client).unwrap_or_default();
        let result = ConnectResult {
            client: client.to_string(),
            version: concat!("earshot ", env!("CARGO_PKG_VERSION")).to_owned(),
            subs,
            ping: u32::try_from(self.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        self.push_reply_with_recovered(connection_id, id, ReplyBody::Connect(result));
    }

    fn finish_subscribe_command(
        &mut self,
        connection_id: ConnectionId,
        id: u32,
        pending_subscription: PendingSubscription,
        reject_unrecovered: bool,
    ) {
        let channel = pending_subscription.channel;
        let remembers = self.has_history(channel);
        let lost = pending_subscription.since.is_some()
            && pending_subscription.recovery.as_ref().is_some_and(|r| !(r.recovered && remembers));
        if reject_unrecovered && lost {
            self.unsubscribe_from(connection_id, channel);
            return self.push_reply(
                connection_id,
                id,
                ReplyBody::Error(ErrorCode::UnrecoverablePosition.into()),
            );
        }
        let result = self.finish_subscribe(connection_id, pending_subscription);
        self.push_reply_with_recovered(connection_id, id, ReplyBody::Subscribe(result));
    }

    /// Writes a reply with the first page of recovered publications, and what arrived meanwhile.
    fn push_reply_with_recovered(&mut self, connection_id: ConnectionId, id: u32, body: ReplyBody) {
        let Some(frame) = self.encode(connection_id, id, body) else { return };
        self.enqueue_recovered_frame(connection_id, frame);
        self.send_deferred(connection_id);
        self.queue_page(connection_id);
    }

    fn encode(&self, connection_id: ConnectionId, id: u32, body: ReplyBody) -> Option<Bytes> {
        let connection = self.connections.get(connection_id as usize)?;
        Some(connection.framing.reply(&Reply { id, body }))
    }
}
