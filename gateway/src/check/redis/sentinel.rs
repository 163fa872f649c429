//! The Sentinels of a primary: whether each answers, and whether they agree.
//!
//! Owns what their answers mean for a fail-over to come. Must never change anything at a Sentinel.

use std::collections::HashMap;

use futures::future::join_all;
use redis::PushInfo;
use redis::aio::SendError;

use super::super::report::{Finding, Level};
use super::ask;
use super::facts::pairs;
use crate::instance::address::{Address, Place};
use crate::instance::{Dialer, InstanceSettings, SentinelSettings, TlsSettings, said};

/// What a Sentinel says of the primary.
type View = HashMap<String, String>;

/// Asks all at once. The address of the primary comes with it, when somebody knows one.
pub(super) async fn inspect(
    instance: &InstanceSettings,
    sentinels: &SentinelSettings,
) -> (Vec<Finding>, Option<Address>) {
    let asked = sentinels.addresses.iter().map(|place| ask_one(instance, sentinels, place));
    let answers: Vec<(String, Result<View, String>)> = join_all(asked).await;
    let primary = newest(&answers).cloned();
    let somebody_knows = primary.is_some();
    let findings = answers
        .iter()
        .map(|(shown, answer)| match answer {
            Ok(view) => judge(shown, view, primary.as_ref(), sentinels),
            Err(why) => silent(shown, why, somebody_knows),
        })
        .collect();
    let address = primary.and_then(|view| {
        let (host, port) = (view.get("ip")?.clone(), view.get("port")?.parse().ok()?);
        let url = Address::parse(&instance.url).ok()?;
        Some(Address { place: Place::Tcp { host, port: Some(port) }, ..url })
    });
    (findings, address)
}

async fn ask_one(
    instance: &InstanceSettings,
    sentinels: &SentinelSettings,
    (host, port): &(String, u16),
) -> (String, Result<View, String>) {
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let shown = format!("{host}:{port}");
    let scheme = if sentinels.tls { "rediss" } else { "redis" };
    let settings = InstanceSettings {
        url: format!("{scheme}://{shown}"),
        username: sentinels.username.clone(),
        password_file: sentinels.password_file.clone(),
        // The name in `server_name` is that of the primary.
        tls: TlsSettings { server_name: None, ..instance.tls.clone() },
        sentinel: None,
        ..instance.clone()
    };
    let deaf = |_: PushInfo| Ok::<_, SendError>(());
    let answer = match Box::pin(Dialer::new(&settings, "check").dial(deaf)).await {
        Ok(mut connection) => ask(&mut connection, &["SENTINEL", "MASTER", &sentinels.master]).await,
        Err(failure) => return (shown, Err(failure.to_string())),
    };
    (shown, answer.map(pairs).map_err(|error| said(&error)))
}

/// The view with the highest configuration epoch, as Sentinels themselves count.
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

fn judge(shown: &str, view: &View, primary: Option<&View>, sentinels: &SentinelSettings) -> Finding {
    const CHECK: &str = "sentinel";
    let (host, port) = place(view);
    let (others, replicas) = (number(view, "num-other-sentinels"), number(view, "num-slaves"));
    let flags = view.get("flags").map_or("", String::as_str);
    let said = format!(
        "{shown}: `{}` is {host}:{port}; replicas: {replicas}, other Sentinels: {others}, quorum: {}",
        sentinels.master,
        number(view, "quorum"),
    );
    if primary.is_some_and(|primary| place(primary) != (host, port)) {
        return Finding::warning(CHECK, format!("{said}; another Sentinel knows better"))
            .because("a fail-over is under way, or this one was cut off during the last")
            .advise("SENTINEL RESET on this one, if it does not pass");
    }
    if flags.contains("down") || flags.contains("disconnected") {
        return Finding::warning(CHECK, format!("{said}; it sees the primary as {flags}"))
            .because("the primary does not answer this Sentinel")
            .advise("look at the primary, and at the network between");
    }
    if replicas == 0 {
        return Finding::warning(CHECK, said)
            .because("there is no replica to fail over to")
            .advise("give the primary a replica");
    }
    if others + 1 != sentinels.addresses.len() as u64 {
        return Finding::warning(CHECK, format!("{said}, but {} are configured", sentinels.addresses.len()))
            .because("`sentinels` does not name all of them, or they do not know each other")
            .advise("name every Sentinel in `sentinels`; SENTINEL SENTINELS shows who knows whom");
    }
    Finding::ok(CHECK, said)
}

fn silent(shown: &str, why: &str, somebody_knows: bool) -> Finding {
    let level = if somebody_knows { Level::Warning } else { Level::Failed };
    let finding = match level {
        Level::Warning => Finding::warning("sentinel", format!("{shown}: {why}")),
        _ => Finding::failed("sentinel", format!("{shown}: {why}")),
    };
    let (cause, advice) = if why.contains("No such master") {
        ("it watches no primary of this name", "`sentinel_master` as in its `sentinel monitor`")
    } else if why.contains("nknown command") {
        ("it is no Sentinel; these usually listen on port 26379", "look at the port")
    } else {
        (
            "it is not running, cannot be reached, or will not have us",
            "look at it; most of them must agree before anybody takes over",
        )
    };
    finding.because(cause).advise(advice)
}
