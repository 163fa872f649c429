//! Drives WebSocket sessions: passes commands and replies to [`Session`] and executes its actions. [`input`] decodes what
//! a client sends; [`login`] checks its credentials.

mod input;
mod login;

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{
    ConnectResult, Disconnect, ErrorCode, Reply, ReplyBody, SubRefreshResult, SubscribeResult,
};

use super::channels::ChannelId;
use super::close_reason::CloseReason;
use super::commands::{NodeReply, SessionContext};
use super::connection::{ConnectionKind, TimerKind};
use super::connection_context::ConnectionContext;
use super::expiry;
use super::framing;
use super::pending_replies::{AwaitedReply, PendingReply};
use super::pending_subscription::PendingSubscription;
use super::session::Session;
use super::session_action::{CommandDenial, SessionAction, SubscribeParams};
use super::websocket_frames;
use crate::auth::{Denial, Identity};
use crate::hooks::HookDisconnect;
use crate::node::history::encode_epoch;
use crate::node::messages::{NodeRequest, Recovery, RequestId};
use crate::random;

/// The version in replies.
const VERSION: &str = concat!("earshot ", env!("CARGO_PKG_VERSION"));

/// Drives the session of one connection. For a connection of another protocol it does nothing.
#[derive(Debug)]
pub(super) struct SessionDriver<'a> {
    context: ConnectionContext<'a>,
}

impl<'a> SessionDriver<'a> {
    pub(super) fn new(context: ConnectionContext<'a>) -> Self {
        Self { context }
    }
}

impl SessionDriver<'_> {
    fn session(&mut self) -> Option<&mut Session> {
        self.context.connection()?.session()
    }

    /// Whether reading from the client is paused.
    fn is_paused(&mut self) -> bool {
        self.session().is_some_and(|session| session.is_paused())
    }

    /// Calls a session with the rules and limits for its commands.
    fn with_session<T>(&mut self, call: impl FnOnce(&mut Session, &SessionContext<'_>) -> T) -> Option<T> {
        let ConnectionContext { id, node, state, .. } = &mut self.context;
        let (connection, channels, limits) = state.split(*id)?;
        let ConnectionKind::WebSocket(session) = &mut connection.kind else { return None };
        let context = SessionContext {
            namespaces: node.namespaces(),
            authenticator: node.authenticator(),
            publication_bytes: node.publication_bytes(),
            limits,
            channels,
            subscriptions: &connection.subscriptions,
            awaiting_resubscribe: &connection.awaiting_resubscribe,
        };
        Some(call(session, &context))
    }

    /// Executes an action of a session. With `in_place` it belongs to a command that was deferred: its reply is the next
    /// one.
    fn execute(&mut self, action: SessionAction, in_place: bool) {
        match action {
            SessionAction::None => {}
            SessionAction::Send(frame) => self.context.enqueue(frame),
            SessionAction::Reply { id, body } => self.reply(id, body, in_place),
            SessionAction::Disconnect(disconnect) => self.context.disconnect(disconnect),
            SessionAction::DisconnectByHook(HookDisconnect { code, reason }) => {
                let id = self.context.id;
                self.context.state.disconnect_with(id, code, &reason, CloseReason::Hook(code));
            }
            SessionAction::Deny { id, denial } => {
                let code = match denial.denial {
                    // The connection itself is allowed.
                    Denial::Token => ErrorCode::PermissionDenied,
                    denial => denial.into(),
                };
                self.log_denial(denial.denial, Some(&denial.channel));
                self.reply(id, ReplyBody::Error(code.into()), in_place);
            }
            SessionAction::LogIn { id, purpose, credentials } => {
                self.log_in(id, purpose, credentials, in_place)
            }
            SessionAction::DenyConnect { id, denial } => self.deny_connect(id, denial, in_place),
            SessionAction::Refresh { id, identity } => self.refresh(id, identity, in_place),
            SessionAction::RefreshSubscription { id, channel, expires_at } => {
                let ttl = self.context.set_subscription_expiry(channel, expires_at);
                let result = SubRefreshResult { expires: ttl.is_some(), ttl: ttl.unwrap_or(0) };
                self.reply(id, ReplyBody::SubRefresh(result), in_place);
            }
            SessionAction::SchedulePing => {
                let interval = self.context.limits().ping_interval;
                self.context.set_timer_within_login(TimerKind::Ping, interval);
            }
            SessionAction::Connect { id, identity, subscriptions, denials } => {
                for CommandDenial { denial, channel } in denials {
                    self.log_denial(denial, Some(&channel));
                }
                self.connect(id, identity, subscriptions, in_place);
            }
            SessionAction::Subscribe { id, params, reject_unrecovered } => {
                match self.add_subscription(params) {
                    Ok(pending_subscription) => {
                        let failed = None;
                        let pending = PendingReply::AwaitingSubscribe {
                            id,
                            pending_subscription,
                            reject_unrecovered,
                            failed,
                        };
                        self.push_pending(pending, in_place);
                    }
                    Err(code) => {
                        self.reply(id, ReplyBody::Error(code.into()), in_place);
                    }
                }
            }
            SessionAction::Unsubscribe { id, channel } => {
                if let Some(connection) = self.context.connection() {
                    connection.awaiting_resubscribe.retain(|awaiting| *awaiting != channel);
                }
                if let Some(channel) = self.context.state.channels().find(&channel) {
                    self.context.unsubscribe(channel);
                }
                self.reply(id, ReplyBody::Unsubscribe, in_place);
            }
            SessionAction::Publish { id, channel, data, info, asked_hook } => {
                let awaited = AwaitedReply::Publish(data.len());
                let request =
                    |request_id| NodeRequest::Publish { channel, data, info, asked_hook, request_id };
                self.request_node(id, awaited, request, in_place);
            }
            SessionAction::ReadHistory { id, channel, query } => {
                let request = |request_id| NodeRequest::History { channel, query, request_id };
                self.request_node(id, AwaitedReply::History, request, in_place);
            }
            SessionAction::FinishConnect { id, subscriptions } => {
                self.finish_connect(id, subscriptions);
            }
            SessionAction::FinishSubscribe { id, subscription, reject_unrecovered } => {
                self.finish_subscribe_command(id, subscription, reject_unrecovered);
            }
        }
    }

    fn connect(
        &mut self,
        id: u32,
        identity: Arc<Identity>,
        subscriptions: Vec<SubscribeParams>,
        in_place: bool,
    ) {
        // One system call, of about a dozen for a connection.
        let client = random::uuid();
        if let Err(disconnect) = login::admit(&mut self.context, &identity) {
            return self.context.disconnect(disconnect);
        }
        let Some(session) = self.session() else { return };
        session.connect(client, identity);
        // The first ping is sent in the second half of the interval, at random, so that pings are spread.
        let interval = self.context.limits().ping_interval;
        let wait = interval / 2 + interval.mul_f64(fastrand::f64() / 2.0);
        self.context.set_timer_within_login(TimerKind::Ping, wait);
        let pending_subscriptions: Vec<PendingSubscription> =
            subscriptions.into_iter().filter_map(|params| self.add_subscription(params).ok()).collect();
        if let Some(connection) = self.context.connection()
            && !pending_subscriptions.is_empty()
        {
            connection.deferred = Some(Box::default());
        }
        let pending = PendingReply::AwaitingConnect { id, pending_subscriptions };
        self.push_pending(pending, in_place);
    }

    /// Adds a subscription that waits for its reply.
    fn add_subscription(&mut self, params: SubscribeParams) -> Result<PendingSubscription, ErrorCode> {
        let SubscribeParams { channel: resolved, since, expires_at } = params;
        let (name, replay_last) = (&resolved.name, resolved.rules.namespace.replay_last);
        let (connection, channels, limits) =
            self.context.state.split(self.context.id).ok_or(ErrorCode::Internal)?;
        connection.awaiting_resubscribe.retain(|awaiting| awaiting != name);
        if channels.find(name).is_some_and(|channel| connection.subscription(channel).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if connection.subscriptions.len() >= limits.channels_per_connection {
            return Err(ErrorCode::LimitExceeded);
        }
        let channel = self.context.subscribe(resolved)?;
        Ok(PendingSubscription { expires_at, ..PendingSubscription::new(channel, since, replay_last) })
    }

    /// Sends a request to the node, whose reply is the reply to a command.
    fn request_node(
        &mut self,
        id: u32,
        awaited: AwaitedReply,
        request: impl FnOnce(RequestId) -> NodeRequest,
        in_place: bool,
    ) {
        let Some(request_id) = self.context.request_id() else { return };
        if self.context.node_requests.try_send(request(request_id)).is_err() {
            let body = ReplyBody::Error(ErrorCode::TooManyRequests.into());
            return self.reply(id, body, in_place);
        }
        if let Some(session) = self.session() {
            session.await_node(id, awaited, in_place);
        }
        self.after_push(in_place);
    }

    fn push_pending(&mut self, pending: PendingReply, in_place: bool) {
        if let Some(session) = self.session() {
            session.push_pending(pending, in_place);
        }
        self.after_push(in_place);
    }

    /// A reply in place is written by the caller, which writes all ready replies.
    fn after_push(&mut self, in_place: bool) {
        if !in_place {
            self.pause_if_full();
            self.flush_ready_replies();
        }
    }

    /// Replies to a command in its turn.
    fn reply(&mut self, id: u32, body: ReplyBody, in_place: bool) {
        let Some(frame) = self.encode(id, body) else { return };
        let frame =
            if in_place { Some(frame) } else { self.session().and_then(|session| session.push_reply(frame)) };
        if let Some(frame) = frame {
            self.context.enqueue(frame);
        }
    }

    fn encode(&self, id: u32, body: ReplyBody) -> Option<Bytes> {
        let connection = self.context.state.connections().get(self.context.id)?;
        Some(connection.framing.reply(&Reply { id, body }))
    }

    fn pause_if_full(&mut self) {
        let limit = self.context.limits().pending_command_bytes;
        if self.session().is_some_and(|session| session.pause_if_full(limit)) {
            self.context.state.counters().reads_paused.add(1);
        }
    }

    /// Writes the replies that are ready.
    pub(super) fn flush_ready_replies(&mut self) {
        while self.context.is_open() {
            let awaits = self.session().is_some_and(Session::awaits_subscriptions);
            if awaits && !self.context.is_ready_to_reply() {
                break;
            }
            let next = self.with_session(|session, context| session.next_ready(context));
            let Some(action) = next.flatten() else { break };
            self.execute(action, true);
        }
        let limit = self.context.limits().pending_command_bytes;
        if self.session().is_some_and(|session| session.resume_if_relieved(limit)) {
            self.context.state.subscriptions().connections_mut().read_later(self.context.id);
        }
    }

    /// Handles a reply of the node to the request with a number.
    pub(super) fn on_node_reply(&mut self, number: u32, reply: NodeReply) {
        let Some(session) = self.session() else { return };
        session.on_node_reply(number, reply);
        self.flush_ready_replies();
    }

    /// Fails the subscriptions that wait for a channel.
    pub(super) fn on_subscribe_failed(&mut self, channel: ChannelId, code: ErrorCode) {
        let Some(session) = self.session() else { return };
        session.on_subscribe_failed(channel, code);
        self.flush_ready_replies();
    }

    /// Sends a ping and waits for the pong, or ends a connection whose login has expired.
    pub(super) fn send_ping(&mut self) {
        if self.context.connection().is_some_and(|connection| connection.is_login_over()) {
            return self.context.disconnect(Disconnect::ConnectionExpired);
        }
        self.context.end_expired_subscriptions();
        let Some(connection) = self.context.connection() else { return };
        connection.wrote_since_timer = false;
        let Some(session) = connection.session() else { return };
        session.on_ping_sent();
        let ping = websocket_frames::ping(session.encoding());
        self.context.state.delivery().enqueue_control(self.context.id, ping);
        let timeout = self.context.limits().pong_timeout;
        self.context.set_timer(TimerKind::Pong, timeout);
    }

    /// The pong did not arrive in time. A client that is still reading what was sent before the ping has not received
    /// the ping, and gets more time while it reads. So does a client whose pong may not have been read, because its
    /// commands wait for the node.
    pub(super) fn on_pong_timeout(&mut self) {
        let Some(connection) = self.context.connection() else { return };
        let is_paused = connection.session().is_some_and(|session| session.is_paused());
        let read_is_due = connection.has_pending_read || is_paused;
        let reads = connection.blocked && std::mem::take(&mut connection.wrote_since_timer);
        if reads || (!connection.blocked && read_is_due) {
            let timeout = self.context.limits().pong_timeout;
            return self.context.set_timer(TimerKind::Pong, timeout);
        }
        self.context.disconnect(Disconnect::NoPong);
    }

    fn finish_connect(&mut self, id: u32, subscriptions: Vec<PendingSubscription>) {
        let mut subs = Vec::with_capacity(subscriptions.len());
        for subscription in subscriptions {
            let name = self.context.state.channels().get(subscription.channel).name.clone();
            subs.push((name.to_string(), self.finish_subscribe(subscription)));
            if let Some(session) = self.session() {
                session.server_side.push(name);
            }
        }
        let Some(session) = self.session() else { return };
        let ttl = expiry::time_to_live(session.expiry.refreshable_login());
        let result = ConnectResult {
            client: session.client().to_string(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            subs,
            ping: u32::try_from(self.context.limits().ping_interval.as_secs().max(1)).unwrap_or(u32::MAX),
            pong: true,
            ..ConnectResult::default()
        };
        self.reply_with_recovered(id, ReplyBody::Connect(result));
    }

    fn finish_subscribe_command(
        &mut self,
        id: u32,
        subscription: PendingSubscription,
        reject_unrecovered: bool,
    ) {
        let channel = subscription.channel;
        let has_history = self.context.state.channels().get(channel).rules.has_history();
        let is_lost = subscription.since.is_some()
            && subscription.recovery.as_ref().is_some_and(|r| !(r.recovered && has_history));
        if reject_unrecovered && is_lost {
            self.context.unsubscribe(channel);
            let body = ReplyBody::Error(ErrorCode::UnrecoverablePosition.into());
            return self.reply(id, body, true);
        }
        let result = self.finish_subscribe(subscription);
        self.reply_with_recovered(id, ReplyBody::Subscribe(result));
    }

    /// Starts the delivery to a subscription and returns the result of its subscribe command.
    fn finish_subscribe(&mut self, mut pending: PendingSubscription) -> SubscribeResult {
        self.context.state.subscriptions().start_delivery(self.context.id, &mut pending);
        let ttl = self.context.set_subscription_expiry(pending.channel, pending.expires_at);
        let channel = self.context.state.channels().get(pending.channel);
        let has_history = channel.rules.has_history();
        let recovery = pending.recovery.unwrap_or(Recovery::empty(channel.position, false));
        let Recovery { start, publications, recovered, .. } = recovery;
        // A position without history cannot be recovered, so the client does not get it.
        let (epoch, offset) =
            if has_history { (encode_epoch(start.epoch), start.offset) } else { (String::new(), 0) };
        SubscribeResult {
            recoverable: has_history,
            positioned: has_history,
            epoch,
            offset,
            publications: publications.iter().map(|publication| framing::to_protocol(publication)).collect(),
            recovered: recovered && has_history,
            was_recovering: pending.since.is_some(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
            ..SubscribeResult::default()
        }
    }

    /// Writes a reply with the first page of recovered publications and those that arrived in the meantime.
    fn reply_with_recovered(&mut self, id: u32, body: ReplyBody) {
        let Some(frame) = self.encode(id, body) else { return };
        self.context.state.delivery().enqueue_recovered_frame(self.context.id, frame);
        self.context.continue_delivery();
    }
}
