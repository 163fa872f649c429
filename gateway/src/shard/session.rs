//! The protocol of a WebSocket session.
//!
//! [`Session`] is a pure state machine: commands of the client and replies of the node are its inputs, a
//! [`SessionAction`] is its output. It uses no socket, no poll and no clock. It owns the order of replies: they are
//! written in the order of the commands, even if one waits for the node, and the reply to a subscribe command precedes
//! its first publication. The commands are in [`super::commands`]; [`super::sessions`] executes the actions.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, Command, Disconnect, Encoding, ErrorCode, Request};
use uuid::Uuid;

use super::PENDING_REPLIES_MAX;
use super::channels::ChannelId;
use super::commands::{self, CommandClient, NodeReply, SessionContext};
use super::expiry::SessionExpiry;
use super::pending_replies::{AwaitedReply, PendingReplies, PendingReply};
use super::pending_subscription::PendingSubscription;
use super::session_action::{SessionAction, error};
use super::subscription::Status;
use super::websocket::FrameReader;
use crate::auth::{ClientMeta, Denial, Identity};
use crate::login::Credentials;
use crate::node::namespace::ResolvedChannel;

/// The session of a WebSocket client.
#[derive(Debug)]
pub(super) struct Session {
    encoding: Encoding,
    /// The parts of the client's request that authentication needs (until the connect command is accepted), and those
    /// that are forwarded to hooks.
    client_meta: Option<Box<ClientMeta>>,
    /// The identity of the client.
    identity: Arc<Identity>,
    /// When the login and the subscriptions expire.
    pub(super) expiry: SessionExpiry,
    /// The client id, once it has connected.
    client: Option<Uuid>,
    reader: FrameReader,
    /// A ping was sent and is not answered yet.
    pong_due: bool,
    /// Replies that wait; empty unless one waits for the node.
    pending: PendingReplies,
    /// Reading is paused until fewer commands wait.
    paused: bool,
    /// The number of the last reply that waits for the node.
    last_reply: u32,
    /// Channels of the connect command: the client cannot resubscribe to one of them by itself.
    pub(super) server_side: Vec<ChannelName>,
}

impl Session {
    pub(super) fn new(
        encoding: Encoding,
        client_meta: Option<Box<ClientMeta>>,
        identity: Arc<Identity>,
    ) -> Self {
        Self {
            encoding,
            client_meta,
            identity,
            expiry: SessionExpiry::default(),
            client: None,
            reader: FrameReader::default(),
            pong_due: false,
            pending: PendingReplies::default(),
            paused: false,
            last_reply: 0,
            server_side: Vec::new(),
        }
    }

    pub(super) fn encoding(&self) -> Encoding {
        self.encoding
    }

    /// Takes the reader, to decode bytes; [`Session::restore_reader`] returns it.
    pub(super) fn take_reader(&mut self) -> FrameReader {
        std::mem::take(&mut self.reader)
    }

    pub(super) fn restore_reader(&mut self, reader: FrameReader) {
        self.reader = reader;
    }

    /// Whether reading is paused because too many bytes of commands wait.
    pub(super) fn is_paused(&self) -> bool {
        self.paused
    }

    /// The client id; nil before the connect command.
    pub(super) fn client(&self) -> Uuid {
        self.client.unwrap_or_default()
    }

    /// The kept parts of the client's request. After the connect command, only those for hooks; `None` if there are
    /// none.
    pub(super) fn client_meta(&self) -> Option<&ClientMeta> {
        self.client_meta.as_deref()
    }

    /// The client has connected.
    pub(super) fn connect(&mut self, client: Uuid, identity: Arc<Identity>) {
        self.client = Some(client);
        self.expiry.set_login_of(&identity);
        self.identity = identity;
        // Only hooks get fields of the request from now on; an idle connection must not hold the others.
        if self.client_meta.as_mut().is_some_and(|meta| meta.retain_forwarded()) {
            self.client_meta = None;
        }
    }

    /// A ping was sent.
    pub(super) fn on_ping_sent(&mut self) {
        self.pong_due = true;
    }

    /// Executes a command when its turn has come.
    fn execute(
        &mut self,
        command: Command,
        resolved: Option<ResolvedChannel>,
        context: &SessionContext<'_>,
    ) -> SessionAction {
        if matches!(command.request, Request::Pong) && !std::mem::take(&mut self.pong_due) {
            return SessionAction::Disconnect(Disconnect::BadRequest);
        }
        if self.identity.has_ended() {
            return SessionAction::Disconnect(Disconnect::ConnectionExpired);
        }
        let is_rpc = matches!(command.request, Request::Rpc(_));
        let rpc_calls = if is_rpc { self.pending.rpc_calls() } else { 0 };
        let client = self.command_client(rpc_calls);
        let mut action = commands::execute(command, resolved, &client, context);
        match &mut action {
            // A client may try again with another token.
            SessionAction::LogIn { credentials: Credentials::Connect { client, .. }, .. } => {
                client.clone_from(&self.client_meta);
            }
            // One client must not take all requests of the shard to the node: it has as many as it can subscribe at once.
            SessionAction::LogIn { id, .. }
                if self.pending.login_checks() >= context.limits.channels_per_connection =>
            {
                return error(*id, ErrorCode::TooManyRequests);
            }
            _ => {}
        }
        commands::add_waiting(&mut action, self.pending.subscribes(), &self.identity, context);
        action
    }

    fn command_client(&self, rpc_calls: usize) -> CommandClient<'_> {
        CommandClient {
            id: self.client(),
            meta: self.client_meta.as_deref(),
            identity: &self.identity,
            encoding: self.encoding,
            rpc_calls,
        }
    }

    /// The identity of the client.
    pub(super) fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// The client presented a new token.
    pub(super) fn refresh(&mut self, identity: Arc<Identity>) {
        self.expiry.set_login_of(&identity);
        self.identity = identity;
    }

    /// The connection is closing: its commands are not answered. Returns whether reading was paused.
    pub(super) fn on_close(&mut self) -> bool {
        (self.pending, self.reader) = Default::default();
        std::mem::take(&mut self.paused)
    }

    /// Handles a command of the client.
    pub(super) fn on_command(&mut self, command: Command, context: &SessionContext<'_>) -> SessionAction {
        let is_logging_in = self.pending.awaits_login();
        let connected = self.client.is_some() || is_logging_in;
        let has_reply = !matches!(command.request, Request::Pong | Request::Send(_));
        if connected == matches!(command.request, Request::Connect(_)) || (command.id == 0 && has_reply) {
            return SessionAction::Disconnect(Disconnect::BadRequest);
        }
        if self.pending.len() >= PENDING_REPLIES_MAX {
            return SessionAction::Disconnect(Disconnect::TooManyRequests);
        }
        if is_logging_in {
            self.pending.push_back(PendingReply::Deferred { channel: None, resolved: None, command });
            return SessionAction::None;
        }
        let Some(channel) = self.blocking_channel(&command.request, context) else {
            return self.execute(command, None, context);
        };
        match commands::check_deferred(&command.request, &self.identity, context) {
            Ok(resolved) => {
                self.pending.push_back(PendingReply::Deferred { channel: Some(channel), resolved, command });
                SessionAction::None
            }
            Err(error) => error.action(command.id),
        }
    }

    /// The channel of a command that must wait for earlier commands: for the subscription to its channel, or for the
    /// previous page of history.
    fn blocking_channel(&mut self, request: &Request, context: &SessionContext<'_>) -> Option<ChannelName> {
        let name = match request {
            Request::Subscribe(request) => &request.channel,
            Request::Unsubscribe(request) => &request.channel,
            Request::Publish(request) => &request.channel,
            Request::History(request) if self.pending.has_history() => &request.channel,
            _ => return None,
        };
        let name = ChannelName::parse(name).ok()?;
        if matches!(request, Request::History(_)) {
            return Some(name);
        }
        // Active because of a recovery, but not answered yet: the client does not know of it.
        let is_pending = context.channel(&name).is_some_and(|channel| {
            self.pending_subscriptions().iter().any(|pending| pending.channel == channel)
        });
        let waits = is_pending
            || matches!(context.status(&name), Some(Status::Waiting | Status::Ready))
            || self.pending.defers(&name);
        waits.then_some(name)
    }

    /// The subscriptions that the next reply contains.
    pub(super) fn pending_subscriptions(&mut self) -> &mut [PendingSubscription] {
        match self.pending.front_mut() {
            Some(PendingReply::AwaitingConnect { pending_subscriptions, .. }) => pending_subscriptions,
            Some(PendingReply::AwaitingSubscribe { pending_subscription, .. }) => {
                std::slice::from_mut(pending_subscription)
            }
            _ => &mut [],
        }
    }

    /// Whether the next reply waits for its subscriptions.
    pub(super) fn awaits_subscriptions(&mut self) -> bool {
        matches!(
            self.pending.front_mut(),
            Some(PendingReply::AwaitingConnect { .. } | PendingReply::AwaitingSubscribe { failed: None, .. })
        )
    }

    /// Removes the next reply, unless it waits for the node. Its subscriptions must be ready.
    pub(super) fn next_ready(&mut self, context: &SessionContext<'_>) -> Option<SessionAction> {
        let front = self.pending.front_mut()?;
        if matches!(
            front,
            PendingReply::AwaitingNode { body: None, .. } | PendingReply::AwaitingLogin { result: None, .. }
        ) {
            return None;
        }
        Some(match self.pending.pop_front()? {
            PendingReply::Ready(frame) => SessionAction::Send(frame),
            PendingReply::AwaitingConnect { id, pending_subscriptions: subscriptions } => {
                SessionAction::FinishConnect { id, subscriptions }
            }
            PendingReply::AwaitingSubscribe { id, failed: Some(code), .. } => error(id, code),
            PendingReply::AwaitingSubscribe { id, pending_subscription, reject_unrecovered, .. } => {
                let subscription = pending_subscription;
                SessionAction::FinishSubscribe { id, subscription, reject_unrecovered }
            }
            PendingReply::AwaitingNode { id, body: Some(body), .. } => SessionAction::Reply { id, body },
            PendingReply::AwaitingNode { id, body: None, .. } => error(id, ErrorCode::Internal),
            PendingReply::AwaitingLogin { id, purpose, result, .. } => {
                let result = result.unwrap_or(Err(Denial::LoginUnavailable));
                commands::finish(id, purpose, result, &self.command_client(0), context)
            }
            // The client could not connect.
            PendingReply::Deferred { .. } if self.client.is_none() => {
                SessionAction::Disconnect(Disconnect::BadRequest)
            }
            PendingReply::Deferred { command, resolved, .. } => self.execute(command, resolved, context),
        })
    }

    /// A reply is available. Returns it if no earlier reply is pending; otherwise queues it.
    pub(super) fn push_reply(&mut self, frame: Bytes) -> Option<Bytes> {
        if self.pending.is_empty() {
            return Some(frame);
        }
        self.pending.push_back(PendingReply::Ready(frame));
        None
    }

    /// A command has to wait. With `in_place` it was deferred before, and its reply is the next one.
    pub(super) fn push_pending(&mut self, reply: PendingReply, in_place: bool) {
        if in_place {
            self.pending.push_front(reply);
        } else {
            self.pending.push_back(reply);
        }
    }

    /// A request to the node was sent with the number of [`Session::next_reply`].
    pub(super) fn await_node(&mut self, id: u32, awaited: AwaitedReply, in_place: bool) {
        let reply = self.last_reply;
        self.push_pending(PendingReply::AwaitingNode { id, reply, awaited, body: None }, in_place);
    }

    /// A number for the next reply of the node.
    pub(super) fn next_reply(&mut self) -> u32 {
        self.last_reply = self.last_reply.wrapping_add(1);
        self.last_reply
    }

    /// The node replied to a request.
    pub(super) fn on_node_reply(&mut self, number: u32, node_reply: NodeReply) {
        let is_waiting = |pending: &&mut PendingReply| pending.awaits(number);
        match (self.pending.iter_mut().find(is_waiting), node_reply) {
            (Some(PendingReply::AwaitingNode { body, .. }), NodeReply::Body(replied)) => {
                *body = Some(replied);
            }
            (Some(PendingReply::AwaitingLogin { result, .. }), NodeReply::LoggedIn(checked)) => {
                *result = Some(checked);
            }
            _ => {}
        }
    }

    /// A channel is not available: its subscribe command fails, and the reply to the connect command omits it.
    pub(super) fn on_subscribe_failed(&mut self, channel: ChannelId, code: ErrorCode) {
        for pending in self.pending.iter_mut() {
            match pending {
                PendingReply::AwaitingSubscribe { pending_subscription, failed, .. }
                    if pending_subscription.channel == channel && failed.is_none() =>
                {
                    *failed = Some(code);
                    break;
                }
                PendingReply::AwaitingConnect { pending_subscriptions, .. } => {
                    pending_subscriptions.retain(|pending| pending.channel != channel);
                }
                _ => {}
            }
        }
    }

    /// Pauses reading if more than `limit` bytes of commands wait. Returns whether it is paused now.
    pub(super) fn pause_if_full(&mut self, limit: usize) -> bool {
        self.pending.bytes() > limit && !std::mem::replace(&mut self.paused, true)
    }

    /// Resumes reading if at most half of `limit` waits. Returns whether it is resumed now.
    pub(super) fn resume_if_relieved(&mut self, limit: usize) -> bool {
        self.pending.bytes() <= limit / 2 && std::mem::take(&mut self.paused)
    }
}

#[cfg(test)]
mod tests;
