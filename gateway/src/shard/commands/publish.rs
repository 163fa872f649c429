//! The publish command.

use bytes::Bytes;
use earshot_protocol::{ChannelName, ClientInfo, ErrorCode, PublishRequest};

use super::{CommandClient, CommandError, Holds, SessionContext, authorize, hooks};
use crate::auth::access::Operation;
use crate::auth::{HookAnswer, Identity};
use crate::hooks::HookReply;
use crate::node::namespace::ResolvedChannel;
use crate::shard::session_action::SessionAction;

/// Executes the command.
pub(super) fn publish(
    id: u32,
    request: PublishRequest,
    resolved: Option<ResolvedChannel>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> Result<SessionAction, CommandError> {
    let is_subscribed = |name: &ChannelName| context.is_subscribed(name);
    match check(&request, resolved, client.identity, is_subscribed, None, context) {
        Ok(channel) => Ok(publish_to(id, channel, request.data, client, false)),
        Err(error) if error.awaits_hook() => hooks::ask_publish(id, request, client),
        Err(error) => Err(error),
    }
}

/// Executes the command after the hook has answered; the hook's result replaces the payload.
pub(super) fn finish(
    id: u32,
    request: PublishRequest,
    reply: &HookReply<Option<Bytes>>,
    client: &CommandClient<'_>,
    context: &SessionContext<'_>,
) -> SessionAction {
    let answer = Some(reply.answer());
    let data = match reply {
        HookReply::Result(Some(data)) => data.clone(),
        _ => request.data.clone(),
    };
    let request = PublishRequest { data, ..request };
    let is_subscribed = |name: &ChannelName| context.is_subscribed(name);
    match check(&request, None, client.identity, is_subscribed, answer, context) {
        Ok(channel) => publish_to(id, channel, request.data, client, true),
        Err(error) => hooks::explained(id, error, reply),
    }
}

/// Checks whether a publish command may wait for its turn, in which the hook is asked.
pub(super) fn check_deferred(
    request: &PublishRequest,
    identity: &Identity,
    context: &SessionContext<'_>,
) -> Result<ResolvedChannel, CommandError> {
    check(request, None, identity, |_| true, Some(HookAnswer::Allowed), context)
}

fn publish_to(
    id: u32,
    channel: ResolvedChannel,
    data: Bytes,
    client: &CommandClient<'_>,
    asked_hook: bool,
) -> SessionAction {
    let info = ClientInfo {
        user: client.identity.user().to_owned(),
        client: client.id.to_string(),
        conn_info: client.identity.info().cloned(),
        ..ClientInfo::default()
    };
    SessionAction::Publish { id, channel, data, info, asked_hook }
}

/// The channel to publish to, if the client may.
fn check(
    request: &PublishRequest,
    resolved: Option<ResolvedChannel>,
    identity: &Identity,
    is_subscribed: impl FnOnce(&ChannelName) -> bool,
    hook: Option<HookAnswer>,
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
    let holds = Holds { is_subscribed: is_subscribed(&channel.name), hook, ..Holds::default() };
    let authorized = authorize(identity, Operation::Publish, &channel, holds);
    match authorized {
        Err(error) if !error.awaits_hook() => Err(error),
        _ if request.data.len() > context.publication_bytes => Err(ErrorCode::LimitExceeded.into()),
        authorized => authorized.map(|()| channel),
    }
}
