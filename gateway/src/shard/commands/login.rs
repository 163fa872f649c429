//! Commands whose credentials are checked first.

use std::sync::Arc;

use earshot_protocol::{
    ChannelName, ConnectRequest, Disconnect, ErrorCode, SubRefreshRequest, SubscribeRequest,
};

use super::{
    CommandClient, CommandError, Holds, SessionContext, check_subscribe, hooks, publish, subscribe_to,
};
use crate::auth::{Denial, Identity, UnixSeconds, token};
use crate::hooks::{ChannelAnswers, HookOutcome, HookQuestion};
use crate::login::{Credentials, LoginOutcome};
use crate::shard::channels::ChannelId;
use crate::shard::pending_replies::LoginPurpose;
use crate::shard::session_action::{CommandDenial, SessionAction, SubscribeParams, error};
use crate::shard::subscription::Status;

/// Executes the connect command.
pub(super) fn connect(
    id: u32,
    request: ConnectRequest,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let token = if request.token.is_empty() { emulated_token(&request) } else { &request.token };
    match context.authenticator.authenticate_now(client.meta, token) {
        Some(Ok(identity)) => finish_login(id, request, identity, None, client, context),
        Some(Err(denial)) => SessionAction::DenyConnect { id, denial },
        None => {
            let credentials = Credentials::Connect { client: None, token: token.to_owned() };
            SessionAction::LogIn { id, purpose: LoginPurpose::Connect(Box::new(request)), credentials }
        }
    }
}

/// Executes a command after its credentials were checked or a hook has answered.
pub(in crate::shard) fn finish(
    id: u32,
    purpose: LoginPurpose,
    result: Result<LoginOutcome, Denial>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    use LoginPurpose::{
        Connect, ConnectSubscriptions, Publish, Refresh, RefreshSubscription, Rpc, Subscribe,
    };
    match (purpose, result) {
        (Connect(request), Ok(LoginOutcome::Identity(identity))) => {
            finish_login(id, *request, identity, None, client, context)
        }
        (ConnectSubscriptions(request, identity), Ok(LoginOutcome::Hook(HookOutcome::Channels(answers)))) => {
            finish_login(id, *request, identity, Some(&answers), client, context)
        }
        (Refresh { .. }, Ok(LoginOutcome::Identity(identity))) => SessionAction::Refresh { id, identity },
        (Subscribe(_) | RefreshSubscription { .. } | Publish(_) | Rpc { .. }, _)
            if client.identity.has_ended() =>
        {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        (Subscribe(request), Ok(LoginOutcome::Subscription { expires_at })) => {
            subscribe_with_token(id, &request, expires_at, client, context)
        }
        (Subscribe(request), Ok(LoginOutcome::Hook(HookOutcome::Channels(answers)))) => {
            hooks::finish_subscribe(id, &request, &answers, client, context)
        }
        (Publish(request), Ok(LoginOutcome::Hook(HookOutcome::Publish(reply)))) => {
            publish::finish(id, *request, &reply, client, context)
        }
        (Rpc { .. }, Ok(LoginOutcome::Hook(HookOutcome::Rpc(reply)))) => hooks::finish_rpc(id, reply),
        (RefreshSubscription { channel, .. }, Ok(LoginOutcome::Subscription { expires_at })) => {
            match subscribed_channel(&channel, context) {
                Ok(channel) => SessionAction::RefreshSubscription { id, channel, expires_at },
                Err(error) => error.action(id),
            }
        }
        // SDKs request another token only after a connect command.
        (Refresh { .. }, Err(Denial::TokenExpired | Denial::Revoked)) => {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        // Like Centrifugo, which closes the connection only for a connection token.
        (Subscribe(_) | RefreshSubscription { .. } | Publish(_) | Rpc { .. }, Err(denial)) => {
            let code =
                if denial == Denial::InvalidToken { ErrorCode::PermissionDenied } else { denial.into() };
            error(id, code)
        }
        (_, Err(denial)) => SessionAction::DenyConnect { id, denial },
        (_, Ok(_)) => error(id, ErrorCode::Internal),
    }
}

/// Connects a client whose identity is determined. `answers` come from the hook; without them, it is called for all
/// channels for which it decides.
fn finish_login(
    id: u32,
    request: ConnectRequest,
    identity: Arc<Identity>,
    answers: Option<&ChannelAnswers>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    if let Some(disconnect) = answers.and_then(ChannelAnswers::disconnect) {
        return SessionAction::DisconnectByHook(disconnect.clone());
    }
    let requested = |name: &str| request.subs.iter().any(|(other, _)| other == name);
    // Channels that the token names, without a position.
    let without_position = SubscribeRequest::default();
    let named = identity.token_channels().names().filter(|name| !requested(name));
    let named = named.map(|name| (name, &without_position));
    let subs = request.subs.iter().map(|(name, sub)| (name.as_str(), sub)).chain(named);
    let (mut subscriptions, mut denials, mut questions) = (Vec::new(), Vec::new(), Vec::new());
    for (name, subscription) in subs {
        let hook = answers.and_then(|answers| answers.answer(&ChannelName::parse(name).ok()?));
        let holds = Holds { hook, ..Holds::default() };
        // The reply omits a channel that the client may not subscribe to.
        match check_subscribe(name, subscription, None, &identity, holds, context) {
            Ok(params) => subscriptions.push(params),
            Err(error) if error.awaits_hook() && answers.is_none() => {
                questions.extend(hooks::question(name, subscription));
            }
            // The client would not request an omitted channel again.
            Err(CommandError::Denied(CommandDenial { denial: denial @ Denial::HookUnavailable, .. })) => {
                return SessionAction::DenyConnect { id, denial };
            }
            Err(CommandError::Denied(denial)) => denials.push(denial),
            Err(CommandError::Error(_) | CommandError::Disconnect(_)) => {}
        }
    }
    if questions.is_empty() {
        return SessionAction::Connect { id, identity, subscriptions, denials };
    }
    // The others could not be subscribed to.
    questions.truncate(context.limits.channels_per_connection);
    let credentials = hooks::credentials(client, &identity, HookQuestion::Subscribe(questions));
    let purpose = LoginPurpose::ConnectSubscriptions(Box::new(request), identity);
    SessionAction::LogIn { id, purpose, credentials }
}

/// Subscribes a client whose token for the channel is valid.
fn subscribe_with_token(
    id: u32,
    request: &SubscribeRequest,
    expires_at: Option<UnixSeconds>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let holds = Holds { has_token: true, ..Holds::default() };
    match check_subscribe(&request.channel, request, None, client.identity, holds, context) {
        Ok(params) => subscribe_to(id, SubscribeParams { expires_at, ..params }, request),
        Err(error) => error.action(id),
    }
}

/// Requests the check of a new token for a subscription.
pub(super) fn refresh_subscription(
    id: u32,
    request: SubRefreshRequest,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let channel = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
    if request.token.is_empty() {
        return Err(ErrorCode::BadRequest.into());
    }
    subscribed_channel(&channel, context)?;
    let purpose =
        LoginPurpose::RefreshSubscription { channel: channel.clone(), token_bytes: request.token.len() };
    let credentials = Credentials::Subscription {
        token: request.token,
        channel,
        user: client.identity.user().to_owned(),
        client: client.id.to_string(),
    };
    Ok(SessionAction::LogIn { id, purpose, credentials })
}

/// The channel of a subscription whose reply was sent.
fn subscribed_channel(name: &ChannelName, context: &SessionContext<'_>) -> Result<ChannelId, CommandError> {
    let is_active = matches!(context.status(name), Some(Status::Recovering | Status::Joined(_)));
    let channel = context.channel(name).filter(|_| is_active);
    channel.ok_or_else(|| ErrorCode::PermissionDenied.into())
}

/// The token of `Authorization` in the headers that SDKs emulate, because browsers cannot set them; empty if there is
/// none.
fn emulated_token(request: &ConnectRequest) -> &str {
    let is_token = |(name, value): &&(String, String)| {
        name.eq_ignore_ascii_case("authorization") && token::is_token(value.as_bytes())
    };
    request.headers.iter().find(is_token).map_or("", |(_, value)| token::without_scheme(value))
}
