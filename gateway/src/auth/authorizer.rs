//! Decides all permissions.

use std::sync::Arc;

use axum::http::HeaderMap;

use super::access::{AccessRules, Grant, Operation};
use super::api_key::{ApiAuth, ApiPermissions};
use super::identity::{Identity, Login};
use super::origin::OriginPolicy;
use super::{ClientMeta, Denial};

/// Decides which clients may connect and what they may do.
#[derive(Debug, Default)]
pub struct Authorizer {
    origins: OriginPolicy,
    api: ApiAuth,
}

/// An operation that a client requests on a channel.
#[derive(Clone, Copy, Debug)]
pub struct ChannelRequest<'a> {
    /// The client.
    pub identity: &'a Identity,
    /// The requested operation.
    pub operation: Operation,
    /// The name of the channel.
    pub channel: &'a str,
    /// The permissions of the channel's namespace.
    pub rules: &'a AccessRules,
    /// The client is subscribed to the channel.
    pub is_subscribed: bool,
    /// The client presented a valid token for this channel, in addition to its login.
    pub has_token: bool,
    /// The hook's answer for this operation; `None` if the hook was not called.
    pub hook: Option<HookAnswer>,
}

/// The answer of a hook about one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HookAnswer {
    /// The client may.
    Allowed,
    /// The client may not.
    Denied,
    /// The hook gave no valid answer.
    Unavailable,
}

impl Authorizer {
    /// Creates an authorizer with these rules.
    pub fn new(origins: OriginPolicy, api: ApiAuth) -> Self {
        Self { origins, api }
    }

    /// The allowed origins, for CORS headers.
    pub fn origins(&self) -> &OriginPolicy {
        &self.origins
    }

    /// Decides whether a client may connect: a page must have an allowed origin.
    ///
    /// # Errors
    /// [`Denial::Origin`].
    pub fn connect(&self, client: &ClientMeta) -> Result<(), Denial> {
        if self.origins.is_allowed(client.headers()) { Ok(()) } else { Err(Denial::Origin) }
    }

    /// Authenticates a request to the API, and returns what its key permits.
    ///
    /// # Errors
    /// [`Denial::Api`].
    pub fn api(&self, headers: &HeaderMap, query: Option<&str>) -> Result<Arc<ApiPermissions>, Denial> {
        Ok(self.api.check(headers, query, &self.origins)?)
    }

    /// Decides whether a client may perform an operation on a channel. At least one rule of the namespace must permit
    /// it, and the client must meet all requirements of the namespace.
    ///
    /// # Errors
    /// Why not; [`Denial::HookNotAsked`] if the answer of the hook decides.
    pub fn channel(request: &ChannelRequest<'_>) -> Result<(), Denial> {
        let ChannelRequest { identity, operation, rules, .. } = request;
        if identity.login() == Login::Backend {
            return Ok(());
        }
        let access = rules.of(*operation);
        if access.is_nobody() {
            return Err(Denial::Nobody(*operation));
        }
        if !rules.require.iter().all(|requirement| requirement.is_met(identity)) {
            return Err(Denial::Requirement);
        }
        if access.grants().any(|grant| request.is_granted_by(grant)) {
            return Ok(());
        }
        if access.contains(Grant::Hook) {
            return Err(match request.hook {
                None => Denial::HookNotAsked,
                Some(HookAnswer::Unavailable) => Denial::HookUnavailable,
                Some(HookAnswer::Allowed | HookAnswer::Denied) => Denial::Hook,
            });
        }
        Err(if access.contains(Grant::Subscribers) && access.grants().count() == 1 {
            Denial::NotSubscribed
        } else if matches!(identity.login(), Login::Guest | Login::Anonymous) {
            Denial::NotAuthenticated(*operation)
        } else {
            Denial::NotPermitted(*operation)
        })
    }
}

impl ChannelRequest<'_> {
    /// Whether a rule applies to the client.
    pub fn is_granted_by(&self, grant: Grant) -> bool {
        match grant {
            Grant::Anyone => self.identity.login() != Login::Guest,
            Grant::Authenticated => self.identity.is_authenticated(),
            Grant::Subscribers => self.is_subscribed,
            Grant::Owner => {
                self.rules.owned.iter().any(|pattern| pattern.belongs_to(self.channel, self.identity))
            }
            Grant::Token => self.has_token || self.identity.token_channels().grant(self.channel),
            Grant::Hook => match self.hook {
                Some(HookAnswer::Allowed) => true,
                Some(HookAnswer::Unavailable) => self.rules.permits_without_hook,
                Some(HookAnswer::Denied) | None => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use super::super::TrustedProxies;
    use axum::http::Request;
    use proptest::prelude::*;

    use super::super::access::{Access, Requirement};
    use super::super::identity::{Fields, LoginResult, TokenChannels};
    use super::super::template::ChannelTemplate;
    use super::*;

    fn user(user: &str) -> Identity {
        let fields = Fields::from_iter([("roles".to_owned(), vec!["editor".to_owned()])]);
        let channels = TokenChannels::new(["room:*".to_owned()]);
        Identity::verified(LoginResult { user: user.to_owned(), fields, channels, ..LoginResult::default() })
    }

    fn rules(grants: &[Grant], require: &str) -> AccessRules {
        let owned = ChannelTemplate::parse("user:{user}", |name| name == "user");
        let require = [require].into_iter().filter(|value| !value.is_empty());
        let require =
            require.map(|value| Requirement { field: "roles".to_owned(), values: vec![value.to_owned()] });
        AccessRules {
            subscribe: Access::of(grants),
            publish: Access::of(grants),
            owned: owned.into_iter().collect(),
            require: require.collect(),
            ..AccessRules::default()
        }
    }

    fn decide(identity: &Identity, rules: &AccessRules, channel: &str) -> Result<(), Denial> {
        decide_with_hook(identity, rules, channel, None)
    }

    fn decide_with_hook(
        identity: &Identity,
        rules: &AccessRules,
        channel: &str,
        hook: Option<HookAnswer>,
    ) -> Result<(), Denial> {
        let (operation, is_subscribed, has_token) = (Operation::Subscribe, false, false);
        let request = ChannelRequest { identity, operation, channel, rules, is_subscribed, has_token, hook };
        Authorizer::channel(&request)
    }

    #[test]
    fn the_answer_of_the_hook_decides_if_no_other_rule_permits() {
        use HookAnswer::{Allowed, Denied, Unavailable};
        let (identity, hook) = (user("42"), rules(&[Grant::Hook], ""));
        let decide = |answer| decide_with_hook(&identity, &hook, "a", answer);
        assert_eq!(decide(None), Err(Denial::HookNotAsked));
        assert_eq!(decide(Some(Allowed)), Ok(()));
        assert_eq!(decide(Some(Denied)), Err(Denial::Hook));
        assert_eq!(decide(Some(Unavailable)), Err(Denial::HookUnavailable));
        let lenient = AccessRules { permits_without_hook: true, ..hook.clone() };
        assert_eq!(decide_with_hook(&identity, &lenient, "a", Some(Unavailable)), Ok(()));
        assert_eq!(decide_with_hook(&identity, &lenient, "a", Some(Denied)), Err(Denial::Hook));
        assert_eq!(decide_with_hook(&identity, &lenient, "a", None), Err(Denial::HookNotAsked));
        // The hook is not called if another rule permits the operation, and it cannot replace a requirement.
        let both = rules(&[Grant::Hook, Grant::Authenticated], "");
        assert_eq!(decide_with_hook(&identity, &both, "a", None), Ok(()));
        let required = rules(&[Grant::Hook], "admin");
        assert_eq!(decide_with_hook(&identity, &required, "a", Some(Allowed)), Err(Denial::Requirement));
        let other = rules(&[Grant::Owner], "");
        let denied = Err(Denial::NotPermitted(Operation::Subscribe));
        assert_eq!(decide_with_hook(&identity, &other, "a", Some(Allowed)), denied);
    }

    #[test]
    fn decides_by_the_rules_of_the_namespace() {
        use Grant::{Anyone, Authenticated, Owner, Token};
        let (guest, anonymous) = (Identity::guest(false), Identity::guest(true));
        let subscribe = Operation::Subscribe;
        let not_in = Err(Denial::NotAuthenticated(subscribe));
        let not_permitted = Err(Denial::NotPermitted(subscribe));
        for (identity, grants, channel, expected) in [
            (&guest, &[Anyone][..], "a", not_in),
            (&anonymous, &[Anyone], "a", Ok(())),
            (&user("42"), &[Anyone], "a", Ok(())),
            (&anonymous, &[Authenticated], "a", not_in),
            (&user("42"), &[Authenticated], "a", Ok(())),
            (&user(""), &[Authenticated], "a", not_permitted),
            (&user("42"), &[Owner], "user:42", Ok(())),
            (&user("42"), &[Owner], "user:43", not_permitted),
            (&user("*"), &[Owner], "user:43", not_permitted),
            (&guest, &[Owner], "user:42", not_in),
            (&user("42"), &[Token], "room:1", Ok(())),
            (&user("42"), &[Token], "hall:1", not_permitted),
            (&user("42"), &[Owner, Token], "room:1", Ok(())),
            (&user("42"), &[], "user:42", Err(Denial::Nobody(subscribe))),
            (&Identity::backend(), &[], "user:42", Ok(())),
        ] {
            let decided = decide(identity, &rules(grants, ""), channel);
            assert_eq!(decided, expected, "{identity:?} {grants:?} {channel}");
        }
    }

    #[test]
    fn requires_fields_in_addition() {
        let grants = [Grant::Anyone];
        assert_eq!(decide(&user("42"), &rules(&grants, "editor"), "a"), Ok(()));
        assert_eq!(decide(&user("42"), &rules(&grants, "admin"), "a"), Err(Denial::Requirement));
        assert_eq!(decide(&Identity::guest(true), &rules(&grants, "editor"), "a"), Err(Denial::Requirement));
    }

    #[test]
    fn a_subscription_permits_what_subscribers_may() {
        let (identity, rules) = (Identity::guest(true), AccessRules::default());
        let read = |is_subscribed, operation| {
            Authorizer::channel(&ChannelRequest {
                identity: &identity,
                operation,
                channel: "a",
                rules: &rules,
                is_subscribed,
                has_token: false,
                hook: None,
            })
        };
        assert_eq!(read(true, Operation::ReadHistory), Ok(()));
        assert_eq!(read(false, Operation::ReadHistory), Err(Denial::NotSubscribed));
        assert_eq!(read(true, Operation::Publish), Err(Denial::Nobody(Operation::Publish)));
    }

    #[test]
    fn rejects_other_origins() {
        let origins = OriginPolicy::new(vec!["https://app.example".to_owned()]);
        let authorizer = Authorizer::new(origins, ApiAuth::Disabled);
        let connect = |headers: &[(&str, &str)]| {
            let request = Request::get("/ws").header("host", "gateway.example");
            let add = |request: axum::http::request::Builder, header: &(&str, &str)| {
                request.header(header.0, header.1)
            };
            let request = headers.iter().fold(request, add).body(()).unwrap();
            let peer = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
            authorizer.connect(&ClientMeta::new(&request, peer, &TrustedProxies::default()))
        };
        assert_eq!(connect(&[]), Ok(()));
        assert_eq!(connect(&[("origin", "https://app.example")]), Ok(()));
        assert_eq!(connect(&[("origin", "https://evil.example")]), Err(Denial::Origin));
        assert_eq!(connect(&[("sec-fetch-site", "cross-site")]), Err(Denial::Origin));
    }

    proptest! {
        /// By default, a client without a subscription has no permission.
        #[test]
        fn the_default_is_to_deny(name in "[a-z:]{1,8}", login in 0..3) {
            let identity = match login { 0 => Identity::guest(false), 1 => Identity::guest(true), _ => user(&name) };
            for operation in Operation::ALL {
                let rules = AccessRules::default();
                let request = ChannelRequest {
                    identity: &identity, operation, channel: &name, rules: &rules, is_subscribed: false, has_token: true,
                    hook: Some(HookAnswer::Allowed),
                };
                prop_assert!(Authorizer::channel(&request).is_err());
            }
        }
    }
}
