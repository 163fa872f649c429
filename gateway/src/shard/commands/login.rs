//! Commands whose credentials are checked first.

use std::sync::Arc;

use earshot_protocol::{ConnectRequest, Disconnect, ErrorCode, SubscribeRequest};

use super::{CommandClient, CommandError, Holds, SessionContext, check_subscribe, subscribe_to};
use crate::auth::{Denial, Identity, token};
use crate::login::{Credentials, LoginOutcome};
use crate::shard::pending_replies::LoginPurpose;
use crate::shard::session_action::{SessionAction, error};

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
        (LoginPurpose::Subscribe(_), _) if identity.has_ended() => {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        (LoginPurpose::Subscribe(request), Ok(LoginOutcome::Subscription { .. })) => {
            subscribe_with_token(id, &request, identity, context)
        }
        // SDKs request another token only after a connect command.
        (LoginPurpose::Refresh { .. }, Err(Denial::TokenExpired)) => {
            SessionAction::Disconnect(Disconnect::ConnectionExpired)
        }
        // As Centrifugo, which closes the connection only for a connection token.
        (LoginPurpose::Subscribe(_), Err(Denial::InvalidToken)) => error(id, ErrorCode::PermissionDenied),
        (LoginPurpose::Subscribe(_), Err(denial)) => error(id, denial.into()),
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
    identity: &Identity,
    context: &SessionContext<'_>,
) -> SessionAction {
    let holds = Holds { has_token: true, ..Holds::default() };
    match check_subscribe(&request.channel, request, None, identity, holds, context) {
        Ok(params) => subscribe_to(id, params, request),
        Err(error) => error.action(id),
    }
}

/// The token of `Authorization` in the headers that SDKs emulate, because browsers cannot set them; empty if there is
/// none.
fn emulated_token(request: &ConnectRequest) -> &str {
    let is_token = |(name, value): &&(String, String)| {
        name.eq_ignore_ascii_case("authorization") && token::is_token(value.as_bytes())
    };
    request.headers.iter().find(is_token).map_or("", |(_, value)| token::without_scheme(value))
}
