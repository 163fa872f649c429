//! Checks of the permissions of namespaces against the logins.
//!
//! Owns the warnings about rules that apply to no client. Must never reject a rule: a login may be added later.

use super::login::LoginMethod;
use super::namespace::NamespaceConfig;
use crate::auth::access::{Grant, Operation};

/// A warning for each operation with a rule that applies to no client.
pub(super) fn warnings(namespaces: &[NamespaceConfig], logins: &[LoginMethod]) -> Vec<String> {
    let has_users = logins.iter().any(|login| !matches!(login, LoginMethod::Anonymous));
    let has_tokens = logins
        .iter()
        .any(|login| matches!(login, LoginMethod::Jwt(_) | LoginMethod::Ticket(_) | LoginMethod::Hook));
    let reason = |grant| match grant {
        Grant::Owner | Grant::Authenticated if !has_users => Some("no [[login]] identifies users"),
        Grant::Token if !has_tokens => Some("no [[login]] has kind = \"jwt\" or \"ticket\""),
        _ => None,
    };
    let mut warnings = Vec::new();
    for namespace in namespaces {
        for operation in Operation::ALL {
            for grant in namespace.access.of(operation).grants() {
                if let Some(reason) = reason(grant) {
                    let (name, setting, rule) = (&namespace.name, operation.setting(), grant.as_str());
                    warnings.push(format!(
                        "namespace `{name}`: {setting} = \"{rule}\" applies to no client: {reason}"
                    ));
                }
            }
        }
    }
    warnings
}
