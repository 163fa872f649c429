//! Commands whose credentials are checked first.

use std::sync::Arc;

use earshot_protocol::{
    ChannelName, ConnectRequest, Disconnect, ErrorCode, SubRefreshRequest, SubscribeRequest,
};

use super::{CommandClient, CommandError, Holds, SessionContext, check_subscribe, subscribe_to};
use crate::auth::{Denial, Identity, UnixSeconds, token};
use crate::login::{Credentials, LoginOutcome};
use crate::shard::channels::ChannelId;
use crate::shard::pending_replies::LoginPurpose;
use crate::shard::session_action::{SessionAction, SubscribeParams, error};
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
        Some(Ok(identity)) => finish_login(id, &request, identity, context),
        Some(Err(denial)) => SessionAction::DenyConnect { id, denial },
        None => {
            let credentials = Credentials::Connect { client: None, token: token.to_owned() };
            SessionAction::LogIn { id, purpose: LoginPurpose::Connect(Box::new(request)), credentials }
        }
    }
}

/// Executes a command whose credentials were checked.
pub(in crate::shard) fn finish(
    id: u32,
    purpose: LoginPurpose,
    result: Result<LoginOutcome, Denial>,
    identity: &Identity,
    context: &SessionContext<'_>,
) -> SessionAction {
    match (purpose, result) {
        (LoginPurpose::Connect(request), Ok(LoginOutcome::Identity(identity))) => {
            finish_login(id, &request, identity, context)
        }
        (LoginPurpose::Refresh { .. }, Ok(LoginOutcome::Identity(identity))) => {
            SessionAction::Refresh { id, identity }
        }
        (LoginPurpose::Subscribe(_) | LoginPurpose::RefreshSubscription { .. }, _)
            if identity.has_ended() =>
        {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        (LoginPurpose::Subscribe(request), Ok(LoginOutcome::Subscription { expires_at })) => {
            subscribe_with_token(id, &request, expires_at, identity, context)
        }
        (
            LoginPurpose::RefreshSubscription { channel, .. },
            Ok(LoginOutcome::Subscription { expires_at }),
        ) => match subscribed_channel(&channel, context) {
            Ok(channel) => SessionAction::RefreshSubscription { id, channel, expires_at },
            Err(error) => error.action(id),
        },
        // SDKs request another token only after a connect command.
        (LoginPurpose::Refresh { .. }, Err(Denial::TokenExpired | Denial::Revoked)) => {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        // As Centrifugo, which closes the connection only for a connection token.
        (LoginPurpose::Subscribe(_) | LoginPurpose::RefreshSubscription { .. }, Err(denial)) => {
            let code =
                if denial == Denial::InvalidToken { ErrorCode::PermissionDenied } else { denial.into() };
            error(id, code)
        }
        (_, Err(denial)) => SessionAction::DenyConnect { id, denial },
        (_, Ok(_)) => error(id, ErrorCode::Internal),
    }
}

/// Connects a client whose identity is determined.
fn finish_login(
    id: u32,
    request: &ConnectRequest,
    identity: Arc<Identity>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let requested = |name: &str| request.subs.iter().any(|(other, _)| other == name);
    // Channels that the token names, without a position.
    let without_position = SubscribeRequest::default();
    let named = identity.token_channels().names().filter(|name| !requested(name));
    let named = named.map(|name| (name, &without_position));
    let subs = request.subs.iter().map(|(name, sub)| (name.as_str(), sub)).chain(named);
    let (mut subscriptions, mut denials) = (Vec::new(), Vec::new());
    for (name, subscription) in subs {
        // The reply omits a channel that the client may not subscribe to.
        match check_subscribe(name, subscription, None, &identity, Holds::default(), context) {
            Ok(params) => subscriptions.push(params),
            Err(CommandError::Denied(denial)) => denials.push(denial),
            Err(CommandError::Error(_) | CommandError::Disconnect(_)) => {}
        }
    }
    SessionAction::Connect { id, identity, subscriptions, denials }
}

/// Subscribes a client whose token for the channel is valid.
fn subscribe_with_token(
    id: u32,
    request: &SubscribeRequest,
    expires_at: Option<UnixSeconds>,
    identity: &Identity,
    context: &SessionContext<'_>,
) -> SessionAction {
    let holds = Holds { has_token: true, ..Holds::default() };
    match check_subscribe(&request.channel, request, None, identity, holds, context) {
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
