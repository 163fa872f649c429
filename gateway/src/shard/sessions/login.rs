//! Checks the credentials of a session, with the node.

use std::sync::Arc;

use earshot_protocol::{ChannelName, Disconnect, ErrorCode, RefreshResult, ReplyBody};

use super::{SessionDriver, VERSION};
use crate::auth::{Denial, Identity, log_command_denial};
use crate::login::Credentials;
use crate::node::messages::NodeRequest;
use crate::shard::connection_context::ConnectionContext;
use crate::shard::expiry;
use crate::shard::pending_replies::{LoginPurpose, PendingReply};

/// Admits a client whose login was checked: counts the connection for its user.
pub(super) fn admit(context: &mut ConnectionContext<'_>, identity: &Identity) -> Result<(), Disconnect> {
    // The login may have ended since it was checked.
    if expiry::is_over(identity) {
        return Err(Disconnect::ConnectionExpired);
    }
    if identity.is_authenticated()
        && let Some(connection) = context.state.connection_mut(context.id)
    {
        let limit = &context.node.authenticator().limits().connections_per_user;
        let share = limit.acquire(&identity.user().into()).ok_or(Disconnect::ConnectionLimit)?;
        connection.permit.hold(share);
    }
    Ok(())
}

impl SessionDriver<'_> {
    /// Requests the check of credentials; the command waits for it.
    pub(super) fn log_in(
        &mut self,
        id: u32,
        purpose: LoginPurpose,
        credentials: Credentials,
        in_place: bool,
    ) {
        let Some(request_id) = self.context.request_id() else { return };
        let request = NodeRequest::LogIn { credentials, request_id };
        let is_full = self.context.node_requests.try_send(request).is_err();
        let result = is_full.then_some(Err(Denial::LoginUnavailable));
        let reply = request_id.reply;
        self.push_pending(PendingReply::AwaitingLogin { id, reply, purpose, result }, in_place);
    }

    /// Logs that a permission is denied.
    pub(super) fn log_denial(&mut self, denial: Denial, channel: Option<&ChannelName>) {
        let Some(connection) = self.context.connection() else { return };
        let peer = connection.sink.peer();
        let client = connection.session().and_then(|session| session.client_meta());
        log_command_denial(denial, client, peer, channel);
    }

    /// The client may not connect with its credentials. With another token, or later, it may.
    pub(super) fn deny_connect(&mut self, id: u32, denial: Denial, in_place: bool) {
        self.log_denial(denial, None);
        match denial {
            Denial::TokenExpired | Denial::Revoked | Denial::LoginUnavailable | Denial::HookUnavailable => {
                self.reply(id, ReplyBody::Error(ErrorCode::from(denial).into()), in_place);
            }
            denial => self.context.disconnect(denial.into()),
        }
    }

    pub(super) fn refresh(&mut self, id: u32, identity: Arc<Identity>, in_place: bool) {
        let ttl = expiry::time_to_live(identity.expires_at());
        let Some(session) = self.session() else { return };
        let current = session.identity();
        // Subscriptions were permitted by the earlier token. The client reconnects and subscribes with the new one.
        let is_over = current.has_ended() || session.expiry.is_login_over();
        if is_over || expiry::is_over(&identity) || !current.is_equivalent(&identity) {
            return self.context.disconnect(Disconnect::ConnectionExpired);
        }
        session.refresh(identity);
        let result = RefreshResult {
            client: session.client().to_string(),
            version: VERSION.to_owned(),
            expires: ttl.is_some(),
            ttl: ttl.unwrap_or(0),
        };
        self.context.bring_timer_forward();
        self.reply(id, ReplyBody::Refresh(result), in_place);
    }
}
