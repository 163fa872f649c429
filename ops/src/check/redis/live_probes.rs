//! Active tests: a test key, a test publication, several hundred PINGs, the clock.
//!
//! Owns the names: random, and deleted or expired soon. Must never leave anything behind for longer than
//! [`TEST_KEY_TTL_MS`].

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, PushInfo, PushKind, RedisError, Value};
use tokio::time::Instant;

use super::super::network::{micros, millis};
use super::super::report::Finding;
use super::super::test_names::{TestName, random_name};
use super::plan::CheckPlan;
use super::push_buffer::PushBuffer;
use super::query;
use super::server_info::ServerInfo;
use earshot_redis_link::{Dialer, server_message};

/// TTL of a test key in milliseconds, in case it is not deleted.
const TEST_KEY_TTL_MS: &str = "10000";
/// Maximum number of names to try in a cluster until one maps to this node.
const NAMES_MAX: usize = 200;
/// Number of PINGs per measurement.
const PINGS: usize = 300;
/// Latency above which a warning is given.
const LATENCY_WARNING: Duration = Duration::from_millis(50);
/// Clock offset above which a warning is given.
const CLOCK_OFFSET_WARNING: Duration = Duration::from_secs(2);

/// SET, GET and DEL of a test key, for each prefix.
pub(super) async fn keys(
    connection: &mut MultiplexedConnection,
    plan: &CheckPlan,
    facts: &ServerInfo,
) -> Vec<Finding> {
    if plan.logs.is_empty() {
        return vec![Finding::ok("keys", "not tested: no data is stored here")];
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

async fn key(
    connection: &mut MultiplexedConnection,
    prefix: &str,
    plan: &CheckPlan,
    facts: &ServerInfo,
) -> Finding {
    let value = random_name();
    let names = if facts.is_cluster() { NAMES_MAX } else { 1 };
    let mut last = None;
    for _ in 0..names {
        let key = format!("{prefix}{}", random_name());
        match round(connection, &key, &value).await {
            Ok(true) => {
                return Finding::ok("keys", format!("{prefix}earshot-check:… written, read and deleted"));
            }
            Ok(false) => {
                return Finding::failed("keys", "the value read differs from the value written")
                    .cause("a proxy reads from replicas")
                    .fix("connect to the primary directly");
            }
            // The slot of another node: try another name.
            Err(error) if server_message(&error).starts_with("MOVED") => last = Some(error),
            Err(error) => return key_refused(&error, plan),
        }
    }
    match last {
        Some(_) => Finding::skipped("keys", "no test key maps to a slot of this node"),
        None => Finding::skipped("keys", "not tested"),
    }
}

async fn round(connection: &mut MultiplexedConnection, key: &str, value: &str) -> Result<bool, RedisError> {
    query(connection, &["SET", key, value, "PX", TEST_KEY_TTL_MS]).await?;
    let read = String::from_redis_value(query(connection, &["GET", key]).await?).unwrap_or_default();
    query(connection, &["DEL", key]).await?;
    Ok(read == value)
}

fn key_refused(error: &RedisError, plan: &CheckPlan) -> Finding {
    let text = server_message(error);
    let level = if text.starts_with("NOPERM") && plan.assumed { Finding::warning } else { Finding::failed };
    let (cause, fix) = match text.split(' ').next().unwrap_or_default() {
        "NOPERM" => ("the ACL denies it; only `stream` channels need it", "see `permissions` above"),
        "READONLY" => ("this is a replica", "use the primary"),
        "OOM" => (
            "memory is full, and nothing can be evicted",
            "raise maxmemory, or store fewer keys or use shorter TTLs",
        ),
        "MISCONF" => ("the server cannot save to disk and rejects writes", "check its disk and log"),
        "NOREPLICAS" => ("there are fewer replicas than min-replicas-to-write", "check the replicas"),
        "CLUSTERDOWN" => ("the cluster is down", "see `cluster` above"),
        _ => ("the server rejected the write", "check its log"),
    };
    level("keys", text).cause(cause).fix(fix)
}

/// Publishes on a unique channel and waits for the message on a subscriber connection of its own, as in the gateway.
pub(super) async fn pubsub(
    publisher: &mut MultiplexedConnection,
    dialer: &Dialer,
    plan: &CheckPlan,
) -> Vec<Finding> {
    if !plan.assumed && plan.channels.is_empty() && plan.probe_prefix.is_none() {
        return vec![Finding::ok("pubsub", "not tested: nothing is subscribed or published here")];
    }
    let pushes = PushBuffer::default();
    let mut subscriber = match dialer.dial(pushes.clone().sender()).await {
        Ok(connection) => connection,
        Err(failure) => {
            return vec![
                Finding::failed("pubsub", format!("cannot open a second connection: {failure}"))
                    .cause("`maxclients` or a limit of the service; the gateway needs two connections")
                    .fix("raise the limit"),
            ];
        }
    };
    let mut refusal = None;
    for channel in candidates(plan) {
        match receive(publisher, &mut subscriber, &pushes, &channel).await {
            Ok(finding) => return vec![finding],
            Err(error) => refusal = Some(error),
        }
    }
    let Some(error) = refusal else {
        return vec![Finding::skipped(
            "pubsub",
            "not tested: all configured channels have exact names, and their clients would receive the test",
        )];
    };
    vec![not_received(&error, plan)]
}

/// Unique channels for the test: below the probe prefix, then ones that match the plan.
fn candidates(plan: &CheckPlan) -> Vec<String> {
    let proof = plan.probe_prefix.iter().map(|prefix| format!("{prefix}{}", random_name()));
    let planned =
        plan.channels.iter().filter(|channel| !channel.sharded).map(|channel| TestName::of(&channel.name));
    let planned = planned.filter(|sample| sample.is_unique).map(|sample| sample.name);
    proof.chain(planned).chain([random_name()]).collect()
}

async fn receive(
    publisher: &mut MultiplexedConnection,
    subscriber: &mut MultiplexedConnection,
    pushes: &PushBuffer,
    channel: &str,
) -> Result<Finding, RedisError> {
    subscriber.subscribe(channel).await?;
    let token = random_name();
    let began = Instant::now();
    query(publisher, &["PUBLISH", channel, &token]).await?;
    // Limited by the time limit of the step.
    loop {
        let push = pushes.next().await;
        if push.kind == PushKind::Disconnection {
            return Ok(Finding::failed("pubsub", "the subscriber connection was closed")
                .cause("the server or a proxy closes subscriber connections")
                .fix("check the server's log and client-output-buffer-limit pubsub"));
        }
        if is_message(&push, channel, &token) {
            let took = began.elapsed();
            return Ok(Finding::ok(
                "pubsub",
                format!("a PUBLISH was received by a subscriber after {}", millis(took)),
            )
            .with("microseconds", micros(took)));
        }
    }
}

pub(super) fn is_message(push: &PushInfo, channel: &str, token: &str) -> bool {
    let is =
        |value: &Value, text: &str| matches!(value, Value::BulkString(bytes) if bytes == text.as_bytes());
    push.kind == PushKind::Message
        && matches!(&push.data[..], [name, payload] if is(name, channel) && is(payload, token))
}

fn not_received(error: &RedisError, plan: &CheckPlan) -> Finding {
    let text = server_message(error);
    let no_name = text.starts_with("NOPERM") && text.contains("channel");
    if no_name {
        let finding = Finding::skipped("pubsub", format!("not tested: no test channel is permitted: {text}"));
        return finding.fix(if plan.assumed {
            "ACL SETUSER … &earshot:probe:*, which the gateway also needs; or use --config to test a configured channel"
        } else {
            "ACL SETUSER … &earshot:probe:* (or the configured probe_prefix), which the gateway also needs"
        });
    }
    Finding::failed("pubsub", text)
        .cause("the server does not permit this user to subscribe or publish")
        .fix("see `permissions` above")
}

/// Several hundred PINGs in sequence, for at most `limit`.
pub(super) async fn latency(connection: &mut MultiplexedConnection, limit: Duration) -> Finding {
    let began = Instant::now();
    let mut took = Vec::with_capacity(PINGS);
    while took.len() < PINGS && began.elapsed() < limit {
        let sent_at = Instant::now();
        if let Err(error) = query(connection, &["PING"]).await
            && !server_message(&error).starts_with("NOPERM")
        {
            return Finding::failed("latency", format!("PING failed: {}", server_message(&error)))
                .cause("the connection was lost, or the server stopped replying");
        }
        took.push(sent_at.elapsed());
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() * percent / 100).min(took.len() - 1)];
    let (half, most) = (at(50), at(99));
    let message = format!("{} PINGs: p50 {}, p99 {}", took.len(), millis(half), millis(most));
    let finding = if most > LATENCY_WARNING {
        Finding::warning("latency", message)
            .cause(
                "the server is distant or busy (slow commands, swapping, saving), or the network is congested",
            )
            .fix("see SLOWLOG and LATENCY DOCTOR on the server; run gateway and server in the same zone")
    } else {
        Finding::ok("latency", message)
    };
    finding
        .with("p50_microseconds", micros(half))
        .with("p99_microseconds", micros(most))
        .with("pings", took.len())
}

/// Compares the server's clock with this machine's.
pub(super) async fn clock(connection: &mut MultiplexedConnection) -> Finding {
    let before = wall_clock();
    let sent_at = Instant::now();
    let answer = query(connection, &["TIME"]).await;
    let middle = before + sent_at.elapsed() / 2;
    let time = match answer.map(<Vec<u64>>::from_redis_value) {
        Ok(Ok(time)) => time,
        Ok(Err(_)) => return Finding::skipped("clock", "unexpected reply to TIME"),
        Err(error) => return Finding::skipped("clock", format!("unknown: {}", server_message(&error))),
    };
    let [seconds, microseconds] = time[..] else {
        return Finding::skipped("clock", "unexpected reply to TIME");
    };
    clock_offset(Duration::from_secs(seconds) + Duration::from_micros(microseconds), middle)
}

/// Finding for two clock readings.
fn clock_offset(server: Duration, local: Duration) -> Finding {
    let (clock_offset, direction) =
        if server > local { (server - local, "ahead of") } else { (local - server, "behind") };
    let message = format!("the server's clock is {} {direction} this machine's", millis(clock_offset));
    let finding = if clock_offset > CLOCK_OFFSET_WARNING {
        Finding::warning("clock", message)
            .cause("one of the machines is not synchronised with NTP")
            .fix("set up NTP: with wrong clocks logs cannot be compared and certificates can appear expired")
    } else {
        Finding::ok("clock", message)
    };
    finding.with("microseconds_apart", micros(clock_offset))
}

/// Wall-clock time, which tokio's clock does not provide.
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
    fn small_clock_offsets_are_accepted() {
        let at = Duration::from_secs;
        for (server, local, level, text) in [
            (at(100), at(100), Level::Ok, "behind"),
            (at(102), at(100), Level::Ok, "ahead of"),
            (at(103), at(100), Level::Warning, "3000 ms ahead of"),
            (at(100), at(160), Level::Warning, "60000 ms behind"),
        ] {
            let finding = clock_offset(server, local);
            assert!(finding.level == level && finding.message.contains(text), "{finding:?}");
        }
    }
}
