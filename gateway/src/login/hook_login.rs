//! Login by a hook of the application.

use std::sync::Arc;

use super::revocations::permit;
use super::{Identities, Revocations};
use crate::auth::{ClientMeta, Denial, Identity};
use crate::hooks::{HookOutcome, HookQuestion, HookReply, HookRequest, HookedClient, Hooks};

/// Asks the hook who a client is. `None`: it has no login.
///
/// # Errors
/// [`Denial::Hook`], [`Denial::HookUnavailable`]; [`Denial::Revoked`], [`Denial::LoginUnavailable`] by a revocation.
pub(super) async fn log_in(
    hooks: &Hooks,
    (identities, revocations): (&Arc<Identities>, &Revocations),
    guest: &Arc<Identity>,
    transport: &'static str,
    (client, token): (Option<&ClientMeta>, String),
) -> Result<Option<Arc<Identity>>, Denial> {
    let client = HookedClient {
        id: String::new(),
        transport,
        is_binary: false,
        identity: Arc::clone(guest),
        forwarded: client.map(|client| client.forwarded().clone()).unwrap_or_default(),
    };
    let request = HookRequest { client, question: HookQuestion::Connect { token } };
    let HookOutcome::Login(reply) = hooks.ask(request).await else { return Err(Denial::HookUnavailable) };
    match reply {
        HookReply::Result(login) if login.user.is_empty() => Ok(None),
        HookReply::Result(login) => {
            let identity = identities.of_token(login, None);
            permit(revocations.is_revoked(&identity)).map(|()| Some(identity))
        }
        HookReply::Failed(failure) if failure.is_temporary => Err(Denial::HookUnavailable),
        HookReply::Denied | HookReply::Failed(_) | HookReply::Disconnect(_) => Err(Denial::Hook),
        HookReply::Unavailable => Err(Denial::HookUnavailable),
    }
}
