//! The commands of a WebSocket session.
//!
//! Owns the check of a command against the rules of its channel, and the error codes. Pure: the result of a command is a
//! [`SessionAction`].

use earshot_protocol::{
    ChannelName, ClientInfo, Command, ConnectRequest, Disconnect, ErrorCode, HistoryRequest, HistoryResult,
    PublishRequest, PublishResult, ReplyBody, Request, SubscribeRequest,
};
use uuid::Uuid;

use super::channels::{ChannelId, Channels};
use super::session_action::{CommandDenial, SessionAction, SubscribeParams, error};
use super::subscription::{Status, Subscription};
use super::{ShardLimits, framing};
use crate::auth::{Authorizer, Denial, Identity, token};
use crate::broker::DeliveryScope;
use crate::node::history::encode_epoch;
use crate::node::messages::{HistoryQuery, HistoryResponse, NodeResponse, Published, RecoverFrom, RequestId};
use crate::node::namespace::{Namespaces, ResolvedChannel};

/// The bit of a subscribe command's flags that requests an error if the position cannot be recovered.
const REJECT_UNRECOVERED: i64 = 2;

/// What a command is checked against.
#[derive(Debug)]
pub(super) struct SessionContext<'a> {
    pub(super) namespaces: &'a Namespaces,
    /// The largest payload, in bytes.
    pub(super) publication_bytes: usize,
    pub(super) limits: &'a ShardLimits,
    pub(super) channels: &'a Channels,
    /// The subscriptions of the connection.
    pub(super) subscriptions: &'a [Subscription],
    /// Channels whose clients have not been unsubscribed by a push yet.
    pub(super) awaiting_resubscribe: &'a [ChannelName],
}

/// Why a command fails.
#[derive(Debug)]
pub(super) enum CommandError {
    Error(ErrorCode),
    Disconnect(Disconnect),
    /// The client may not do that.
    Denied(CommandDenial),
}

impl SessionContext<'_> {
    /// The channel with its rules.
    fn resolve(&self, name: ChannelName) -> Result<ResolvedChannel, CommandError> {
        let unknown = CommandError::denied(Denial::UnknownChannel, &name);
        self.namespaces.resolve(name).ok_or(unknown)
    }

    pub(super) fn channel(&self, name: &ChannelName) -> Option<ChannelId> {
        self.channels.find(name)
    }

    /// The state of the subscription to a channel.
    pub(super) fn status(&self, name: &ChannelName) -> Option<Status> {
        let channel = self.channel(name)?;
        let subscription = self.subscriptions.iter().find(|subscription| subscription.channel == channel)?;
        Some(subscription.status)
    }

    /// Whether the client considers itself subscribed to a channel.
    fn is_subscribed(&self, name: &ChannelName) -> bool {
        self.awaiting_resubscribe.contains(name) || self.status(name).is_some()
    }
}

impl From<ErrorCode> for CommandError {
    fn from(code: ErrorCode) -> Self {
        Self::Error(code)
    }
}

impl CommandError {
    fn denied(denial: Denial, channel: &ChannelName) -> Self {
        Self::Denied(CommandDenial { denial, channel: channel.clone() })
    }

    /// The action that reports the error of a command.
    pub(super) fn action(self, id: u32) -> SessionAction {
        match self {
            Self::Error(code) => error(id, code),
            Self::Disconnect(disconnect) => SessionAction::Disconnect(disconnect),
            Self::Denied(denial) => SessionAction::Deny { id, denial },
        }
    }
}

/// Executes a command of a client whose turn it is. `resolved` is its channel if the command was deferred:
/// [`check_deferred`].
pub(super) fn execute(
    command: Command,
    resolved: Option<ResolvedChannel>,
    client: Uuid,
    context: &SessionContext<'_>,
) -> SessionAction {
    let id = command.id;
    let result = match command.request {
        Request::Pong => Ok(SessionAction::SchedulePing),
        Request::Ping => Ok(SessionAction::Reply { id, body: ReplyBody::Pong }),
        Request::Connect(request) => Ok(connect(id, &request, context)),
        Request::Subscribe(request) => subscribe(id, &request, resolved, context),
        Request::History(request) => history(id, &request, context),
        Request::Unsubscribe(request) => match ChannelName::parse(&request.channel) {
            Ok(channel) => Ok(SessionAction::Unsubscribe { id, channel }),
            Err(_) => Err(ErrorCode::BadRequest.into()),
        },
        Request::Publish(request) => {
            let info = ClientInfo { client: client.to_string(), ..ClientInfo::default() };
            publish(id, request, resolved, info, context)
        }
        // The gateway has no application backend. `send` has no reply, so only a close can report that.
        Request::Send(_) => Err(CommandError::Disconnect(Disconnect::NotAvailable)),
        Request::Rpc(_)
        | Request::Presence(_)
        | Request::PresenceStats(_)
        | Request::Refresh(_)
        | Request::SubRefresh(_) => Err(ErrorCode::NotAvailable.into()),
    };
    result.unwrap_or_else(|error| error.action(id))
}

/// Checks whether a command may wait for its turn. What depends on earlier commands is checked when it is executed.
/// Returns the channel if it was resolved.
pub(super) fn check_deferred(
    request: &Request,
    context: &SessionContext<'_>,
) -> Result<Option<ResolvedChannel>, CommandError> {
    match request {
        Request::Publish(request) => check_publish(request, None, |_| true, context).map(Some),
        Request::Subscribe(request) => {
            Ok(Some(check_subscribe(&request.channel, request, None, context)?.channel))
        }
        _ => Ok(None),
    }
}

fn connect(id: u32, request: &ConnectRequest, context: &SessionContext<'_>) -> SessionAction {
    if !request.token.is_empty() || emulates_authorization(request) {
        return SessionAction::DenyConnect(Denial::Token);
    }
    let (mut subscriptions, mut denials) = (Vec::new(), Vec::new());
    for (name, subscription) in &request.subs {
        // The reply omits a channel that the client may not subscribe to.
        match check_subscribe(name, subscription, None, context) {
            Ok(params) => subscriptions.push(params),
            Err(CommandError::Denied(denial)) => denials.push(denial),
            Err(CommandError::Error(_) | CommandError::Disconnect(_)) => {}
        }
    }
    SessionAction::Connect { id, subscriptions, denials }
}

fn subscribe(
    id: u32,
    request: &SubscribeRequest,
    resolved: Option<ResolvedChannel>,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let params = check_subscribe(&request.channel, request, resolved, context)?;
    let reject_unrecovered = request.flag & REJECT_UNRECOVERED != 0;
    Ok(SessionAction::Subscribe { id, params, reject_unrecovered })
}

/// The subscription, if the client may have it.
fn check_subscribe(
    name: &str,
    request: &SubscribeRequest,
    resolved: Option<ResolvedChannel>,
    context: &SessionContext<'_>,
) -> Result<SubscribeParams, CommandError> {
    let channel = match resolved {
        Some(channel) => channel,
        None => context.resolve(ChannelName::parse(name).map_err(|_| ErrorCode::BadRequest)?)?,
    };
    check_options(request)?;
    if !request.token.is_empty() {
        return Err(CommandError::denied(Denial::Token, &channel.name));
    }
    Authorizer::subscribe(Identity::Anonymous, channel.rules.namespace.subscribe)
        .map_err(|denial| CommandError::denied(denial, &channel.name))?;
    let since = request.recover.then(|| RecoverFrom::parse(&request.epoch, request.offset));
    Ok(SubscribeParams { channel, since })
}

fn publish(
    id: u32,
    request: PublishRequest,
    resolved: Option<ResolvedChannel>,
    info: ClientInfo,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let channel = check_publish(&request, resolved, |name| context.is_subscribed(name), context)?;
    Ok(SessionAction::Publish { id, channel, data: request.data, info })
}

/// The channel to publish to, if the client may.
fn check_publish(
    request: &PublishRequest,
    resolved: Option<ResolvedChannel>,
    is_subscribed: impl FnOnce(&ChannelName) -> bool,
    context: &SessionContext<'_>,
) -> Result<ResolvedChannel, CommandError> {
    let name = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
    match request.kind {
        0 if !request.data.is_empty() => {}
        // A map publication: no channel is a map.
        1 => return Err(ErrorCode::PermissionDenied.into()),
        _ => return Err(ErrorCode::BadRequest.into()),
    }
    let channel = match resolved {
        Some(channel) => channel,
        None => context.resolve(name)?,
    };
    let (access, subscribed) = (channel.rules.namespace.publish, is_subscribed(&channel.name));
    Authorizer::publish(Identity::Anonymous, access, subscribed)
        .map_err(|denial| CommandError::denied(denial, &channel.name))?;
    if request.data.len() > context.publication_bytes {
        return Err(ErrorCode::LimitExceeded.into());
    }
    Ok(channel)
}

fn history(
    id: u32,
    request: &HistoryRequest,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let channel = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
    let channel = context.resolve(channel)?;
    if !channel.rules.has_history() {
        return Err(ErrorCode::NotAvailable.into());
    }
    Authorizer::history(Identity::Anonymous, context.is_subscribed(&channel.name))
        .map_err(|denial| CommandError::denied(denial, &channel.name))?;
    let since = request.since.as_ref().map(|since| RecoverFrom::parse(&since.epoch, since.offset));
    let query =
        HistoryQuery::new(since, request.limit, context.limits.recovery_publications, request.reverse);
    Ok(SessionAction::ReadHistory { id, channel, query })
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

/// The reply to a command for which the node was requested.
pub(super) fn response_body(response: NodeResponse) -> (RequestId, ReplyBody) {
    match response {
        NodeResponse::Published(request_id, Ok(published)) => {
            let local = published == Published::Broadcast(DeliveryScope::ThisNode);
            (request_id, ReplyBody::Publish(PublishResult { local }))
        }
        NodeResponse::Published(request_id, Err(error)) => {
            (request_id, ReplyBody::Error(ErrorCode::from(&error).into()))
        }
        NodeResponse::History(request_id, history) => (request_id, history_body(history)),
    }
}

/// The reply to a history command; `None` if the channel is not known.
fn history_body(history: Option<HistoryResponse>) -> ReplyBody {
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
