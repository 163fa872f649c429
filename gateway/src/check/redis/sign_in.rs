//! The gateway's own way in, and why it is refused.

use super::super::report::Finding;
use super::facts::Facts;
use crate::instance::address::Address;
use crate::instance::{Failure, InstanceSettings};

/// A connection that stands.
pub(super) fn accepted(facts: &Facts, instance: &InstanceSettings, is_local: bool) -> Finding {
    let user = facts.user.as_deref().map_or_else(String::new, |user| format!(" as `{user}`"));
    let told = |finding: Finding| match &facts.user {
        Some(user) => finding.with("user", user.as_str()),
        None => finding,
    };
    if gives_password(instance) {
        return told(Finding::ok("auth", format!("the server takes us{user}")));
    }
    let said = format!("the server asks for no password, and takes us{user}");
    if is_local {
        return told(Finding::ok("auth", said));
    }
    told(
        Finding::warning("auth", said)
            .because("whoever reaches this port reads and writes everything, and publishes to every client")
            .advise("give the server a password, or be sure that only your own machines reach it"),
    )
}

/// An attempt that failed, though all below it went well.
pub(super) fn refused(failure: &Failure, instance: &InstanceSettings) -> Finding {
    let said = failure.to_string();
    let finding = Finding::failed("auth", said.clone());
    match (explain(&said, instance), failure) {
        (Some((cause, advice)), _) => finding.because(cause).advise(advice),
        (None, Failure::Refused(_)) => finding.because("something has to be changed, as the text says"),
        (None, Failure::Unreachable(_) | Failure::Deaf(_)) => {
            finding.because("the server was there a moment ago, and ended the attempt")
        }
    }
}

fn explain(said: &str, instance: &InstanceSettings) -> Option<(&'static str, &'static str)> {
    let has = |text: &str| said.contains(text);
    Some(if has("WRONGPASS") || has("invalid password") || has("invalid username") {
        (
            "the user or the password is wrong, or the user is switched off; a password alone belongs to the user `default`",
            "compare with the server's (ACL LIST, requirepass, the service's console); percent-encode `@ / ? #` in a URL",
        )
    } else if has("without any password configured") {
        (
            "the URL has a password, the server has none",
            "give the server its password, or leave it out of the URL",
        )
    } else if has("NOAUTH") || (has("uthentication") && !gives_password(instance)) {
        (
            "the server wants a password, and the URL has none",
            "give it: redis://user:password@host, or redis://:password@host",
        )
    } else if has("NOPERM") {
        ("the user may not run HELLO", "ACL SETUSER … +hello")
    } else if has("max number of clients") {
        (
            "`maxclients` connections are open, or the server has run out of open files",
            "see who holds them (CLIENT LIST), close what leaks, then raise maxclients",
        )
    } else if has("HELLO") || has("NOPROTO") || has("RESP3") {
        (
            "the server is older than Redis 6, or a proxy stands before it that speaks RESP2 alone",
            "dial the server itself; it must be Redis 6 or newer, or Valkey",
        )
    } else if has("switch database") || has("SELECT") || has("DB index") {
        (
            "the server has no database of the URL's number; a cluster has only 0",
            "leave the number out of the URL, or raise `databases`",
        )
    } else if has("LOADING") {
        ("the server has just started and reads its data", "wait; the gateway does so by itself")
    } else {
        return None;
    })
}

fn gives_password(instance: &InstanceSettings) -> bool {
    instance.password_file.is_some()
        || Address::parse(&instance.url).is_ok_and(|address| address.password.is_some())
}
