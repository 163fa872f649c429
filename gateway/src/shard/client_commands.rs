//! Commands of the API to connected clients.
//!
//! One scan over the connections executes all commands that arrived together: they are rare, and an index of users would
//! cost memory for each connection.

use std::collections::HashMap;

use earshot_protocol::{
    ChannelName, Disconnect, ErrorCode, Push, PushBody, RefreshPush, Reply, ReplyBody, UnsubscribeCode,
};
use uuid::Uuid;

use super::channels::ConnectionId;
use super::close_reason::CloseReason;
use super::connection::ConnectionKind;
use super::event_loop::Shard;
use super::expiry;
use crate::auth::UnixSeconds;
use crate::auth::revocation::{ClientAction, ClientCommand};

/// Commands, grouped by how they select their clients.
struct CommandIndex<'c> {
    by_user: HashMap<&'c str, Vec<&'c ClientCommand>>,
    /// Commands without a user.
    by_client: HashMap<Uuid, Vec<&'c ClientCommand>>,
}

impl<'c> CommandIndex<'c> {
    fn new(commands: &'c [ClientCommand]) -> Self {
        let mut index = Self { by_user: HashMap::new(), by_client: HashMap::new() };
        for command in commands {
            let client = command.selector.client.as_deref().and_then(|client| Uuid::try_parse(client).ok());
            if let Some(user) = &command.selector.user {
                index.by_user.entry(user).or_default().push(command);
            } else if let Some(client) = client {
                index.by_client.entry(client).or_default().push(command);
            }
        }
        index
    }

    /// The commands for a client, in order; `id` is nil for an event stream.
    fn commands_for(&self, user: &str, id: Uuid) -> impl Iterator<Item = &'c ClientCommand> {
        let text = if id.is_nil() { String::new() } else { id.to_string() };
        let user_commands = self.by_user.get(user).into_iter().flatten();
        let client_commands = self.by_client.get(&id).filter(|_| !id.is_nil()).into_iter().flatten();
        let user = user.to_owned();
        user_commands
            .chain(client_commands)
            .copied()
            .filter(move |command| command.selector.selects(&user, &text))
    }
}

impl Shard {
    /// Executes commands on the clients that they select.
    pub(super) fn command_clients(&mut self, commands: &[ClientCommand]) {
        let index = CommandIndex::new(commands);
        for connection_id in self.state.connections().ids() {
            let Some(connection) = self.state.connections().get(connection_id).filter(|c| c.is_open()) else {
                continue;
            };
            let id = match &connection.kind {
                ConnectionKind::WebSocket(session) => session.client(),
                ConnectionKind::Sse(_) => Uuid::nil(),
            };
            let selected: Vec<_> = index.commands_for(connection.identity().user(), id).collect();
            for command in selected {
                command_client(self, connection_id, id, &command.action);
            }
        }
    }
}

fn command_client(shard: &mut Shard, connection_id: ConnectionId, id: Uuid, action: &ClientAction) {
    match action {
        ClientAction::Disconnect { code, reason, whitelist } => {
            let is_kept = !id.is_nil() && whitelist.iter().any(|kept| *kept == id.to_string());
            if !is_kept {
                shard.state.disconnect_with(connection_id, *code, reason, CloseReason::Command(*code));
            }
        }
        ClientAction::Unsubscribe { channel } => {
            if let Ok(channel) = ChannelName::parse(channel) {
                unsubscribe_client(shard, connection_id, &channel);
            }
        }
        ClientAction::Refresh { expire_at } => set_expiry(shard, connection_id, *expire_at),
    }
}

/// Ends the subscription to a channel. A stream ends as a whole: its client reconnects, and its permissions are
/// checked again.
fn unsubscribe_client(shard: &mut Shard, connection_id: ConnectionId, name: &ChannelName) {
    let channel = shard.state.channels().find(name);
    let Some(connection) = shard.state.connection_mut(connection_id) else { return };
    let subscription = channel.filter(|channel| connection.subscription(*channel).is_some());
    let code = UnsubscribeCode::Server;
    if connection.framing.is_event_stream() {
        if subscription.is_some() {
            let wire_code = u16::try_from(code.code()).unwrap_or_default();
            let reason = CloseReason::Command(wire_code);
            shard.state.disconnect_with(connection_id, wire_code, code.reason(), reason);
        }
        return;
    }
    let waited = connection.awaiting_resubscribe.len();
    connection.awaiting_resubscribe.retain(|awaiting| awaiting != name);
    if subscription.is_none() && connection.awaiting_resubscribe.len() == waited {
        return;
    }
    if let Some(session) = connection.session() {
        session.server_side.retain(|channel| channel != name);
    }
    let frame = connection.framing.unsubscribe_push(name, code);
    if let Some(channel) = subscription {
        shard.state.subscriptions().unsubscribe(connection_id, channel);
        // The subscription belongs to a command without a reply so far.
        shard.session(connection_id).on_subscribe_failed(channel, ErrorCode::PermissionDenied);
    }
    shard.state.enqueue(connection_id, frame);
}

/// Sets when the login of a connection expires.
fn set_expiry(shard: &mut Shard, connection_id: ConnectionId, expire_at: UnixSeconds) {
    if expiry::time_left(expire_at).is_zero() {
        return shard.state.disconnect(connection_id, Disconnect::ConnectionExpired);
    }
    let Some(connection) = shard.state.connection_mut(connection_id) else { return };
    match &mut connection.kind {
        ConnectionKind::WebSocket(session) => session.expiry.set_login(Some(expire_at)),
        ConnectionKind::Sse(stream) => stream.set_expiry(expire_at),
    }
    let push = RefreshPush { expires: true, ttl: expiry::time_to_live(Some(expire_at)).unwrap_or(0) };
    let push = Push { channel: String::new(), body: PushBody::Refresh(push) };
    // Empty for a stream.
    let frame = connection.framing.reply(&Reply { id: 0, body: ReplyBody::Push(push) });
    if !frame.is_empty() {
        shard.state.enqueue(connection_id, frame);
    }
    shard.context(connection_id).bring_timer_forward();
}
