//! Commands that require a hook.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{
    ChannelName, Encoding, ErrorCode, PublishRequest, ReplyBody, ReplyError, RpcRequest, RpcResult,
    SubscribeRequest,
};

use super::{CommandClient, CommandError, Holds, SessionContext, check_subscribe, subscribe_to};
use crate::auth::access::Grant;
use crate::auth::{Denial, Identity};
use crate::hooks::{
    ChannelAnswers, ChannelQuestion, HookEvent, HookFailure, HookQuestion, HookReply, HookRequest,
    HookedClient,
};
use crate::login::Credentials;
use crate::node::namespace::ResolvedChannel;
use crate::shard::pending_replies::LoginPurpose;
use crate::shard::session_action::{SessionAction, error};

/// Whether clients' tokens for a channel are passed to the hook instead of being verified by the gateway.
pub(super) fn takes_token(channel: &ResolvedChannel) -> bool {
    let subscribe = channel.rules.namespace.access.subscribe;
    subscribe.contains(Grant::Hook) && !subscribe.contains(Grant::Token)
}

/// As [`takes_token`], for the name of a channel.
pub(super) fn gets_token(name: &str, context: &SessionContext<'_>) -> bool {
    let channel = ChannelName::parse(name).ok().and_then(|name| context.resolve(name).ok());
    channel.is_some_and(|channel| takes_token(&channel))
}

/// A question about a channel.
pub(super) fn question(name: &str, request: &SubscribeRequest) -> Option<ChannelQuestion> {
    let channel = ChannelName::parse(name).ok()?;
    Some(ChannelQuestion { channel, token: request.token.clone(), data: request.data.clone() })
}

/// A request to a hook about a client with this identity.
pub(super) fn credentials(
    client: &CommandClient<'_>,
    identity: &Arc<Identity>,
    question: HookQuestion,
) -> Credentials {
    let client = HookedClient {
        id: if client.id.is_nil() { String::new() } else { client.id.to_string() },
        transport: "websocket",
        is_binary: client.encoding == Encoding::Protobuf,
        identity: Arc::clone(identity),
        forwarded: client.meta.map(|meta| meta.forwarded().clone()).unwrap_or_default(),
    };
    Credentials::Hook(Box::new(HookRequest { client, question }))
}

/// Asks whether a client may subscribe.
pub(super) fn ask_subscribe(
    id: u32,
    request: SubscribeRequest,
    client: &CommandClient<'_>,
) -> Result<SessionAction, CommandError> {
    let question = question(&request.channel, &request).ok_or(ErrorCode::BadRequest)?;
    let credentials = credentials(client, client.identity, HookQuestion::Subscribe(vec![question]));
    Ok(SessionAction::LogIn { id, purpose: LoginPurpose::Subscribe(Box::new(request)), credentials })
}

/// Adds the channels of subscribe commands that wait for their turn to the question of one whose turn it is: the decisions
/// are cached until then.
pub(in crate::shard) fn add_waiting<'r>(
    action: &mut SessionAction,
    waiting: impl Iterator<Item = &'r SubscribeRequest>,
    identity: &Identity,
    context: &SessionContext<'_>,
) {
    let SessionAction::LogIn { credentials: Credentials::Hook(request), .. } = action else { return };
    let HookQuestion::Subscribe(channels) = &mut request.question else { return };
    for request in waiting {
        if channels.len() >= context.limits.channels_per_connection {
            return;
        }
        let checked = check_subscribe(&request.channel, request, None, identity, Holds::default(), context);
        let is_new = !channels.iter().any(|asked| asked.channel.as_str() == request.channel);
        if checked.is_err_and(|error| error.awaits_hook()) && is_new {
            channels.extend(question(&request.channel, request));
        }
    }
}

/// Asks whether a client may publish.
pub(super) fn ask_publish(
    id: u32,
    request: PublishRequest,
    client: &CommandClient<'_>,
) -> Result<SessionAction, CommandError> {
    let channel = ChannelName::parse(&request.channel).map_err(|_| ErrorCode::BadRequest)?;
    let question = HookQuestion::Publish { channel, data: request.data.clone() };
    let credentials = credentials(client, client.identity, question);
    Ok(SessionAction::LogIn { id, purpose: LoginPurpose::Publish(Box::new(request)), credentials })
}

/// Calls a method of the application.
pub(super) fn rpc(
    id: u32,
    request: RpcRequest,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let hooks = context.authenticator.hooks().filter(|hooks| hooks.has(HookEvent::Rpc));
    let Some(hooks) = hooks else { return Err(ErrorCode::NotAvailable.into()) };
    if client.rpc_calls >= hooks.settings().limits.rpc_inflight {
        return Err(ErrorCode::TooManyRequests.into());
    }
    let purpose = LoginPurpose::Rpc { bytes: request.method.len() + request.data.len() };
    let question = HookQuestion::Rpc { method: request.method, data: request.data };
    Ok(SessionAction::LogIn { id, purpose, credentials: credentials(client, client.identity, question) })
}

/// Executes a subscribe command after the hook has answered.
pub(super) fn finish_subscribe(
    id: u32,
    request: &SubscribeRequest,
    answers: &ChannelAnswers,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let reply = ChannelName::parse(&request.channel).ok().and_then(|name| answers.reply(&name));
    let Some(reply) = reply else { return error(id, ErrorCode::Internal) };
    let holds = Holds { hook: Some(reply.answer()), ..Holds::default() };
    match check_subscribe(&request.channel, request, None, client.identity, holds, context) {
        Ok(params) => subscribe_to(id, params, request),
        Err(error) => explained(id, error, reply),
    }
}

/// Replies to an rpc command.
pub(super) fn finish_rpc(id: u32, reply: HookReply<Bytes>) -> SessionAction {
    match reply {
        HookReply::Result(data) => SessionAction::Reply { id, body: ReplyBody::Rpc(RpcResult { data }) },
        HookReply::Failed(failure) => failed(id, failure),
        HookReply::Disconnect(disconnect) => SessionAction::DisconnectByHook(disconnect),
        HookReply::Denied => error(id, ErrorCode::PermissionDenied),
        HookReply::Unavailable => error(id, ErrorCode::Internal),
    }
}

/// The action for a denied command. If the hook denied it, the hook's own error or disconnect.
pub(super) fn explained<T>(id: u32, error: CommandError, reply: &HookReply<T>) -> SessionAction {
    let is_by_hook = matches!(&error, CommandError::Denied(denied) if denied.denial == Denial::Hook);
    match reply {
        HookReply::Failed(failure) if is_by_hook => failed(id, failure.clone()),
        HookReply::Disconnect(disconnect) if is_by_hook => {
            SessionAction::DisconnectByHook(disconnect.clone())
        }
        _ => error.action(id),
    }
}

fn failed(id: u32, HookFailure { code, message, is_temporary }: HookFailure) -> SessionAction {
    let error = ReplyError { code, message: message.into(), temporary: is_temporary };
    SessionAction::Reply { id, body: ReplyBody::Error(error) }
}
