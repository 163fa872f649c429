//! Explains how a permission was decided, for operators: each rule that was evaluated, and whether it applies.
//!
//! Never decides: the decision comes from [`Authorizer::channel`].

use std::borrow::Cow;

use super::access::{Grant, Requirement};
use super::authorizer::{Authorizer, ChannelRequest};
use super::identity::{Identity, Login};
use super::{ChannelTemplate, Denial};

/// How a permission was decided.
#[derive(Debug)]
pub struct Explanation {
    /// The namespace's rules for the operation, in the order of evaluation. All requirements and at least one other
    /// rule must apply.
    pub rules: Vec<RuleOutcome>,
    /// The decision.
    pub decision: Result<(), Denial>,
}

/// A rule, and whether it applies to the client.
#[derive(Debug, PartialEq, Eq, serde::Serialize)]
pub struct RuleOutcome {
    /// As in the configuration.
    pub rule: String,
    /// Whether it applies to the client.
    pub applies: bool,
    /// Why.
    pub reason: Cow<'static, str>,
}

impl Explanation {
    /// Explains the decision on a request.
    pub fn of(request: &ChannelRequest<'_>) -> Self {
        let access = request.rules.of(request.operation);
        let mut rules: Vec<RuleOutcome> =
            request.rules.require.iter().map(|required| requirement(required, request.identity)).collect();
        if access.is_nobody() {
            rules.push(RuleOutcome {
                rule: format!("{} = \"nobody\"", request.operation.setting()),
                applies: true,
                reason: "no client may; only backends, through Redis or the HTTP API".into(),
            });
        }
        for grant in access.grants() {
            match grant {
                Grant::Owner => rules.extend(request.rules.owned.iter().map(|owned| owner(owned, request))),
                grant => rules.push(RuleOutcome {
                    rule: format!("{} = \"{}\"", request.operation.setting(), grant.as_str()),
                    applies: request.is_granted_by(grant),
                    reason: reason(grant, request),
                }),
            }
        }
        Self { rules, decision: Authorizer::channel(request) }
    }
}

fn requirement(requirement: &Requirement, identity: &Identity) -> RuleOutcome {
    let own = identity.values(&requirement.field);
    RuleOutcome {
        rule: format!("require.{} = {:?}", requirement.field, requirement.values),
        applies: requirement.is_met(identity),
        reason: if own.is_empty() {
            format!("the client has no value of `{}`", requirement.field).into()
        } else {
            format!("the client has {own:?}").into()
        },
    }
}

fn owner(owned: &ChannelTemplate, request: &ChannelRequest<'_>) -> RuleOutcome {
    let missing = owned.placeholders().find(|name| request.identity.values(name).is_empty());
    let applies = owned.belongs_to(request.channel, request.identity);
    RuleOutcome {
        rule: format!("{} = \"owner\", channels = \"{owned}\"", request.operation.setting()),
        applies,
        reason: match missing {
            _ if applies => "the name contains the values of the client".into(),
            Some(name) => format!("the client has no value of `{name}`").into(),
            None => "the name does not contain the values of the client, compared literally; a value that contains \
                     `:`, `*` or `?` matches nothing"
                .into(),
        },
    }
}

fn reason(grant: Grant, request: &ChannelRequest<'_>) -> Cow<'static, str> {
    let applies = request.is_granted_by(grant);
    match (grant, applies) {
        (Grant::Anyone, true) => "every client, and clients without a login if they are let in".into(),
        (Grant::Anyone, false) => "the client has no login, and no [[login]] has kind = \"anonymous\"".into(),
        (Grant::Authenticated, true) => {
            format!("the client is the user {:?}", request.identity.user()).into()
        }
        (Grant::Authenticated, false) if request.identity.login() == Login::Verified => {
            "the login of the client names no user".into()
        }
        (Grant::Authenticated, false) => "the client has no login".into(),
        (Grant::Subscribers, true) => "the client is subscribed to the channel".into(),
        (Grant::Subscribers, false) => "the client is not subscribed to the channel".into(),
        (Grant::Token, true) => "the token of the client names the channel".into(),
        (Grant::Token, false) => {
            "no claim of the client's token names the channel, and a token for the channel was not presented"
                .into()
        }
        (Grant::Hook, true) => "the hook permits it".into(),
        (Grant::Hook, false) if request.hook.is_none() => "the hook decides, and was not asked".into(),
        (Grant::Hook, false) => "the hook denies it".into(),
        (Grant::Owner, _) => "".into(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::access::{Access, AccessRules, Operation};
    use super::super::identity::{Fields, LoginResult, TokenChannels};
    use super::*;

    fn identity(login: u8, user: &str, roles: Vec<String>) -> Identity {
        match login {
            0 => Identity::guest(false),
            1 => Identity::guest(true),
            _ => Identity::verified(LoginResult {
                user: user.to_owned(),
                fields: Fields::from_iter([("roles".to_owned(), roles)]),
                channels: TokenChannels::new(["room:*".to_owned()]),
                ..LoginResult::default()
            }),
        }
    }

    proptest! {
        /// The outcomes of the rules imply the decision.
        #[test]
        fn the_rules_add_up_to_the_decision(
            login in 0u8..3,
            user in "[ab*:]{0,2}",
            roles in prop::collection::vec("[ab]", 0..2),
            bits in prop::collection::vec(0usize..6, 0..4),
            required in prop::option::of("[ab]"),
            channel in "(user|room):[ab]{1,2}",
            is_subscribed: bool,
            has_token: bool,
        ) {
            let grants: Vec<Grant> = bits.into_iter().map(|bit| Grant::ALL[bit]).collect();
            let access = Access::of(&grants);
            let rules = AccessRules {
                subscribe: access,
                owned: ChannelTemplate::parse("user:{user}", |name| name == "user").into_iter().collect(),
                require: required.map(|value| Requirement { field: "roles".to_owned(), values: vec![value] }).into_iter().collect(),
                ..AccessRules::default()
            };
            let identity = identity(login, &user, roles);
            let (operation, channel) = (Operation::Subscribe, channel.as_str());
            let request =
                ChannelRequest { identity: &identity, operation, channel, rules: &rules, is_subscribed, has_token, hook: None };
            let Explanation { rules: outcomes, decision } = Explanation::of(&request);
            let (required, granted): (Vec<_>, Vec<_>) =
                outcomes.iter().partition(|outcome| outcome.rule.starts_with("require"));
            let is_closed = granted.iter().any(|outcome| outcome.rule.ends_with("\"nobody\""));
            let is_permitted = !is_closed
                && required.iter().all(|outcome| outcome.applies)
                && granted.iter().any(|outcome| outcome.applies);
            prop_assert_eq!(decision.is_ok(), is_permitted, "{:?}", outcomes);
        }
    }
}
