//! Checks the Sentinels of a primary: whether each responds and whether they agree.
//!
//! Owns the consequences for a future failover. Must never change anything on a Sentinel.

use std::collections::HashMap;

use futures::future::join_all;
use redis::PushInfo;
use redis::aio::SendError;

use super::super::report::{Finding, Level};
use super::query;
use super::server_info::pairs;
use earshot_redis_link::address::{Address, ServerEndpoint};
use earshot_redis_link::{ConnectConfig, Dialer, SentinelConfig, TlsConfig, server_message};

/// A Sentinel's view of the primary.
type View = HashMap<String, String>;

/// Queries all Sentinels concurrently. Also returns the address of the primary, if one of them returns it.
pub(super) async fn inspect(
    instance: &ConnectConfig,
    sentinels: &SentinelConfig,
) -> (Vec<Finding>, Option<Address>) {
    let queries = sentinels.addresses.iter().map(|place| query_one(instance, sentinels, place));
    let answers: Vec<(String, Result<View, String>)> = join_all(queries).await;
    let primary = newest(&answers).cloned();
    let somebody_knows = primary.is_some();
    let findings = answers
        .iter()
        .map(|(shown, answer)| match answer {
            Ok(view) => evaluate(shown, view, primary.as_ref(), sentinels),
            Err(why) => silent(shown, why, somebody_knows),
        })
        .collect();
    let address = primary.and_then(|view| {
        let (host, port) = (view.get("ip")?.clone(), view.get("port")?.parse().ok()?);
        let url = Address::parse(&instance.url).ok()?;
        Some(Address { endpoint: ServerEndpoint::Tcp { host, port: Some(port) }, ..url })
    });
    (findings, address)
}

async fn query_one(
    instance: &ConnectConfig,
    sentinels: &SentinelConfig,
    (host, port): &(String, u16),
) -> (String, Result<View, String>) {
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let shown = format!("{host}:{port}");
    let scheme = if sentinels.tls { "rediss" } else { "redis" };
    let settings = ConnectConfig {
        url: format!("{scheme}://{shown}"),
        username: sentinels.username.clone(),
        password_file: sentinels.password_file.clone(),
        // `server_name` is the name of the primary.
        tls: TlsConfig { server_name: None, ..instance.tls.clone() },
        sentinel: None,
        ..instance.clone()
    };
    let ignore_pushes = |_: PushInfo| Ok::<_, SendError>(());
    let answer = match Box::pin(Dialer::new(&settings, "check").dial(ignore_pushes)).await {
        Ok(mut connection) => query(&mut connection, &["SENTINEL", "MASTER", &sentinels.master_name]).await,
        Err(failure) => return (shown, Err(failure.to_string())),
    };
    (shown, answer.map(pairs).map_err(|error| server_message(&error)))
}

/// The view with the highest configuration epoch, as used by Sentinels themselves.
fn newest(answers: &[(String, Result<View, String>)]) -> Option<&View> {
    answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().ok())
        .max_by_key(|view| number(view, "config-epoch"))
}

fn number(view: &View, field: &str) -> u64 {
    view.get(field).and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn place(view: &View) -> (&str, u64) {
    (view.get("ip").map_or("?", String::as_str), number(view, "port"))
}

fn evaluate(shown: &str, view: &View, primary: Option<&View>, sentinels: &SentinelConfig) -> Finding {
    const CHECK: &str = "sentinel";
    let (host, port) = place(view);
    let (others, replicas) = (number(view, "num-other-sentinels"), number(view, "num-slaves"));
    let flags = view.get("flags").map_or("", String::as_str);
    let message = format!(
        "{shown}: `{}` is {host}:{port}; replicas: {replicas}, other Sentinels: {others}, quorum: {}",
        sentinels.master_name,
        number(view, "quorum"),
    );
    if primary.is_some_and(|primary| place(primary) != (host, port)) {
        return Finding::warning(CHECK, format!("{message}; another Sentinel has a newer configuration"))
            .cause("a failover is in progress, or this Sentinel missed the last one")
            .fix("run SENTINEL RESET on it if this persists");
    }
    if flags.contains("down") || flags.contains("disconnected") {
        return Finding::warning(CHECK, format!("{message}; its view of the primary: {flags}"))
            .cause("the primary does not reply to this Sentinel")
            .fix("check the primary and the network in between");
    }
    if replicas == 0 {
        return Finding::warning(CHECK, message)
            .cause("there is no replica for a failover")
            .fix("add a replica");
    }
    if others + 1 != sentinels.addresses.len() as u64 {
        return Finding::warning(
            CHECK,
            format!("{message}, but {} are configured", sentinels.addresses.len()),
        )
        .cause("`sentinels` does not list all of them, or they have not discovered each other")
        .fix("list every Sentinel in `sentinels`; see SENTINEL SENTINELS");
    }
    Finding::ok(CHECK, message)
}

fn silent(shown: &str, why: &str, somebody_knows: bool) -> Finding {
    let level = if somebody_knows { Level::Warning } else { Level::Failed };
    let finding = match level {
        Level::Warning => Finding::warning("sentinel", format!("{shown}: {why}")),
        _ => Finding::failed("sentinel", format!("{shown}: {why}")),
    };
    let (cause, advice) = if why.contains("No such master") {
        (
            "it does not monitor a primary of this name",
            "set `sentinel_master` to the name in its `sentinel monitor`",
        )
    } else if why.contains("nknown command") {
        ("it is not a Sentinel; Sentinels usually listen on port 26379", "check the port")
    } else {
        (
            "it is not running, unreachable, or rejects the connection",
            "check it; a failover needs a majority of the Sentinels",
        )
    };
    finding.cause(cause).fix(advice)
}
