//! Login by a JSON Web Token.

use std::sync::Arc;

use super::{DeniedTokens, FileBacked};
use crate::auth::UnixSeconds;
use crate::auth::identity::{LoginResult, LoginSource, TokenChannels};
use crate::auth::jwks::JwksVerifier;
use crate::auth::jwt::{ConnectionClaims, JwtVerifier, SubscriptionClaims, TokenError};
use crate::drain::Drain;

/// How clients log in with a token.
#[derive(Clone, Debug)]
pub struct TokenMethod {
    /// Verifies tokens.
    pub login: Arc<TokenLogin>,
    /// The name of a cookie that may contain the token, besides the other places of tokens.
    pub cookie: Option<Box<str>>,
    /// The list of denied tokens.
    pub denied: Option<DeniedTokens>,
}

/// A login method with tokens.
#[derive(Debug)]
pub enum TokenLogin {
    /// With keys of the configuration and of files.
    Local(Arc<FileBacked<JwtVerifier>>),
    /// With a published key set in addition.
    Remote(Arc<JwksVerifier>),
}

impl TokenLogin {
    /// A login method with this verifier, whose files are reloaded when they change; `publish` adds the keys of a
    /// published key set.
    ///
    /// # Errors
    /// If the settings of the key set are invalid.
    pub fn start(
        verifier: Arc<FileBacked<JwtVerifier>>,
        publish: Option<impl FnOnce(&JwtVerifier) -> Result<JwksVerifier, String>>,
        drain: &Drain,
    ) -> Result<Self, String> {
        let Some(publish) = publish else {
            verifier.follow(drain, || {});
            return Ok(Self::Local(verifier));
        };
        let published = Arc::new(publish(&verifier.value())?);
        let (task, stop) = (Arc::clone(&published), drain.clone());
        drain.spawn(async move {
            tokio::select! {
                () = task.run() => {}
                () = stop.stopped() => {}
            }
        });
        let (file, replaced) = (Arc::clone(&verifier), Arc::clone(&published));
        verifier.follow(drain, move || replaced.replace_verifier(&file.value()));
        Ok(Self::Remote(published))
    }

    /// Verifies a connection token.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub(super) async fn verify(&self, token: &str, now: UnixSeconds) -> Result<LoginResult, TokenError> {
        let claims = match self {
            Self::Local(verifier) => verifier.value().verify(token, now),
            Self::Remote(verifier) => verifier.verify(token, now).await,
        };
        claims.map(login_of)
    }

    /// Verifies a subscription token.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub(super) async fn verify_subscription(
        &self,
        token: &str,
        now: UnixSeconds,
    ) -> Result<SubscriptionClaims, TokenError> {
        match self {
            Self::Local(verifier) => verifier.value().verify_subscription(token, now),
            Self::Remote(verifier) => verifier.verify_subscription(token, now).await,
        }
    }
}

fn login_of(claims: ConnectionClaims) -> LoginResult {
    let channels = claims.channels.into_iter().chain(claims.subs.into_keys());
    LoginResult {
        user: claims.user,
        fields: claims.fields.into_iter().collect(),
        source: claims.token_id.map(|id| LoginSource::Token { id: id.into() }),
        expires_at: claims.expires_at,
        issued_at: claims.issued_at,
        info: claims.info.map(|info| Box::<str>::from(info).into_boxed_bytes().into()),
        channels: TokenChannels::new(channels),
    }
}
