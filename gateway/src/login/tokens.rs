//! Login by a JSON Web Token.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::SecretFile;
use crate::auth::UnixSeconds;
use crate::auth::identity::{LoginResult, LoginSource, TokenChannels};
use crate::auth::jwks::JwksVerifier;
use crate::auth::jwt::{ConnectionClaims, JwtRules, JwtVerifier, KeySet, SubscriptionClaims, TokenError};
use crate::drain::Drain;

/// A login method with tokens.
#[derive(Debug)]
pub struct TokenLogin {
    verifier: Verifier,
    reload: Mutex<()>,
}

#[derive(Debug)]
enum Verifier {
    /// With keys of the configuration and of files.
    Local(RwLock<JwtVerifier>),
    /// With a published key set in addition.
    Remote(Box<JwksVerifier>),
}

/// The keys of a login method, of the configuration and of files.
#[derive(Debug, Default)]
pub struct TokenKeys {
    /// Of the configuration.
    pub fixed: KeySet,
    /// Of files.
    pub files: Vec<Arc<SecretFile<KeySet>>>,
}

impl TokenKeys {
    fn current(&self) -> KeySet {
        let mut keys = self.fixed.clone();
        self.files.iter().for_each(|file| keys.append((*file.value()).clone()));
        keys
    }
}

impl TokenLogin {
    /// A login method with these rules and keys; `publish` adds the keys of a published key set. Files are read again when
    /// they change.
    ///
    /// # Errors
    /// If the rules are invalid.
    pub fn start(
        rules: &JwtRules,
        keys: TokenKeys,
        publish: Option<impl FnOnce(&JwtVerifier) -> Result<JwksVerifier, String>>,
        drain: &Drain,
    ) -> Result<Arc<Self>, String> {
        let verifier = JwtVerifier::new(rules.clone(), keys.current())?;
        let verifier = match publish {
            None => Verifier::Local(RwLock::new(verifier)),
            Some(publish) => Verifier::Remote(Box::new(publish(&verifier)?)),
        };
        let login = Arc::new(Self { verifier, reload: Mutex::new(()) });
        if matches!(login.verifier, Verifier::Remote(_)) {
            let (login, stop) = (Arc::clone(&login), drain.clone());
            drain.spawn(async move {
                let Verifier::Remote(verifier) = &login.verifier else { return };
                tokio::select! {
                    () = verifier.run() => {}
                    () = stop.stopped() => {}
                }
            });
        }
        let keys = Arc::new(keys);
        for file in &keys.files {
            let (login, keys, rules) = (Arc::clone(&login), Arc::clone(&keys), rules.clone());
            file.follow(drain, move || {
                // One at a time: the last one has the newest version of every file.
                let _reload = login.reload.lock().unwrap_or_else(PoisonError::into_inner);
                // The rules were valid at the start.
                if let Ok(verifier) = JwtVerifier::new(rules.clone(), keys.current()) {
                    login.replace(verifier);
                }
            });
        }
        Ok(login)
    }

    fn replace(&self, verifier: JwtVerifier) {
        match &self.verifier {
            Verifier::Local(current) => {
                *current.write().unwrap_or_else(PoisonError::into_inner) = verifier;
            }
            Verifier::Remote(published) => published.replace_verifier(&verifier),
        }
    }

    /// Verifies a connection token.
    ///
    /// # Errors
    /// Why the token is rejected.
    pub(super) async fn verify(&self, token: &str, now: UnixSeconds) -> Result<LoginResult, TokenError> {
        let claims = match &self.verifier {
            Verifier::Local(verifier) => snapshot(verifier).verify(token, now),
            Verifier::Remote(verifier) => verifier.verify(token, now).await,
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
        match &self.verifier {
            Verifier::Local(verifier) => snapshot(verifier).verify_subscription(token, now),
            Verifier::Remote(verifier) => verifier.verify_subscription(token, now).await,
        }
    }
}

fn snapshot(verifier: &RwLock<JwtVerifier>) -> JwtVerifier {
    verifier.read().unwrap_or_else(PoisonError::into_inner).clone()
}

fn login_of(claims: ConnectionClaims) -> LoginResult {
    let channels = claims.channels.into_iter().chain(claims.subs.into_keys());
    LoginResult {
        user: claims.user,
        fields: claims.fields.into_iter().collect(),
        source: claims.token_id.map(|id| LoginSource::Token { id: id.into() }),
        expires_at: claims.expires_at,
        info: claims.info.map(|info| Box::<str>::from(info).into_boxed_bytes().into()),
        channels: TokenChannels::new(channels),
    }
}
