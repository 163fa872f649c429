//! Logins by cookie: sessions, and tokens in cookies.

use std::sync::Arc;

use axum::http::HeaderValue;

use super::{AuthMethod, Authenticator, TokenMethod};
use crate::auth::{ClientMeta, Denial, Identity, cookie, unix_now};
use crate::login::SessionLogin;
use crate::login::identities::SessionReadResult;
use crate::store::{KeyStore, StoreError};

/// Maximum number of read attempts for a session that changes while it is read.
const READ_ATTEMPTS_MAX: usize = 3;

impl Authenticator {
    pub(super) async fn log_in_by_cookie(&self, client: &ClientMeta) -> Result<Arc<Identity>, Denial> {
        let mut is_unavailable = false;
        for method in &self.methods {
            let found = match method {
                AuthMethod::Session(method, store) => {
                    self.read_session(client, method, store).await.map_err(|error| {
                        tracing::debug!(%error, "session cannot be read");
                    })
                }
                AuthMethod::Token(method) => self.verify_token_cookie(client, method).await,
                AuthMethod::Ticket(_) => Ok(None),
            };
            match found {
                Ok(Some(identity)) => return Ok(identity),
                Ok(None) => {}
                Err(()) => is_unavailable = true,
            }
        }
        if is_unavailable { Err(Denial::LoginUnavailable) } else { Ok(Arc::clone(&self.guest)) }
    }

    /// The identity of a token in a cookie. `None` if there is none, or it is not valid: a stale cookie does not block
    /// another method. The error: it cannot be verified now.
    async fn verify_token_cookie(
        &self,
        client: &ClientMeta,
        method: &TokenMethod,
    ) -> Result<Option<Arc<Identity>>, ()> {
        let Some(name) = method.cookie.as_deref() else { return Ok(None) };
        let values = client.cookies().map(HeaderValue::as_bytes);
        for value in cookie::values(values, &[name.to_owned()]).filter_map(|(_, value)| cookie::decode(value))
        {
            match method.login.verify(&value, unix_now()).await {
                Ok(login) => match self.log_in_by_token(method, login).await {
                    Ok(identity) => return Ok(Some(identity)),
                    Err(Denial::LoginUnavailable) => return Err(()),
                    Err(_) => {}
                },
                Err(error) if error.is_temporary() => return Err(()),
                Err(error) => tracing::debug!(%error, "token in a cookie ignored"),
            }
        }
        Ok(None)
    }

    async fn read_session(
        &self,
        client: &ClientMeta,
        method: &SessionLogin,
        store: &Arc<KeyStore>,
    ) -> Result<Option<Arc<Identity>>, StoreError> {
        let Some(id) = method.session_id(client) else { return Ok(None) };
        let key = method.key(&id);
        for _ in 0..READ_ATTEMPTS_MAX {
            let read = self.identities.begin_read(method.index(), &key);
            let Some(found) = method.read(store, &id, &key).await? else { return Ok(None) };
            let identity = match read.finish(found.login, found.watch) {
                SessionReadResult::Changed => continue,
                SessionReadResult::Known(identity) => identity,
                SessionReadResult::New(identity) => {
                    method.keep_alive(store, key, found.expires_in, &identity);
                    identity
                }
            };
            return match self.revocations.is_revoked(&identity) {
                None => Err(StoreError::Unavailable("the revocations were not read yet".to_owned())),
                Some(false) => Ok(Some(identity)),
                // A revoked session is not a login.
                Some(true) => Ok(None),
            };
        }
        Err(StoreError::Busy)
    }
}

impl AuthMethod {
    /// Whether a client has a cookie of this method.
    pub(super) fn finds_cookie(&self, client: &ClientMeta) -> bool {
        match self {
            Self::Session(method, _) => method.finds_cookie(client),
            Self::Token(TokenMethod { cookie: Some(name), .. }) => {
                let values = client.cookies().map(HeaderValue::as_bytes);
                cookie::values(values, &[String::from(&**name)]).next().is_some()
            }
            Self::Token(_) | Self::Ticket(_) => false,
        }
    }
}
