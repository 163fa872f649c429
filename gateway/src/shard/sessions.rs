//! Drives WebSocket sessions: passes commands and replies to [`Session`] and executes its actions.

use bytes::Bytes;
use earshot_protocol::{ConnectResult, Disconnect, ErrorCode, PublishResult, Reply, ReplyBody};

use super::channels::{ChannelId, ConnectionId};
use super::commands::{self, SessionContext};
use super::connection::{ConnectionKind, TimerKind};
use super::event_loop::{Shard, key};
use super::pending_replies::{AwaitedReply, PendingReply};
use super::pending_subscription::PendingSubscription;
use super::session::Session;
use super::session_action::{SessionAction, SubscribeParams};
use super::websocket::{Decoder, Message, ProtocolError};
use super::websocket_frames;
use crate::auth::token;
use crate::broker::DeliveryScope;
use crate::node::messages::{NodeRequest, NodeResponse, Published, RequestId, SubscribeError};
use crate::random;

impl Shard {
    /// Handles bytes of a client, as one read returned them.
    pub(super) fn on_bytes(&mut self, connection_id: ConnectionId, bytes: &mut [u8]) {
        let limit = self.limits.message_bytes;
        let Some(mut reader) = self.session(connection_id).map(Session::take_reader) else { return };
        if let Err(ProtocolError { code, reason }) =
            self.on_messages(connection_id, &mut reader.decode(bytes, limit))
        {
            self.counters.protocol_errors.add(1);
            return self.close(connection_id, Some(code), reason);
        }
        if self.is_open(connection_id)
            && let Some(session) = self.session(connection_id)
        {
            session.restore_reader(reader);
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
            .is_some_and(|session| session.encoding() == earshot_protocol::Encoding::Protobuf);
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
        let Some(encoding) = self.session(connection_id).map(|session| session.encoding()) else { return };
        for (count, command) in encoding.decode_commands(frame).enumerate() {
            if count == self.limits.commands_per_frame {
                return self.disconnect(connection_id, Disconnect::BadRequest);
            }
            let Ok(command) = command else { return self.disconnect(connection_id, Disconnect::BadRequest) };
            self.counters.commands.add(1);
            let action =
                self.with_session(connection_id, |session, context| session.on_command(command, context));
            self.execute(connection_id, action.unwrap_or(SessionAction::None), false);
            if !self.is_open(connection_id) {
                return;
            }
            self.pause_if_full(connection_id);
        }
    }

    /// Calls a session with what its commands are checked against.
    fn with_session<T>(
        &mut self,
        connection_id: ConnectionId,
        call: impl FnOnce(&mut Session, &SessionContext<'_>) -> T,
    ) -> Option<T> {
        let connection = self.connections.get_mut(connection_id as usize)?;
        let ConnectionKind::WebSocket(session) = &mut connection.kind else { return None };
        let context = SessionContext {
            namespaces: self.node.namespaces(),
            publication_bytes: self.node.publication_bytes(),
            limits: &self.limits,
            channels: &self.channels,
            subscriptions: &connection.subscriptions,
            awaiting_resubscribe: &connection.awaiting_resubscribe,
        };
        Some(call(session, &context))
    }

    /// Executes an action of a session. With `in_place` it belongs to a command that was deferred: its reply is the next
    /// one.
    fn execute(&mut self, connection_id: ConnectionId, action: SessionAction, in_place: bool) {
        match action {
            SessionAction::None => {}
            SessionAction::Send(frame) => self.enqueue(connection_id, frame),
            SessionAction::Reply { id, body } => self.reply(connection_id, id, body, in_place),
            SessionAction::Disconnect(disconnect) => self.disconnect(connection_id, disconnect),
            SessionAction::RejectToken { id: None } => {
                token::log_rejected("connect command");
                self.disconnect(connection_id, Disconnect::InvalidToken);
            }
            SessionAction::RejectToken { id: Some(id) } => {
                token::log_rejected("subscribe command");
                let body = ReplyBody::Error(ErrorCode::PermissionDenied.into());
                self.reply(connection_id, id, body, in_place);
            }
            SessionAction::SchedulePing => {
                self.set_timer(connection_id, TimerKind::Ping, self.limits.ping_interval);
            }
            SessionAction::Connect { id, subscriptions } => self.connect(connection_id, id, subscriptions),
            SessionAction::Subscribe { id, params, reject_unrecovered } => {
                match self.add_subscription(connection_id, params) {
                    Ok(pending_subscription) => {
                        let failed = None;
                        let pending = PendingReply::AwaitingSubscribe {
                            id,
                            pending_subscription,
                            reject_unrecovered,
                            failed,
                        };
                        self.push_pending(connection_id, pending, in_place);
                    }
                    Err(code) => {
                        self.reply(connection_id, id, ReplyBody::Error(code.into()), in_place);
                    }
                }
            }
            SessionAction::Unsubscribe { id, channel } => {
                if let Some(connection) = self.connections.get_mut(connection_id as usize) {
                    connection.awaiting_resubscribe.retain(|awaiting| *awaiting != channel);
                }
                if let Some(channel) = self.channels.find(&channel) {
                    self.unsubscribe_from(connection_id, channel);
                }
                self.reply(connection_id, id, ReplyBody::Unsubscribe, in_place);
            }
            SessionAction::Publish { id, channel, data, info } => {
                let awaited = AwaitedReply::Publish(data.len());
                let request = |request_id| NodeRequest::Publish { channel, data, info, request_id };
                self.request_node(connection_id, id, awaited, request, in_place);
            }
            SessionAction::ReadHistory { id, channel, query } => {
                let request = |request_id| NodeRequest::History { channel, query, request_id };
                self.request_node(connection_id, id, AwaitedReply::History, request, in_place);
            }
            SessionAction::FinishConnect { id, subscriptions } => {
                self.finish_connect(connection_id, id, subscriptions);
            }
            SessionAction::FinishSubscribe { id, subscription, reject_unrecovered } => {
                self.finish_subscribe_command(connection_id, id, subscription, reject_unrecovered);
            }
        }
    }

    fn connect(&mut self, connection_id: ConnectionId, id: u32, subscriptions: Vec<SubscribeParams>) {
        // One system call, of about a dozen for a connection.
        let client = random::uuid();
        let Some(session) = self.session(connection_id) else { return };
        session.connect(client);
        // The first ping is sent in the second half of the interval, at random, so that pings are spread.
        let interval = self.limits.ping_interval;
        let wait = interval / 2 + interval.mul_f64(fastrand::f64() / 2.0);
        self.set_timer(connection_id, TimerKind::Ping, wait);
        let pending_subscriptions: Vec<PendingSubscription> = subscriptions
            .into_iter()
            .filter_map(|params| self.add_subscription(connection_id, params).ok())
            .collect();
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && !pending_subscriptions.is_empty()
        {
            connection.deferred = Some(Box::default());
        }
        let pending = PendingReply::AwaitingConnect { id, pending_subscriptions };
        self.push_pending(connection_id, pending, false);
    }

    /// Adds a subscription that waits for its reply.
    fn add_subscription(
        &mut self,
        connection_id: ConnectionId,
        params: SubscribeParams,
    ) -> Result<PendingSubscription, ErrorCode> {
        let SubscribeParams { channel: resolved, since } = params;
        let (name, replay_last) = (&resolved.name, resolved.rules.namespace.replay_last);
        let connection = self.connections.get_mut(connection_id as usize).ok_or(ErrorCode::Internal)?;
        connection.awaiting_resubscribe.retain(|awaiting| awaiting != name);
        if self.channels.find(name).is_some_and(|channel| connection.subscription(channel).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if connection.subscriptions.len() >= self.limits.channels_per_connection {
            return Err(ErrorCode::LimitExceeded);
        }
        let channel = self.request_subscription(connection_id, resolved)?;
        Ok(PendingSubscription::new(channel, since, replay_last))
    }

    /// Sends a request to the node, whose reply is the reply to a command.
    fn request_node(
        &mut self,
        connection_id: ConnectionId,
        id: u32,
        awaited: AwaitedReply,
        request: impl FnOnce(RequestId) -> NodeRequest,
        in_place: bool,
    ) {
        let Some(connection) = self.connections.get_mut(connection_id as usize) else { return };
        let key = key(connection_id, connection.generation);
        let Some(session) = connection.session() else { return };
        let request_id = RequestId { connection: key, reply: session.next_reply() };
        if self.node_requests.try_send(request(request_id)).is_err() {
            let body = ReplyBody::Error(ErrorCode::TooManyRequests.into());
            return self.reply(connection_id, id, body, in_place);
        }
        session.await_node(id, awaited, in_place);
        self.after_push(connection_id, in_place);
    }

    fn push_pending(&mut self, connection_id: ConnectionId, pending: PendingReply, in_place: bool) {
        if let Some(session) = self.session(connection_id) {
            session.push_pending(pending, in_place);
        }
        self.after_push(connection_id, in_place);
    }

    /// A reply in place is written by the caller, which writes all ready replies.
    fn after_push(&mut self, connection_id: ConnectionId, in_place: bool) {
        if !in_place {
            self.pause_if_full(connection_id);
            self.flush_ready_replies(connection_id);
        }
    }

    /// Replies to a command in its turn.
    fn reply(&mut self, connection_id: ConnectionId, id: u32, body: ReplyBody, in_place: bool) {
        let Some(frame) = self.encode(connection_id, id, body) else { return };
        let frame = if in_place {
            Some(frame)
        } else {
            self.session(connection_id).and_then(|session| session.push_reply(frame))
        };
        if let Some(frame) = frame {
            self.enqueue(connection_id, frame);
        }
    }

    fn encode(&self, connection_id: ConnectionId, id: u32, body: ReplyBody) -> Option<Bytes> {
        let connection = self.connections.get(connection_id as usize)?;
        Some(connection.framing.reply(&Reply { id, body }))
    }

    fn pause_if_full(&mut self, connection_id: ConnectionId) {
        let limit = self.limits.pending_command_bytes;
        if self.session(connection_id).is_some_and(|session| session.pause_if_full(limit)) {
            self.counters.reads_paused.add(1);
        }
    }

    /// Writes the replies that are ready.
    pub(super) fn flush_ready_replies(&mut self, connection_id: ConnectionId) {
        while self.is_open(connection_id) {
            let awaits = self.session(connection_id).is_some_and(Session::awaits_subscriptions);
            if awaits && !self.is_ready_to_reply(connection_id) {
                break;
            }
            let next = self.with_session(connection_id, |session, context| session.next_ready(context));
            let Some(action) = next.flatten() else { break };
            self.execute(connection_id, action, true);
        }
        let limit = self.limits.pending_command_bytes;
        if self.session(connection_id).is_some_and(|session| session.resume_if_relieved(limit)) {
            self.read_later(connection_id);
        }
    }

    /// Handles a reply of the node.
    pub(super) fn on_node_reply(&mut self, response: NodeResponse) {
        let (request_id, body) = match response {
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
        session.on_node_reply(request_id.reply, body);
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
        session.on_subscribe_failed(channel, code);
        self.flush_ready_replies(connection_id);
    }

    fn finish_connect(
        &mut self,
        connection_id: ConnectionId,
        id: u32,
        subscriptions: Vec<PendingSubscription>,
    ) {
        let mut subs = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let name = self.channels.get(subscription.channel).name.clone();
            subs.push((name.to_string(), self.finish_subscribe(connection_id, subscription)));
            if let Some(session) = self.session(connection_id) {
                session.add_server_side(name);
            }
        }
        let client = self.session(connection_id).map(|session| session.client()).unwrap_or_default();
        let result = ConnectResult {
            client: client.to_string(),
            version: concat!("earshot ", env!("CARGO_PKG_VERSION")).to_owned(),
            subs,
            ping: u32::try_from(self.limits.ping_interval.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        self.reply_with_recovered(connection_id, id, ReplyBody::Connect(result));
    }

    fn finish_subscribe_command(
        &mut self,
        connection_id: ConnectionId,
        id: u32,
        subscription: PendingSubscription,
        reject_unrecovered: bool,
    ) {
        let channel = subscription.channel;
        let has_history = self.has_history(channel);
        let is_lost = subscription.since.is_some()
            && subscription.recovery.as_ref().is_some_and(|r| !(r.recovered && has_history));
        if reject_unrecovered && is_lost {
            self.unsubscribe_from(connection_id, channel);
            let body = ReplyBody::Error(ErrorCode::UnrecoverablePosition.into());
            return self.reply(connection_id, id, body, true);
        }
        let result = self.finish_subscribe(connection_id, subscription);
        self.reply_with_recovered(connection_id, id, ReplyBody::Subscribe(result));
    }

    /// Writes a reply with the first page of recovered publications, and what arrived meanwhile.
    fn reply_with_recovered(&mut self, connection_id: ConnectionId, id: u32, body: ReplyBody) {
        let Some(frame) = self.encode(connection_id, id, body) else { return };
        self.enqueue_recovered_frame(connection_id, frame);
        self.send_deferred(connection_id);
        self.queue_page(connection_id);
    }
}
