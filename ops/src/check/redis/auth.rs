//! Authentication of the gateway, and why it fails.

use super::super::report::Finding;
use super::server_info::ServerInfo;
use earshot_redis_link::address::Address;
use earshot_redis_link::{ConnectConfig, LinkError};

/// Finding for an established connection.
pub(super) fn accepted(facts: &ServerInfo, instance: &ConnectConfig, is_local: bool) -> Finding {
    let user = facts.user.as_deref().map_or_else(String::new, |user| format!(" as `{user}`"));
    let with_user = |finding: Finding| match &facts.user {
        Some(user) => finding.with("user", user.as_str()),
        None => finding,
    };
    if gives_password(instance) {
        return with_user(Finding::ok("auth", format!("authenticated{user}")));
    }
    let message = format!("authenticated{user} (no password required)");
    if is_local {
        return with_user(Finding::ok("auth", message));
    }
    with_user(
        Finding::warning("auth", message)
            .cause(
                "anyone who can connect to this port can read and write all data and publish to every client",
            )
            .fix("set a password, or restrict access to your own machines"),
    )
}

/// Finding for a connection that failed although all lower-level checks passed.
pub(super) fn refused(failure: &LinkError, instance: &ConnectConfig) -> Finding {
    let message = failure.to_string();
    let finding = Finding::failed("auth", message.clone());
    match (explain(&message, instance), failure) {
        (Some((cause, fix)), _) => finding.cause(cause).fix(fix),
        (None, LinkError::Rejected(_)) => {
            finding.cause("the server rejected the connection; the message shows the reason")
        }
        (None, LinkError::Unreachable(_) | LinkError::NotReceiving(_)) => {
            finding.cause("the server responded before, but closed this connection")
        }
    }
}

fn explain(message: &str, instance: &ConnectConfig) -> Option<(&'static str, &'static str)> {
    let has = |text: &str| message.contains(text);
    Some(if has("WRONGPASS") || has("invalid password") || has("invalid username") {
        (
            "the user or password is wrong, or the user is disabled; a password without a user belongs to `default`",
            "compare with the server's configuration (ACL LIST, requirepass, the service's console); percent-encode `@ / ? #` in a URL",
        )
    } else if has("without any password configured") {
        (
            "the URL has a password, but the server has none configured",
            "set a password on the server, or remove it from the URL",
        )
    } else if has("NOAUTH") || (has("uthentication") && !gives_password(instance)) {
        (
            "the server requires a password, and the URL has none",
            "add it: redis://user:password@host, or redis://:password@host",
        )
    } else if has("NOPERM") {
        ("the user has no permission for HELLO", "ACL SETUSER … +hello")
    } else if has("max number of clients") {
        (
            "the limit `maxclients` is reached, or the server is out of file descriptors",
            "find the clients with CLIENT LIST, fix connection leaks, then raise maxclients",
        )
    } else if has("HELLO") || has("NOPROTO") || has("RESP3") {
        (
            "the server is older than Redis 6, or a proxy supports only RESP2",
            "connect to the server directly; it must be Redis 6 or newer, or Valkey",
        )
    } else if has("switch database") || has("SELECT") || has("DB index") {
        (
            "the server has no database with the number in the URL; a cluster has only 0",
            "remove the number from the URL, or raise `databases`",
        )
    } else if has("LOADING") {
        ("the server has just started and is loading its data", "wait; the gateway retries automatically")
    } else {
        return None;
    })
}

fn gives_password(instance: &ConnectConfig) -> bool {
    instance.password_file.is_some()
        || Address::parse(&instance.url).is_ok_and(|address| address.password.is_some())
}
