//! What each command of a WebSocket client does.
//!
//! Owns the check of a command against the rules of its channel, and the codes of failures. Must never write onto a
//! link: the order of replies is [`super::session`]'s.

use earshot_protocol::{
    ChannelName, ClientInfo, Command, ConnectRequest, Disconnect, ErrorCode, HistoryRequest, HistoryResult,
    PublishRequest, ReplyBody, Request, SubscribeRequest,
};

use super::broadcast;
use super::channels::ConnectionId;
use super::connection::{Deadline, Opening};
use super::pending::{Asked, Slot};
use super::reactor::Shard;
use super::token;
use crate::node::history::encode_epoch;
use crate::node::messages::{
    HistoryError, HistoryQuery, HistoryResponse, NodeRequest, RecoverFrom, RequestId, SubscribeError,
};
use crate::node::namespace::Access;
use crate::random;

/// The bit of a subscribe command's flags that asks for an error where the position cannot be recovered.
const REJECT_UNRECOVERED: i64 = 2;

/// What a command comes to.
pub(super) enum Outcome {
    /// An answer at once.
    Reply(ReplyBody),
    /// An answer later.
    Slot(Slot),
    /// No answer at all.
    Silence,
    /// The connection is closed.
    Disconnect(Disconnect),
}

/// Why a subscription does not begin.
pub(super) enum CommandRefusal {
    Error(ErrorCode),
    Disconnect(Disconnect),
}

impl From<ErrorCode> for CommandRefusal {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl From<CommandRefusal> for Outcome {
    fn from(refusal: CommandRefusal) -> Self {
        match refusal {
            CommandRefusal::Error(code) => code.into(),
            CommandRefusal::Disconnect(disconnect) => Self::Disconnect(disconnect),
        }
    }
}

impl From<ErrorCode> for Outcome {
    fn from(code: ErrorCode) -> Self {
        Self::Reply(ReplyBody::Error(code.into()))
    }
}
impl Shard {
    pub(super) fn execute(&mut self, at: ConnectionId, command: Command) -> Outcome {
        let id = command.id;
        match command.request {
            Request::Pong => self.pong(at),
            Request::Ping => Outcome::Reply(ReplyBody::Pong),
            Request::Connect(request) => self.connect(at, id, &request),
            Request::Subscribe(request) => match self.subscribe(at, &request.channel, &request) {
                Ok(opening) => {
                    let strict = request.flag & REJECT_UNRECOVERED != 0;
                    Outcome::Slot(Slot::Subscribe { id, opening, strict, failed: None })
                }
                Err(refusal) => refusal.into(),
            },
            Request::History(request) => self.history(at, id, &request),
            Request::Unsubscribe(request) => self.unsubscribe(at, &request.channel),
            Request::Publish(request) => self.publish(at, id, request),
            // There is no application behind the gateway. `send` has no reply, so only a close can say so.
            Request::Send(_) => Outcome::Disconnect(Disconnect::NotAvailable),
            Request::Rpc(_)
            | Request::Presence(_)
            | Request::PresenceStats(_)
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
        if !request.token.is_empty() || emulates_authorization(request) {
            token::log_refused("in a connect command");
            return Outcome::Disconnect(Disconnect::InvalidToken);
        }
        // One system call, of the dozen or so that a connection takes.
        let client = random::uuid();
        let Some(session) = self.session(at) else { return Outcome::Silence };
        session.client = Some(client);
        // The first ping comes somewhere in the second half of the interval, so that pings of many are spread.
        let interval = self.limits.ping_interval;
        self.set_deadline(at, Deadline::Ping, interval / 2 + interval.mul_f64(fastrand::f64() / 2.0));
        // A channel that may not be heard is left out of the reply; by that the client knows.
        let openings: Vec<Opening> =
            request.subs.iter().filter_map(|(name, sub)| self.subscribe(at, name, sub).ok()).collect();
        if let Some(connection) = self.connections.get_mut(at as usize)
            && !openings.is_empty()
        {
            connection.held = Some(Box::default());
        }
        Outcome::Slot(Slot::Connect { id, openings })
    }

    /// Whether a command may be kept until its turn comes. What depends on the commands before it is checked then.
    pub(super) fn check_deferred(&self, request: &Request) -> Result<(), CommandRefusal> {
        match request {
            Request::Publish(request) => Ok(self.check_publish(request, true).map(drop)?),
            Request::Subscribe(request) => self.check_subscribe(&request.channel, request).map(drop),
            _ => Ok(()),
        }
    }

    /// The channel that a client may subscribe to, and whether its newest publication is delivered at once.
    fn check_subscribe(
        &self,
        name: &str,
        request: &SubscribeRequest,
    ) -> Result<(ChannelName, bool), CommandRefusal> {
        let name = ChannelName::parse(name).map_err(|_| ErrorCode::BadRequest)?;
        let namespace = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?;
        check_options(request)?;
        if !request.token.is_empty() {
            token::log_refused("in a subscribe command");
            return Err(ErrorCode::PermissionDenied.into());
        }
        match namespace.subscribe {
            Access::Anyone => Ok((name, namespace.replay_last)),
            Access::Subscribers | Access::Nobody => Err(ErrorCode::PermissionDenied.into()),
        }
    }

    /// Enters a subscription that waits for its reply.
    fn subscribe(
        &mut self,
        at: ConnectionId,
        name: &str,
        request: &SubscribeRequest,
    ) -> Result<Opening, CommandRefusal> {
        let (name, last) = self.check_subscribe(name, request)?;
        let connection = self.connections.get_mut(at as usize).ok_or(ErrorCode::Internal)?;
        connection.gapped.retain(|gapped| *gapped != name);
        if self.channels.find(&name).is_some_and(|channel| connection.subscription(channel).is_some()) {
            return Err(ErrorCode::AlreadySubscribed.into());
        }
        if connection.subscriptions.len() >= self.limits.channels_per_connection {
            return Err(ErrorCode::LimitExceeded.into());
        }
        let since = request.recover.then(|| RecoverFrom::parse(&request.epoch, request.offset));
        Ok(Opening::new(self.wish(at, name)?, since, last))
    }

    fn unsubscribe(&mut self, at: ConnectionId, name: &str) -> Outcome {
        let Ok(name) = ChannelName::parse(name) else { return ErrorCode::BadRequest.into() };
        if let Some(connection) = self.connections.get_mut(at as usize) {
            connection.gapped.retain(|gapped| *gapped != name);
        }
        if let Some(channel) = self.channels.find(&name) {
            self.leave(at, channel);
        }
        Outcome::Reply(ReplyBody::Unsubscribe)
    }

    fn publish(&mut self, at: ConnectionId, id: u32, request: PublishRequest) -> Outcome {
        let asked = Asked::Publish(request.data.len());
        match self.try_publish(at, request) {
            Ok(reply) => Outcome::Slot(Slot::Asked { id, reply, asked, body: None }),
            Err(code) => code.into(),
        }
    }

    fn history(&mut self, at: ConnectionId, id: u32, request: &HistoryRequest) -> Outcome {
        match self.try_history(at, request) {
            Ok(reply) => Outcome::Slot(Slot::Asked { id, reply, asked: Asked::History, body: None }),
            Err(code) => code.into(),
        }
    }

    fn try_history(&mut self, at: ConnectionId, request: &HistoryRequest) -> Result<u32, ErrorCode> {
        let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        let namespace = self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?;
        if namespace.history.size == 0 {
            return Err(ErrorCode::NotAvailable);
        }
        if !self.hears(at, &name) {
            return Err(ErrorCode::PermissionDenied);
        }
        let since = request.since.as_ref().map(|since| RecoverFrom::parse(&since.epoch, since.offset));
        let query =
            HistoryQuery::new(since, request.limit, self.limits.recovery_publications, request.reverse);
        let (request_id, reply) = self.request_id(at)?;
        let ask = NodeRequest::History { channel: name, query, request_id };
        self.asks.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
        Ok(reply)
    }

    /// Whether the client is subscribed to a channel, as far as it knows.
    fn hears(&self, at: ConnectionId, name: &ChannelName) -> bool {
        self.connections.get(at as usize).is_some_and(|connection| {
            connection.gapped.contains(name)
                || self.channels.find(name).is_some_and(|channel| connection.subscription(channel).is_some())
        })
    }

    /// Names a reply that waits for the node.
    fn request_id(&mut self, at: ConnectionId) -> Result<(RequestId, u32), ErrorCode> {
        let connection = self.connections.get_mut(at as usize).ok_or(ErrorCode::Internal)?;
        let key = super::reactor::key(at, connection.generation);
        let session = connection.session().ok_or(ErrorCode::Internal)?;
        session.next_reply = session.next_reply.wrapping_add(1);
        Ok((RequestId { connection: key, reply: session.next_reply }, session.next_reply))
    }

    /// The channel that a client may publish to, and who may.
    fn check_publish(&self, request: &PublishRequest, subscribed: bool) -> Result<ChannelName, ErrorCode> {
        let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
        match request.kind {
            0 if !request.data.is_empty() => {}
            // A map publication: no channel is a map.
            1 => return Err(ErrorCode::PermissionDenied),
            _ => return Err(ErrorCode::BadRequest),
        }
        let allowed = match self.node.namespace(&name).ok_or(ErrorCode::UnknownChannel)?.publish {
            Access::Anyone => true,
            Access::Subscribers => subscribed,
            Access::Nobody => false,
        };
        if !allowed {
            return Err(ErrorCode::PermissionDenied);
        }
        if request.data.len() > self.node.publication_bytes() {
            return Err(ErrorCode::LimitExceeded);
        }
        Ok(name)
    }

    fn try_publish(&mut self, at: ConnectionId, request: PublishRequest) -> Result<u32, ErrorCode> {
        let subscribed = ChannelName::parse(&request.channel).is_ok_and(|name| self.hears(at, &name));
        let name = self.check_publish(&request, subscribed)?;
        let (request_id, reply) = self.request_id(at)?;
        let client = self.session(at).and_then(|session| session.client).unwrap_or_default();
        let info = ClientInfo { client: client.to_string(), ..ClientInfo::default() };
        let ask = NodeRequest::Publish { channel: name, data: request.data, info, request_id };
        self.asks.try_send(ask).map_err(|_| ErrorCode::TooManyRequests)?;
        Ok(reply)
    }
}

/// Whether a connect command carries a token in the headers that SDKs emulate where a browser cannot set them.
fn emulates_authorization(request: &ConnectRequest) -> bool {
    request
        .headers
        .iter()
        .any(|(name, value)| name.eq_ignore_ascii_case("authorization") && token::is_token(value.as_bytes()))
}

/// Refuses what changes the meaning of a subscription and is not built, with the codes of Centrifugo.
fn check_options(request: &SubscribeRequest) -> Result<(), CommandRefusal> {
    match request.kind {
        0 => {}
        // Maps, and maps of clients and of users: no channel is one.
        1..=3 => return Err(ErrorCode::PermissionDenied.into()),
        // Shared polls.
        4 => return Err(ErrorCode::NotAvailable.into()),
        _ => return Err(CommandRefusal::Disconnect(Disconnect::InternalServerError)),
    }
    match request.delta.as_str() {
        // An offer that may be declined: the reply says nothing of it, so whole publications follow.
        "" | "fossil" => {}
        _ => return Err(CommandRefusal::Disconnect(Disconnect::BadRequest)),
    }
    if request.tf.is_some() {
        return Err(ErrorCode::BadRequest.into());
    }
    Ok(())
}

pub(super) fn history_body(history: Option<HistoryResponse>) -> ReplyBody {
    match history {
        Some(Ok(history)) => ReplyBody::History(HistoryResult {
            publications: history.publications.iter().map(|p| broadcast::wire(p)).collect(),
            epoch: encode_epoch(history.top.epoch),
            offset: history.top.offset,
        }),
        Some(Err(HistoryError::Unrecoverable)) => ReplyBody::Error(ErrorCode::UnrecoverablePosition.into()),
        Some(Err(HistoryError::Broker(_))) => ReplyBody::Error(ErrorCode::Internal.into()),
        None => ReplyBody::Error(ErrorCode::NotAvailable.into()),
    }
}

pub(super) fn subscribe_code(error: &SubscribeError) -> ErrorCode {
    use crate::broker::BrokerError;
    match error {
        SubscribeError::UnknownChannel => ErrorCode::UnknownChannel,
        SubscribeError::TooManyChannels => ErrorCode::LimitExceeded,
        SubscribeError::NodeBehind => ErrorCode::Internal,
        SubscribeError::Broker(BrokerError::Unavailable(_)) => ErrorCode::Internal,
        SubscribeError::Broker(BrokerError::Busy) => ErrorCode::TooManyRequests,
        SubscribeError::Broker(BrokerError::Refused(_)) => ErrorCode::PermissionDenied,
    }
}
