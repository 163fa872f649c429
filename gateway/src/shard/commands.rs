//! The commands of a WebSocket session.
//!
//! Owns the check of a command against the rules of its channel, and the error codes. Pure: the result of a command is a
//! [`SessionAction`]. [`login`]: commands with credentials; [`hooks`]: commands that require a hook; [`publish`]:
//! publications.

mod hooks;
mod login;
mod publish;

use std::sync::Arc;

use earshot_protocol::{
    ChannelName, Command, Disconnect, Encoding, ErrorCode, HistoryRequest, HistoryResult, PublishResult,
    ReplyBody, Request, SubscribeRequest,
};
use uuid::Uuid;

use super::channels::{ChannelId, Channels};
use super::pending_replies::LoginPurpose;
use super::session_action::{CommandDenial, SessionAction, SubscribeParams, error};
use super::subscription::{Status, Subscription};
use super::{ShardLimits, framing};
use crate::auth::access::Operation;
use crate::auth::{Authorizer, ChannelRequest, ClientMeta, Denial, HookAnswer, Identity};
use crate::broker::DeliveryScope;
use crate::login::{Authenticator, Credentials, LoginOutcome};
use crate::node::history::encode_epoch;
use crate::node::messages::{HistoryQuery, HistoryResponse, NodeResponse, Published, RecoverFrom, RequestId};
use crate::node::namespace::{Namespaces, ResolvedChannel};
pub(super) use hooks::add_waiting;
pub(super) use login::finish;

/// The bit of a subscribe command's flags that requests an error if the position cannot be recovered.
const REJECT_UNRECOVERED: i64 = 2;

/// The rules and limits for checking a command.
#[derive(Debug)]
pub(super) struct SessionContext<'a> {
    pub(super) namespaces: &'a Namespaces,
    pub(super) authenticator: &'a Authenticator,
    /// The largest payload, in bytes.
    pub(super) publication_bytes: usize,
    pub(super) limits: &'a ShardLimits,
    pub(super) channels: &'a Channels,
    /// The subscriptions of the connection.
    pub(super) subscriptions: &'a [Subscription],
    /// Channels whose clients have not been unsubscribed by a push yet.
    pub(super) awaiting_resubscribe: &'a [ChannelName],
}

/// The client that sends a command.
#[derive(Debug)]
pub(super) struct CommandClient<'a> {
    /// Its id; nil before the connect command.
    pub(super) id: Uuid,
    /// The parts of its request that authentication needs, before the connect command.
    pub(super) meta: Option<&'a ClientMeta>,
    pub(super) identity: &'a Arc<Identity>,
    /// The encoding of its messages.
    pub(super) encoding: Encoding,
    /// The number of its `rpc` commands that wait for their response.
    pub(super) rpc_calls: usize,
}

/// The facts about a client and one channel, in addition to its identity.
#[derive(Clone, Copy, Debug, Default)]
struct Holds {
    /// It is subscribed to the channel.
    is_subscribed: bool,
    /// It presented a valid token for the channel.
    has_token: bool,
    /// The answer of the hook for the channel.
    hook: Option<HookAnswer>,
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

    /// Whether the answer of a hook decides.
    fn awaits_hook(&self) -> bool {
        matches!(self, Self::Denied(CommandDenial { denial: Denial::HookNotAsked, .. }))
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

/// Executes a command when its turn has come. `resolved` is its channel if the command was deferred:
/// [`check_deferred`].
pub(super) fn execute(
    command: Command,
    resolved: Option<ResolvedChannel>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let id = command.id;
    let result = match command.request {
        Request::Pong => Ok(SessionAction::SchedulePing),
        Request::Ping => Ok(SessionAction::Reply { id, body: ReplyBody::Pong }),
        Request::Connect(request) => Ok(login::connect(id, request, client, context)),
        Request::Subscribe(request) => subscribe(id, request, resolved, client, context),
        Request::History(request) => history(id, &request, client.identity, context),
        Request::Refresh(request) if context.authenticator.verifies_tokens() => {
            // Only a token can be replaced: otherwise a client could outlive the end of its session.
            if client.identity.is_refreshable() {
                let (user, token_bytes) = (client.identity.user().to_owned(), request.token.len());
                let credentials = Credentials::Refresh { token: request.token, user };
                Ok(SessionAction::LogIn { id, purpose: LoginPurpose::Refresh { token_bytes }, credentials })
            } else {
                Err(ErrorCode::BadRequest.into())
            }
        }
        Request::Unsubscribe(request) => match ChannelName::parse(&request.channel) {
            Ok(channel) => Ok(SessionAction::Unsubscribe { id, channel }),
            Err(_) => Err(ErrorCode::BadRequest.into()),
        },
        Request::Publish(request) => publish::publish(id, request, resolved, client, context),
        Request::Rpc(request) => hooks::rpc(id, request, client, context),
        // No hook receives it. `send` has no reply, so only a close can report that.
        Request::Send(_) => Err(CommandError::Disconnect(Disconnect::NotAvailable)),
        Request::SubRefresh(request) if context.authenticator.verifies_tokens() => {
            login::refresh_subscription(id, request, client, context)
        }
        Request::Presence(_) | Request::PresenceStats(_) | Request::Refresh(_) | Request::SubRefresh(_) => {
            Err(ErrorCode::NotAvailable.into())
        }
    };
    result.unwrap_or_else(|error| error.action(id))
}

/// Checks whether a command may wait for its turn. Conditions that depend on earlier commands are checked at execution.
/// Returns the channel if it was resolved.
pub(super) fn check_deferred(
    request: &Request,
    identity: &Identity,
    context: &SessionContext<'_>,
) -> Result<Option<ResolvedChannel>, CommandError> {
    match request {
        Request::Publish(request) => publish::check_deferred(request, identity, context).map(Some),
        Request::Subscribe(request) => {
            // Its token is verified and the hook is called when its turn comes.
            let has_token = context.authenticator.verifies_tokens();
            let holds = Holds { has_token, hook: Some(HookAnswer::Allowed), ..Holds::default() };
            let checked = check_subscribe(&request.channel, request, None, identity, holds, context)?;
            Ok(Some(checked.channel))
        }
        _ => Ok(None),
    }
}

fn subscribe(
    id: u32,
    request: SubscribeRequest,
    resolved: Option<ResolvedChannel>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let is_verified_here =
        context.authenticator.verifies_tokens() && !hooks::gets_token(&request.channel, context);
    if request.token.is_empty() || !is_verified_here {
        let (name, holds) = (&request.channel, Holds::default());
        return match check_subscribe(name, &request, resolved, client.identity, holds, context) {
            Ok(params) => Ok(subscribe_to(id, params, &request)),
            Err(error) if error.awaits_hook() => hooks::ask_subscribe(id, request, client),
            Err(error) => Err(error),
        };
    }
    check_options(&request)?;
    let credentials = Credentials::Subscription {
        token: request.token.clone(),
        channel: ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?,
        user: client.identity.user().to_owned(),
        client: client.id.to_string(),
    };
    Ok(SessionAction::LogIn { id, purpose: LoginPurpose::Subscribe(Box::new(request)), credentials })
}

fn subscribe_to(id: u32, params: SubscribeParams, request: &SubscribeRequest) -> SessionAction {
    let reject_unrecovered = request.flag & REJECT_UNRECOVERED != 0;
    SessionAction::Subscribe { id, params, reject_unrecovered }
}

/// The subscription, if the client may have it.
fn check_subscribe(
    name: &str,
    request: &SubscribeRequest,
    resolved: Option<ResolvedChannel>,
    identity: &Identity,
    holds: Holds,
    context: &SessionContext<'_>,
) -> Result<SubscribeParams, CommandError> {
    let channel = match resolved {
        Some(channel) => channel,
        None => context.resolve(ChannelName::parse(name).map_err(|_| ErrorCode::BadRequest)?)?,
    };
    check_options(request)?;
    if !request.token.is_empty() && !holds.has_token && !hooks::takes_token(&channel) {
        return Err(CommandError::denied(Denial::Token, &channel.name));
    }
    authorize(identity, Operation::Subscribe, &channel, holds)?;
    let since = request.recover.then(|| RecoverFrom::parse(&request.epoch, request.offset));
    Ok(SubscribeParams { channel, since, expires_at: None })
}

/// Checks that a client may perform an operation on a channel.
fn authorize(
    identity: &Identity,
    operation: Operation,
    channel: &ResolvedChannel,
    Holds { is_subscribed, has_token, hook }: Holds,
) -> Result<(), CommandError> {
    let request = ChannelRequest {
        identity,
        operation,
        channel: channel.name.as_str(),
        rules: &channel.rules.namespace.access,
        is_subscribed,
        has_token,
        hook,
    };
    Authorizer::channel(&request).map_err(|denial| CommandError::denied(denial, &channel.name))
}

fn history(
    id: u32,
    request: &HistoryRequest,
    identity: &Identity,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let channel = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
    let channel = context.resolve(channel)?;
    if !channel.rules.has_history() {
        return Err(ErrorCode::NotAvailable.into());
    }
    let holds = Holds { is_subscribed: context.is_subscribed(&channel.name), ..Holds::default() };
    authorize(identity, Operation::ReadHistory, &channel, holds)?;
    let since = request.since.as_ref().map(|since| RecoverFrom::parse(&since.epoch, since.offset));
    let query =
        HistoryQuery::new(since, request.limit, context.limits.recovery_publications, request.reverse);
    Ok(SessionAction::ReadHistory { id, channel, query })
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

/// A response of the node to a request of a session.
#[derive(Debug)]
pub(super) enum NodeReply {
    /// The reply to a command.
    Body(ReplyBody),
    /// The result of checking the client's credentials.
    LoggedIn(Result<LoginOutcome, Denial>),
}

/// Converts a response of the node.
pub(super) fn node_reply(response: NodeResponse) -> (RequestId, NodeReply) {
    let (request_id, body) = match response {
        NodeResponse::LoggedIn(request_id, result) => return (request_id, NodeReply::LoggedIn(result)),
        NodeResponse::Published(request_id, Ok(published)) => {
            let local = published == Published::Broadcast(DeliveryScope::ThisNode);
            (request_id, ReplyBody::Publish(PublishResult { local }))
        }
        NodeResponse::Published(request_id, Err(error)) => {
            (request_id, ReplyBody::Error(ErrorCode::from(&error).into()))
        }
        NodeResponse::History(request_id, history) => (request_id, history_body(history)),
    };
    (request_id, NodeReply::Body(body))
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
