//! An action that a session requests from its shard.

use std::sync::Arc;

use bytes::Bytes;
use earshot_protocol::{ChannelName, ClientInfo, Disconnect, ErrorCode, ReplyBody};

use super::channels::ChannelId;
use super::pending_replies::LoginPurpose;
use super::pending_subscription::PendingSubscription;
use crate::auth::{Denial, Identity, UnixSeconds};
use crate::hooks::HookDisconnect;
use crate::login::Credentials;
use crate::node::messages::{HistoryQuery, RecoverFrom};
use crate::node::namespace::ResolvedChannel;

/// An action that a session requests from its shard.
#[derive(Debug)]
pub(super) enum SessionAction {
    /// Nothing: the command has no reply, or it waits.
    None,
    /// Write a frame.
    Send(Bytes),
    /// Reply to a command.
    Reply { id: u32, body: ReplyBody },
    /// Close the connection.
    Disconnect(Disconnect),
    /// Close the connection, as a hook requests.
    DisconnectByHook(HookDisconnect),
    /// Log that a permission is denied, and reply to the command.
    Deny { id: u32, denial: CommandDenial },
    /// Log that the client may not connect; then close the connection, or reply with an error that can be resolved.
    DenyConnect { id: u32, denial: Denial },
    /// Check the credentials of a client; the reply to the command follows.
    LogIn { id: u32, purpose: LoginPurpose, credentials: Credentials },
    /// The client presented a new token: it has another identity.
    Refresh { id: u32, identity: Arc<Identity> },
    /// The client presented a new token for a subscription.
    RefreshSubscription { id: u32, channel: ChannelId, expires_at: Option<UnixSeconds> },
    /// Schedule the next ping.
    SchedulePing,
    /// Connect the client (`Session::connect`) and add its subscriptions; log those that are denied.
    Connect {
        id: u32,
        identity: Arc<Identity>,
        subscriptions: Vec<SubscribeParams>,
        denials: Vec<CommandDenial>,
    },
    /// Add a subscription.
    Subscribe { id: u32, params: SubscribeParams, reject_unrecovered: bool },
    /// Remove a subscription.
    Unsubscribe { id: u32, channel: ChannelName },
    /// Publish.
    Publish { id: u32, channel: ResolvedChannel, data: Bytes, info: ClientInfo, asked_hook: bool },
    /// Read a page of history.
    ReadHistory { id: u32, channel: ResolvedChannel, query: HistoryQuery },
    /// Reply to the connect command: its subscriptions are ready.
    FinishConnect { id: u32, subscriptions: Vec<PendingSubscription> },
    /// Reply to a subscribe command: its subscription is ready.
    FinishSubscribe { id: u32, subscription: PendingSubscription, reject_unrecovered: bool },
}

/// A permission that is denied to a client.
#[derive(Debug)]
pub(super) struct CommandDenial {
    pub(super) denial: Denial,
    pub(super) channel: ChannelName,
}

/// A subscription that a client requests.
#[derive(Debug)]
pub(super) struct SubscribeParams {
    pub(super) channel: ResolvedChannel,
    /// The position from which the client recovers.
    pub(super) since: Option<RecoverFrom>,
    /// When the subscription expires, if its token says so.
    pub(super) expires_at: Option<UnixSeconds>,
}

/// The action that replies with an error.
pub(super) fn error(id: u32, code: ErrorCode) -> SessionAction {
    SessionAction::Reply { id, body: ReplyBody::Error(code.into()) }
}
