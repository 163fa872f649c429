//! Explains which permission a client has on a channel, and why. For operators: `earshot why` and `POST /api/why`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::http::{Request, header};
use earshot_protocol::ChannelName;
use serde::Serialize;

use super::{Node, NodeRules};
use crate::auth::access::Operation;
use crate::auth::identity::{Fields, Login, LoginResult, LoginSource};
use crate::auth::{ChannelRequest, ClientMeta, Denial, Explanation, Identity, RuleOutcome, TrustedProxies};
use crate::login::Authenticator;

/// A question: may this client perform this operation on this channel?
#[derive(Debug)]
pub struct PermissionQuery {
    /// The client.
    pub client: QueriedClient,
    /// The operation to explain.
    pub operation: Operation,
    /// The channel.
    pub channel: ChannelName,
    /// The client is subscribed to the channel already.
    pub is_subscribed: bool,
}

/// The client of a question.
pub enum QueriedClient {
    /// A client without credentials.
    Guest,
    /// A user with these fields, as if a login named them.
    User(String, Fields),
    /// A client that presents this token.
    Token(String),
    /// A client that sends this `Cookie` header.
    Cookie(String),
}

/// The answer.
#[derive(Debug, Serialize)]
pub struct PermissionReport {
    /// Whether the client has the permission.
    pub allowed: bool,
    /// The operation, as named in the configuration.
    pub operation: &'static str,
    /// The channel.
    pub channel: String,
    /// The namespace of the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The identity of the client, if its login could be determined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientReport>,
    /// The rules that were evaluated.
    pub rules: Vec<RuleOutcome>,
    /// The decision.
    pub reason: String,
}

/// The identity of a client.
#[derive(Debug, Serialize)]
pub struct ClientReport {
    /// `session`, `token`, `user` (as in the question), `anonymous`, or `none` (not admitted).
    pub login: &'static str,
    /// The user; empty if the login names none.
    pub user: String,
    /// The fields that the configuration selects.
    pub fields: BTreeMap<String, Vec<String>>,
}

impl std::fmt::Debug for QueriedClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens and cookies are secrets.
        f.write_str(match self {
            Self::Guest => "Guest",
            Self::User(..) => "User",
            Self::Token(_) => "Token(***)",
            Self::Cookie(_) => "Cookie(***)",
        })
    }
}

impl QueriedClient {
    /// The identity that the client would have.
    async fn identity(&self, authenticator: &Authenticator) -> Result<Arc<Identity>, Denial> {
        match self {
            Self::Guest => Ok(Arc::clone(authenticator.guest())),
            Self::User(user, fields) => {
                let (user, fields) = (user.clone(), fields.clone());
                Ok(Arc::new(Identity::verified(LoginResult { user, fields, ..LoginResult::default() })))
            }
            // A ticket is not accepted here: it would be spent.
            Self::Token(token) => authenticator.verify_token(token).await,
            Self::Cookie(cookie) => {
                // A header that cannot be sent does not log in.
                let request = Request::get("/").header(header::COOKIE, cookie).body(()).unwrap_or_default();
                let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let client = ClientMeta::new(&request, peer, &TrustedProxies::default());
                authenticator.authenticate(Some(&client), "").await
            }
        }
    }
}

impl NodeRules {
    /// Answers a question. It determines the login as for a client, so it may read a session or a key set.
    pub async fn explain(&self, query: &PermissionQuery) -> PermissionReport {
        let mut report = PermissionReport {
            allowed: false,
            operation: query.operation.setting(),
            channel: query.channel.to_string(),
            namespace: None,
            client: None,
            rules: Vec::new(),
            reason: String::new(),
        };
        let identity = match query.client.identity(&self.authenticator).await {
            Ok(identity) => identity,
            Err(denial) => return PermissionReport { reason: denial.to_string(), ..report },
        };
        report.client = Some(ClientReport::new(&identity));
        let Some(channel) = self.namespaces.resolve(query.channel.clone()) else {
            return PermissionReport { reason: Denial::UnknownChannel.to_string(), ..report };
        };
        let namespace = &channel.rules.namespace;
        report.namespace = Some(namespace.name.clone());
        let explanation = Explanation::of(&ChannelRequest {
            identity: &identity,
            operation: query.operation,
            channel: channel.name.as_str(),
            rules: &namespace.access,
            is_subscribed: query.is_subscribed,
            has_token: false,
            hook: None,
        });
        let (allowed, reason) = match explanation.decision {
            Ok(()) => (true, format!("permitted by `{}` of the namespace", query.operation.setting())),
            Err(denial) => (false, denial.to_string()),
        };
        PermissionReport { allowed, rules: explanation.rules, reason, ..report }
    }
}

impl Node {
    /// See [`NodeRules::explain`].
    pub async fn explain(&self, query: &PermissionQuery) -> PermissionReport {
        self.rules.explain(query).await
    }
}

impl ClientReport {
    fn new(identity: &Identity) -> Self {
        let values = |values: &[Box<str>]| values.iter().map(|value| value.to_string()).collect();
        Self {
            login: match (identity.login(), identity.source()) {
                (Login::Guest | Login::Backend, _) => "none",
                (Login::Anonymous, _) => "anonymous",
                (Login::Verified, Some(LoginSource::Session { .. })) => "session",
                (Login::Verified, Some(LoginSource::Token { .. })) => "token",
                (Login::Verified, Some(LoginSource::Ticket { .. })) => "ticket",
                (Login::Verified, None) => "user",
            },
            user: identity.user().to_owned(),
            fields: identity.fields().iter().map(|(name, own)| (name.to_owned(), values(own))).collect(),
        }
    }
}
