//! The commands of a WebSocket client.
//!
//! Owns the check of a command against the rules of its channel, and the error codes. Writes nothing:
//! [`super::session`] owns the order of replies.

use earshot_protocol::{
    ChannelName, ClientInfo, Command, ConnectRequest, Disconnect, ErrorCode, HistoryRequest, HistoryResult,
    PublishRequest, ReplyBody, Request, SubscribeRequest,
};

use super::channels::ConnectionId;
use super::connection::TimerKind;
use super::event_loop::Shard;
use super::framing;
use super::pending_replies::{AwaitedReply, PendingReply};
use super::pending_subscription::PendingSubscription;
use crate::auth::{Authorizer, Identity, token};
use crate::node::history::encode_epoch;
use crate::node::messages::{HistoryQuery, HistoryResponse, NodeRequest, RecoverFrom, RequestId};
use crate::random;

/// The bit of a subscribe command's flags that requests an error if the position cannot be recovered.
const REJECT_UNRECOVERED: i64 = 2;

/// The result of a command.
pub(super) enum Outcome {
    /// Reply now.
    Reply(ReplyBody),
    /// Reply later.
    Pending(PendingReply),
    /// No reply.
    NoReply,
    /// Close the connection.
    Disconnect(Disconnect),
}

/// Why a command fails.
pub(super) enum CommandError {
    Error(ErrorCode),
    Disconnect(Disconnect),
}

impl From<ErrorCode> for CommandError {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<CommandError> for Outcome {
    fn from(rejection: CommandError) -> Self {
        match rejection {
            CommandError::Error(code) => code.into(),
            CommandError::Disconnect(disconnect) => Self::Disconnect(disconnect),
        }
    }
}

impl From<ErrorCode> for Outcome {
    fn from(code: ErrorCode) -> Self {
        Self::Reply(ReplyBody::Error(code.into()))
    }
}
impl Shard {
    pub(super) fn execute(&mut self, connection_id: ConnectionId, command: Command) -> Outcome {
        let id = command.id;
        match command.request {
            Request::Pong => self.pong(connection_id),
            Request::Ping => Outcome::Reply(ReplyBody::Pong),
            Request::Connect(request) => self.connect(connection_id, id, &request),
            Request::Subscribe(request) => match self.subscribe(connection_id, &request.channel, &request) {
                Ok(pending_subscription) => {
                    let reject_unrecovered = request.flag & REJECT_UNRECOVERED != 0;
                    Outcome::Pending(PendingReply::AwaitingSubscribe {
                        id,
                        pending_subscription,
                        reject_unrecovered,
                        failed: None,
                    })
                }
                Err(rejection) => rejection.into(),
            },
            Request::History(request) => self.history(connection_id, id, &request),
            Request::Unsubscribe(request) => self.unsubscribe(connection_id, &request.channel),
            Request::Publish(request) => self.publish(connection_id, id, request),
            // There is no application behind the gateway. `send` has no reply, so only a close can report that.
            Request::Send(_) => Outcome::Disconnect(Disconnect::NotAvailable),
            Request::Rpc(_)
            | Request::Presence(_)
            | Request::PresenceStats(_)
            | Request::Refresh(_)
            | Request::SubRefresh(_) => ErrorCode::NotAvailable.into(),
        }
    }

    fn pong(&mut self, connection_id: ConnectionId) -> Outcome {
        let Some(session) = self.session(connection_id) else { return Outcome::NoReply };
        if !std::mem::take(&mut session.pong_due) {
            return Outcome::Disconnect(Disconnect::BadRequest);
        }
        let pause = self.limits.ping_interval;
        self.set_timer(connection_id, TimerKind::Ping, pause);
        Outcome::NoReply
    }

    fn connect(&mut self, connection_id: ConnectionId, id: u32, request: &ConnectRequest) -> Outcome {
        if !request.token.is_empty() || emulates_authorization(request) {
            token::log_rejected("connect command");
            return Outcome::Disconnect(Disconnect::InvalidToken);
        }
        // One system call, of about a dozen for a connection.
        let client = random::uuid();
        let Some(session) = self.session(connection_id) else { return Outcome::NoReply };
        session.client = Some(client);
        // Permissions no longer depend on the request; an idle connection must not hold it.
        session.client_meta = None;
        // The first ping is sent in the second half of the interval, at random, so that pings are spread.
        let interval = self.limits.ping_interval;
        self.set_timer(
            connection_id,
            TimerKind::Ping,
            interval / 2 + interval.mul_f64(fastrand::f64() / 2.0),
        );
        // The reply omits a channel that the client may not subscribe to.
        let pending_subscriptions: Vec<PendingSubscription> = request
            .subs
            .iter()
            .filter_map(|(name, sub)| self.subscribe(connection_id, name, sub).ok())
            .collect();
        if let Some(connection) = self.connections.get_mut(connection_id as usize)
            && !pending_subscriptions.is_empty()
        {
            connection.deferred = Some(Box::default());
        }
        Outcome::Pending(PendingReply::AwaitingConnect { id, pending_subscriptions })
    }

    /// Whether a command may wait for its turn. What depends on earlier commands is checked when it is executed.
    pub(super) fn check_deferred(&self, request: &Request) -> Result<(), CommandError> {
        match request {
            Request::Publish(request) => Ok(self.check_publish(request, true).map(drop)?),
            Request::Subscribe(request) => self.check_subscribe(&request.channel, request).map(drop),
            _ => Ok(()),
        }
    }

    /// The channel to subscribe to, and whether its newest publication is replayed.
    fn check_subscribe(
        &self,
        name: &str,
        request: &SubscribeRequest,
    ) -> Result<(ChannelName, bool), CommandError> {
        let name = ChannelName::parse(name).map_err(|_| ErrorCode::BadRequest)?;
        let namespace = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?;
        check_options(request)?;
        if !request.token.is_empty() {
            token::log_rejected("subscribe command");
            return Err(ErrorCode::PermissionDenied.into());
        }
        Authorizer::subscribe(Identity::Anonymous, namespace.subscribe).map_err(ErrorCode::from)?;
        Ok((name, namespace.replay_last))
    }

    /// Adds a subscription that waits for its reply.
    fn subscribe(
        &mut self,
        connection_id: ConnectionId,
        name: &str,
        request: &SubscribeRequest,
    ) -> Result<PendingSubscription, CommandError> {
        let (name, last) = self.check_subscribe(name, request)?;
        let connection = self.connections.get_mut(connection_id as usize).ok_or(ErrorCode::Internal)?;
        connection.awaiting_resubscribe.retain(|awaiting_resubscribe| *awaiting_resubscribe != name);
        if self.channels.find(&name).is_some_and(|channel| connection.subscription(channel).is_some()) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if connection.subscriptions.len() >= self.limits.channels_per_connection {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let since = request.recover.then(|| RecoverFrom::parse(&request.epoch, request.offset));
        Ok(PendingSubscription::new(self.request_subscription(connection_id, name)?, since, last))
    }

    fn unsubscribe(&mut self, connection_id: ConnectionId, name: &str) -> Outcome {
        let Ok(name) = ChannelName::parse(name) else { return ErrorCode::BadRequest.into() };
        if let Some(connection) = self.connections.get_mut(connection_id as usize) {
            connection.awaiting_resubscribe.retain(|awaiting_resubscribe| *awaiting_resubscribe != name);
        }
        if let Some(channel) = self.channels.find(&name) {
            self.unsubscribe_from(connection_id, channel);
        }
        Outcome::Reply(ReplyBody::Unsubscribe)
    }

    fn publish(&mut self, connection_id: ConnectionId, id: u32, request: PublishRequest) -> Outcome {
        let awaited = AwaitedReply::Publish(request.data.len());
        match self.try_publish(connection_id, request) {
            Ok(reply) => Outcome::Pending(PendingReply::AwaitingNode { id, reply, awaited, body: None }),
            Err(code) => code.into(),
        }
    }

    fn history(&mut self, connection_id: ConnectionId, id: u32, request: &HistoryRequest) -> Outcome {
        match self.try_history(connection_id, request) {
            Ok(reply) => Outcome::Pending(PendingReply::AwaitingNode {
                id,
                reply,
                awaited: AwaitedReply::History,
                body: None,
            }),
            Err(code) => code.into(),
        }
    }

    fn try_history(
        &mut self,
        connection_id: ConnectionId,
        request: &HistoryRequest,
    ) -> Result<u32, ErrorCode> {
        let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        let namespace = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?;
        if namespace.history.size == 0 {
            return Err(ErrorCode::NotAvailable);
        }
        Authorizer::history(Identity::Anonymous, self.is_subscribed(connection_id, &name))?;
        let since = request.since.as_ref().map(|since| RecoverFrom::parse(&since.epoch, since.offset));
        let query =
            HistoryQuery::new(since, request.limit, self.limits.recovery_publications, request.reverse);
        let (request_id, reply) = self.request_id(connection_id)?;
        let ask = NodeRequest::History { channel: name, query, request_id };
        self.node_requests.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
        Ok(reply)
    }

    /// Whether the client considers itself subscribed to a channel.
    fn is_subscribed(&self, connection_id: ConnectionId, name: &ChannelName) -> bool {
        self.connections.get(connection_id as usize).is_some_and(|connection| {
            connection.awaiting_resubscribe.contains(name)
                || self.channels.find(name).is_some_and(|channel| connection.subscription(channel).is_some())
        })
    }

    /// Names a reply that waits for the node.
    fn request_id(&mut self, connection_id: ConnectionId) -> Result<(RequestId, u32), ErrorCode> {
        let connection = self.connections.get_mut(connection_id as usize).ok_or(ErrorCode::Internal)?;
        let key = super::event_loop::key(connection_id, connection.generation);
        let session = connection.session().ok_or(ErrorCode::Internal)?;
        session.next_reply = session.next_reply.wrapping_add(1);
        Ok((RequestId { connection: key, reply: session.next_reply }, session.next_reply))
    }

    /// The channel to publish to, if the client may.
    fn check_publish(&self, request: &PublishRequest, subscribed: bool) -> Result<ChannelName, ErrorCode> {
        let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        match request.kind {
            0 if !request.data.is_empty() => {}
            // A map publication: no channel is a map.
            1 => return Err(ErrorCode::PermissionDenied),
            _ => return Err(ErrorCode::BadRequest),
        }
        let access = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?.publish;
        Authorizer::publish(Identity::Anonymous, access, subscribed)?;
        if request.data.len() > self.node.publication_bytes() {
            return Err(ErrorCode::LimitExceeded);
        }
        Ok(name)
    }

    fn try_publish(
        &mut self,
        connection_id: ConnectionId,
        request: PublishRequest,
    ) -> Result<u32, ErrorCode> {
        let subscribed =
            ChannelName::parse(&request.channel).is_ok_and(|name| self.is_subscribed(connection_id, &name));
        let name = self.check_publish(&request, subscribed)?;
        let (request_id, reply) = self.request_id(connection_id)?;
        let client = self.session(connection_id).and_then(|session| session.client).unwrap_or_default();
        let info = ClientInfo { client: client.to_string(), ..ClientInfo::default() };
        let ask = NodeRequest::Publish { channel: name, data: request.data, info, request_id };
        self.node_requests.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
        Ok(reply)
    }
}

/// Whether a connect command carries a token in the headers that SDKs emulate, because browsers cannot set them.
fn emulates_authorization(request: &ConnectRequest) -> bool {
    request
        .headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("authorization") && token::is_token(value.as_bytes()))
}

/// Rejects options that change the meaning of a subscription and are not supported, with the codes of Centrifugo.
fn check_options(request: &SubscribeRequest) -> Result<(), CommandError> {
    match request.kind {
        0 => {}
        // Maps, and maps of clients and of users: no channel is one.
        1..=3 => return Err(ErrorCode::PermissionDenied.into()),
        // Shared polls.
        4 => return Err(ErrorCode::NotAvailable.into()),
        _ => return Err(CommandError::Disconnect(Disconnect::InternalServerError)),
    }
    match request.delta.as_str() {
        // Delta compression is optional: the reply does not confirm it, so whole publications follow.
        "" | "fossil" => {}
        _ => return Err(CommandError::Disconnect(Disconnect::BadRequest)),
    }
    if request.tf.is_some() {
        return Err(ErrorCode::BadRequest.into());
    }
    Ok(())
}

pub(super) fn history_body(history: Option<HistoryResponse>) -> ReplyBody {
    match history {
        Some(Ok(history)) => ReplyBody::History(HistoryResult {
            publications: history.publications.iter().map(|p| framing::to_protocol(p)).collect(),
            epoch: encode_epoch(history.top.epoch),
            offset: history.top.offset,
        }),
        Some(Err(error)) => ReplyBody::Error(ErrorCode::from(&error).into()),
        None => ReplyBody::Error(ErrorCode::NotAvailable.into()),
    }
}
