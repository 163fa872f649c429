//! Trials: a test key, a publication that must be heard, a few hundred PINGs, the clock.
//!
//! Owns the names that it uses: random, and gone or expired soon. Must never leave anything behind for longer than
//! [`KEPT`].

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind, RedisError, Value};
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::super::sample::{Sample, random};
use super::ask;
use super::ears::Ears;
use super::facts::Facts;
use super::plan::Plan;
use crate::instance::{Dialer, said};

/// How long a test key lives when it is not deleted.
const KEPT: &str = "10000";
/// Names that are tried in a cluster until one belongs to this node.
const NAMES_MOST: usize = 200;
/// PINGs of one measurement.
const PINGS: usize = 300;
/// Where a wait begins to be felt.
const SLOW: Duration = Duration::from_millis(50);
/// Where two clocks begin to disagree.
const ASTRAY: Duration = Duration::from_secs(2);

/// SET, GET and DEL of a test key, under each prefix.
pub(super) async fn keys(connection: &mut MultiplexedConnection, plan: &Plan, facts: &Facts) -> Vec<Finding> {
    if plan.logs.is_empty() {
        return vec![Finding::ok("keys", "nothing is kept here, so nothing is tried")];
    }
    let mut prefixes: Vec<&str> = plan.logs.iter().map(|log| log.key_prefix.as_str()).collect();
    prefixes.sort_unstable();
    prefixes.dedup();
    let mut findings = Vec::new();
    for prefix in prefixes {
        findings.push(key(connection, prefix, plan, facts).await);
    }
    findings
}

async fn key(connection: &mut MultiplexedConnection, prefix: &str, plan: &Plan, facts: &Facts) -> Finding {
    let value = random();
    let names = if facts.is_cluster() { NAMES_MOST } else { 1 };
    let mut last = None;
    for _ in 0..names {
        let key = format!("{prefix}{}", random());
        match round(connection, &key, &value).await {
            Ok(true) => return Finding::ok("keys", format!("{prefix}earshot-check:… set, read and deleted")),
            Ok(false) => {
                return Finding::failed("keys", "what was set is not what was read")
                    .because("something between answers from elsewhere: a proxy that reads from replicas")
                    .advise("dial the primary itself");
            }
            // Another node's slot: another name may be ours.
            Err(error) if said(&error).starts_with("MOVED") => last = Some(error),
            Err(error) => return key_refused(&error, plan),
        }
    }
    match last {
        Some(_) => Finding::skipped("keys", "no name was found whose slot is on this node"),
        None => Finding::skipped("keys", "not tried"),
    }
}

async fn round(connection: &mut MultiplexedConnection, key: &str, value: &str) -> Result<bool, RedisError> {
    ask(connection, &["SET", key, value, "PX", KEPT]).await?;
    let read = String::from_redis_value(ask(connection, &["GET", key]).await?).unwrap_or_default();
    ask(connection, &["DEL", key]).await?;
    Ok(read == value)
}

fn key_refused(error: &RedisError, plan: &Plan) -> Finding {
    let text = said(error);
    let level = if text.starts_with("NOPERM") && plan.assumed { Finding::warning } else { Finding::failed };
    let (cause, advice) = match text.split(' ').next().unwrap_or_default() {
        "NOPERM" => ("the ACL does not allow it; only `stream` channels need it", "see `rights` above"),
        "READONLY" => ("this is a replica", "dial the primary"),
        "OOM" => (
            "memory is full, and nothing may be evicted",
            "raise maxmemory, or have fewer or shorter-lived keys",
        ),
        "MISCONF" => {
            ("the server cannot save to its disk, and so refuses writes", "look at its disk and its log")
        }
        "NOREPLICAS" => ("fewer replicas are there than min-replicas-to-write wants", "look at the replicas"),
        "CLUSTERDOWN" => ("the cluster is not whole", "see `cluster` above"),
        _ => ("the server refuses to keep a key", "look at its log"),
    };
    level("keys", text).because(cause).advise(advice)
}

/// A publication on a name of our own must come back on a subscription, over a connection of its own, as the gateway
/// has them.
pub(super) async fn hearing(
    publisher: &mut MultiplexedConnection,
    dialer: &Dialer,
    plan: &Plan,
) -> Vec<Finding> {
    let ears = Ears::default();
    let mut subscriber = match dialer.dial(ears.clone().sender()).await {
        Ok(connection) => connection,
        Err(failure) => {
            return vec![
                Finding::failed("hearing", format!("no second connection: {failure}"))
                    .because("`maxclients`, or a limit of the service; a gateway needs two connections")
                    .advise("raise it"),
            ];
        }
    };
    let mut refusal = None;
    for channel in candidates(plan) {
        match hear(publisher, &mut subscriber, &ears, &channel).await {
            Ok(finding) => return vec![finding],
            Err(error) => refusal = Some(error),
        }
    }
    let Some(error) = refusal else {
        return vec![Finding::skipped(
            "hearing",
            "every planned channel has an exact name: a trial would be heard by its clients",
        )];
    };
    vec![unheard_of(&error, plan)]
}

/// Names of our own on which something may be said: where hearing is proven, then those that the plan allows.
fn candidates(plan: &Plan) -> Vec<String> {
    let proof = plan.probe_prefix.iter().map(|prefix| format!("{prefix}{}", random()));
    let planned =
        plan.channels.iter().filter(|channel| !channel.sharded).map(|channel| Sample::of(&channel.name));
    let planned = planned.filter(|sample| sample.is_own).map(|sample| sample.name);
    proof.chain(planned).chain([random()]).collect()
}

async fn hear(
    publisher: &mut MultiplexedConnection,
    subscriber: &mut MultiplexedConnection,
    ears: &Ears,
    channel: &str,
) -> Result<Finding, RedisError> {
    subscriber.subscribe(channel).await?;
    let word = random();
    let began = Instant::now();
    ask(publisher, &["PUBLISH", channel, &word]).await?;
    // Bounded by the step.
    loop {
        let push = ears.next().await;
        if push.kind == PushKind::Disconnection {
            return Ok(Finding::failed("hearing", "the subscription's connection was closed")
                .because("the server, or something between, cuts connections that subscribe")
                .advise("look at the server's log, and at client-output-buffer-limit pubsub"));
        }
        if is_word(&push, channel, &word) {
            let took = began.elapsed();
            return Ok(Finding::ok(
                "hearing",
                format!("a PUBLISH is heard on a subscription after {}", millis(took)),
            )
            .with("microseconds", micros(took)));
        }
    }
}

pub(super) fn is_word(push: &PushInfo, channel: &str, word: &str) -> bool {
    let is =
        |value: &Value, text: &str| matches!(value, Value::BulkString(bytes) if bytes == text.as_bytes());
    push.kind == PushKind::Message
        && matches!(&push.data[..], [name, payload] if is(name, channel) && is(payload, word))
}

fn unheard_of(error: &RedisError, plan: &Plan) -> Finding {
    let text = said(error);
    let no_name = text.starts_with("NOPERM") && text.contains("channel");
    if no_name {
        let finding = Finding::skipped("hearing", format!("no channel of our own may be tried: {text}"));
        return finding.advise(if plan.assumed {
            "ACL SETUSER … &earshot:probe:*, which the gateway wants as well; or --config, for a name that fits the planned channels"
        } else {
            "ACL SETUSER … &earshot:probe:* (or the configured probe_prefix), which the gateway wants as well"
        });
    }
    Finding::failed("hearing", text)
        .because("the server takes no subscriptions, or nothing published, from this user")
        .advise("see `rights` above")
}

/// A few hundred PINGs, one after the other, for at most `limit`.
pub(super) async fn latency(connection: &mut MultiplexedConnection, limit: Duration) -> Finding {
    let began = Instant::now();
    let mut took = Vec::with_capacity(PINGS);
    while took.len() < PINGS && began.elapsed() < limit {
        let asked = Instant::now();
        if let Err(error) = ask(connection, &["PING"]).await
            && !said(&error).starts_with("NOPERM")
        {
            return Finding::failed("latency", format!("PING failed: {}", said(&error)))
                .because("the connection was lost, or the server stopped answering");
        }
        took.push(asked.elapsed());
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let (half, most) = (at(50), at(99));
    let said = format!("{} PINGs: p50 {}, p99 {}", took.len(), millis(half), millis(most));
    let finding = if most > SLOW {
        Finding::warning("latency", said)
            .because(
                "the server is far away or busy (slow commands, swapping, saving), or the network is crowded",
            )
            .advise("see SLOWLOG and LATENCY DOCTOR on the server; have gateway and server in one zone")
    } else {
        Finding::ok("latency", said)
    };
    finding
        .with("p50_microseconds", micros(half))
        .with("p99_microseconds", micros(most))
        .with("pings", took.len())
}

/// The server's clock against ours.
pub(super) async fn clock(connection: &mut MultiplexedConnection) -> Finding {
    let before = wall_clock();
    let asked = Instant::now();
    let answer = ask(connection, &["TIME"]).await;
    let middle = before + asked.elapsed() / 2;
    let time = match answer.map(<Vec<u64>>::from_redis_value) {
        Ok(Ok(time)) => time,
        Ok(Err(_)) => return Finding::skipped("clock", "the server's time cannot be read"),
        Err(error) => return Finding::skipped("clock", format!("not told: {}", said(&error))),
    };
    let [seconds, microseconds] = time[..] else {
        return Finding::skipped("clock", "the server's time cannot be read");
    };
    apart(Duration::from_secs(seconds) + Duration::from_micros(microseconds), middle)
}

/// Two clocks at one moment.
fn apart(server: Duration, ours: Duration) -> Finding {
    let (apart, word) = if server > ours { (server - ours, "ahead of") } else { (ours - server, "behind") };
    let said = format!("the server's clock is {} {word} this machine's", millis(apart));
    let finding = if apart > ASTRAY {
        Finding::warning("clock", said)
            .because("one of the two machines has no NTP")
            .advise("set the clock: logs cannot be compared, and certificates may seem expired")
    } else {
        Finding::ok("clock", said)
    };
    finding.with("microseconds_apart", micros(apart))
}

/// The time of day, which tokio's clock does not know.
#[expect(
    clippy::disallowed_methods,
    reason = "the clocks of two machines are compared, which no test pauses"
)]
fn wall_clock() -> Duration {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    #[test]
    fn clocks_may_be_a_little_apart_either_way() {
        let at = Duration::from_secs;
        for (server, ours, level, text) in [
            (at(100), at(100), Level::Ok, "behind"),
            (at(102), at(100), Level::Ok, "ahead of"),
            (at(103), at(100), Level::Warning, "3000 ms ahead of"),
            (at(100), at(160), Level::Warning, "60000 ms behind"),
        ] {
            let finding = apart(server, ours);
            assert!(finding.level == level && finding.said.contains(text), "{finding:?}");
        }
    }
}
