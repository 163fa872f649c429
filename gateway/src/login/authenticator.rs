//! Determines the identity of a client from its credentials.

mod cookies;

use std::sync::Arc;

use axum::http::Request;
use tokio::time::Instant;

use super::revocations::permit;
use super::{
    ClientLimits, Credentials, Identities, LoginOutcome, RevocationSettings, Revocations, SessionLogin,
    TicketLogin, TokenMethod, hook_login,
};
use crate::auth::identity::LoginResult;
use crate::auth::jwt::TokenError;
use crate::auth::origin::OriginPolicy;
use crate::auth::revocation::RevokedLogin;
use crate::auth::ticket::{TicketId, split_event_id};
use crate::auth::{ClientMeta, Denial, Identity, UnixSeconds, token, unix_now};
use crate::hooks::{HookEvent, Hooks};
use crate::store::KeyStore;

/// How clients log in.
#[derive(Clone, Debug)]
pub enum AuthMethod {
    /// With a session in this store.
    Session(Arc<SessionLogin>, Arc<KeyStore>),
    /// With a token.
    Token(TokenMethod),
    /// With a ticket.
    Ticket(Arc<TicketLogin>),
}

/// Determines the identity of clients. The methods are tried in order.
#[derive(Debug)]
pub struct Authenticator {
    methods: Vec<AuthMethod>,
    identities: Arc<Identities>,
    revocations: Arc<Revocations>,
    origins: OriginPolicy,
    limits: ClientLimits,
    /// The identity of clients without credentials.
    guest: Arc<Identity>,
    /// The backend of the application, if hooks are configured.
    hooks: Option<Arc<Hooks>>,
}

impl Authenticator {
    /// Without a login, every client is anonymous, and a client that presents a token is rejected.
    pub fn anonymous() -> Self {
        let identities = Arc::<Identities>::default();
        let revocations = Revocations::new(RevocationSettings::default(), Arc::clone(&identities));
        Self::new(Vec::new(), identities, revocations, OriginPolicy::default(), true)
    }

    /// With these methods. Clients without a login count as `anyone` if `lets_in_guests`. Cookies log in only pages of
    /// the gateway's own origin and of the listed `origins`.
    pub fn new(
        methods: Vec<AuthMethod>,
        identities: Arc<Identities>,
        revocations: Arc<Revocations>,
        origins: OriginPolicy,
        lets_in_guests: bool,
    ) -> Self {
        Self {
            methods,
            identities,
            revocations,
            origins,
            limits: ClientLimits::default(),
            guest: Arc::new(Identity::guest(lets_in_guests)),
            hooks: None,
        }
    }

    /// Asks these hooks.
    #[must_use]
    pub fn with_hooks(self, hooks: Option<Arc<Hooks>>) -> Self {
        Self { hooks, ..self }
    }

    /// The hooks, if any are configured.
    pub fn hooks(&self) -> Option<&Arc<Hooks>> {
        self.hooks.as_ref()
    }

    /// Whether an event has a hook.
    pub fn has_hook(&self, event: HookEvent) -> bool {
        self.hooks.as_ref().is_some_and(|hooks| hooks.has(event))
    }

    /// Keeps the fields of a request that are forwarded to hooks. Cookies are kept only for trusted pages, as for
    /// logins.
    pub fn forward<B>(&self, client: ClientMeta, request: &Request<B>) -> ClientMeta {
        match &self.hooks {
            Some(hooks) => {
                let trusts_cookies = self.origins.trusts_cookies(client.headers());
                client.forwarding(request, &hooks.settings().forwarded, trusts_cookies)
            }
            None => client,
        }
    }

    /// With these limits.
    #[must_use]
    pub fn with_limits(self, limits: ClientLimits) -> Self {
        Self { limits, ..self }
    }

    /// The limits of users and addresses.
    pub fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    /// The identity of a client without a login.
    pub fn guest(&self) -> &Arc<Identity> {
        &self.guest
    }

    /// The identity of a client that sent this request and, on a WebSocket, this token with its connect command (empty:
    /// none). `None` if that requires cryptography or the store.
    ///
    /// # Errors
    /// [`Denial::Token`] if the client presents a token or ticket, and no method accepts any.
    pub fn authenticate_now(
        &self,
        client: Option<&ClientMeta>,
        token: &str,
    ) -> Option<Result<Arc<Identity>, Denial>> {
        let has_hook = self.has_hook(HookEvent::Connect);
        let is_accepted = has_hook || self.verifies_tokens() || self.tickets().is_some();
        if !is_accepted && presents_token(client, token) {
            return Some(Err(Denial::Token));
        }
        let is_guest = !has_hook && !presents_token(client, token) && !self.presents_cookie(client);
        is_guest.then(|| Ok(Arc::clone(&self.guest)))
    }

    /// Whether a client has a cookie that may be a login.
    fn presents_cookie(&self, client: Option<&ClientMeta>) -> bool {
        client.is_some_and(|client| {
            self.methods.iter().any(|method| method.finds_cookie(client))
                && self.origins.trusts_cookies(client.headers())
        })
    }

    /// The identity of the client of an event stream. If there is a token or ticket, cookies are ignored. A cookie without a valid
    /// login counts as absent.
    ///
    /// # Errors
    /// [`Denial::Token`], [`Denial::InvalidToken`], [`Denial::TokenExpired`], [`Denial::Revoked`],
    /// [`Denial::LoginUnavailable`], [`Denial::TooManyLogins`], [`Denial::Hook`], [`Denial::HookUnavailable`].
    pub async fn authenticate(
        &self,
        client: Option<&ClientMeta>,
        token: &str,
    ) -> Result<Arc<Identity>, Denial> {
        self.authenticate_over("sse", client, token).await
    }

    async fn authenticate_over(
        &self,
        transport: &'static str,
        client: Option<&ClientMeta>,
        token: &str,
    ) -> Result<Arc<Identity>, Denial> {
        if let Some(decided) = self.authenticate_now(client, token) {
            return decided;
        }
        let network = client.and_then(ClientMeta::network);
        let Some(network) = network else { return self.log_in(transport, client, token).await };
        if !self.limits.failed_logins.has_token(&network, Instant::now()) {
            return Err(Denial::TooManyLogins);
        }
        let login = self.log_in(transport, client, token).await;
        let has_failed = match &login {
            // A credential that is not a login. A client without one may have been unknown to the hook.
            Ok(identity) => {
                Arc::ptr_eq(identity, &self.guest)
                    && (presents_token(client, token) || self.presents_cookie(client))
            }
            Err(denial) => matches!(denial, Denial::InvalidToken | Denial::Hook),
        };
        if has_failed {
            self.limits.failed_logins.take(&network, Instant::now());
        }
        login
    }

    /// The identity of a client that presents a token or a cookie, or that the hook may know.
    async fn log_in(
        &self,
        transport: &'static str,
        client: Option<&ClientMeta>,
        token: &str,
    ) -> Result<Arc<Identity>, Denial> {
        let presented = if token.is_empty() { client.and_then(token::presented) } else { Some(token.into()) };
        if let Some(presented) = presented.as_ref() {
            if let (Some(tickets), Some(id)) = (self.tickets(), TicketId::parse(presented)) {
                return self.redeem(tickets, &id, client).await;
            }
            if self.verifies_tokens() {
                return self.verify_token(presented).await;
            }
            if self.tickets().is_some() && !self.has_hook(HookEvent::Connect) {
                return Err(Denial::InvalidToken);
            }
        }
        if let Some(client) = client.filter(|_| presented.is_none())
            && self.origins.trusts_cookies(client.headers())
        {
            let identity = self.log_in_by_cookie(client).await?;
            if !Arc::ptr_eq(&identity, &self.guest) {
                return Ok(identity);
            }
        }
        let hooks = self.hooks.as_ref().filter(|hooks| hooks.has(HookEvent::Connect));
        let Some(hooks) = hooks else { return Ok(Arc::clone(&self.guest)) };
        let (logins, guest) = ((&self.identities, &*self.revocations), &self.guest);
        let presented = (client, presented.unwrap_or_default().into_owned());
        let found = hook_login::log_in(hooks, logins, guest, transport, presented).await?;
        Ok(found.unwrap_or_else(|| Arc::clone(&self.guest)))
    }

    /// Checks credentials that a client sends on a WebSocket.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub async fn check(&self, credentials: Credentials) -> Result<LoginOutcome, Denial> {
        match credentials {
            Credentials::Connect { client, token } => {
                let client = client.as_deref();
                self.authenticate_over("websocket", client, &token).await.map(LoginOutcome::Identity)
            }
            Credentials::Refresh { token, user } => {
                let identity = self.verify_token(&token).await?;
                if identity.user() != user {
                    tracing::debug!("token rejected: the token of a refresh names another user");
                    return Err(Denial::InvalidToken);
                }
                Ok(LoginOutcome::Identity(identity))
            }
            Credentials::Subscription { token, channel, user, client } => {
                let expires_at = self.verify_subscription(&token, channel.as_str(), &user, &client).await?;
                Ok(LoginOutcome::Subscription { expires_at })
            }
            Credentials::Hook(request) => match &self.hooks {
                Some(hooks) => Ok(LoginOutcome::Hook(hooks.ask(*request).await)),
                None => Err(Denial::HookUnavailable),
            },
        }
    }

    /// Whether a method verifies tokens.
    pub fn verifies_tokens(&self) -> bool {
        self.tokens().next().is_some()
    }

    /// The identity of a ticket, unless it is revoked. `client` is what the client sent, if anything.
    async fn redeem(
        &self,
        tickets: &TicketLogin,
        id: &TicketId,
        client: Option<&ClientMeta>,
    ) -> Result<Arc<Identity>, Denial> {
        let last_event_id = client.and_then(ClientMeta::last_event_id);
        let code = last_event_id.as_deref().and_then(|id| split_event_id(id).1);
        // As for a token, the identity exists before the check.
        let identity = self.identities.of_token(tickets.redeem(id, code).await?, None);
        permit(self.revocations.is_revoked(&identity)).map(|()| identity)
    }

    /// Verifies a connection token.
    ///
    /// # Errors
    /// [`Denial::Token`], [`Denial::InvalidToken`], [`Denial::TokenExpired`], [`Denial::Revoked`],
    /// [`Denial::LoginUnavailable`].
    pub async fn verify_token(&self, token: &str) -> Result<Arc<Identity>, Denial> {
        let mut denial = Denial::Token;
        for method in self.tokens() {
            match method.login.verify(token, unix_now()).await {
                Ok(login) => return self.log_in_by_token(method, login).await,
                Err(error) => denial = combine(denial, &error),
            }
        }
        Err(denial)
    }

    /// The identity of a verified token, unless it is denied or revoked.
    async fn log_in_by_token(
        &self,
        method: &TokenMethod,
        login: LoginResult,
    ) -> Result<Arc<Identity>, Denial> {
        // The identity exists before the check, so that a revocation after the check ends it.
        let identity = match &method.denied {
            Some(denied) => denied.log_in(&self.identities, login).await?,
            None => self.identities.of_token(login, None),
        };
        permit(self.revocations.is_revoked(&identity)).map(|()| identity)
    }

    /// Verifies a subscription token of a client for a channel.
    async fn verify_subscription(
        &self,
        token: &str,
        channel: &str,
        user: &str,
        client: &str,
    ) -> Result<Option<UnixSeconds>, Denial> {
        let mut denial = Denial::Token;
        for method in self.tokens() {
            let claims = method.login.verify_subscription(token, unix_now()).await;
            match claims.and_then(|claims| claims.check(channel, user, client).map(|()| claims)) {
                Ok(claims) => {
                    let (id, issued_at) = (claims.token_id.as_deref(), claims.issued_at);
                    let revoked = self.revocations.is_token_revoked(&claims.user, id, issued_at);
                    permit(revoked)?;
                    if let Some(denied) = &method.denied {
                        denied.check_subscription(&claims.user, id).await?;
                    }
                    return Ok(claims.expires_at);
                }
                Err(error) => denial = combine(denial, &error),
            }
        }
        Err(denial)
    }

    fn sessions(&self) -> impl Iterator<Item = (&SessionLogin, &KeyStore)> {
        self.methods.iter().filter_map(|method| match method {
            AuthMethod::Session(method, store) => Some((&**method, &**store)),
            AuthMethod::Token(_) | AuthMethod::Ticket(_) => None,
        })
    }

    fn tokens(&self) -> impl Iterator<Item = &TokenMethod> {
        self.methods.iter().filter_map(|method| match method {
            AuthMethod::Token(method) => Some(method),
            AuthMethod::Session(..) | AuthMethod::Ticket(_) => None,
        })
    }

    /// The login method with tickets.
    pub fn tickets(&self) -> Option<&TicketLogin> {
        self.methods.iter().find_map(|method| match method {
            AuthMethod::Ticket(method) => Some(&**method),
            AuthMethod::Session(..) | AuthMethod::Token(_) => None,
        })
    }

    /// The stores of sessions, tickets, revocations and denied tokens, each once.
    pub fn stores(&self) -> Vec<&KeyStore> {
        let mut stores: Vec<&KeyStore> = self.sessions().map(|(_, store)| store).collect();
        stores.extend(self.tokens().filter_map(|method| method.denied.as_ref()).map(|denied| denied.store()));
        stores.extend(self.tickets().and_then(TicketLogin::store));
        stores.extend(self.revocations.store());
        stores.sort_by_key(|store| store.name());
        stores.dedup_by_key(|store| store.name());
        stores
    }

    /// The revocations in effect.
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The revocations for the session with this application-side id: one for each method with sessions. The key of the
    /// session is also accepted as its id.
    pub fn sessions_of(&self, id: &str) -> Vec<RevokedLogin> {
        let keys = self.sessions().filter_map(|(method, _)| match id.strip_prefix(method.key_prefix()) {
            Some(rest) if !rest.is_empty() => Some(id.as_bytes().to_vec()),
            _ => method.key_of(id),
        });
        keys.map(|key| RevokedLogin::session(&key)).collect()
    }

    /// The identities of connected clients.
    pub fn identities(&self) -> &Arc<Identities> {
        &self.identities
    }
}

/// Whether a client sent a token, with its request or with its connect command.
fn presents_token(client: Option<&ClientMeta>, token: &str) -> bool {
    !token.is_empty() || client.and_then(token::presented).is_some()
}

/// Combines the denials of several methods. A denial that a retry or another token can resolve takes precedence.
fn combine(denial: Denial, error: &TokenError) -> Denial {
    tracing::debug!(%error, "token rejected");
    match denial {
        Denial::TokenExpired | Denial::LoginUnavailable => denial,
        _ if error.is_expired() => Denial::TokenExpired,
        _ if error.is_temporary() => Denial::LoginUnavailable,
        _ => Denial::InvalidToken,
    }
}
