//! Evaluates the state and settings of a server.
//!
//! Owns the thresholds. Must never query the server: it evaluates [`ServerInfo`].

use super::super::report::Finding;
use super::plan::CheckPlan;
use super::server_info::ServerInfo;

/// Two links, two more during a reconnect, and a reserve of the same size.
const CONNECTIONS_RESERVED: u64 = 8;
/// A `timeout` below this also disconnects clients that are idle for a short time.
const IDLE_TIMEOUT_MIN_SECS: u64 = 60;
/// Size of a burst that the output buffer must hold while the gateway is busy.
const BURST_BYTES: u64 = 8 * 1024 * 1024;

/// Evaluates everything that could be read.
pub(super) fn evaluate(facts: &ServerInfo, plan: &CheckPlan) -> Vec<Finding> {
    let mut findings = vec![role(facts), version(facts)];
    findings.extend(untold(facts));
    findings.extend([clients(facts), output_buffer(facts, plan), idle(facts, plan)]);
    findings.extend([eviction(facts, plan), memory(facts), cluster(facts, plan)]);
    findings
}

fn untold(facts: &ServerInfo) -> Vec<Finding> {
    let config = facts.config_refused.as_ref().map(|why| {
        Finding::ok(
            "config",
            format!("CONFIG is not permitted ({why}), common on managed services; using INFO instead"),
        )
    });
    let info = facts.info_refused.as_ref().map(|why| {
        Finding::skipped(
            "info",
            format!("INFO is not permitted ({why}): memory, clients and eviction are unknown"),
        )
        .fix("ACL SETUSER … +info")
    });
    config.into_iter().chain(info).collect()
}

fn role(facts: &ServerInfo) -> Finding {
    match facts.role() {
        Some("primary") => {
            let replicas = facts.number("connected_slaves").unwrap_or(0);
            Finding::ok("role", format!("primary, replicas: {replicas}")).with("replicas", replicas)
        }
        Some("sentinel") => Finding::failed("role", "this is a Sentinel, not a data server")
            .cause("the URL has the port of a Sentinel (26379 by default) instead of the server")
            .fix("use the primary, or configure `sentinels`"),
        Some(role) => {
            let link = facts.info.get("master_link_status").map_or("", String::as_str);
            let link =
                if link.is_empty() { String::new() } else { format!(", its link to the primary is {link}") };
            Finding::failed("role", format!("this is a replica ({role}{link})"))
                .cause("the URL is a reader endpoint, or a failover has demoted the server")
                .fix(
                    "use the primary: a publication on a replica reaches only the subscribers of that replica, \
                     and streams cannot be written there",
                )
        }
        None => Finding::skipped("role", "unknown: neither ROLE nor INFO is permitted"),
    }
}

fn version(facts: &ServerInfo) -> Finding {
    let name = facts.info.get("server_name").or_else(|| facts.hello.get("server"));
    let is_valkey = facts.info.contains_key("valkey_version") || name.is_some_and(|name| name == "valkey");
    let own = facts.info.get("valkey_version").or_else(|| facts.hello.get("version"));
    let compatible = facts.info.get("redis_version").or(own);
    let Some(version) = compatible else {
        return Finding::skipped("version", "unknown");
    };
    let shown = match (is_valkey, own) {
        (true, Some(own)) => format!("Valkey {own}"),
        _ => format!("Redis {version}"),
    };
    let finding = match numbers(version) {
        Some(at) if at < (6, 2) => {
            Finding::warning("version", format!("{shown}: `source = \"stream\"` needs 6.2"))
                .cause("the stream scripts use exclusive ranges, which older servers do not support")
                .fix("upgrade, or use only namespaces with `source = \"pubsub\"`")
        }
        Some(at) if at < (7, 0) => {
            Finding::ok("version", format!("{shown}; all features except sharded pub/sub (7.0)"))
        }
        Some(_) => Finding::ok("version", format!("{shown}, all features supported")),
        None => Finding::skipped("version", format!("{shown}: unknown version")),
    };
    finding.with("version", version.as_str())
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn clients(facts: &ServerInfo) -> Finding {
    let (Some(connected), most) = (facts.number("connected_clients"), facts.setting("maxclients")) else {
        return Finding::skipped("clients", "unknown");
    };
    let Some(most) = most.and_then(|most| most.parse::<u64>().ok()).filter(|most| *most > 0) else {
        return Finding::ok("clients", format!("{connected} connected; maxclients is unknown"))
            .with("connected", connected);
    };
    let message = format!("{connected} of {most} (maxclients) connected");
    let finding = if most < connected + CONNECTIONS_RESERVED {
        Finding::failed("clients", message)
            .cause("an application leaks connections, or maxclients is too low")
            .fix("find the clients with CLIENT LIST, fix connection leaks, then raise maxclients; a gateway needs two connections, and two more during a reconnect")
    } else if connected * 5 > most * 4 {
        Finding::warning("clients", message)
            .cause("an application leaks connections, or maxclients is too low")
            .fix("find the clients with CLIENT LIST, fix connection leaks, then raise maxclients")
    } else {
        Finding::ok("clients", message)
    };
    finding.with("connected", connected).with("maxclients", most)
}

/// `client-output-buffer-limit pubsub`: hard limit, soft limit, seconds.
fn output_buffer(facts: &ServerInfo, plan: &CheckPlan) -> Finding {
    const CHECK: &str = "output-buffer";
    let Some((hard, soft, seconds)) = facts.setting("client-output-buffer-limit").and_then(pubsub_limit)
    else {
        return Finding::skipped(CHECK, "client-output-buffer-limit is unknown")
            .fix("check the service's parameters client-output-buffer-limit-pubsub-*; the default hard limit is 32 MiB");
    };
    let message = format!("pubsub: hard limit {}, soft limit {} for {seconds} s", size(hard), size(soft));
    let largest = plan.publication_bytes as u64;
    let least = [hard, soft].into_iter().filter(|limit| *limit > 0).min();
    let finding = match least {
        Some(least) if least < 2 * largest => Finding::failed(CHECK, message)
            .cause(format!("a publication can have {} (publication_bytes): a few of them would exceed the limit; Redis would then disconnect the gateway, and every client would get a gap", size(largest)))
            .fix("CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\", or more"),
        Some(_) if hard > 0 && hard < BURST_BYTES => Finding::warning(CHECK, message)
            .cause("a burst can exceed the limit; Redis would then disconnect the gateway, and every client would get a gap")
            .fix("CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\", or more"),
        Some(_) => Finding::ok(CHECK, message),
        None => Finding::ok(CHECK, "pubsub: no limit"),
    };
    finding.with("hard_bytes", hard).with("soft_bytes", soft).with("soft_seconds", seconds)
}

fn pubsub_limit(text: &str) -> Option<(u64, u64, u64)> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?))
}

/// `timeout`: how long a client may be idle.
fn idle(facts: &ServerInfo, plan: &CheckPlan) -> Finding {
    let Some(timeout) = facts.setting("timeout").and_then(|text| text.parse::<u64>().ok()) else {
        return Finding::skipped("timeout", "unknown; links are pinged often enough for common values");
    };
    let ping = plan.ping_interval;
    let finding = if timeout == 0 {
        Finding::ok("timeout", "idle clients are not disconnected")
    } else if ping.as_secs() * 2 >= timeout {
        Finding::failed(
            "timeout",
            format!("idle clients are disconnected after {timeout} s, but links are pinged every {ping:?}"),
        )
        .cause("`timeout` on the server, or `ping_interval` of the instance")
        .fix("set ping_interval below half of `timeout`, or raise `timeout`")
    } else if timeout < IDLE_TIMEOUT_MIN_SECS {
        Finding::warning(
            "timeout",
            format!("idle clients are disconnected after {timeout} s; links are pinged every {ping:?}"),
        )
        .cause("backends that publish rarely are disconnected as well, and can lose a publication at that moment")
        .fix("CONFIG SET timeout 300, or 0")
    } else {
        Finding::ok(
            "timeout",
            format!("idle clients are disconnected after {timeout} s; links are pinged every {ping:?}"),
        )
    };
    finding.with("seconds", timeout)
}

fn eviction(facts: &ServerInfo, plan: &CheckPlan) -> Finding {
    const CHECK: &str = "eviction";
    let Some(policy) = facts.setting("maxmemory-policy") else {
        return Finding::skipped(CHECK, "maxmemory-policy is unknown");
    };
    let bounded = facts.setting("maxmemory").is_some_and(|most| most != "0");
    let finding = if plan.logs.is_empty() {
        Finding::ok(CHECK, format!("{policy}; no data is stored here"))
    } else if policy == "noeviction" {
        Finding::ok(CHECK, "noeviction: stored data is never evicted")
    } else if !bounded {
        Finding::ok(CHECK, format!("{policy}, but nothing is evicted without maxmemory"))
    } else {
        Finding::warning(CHECK, format!("{policy}: streams of `stream` channels can be evicted when memory is full"))
            .cause("all keys of the gateway have a TTL, so only noeviction protects them")
            .fix("store streams on an instance with noeviction, or provide enough memory; an evicted stream causes a gap (log-lost)")
    };
    finding.with("policy", policy)
}

fn memory(facts: &ServerInfo) -> Finding {
    let Some(used) = facts.number("used_memory") else { return Finding::skipped("memory", "unknown") };
    let most = facts.setting("maxmemory").and_then(|text| text.parse::<u64>().ok()).filter(|most| *most > 0);
    let whole = most.or_else(|| facts.number("total_system_memory").filter(|whole| *whole > 0));
    let Some(whole) = whole else {
        return Finding::ok("memory", format!("{} used", size(used))).with("used_bytes", used);
    };
    let of = if most.is_some() { "maxmemory" } else { "memory of the machine; maxmemory is not set" };
    let message = format!("{} of {} ({of}) used", size(used), size(whole));
    let evicts = facts.setting("maxmemory-policy").is_some_and(|policy| policy != "noeviction");
    let finding = match used.saturating_mul(100) / whole {
        91.. if !evicts => Finding::failed("memory", message)
            .cause("when memory is full, every write fails (OOM)")
            .fix("raise maxmemory, or store fewer keys or use shorter TTLs"),
        81.. => Finding::warning("memory", message)
            .cause(if evicts {
                "when memory is full, keys are evicted"
            } else {
                "when memory is full, every write fails (OOM)"
            })
            .fix("raise maxmemory, or store fewer keys or use shorter TTLs"),
        _ => Finding::ok("memory", message),
    };
    finding.with("used_bytes", used).with("most_bytes", whole)
}

fn cluster(facts: &ServerInfo, plan: &CheckPlan) -> Finding {
    if !facts.is_cluster() {
        let message = "not a cluster";
        return if plan.cluster {
            Finding::failed("cluster", message)
                .cause("the configuration says `cluster`")
                .fix("remove `cluster` from [redis.NAME], or use a node of the cluster")
        } else {
            Finding::ok("cluster", message)
        };
    }
    let field = |name: &str| facts.cluster.get(name).map_or("?", String::as_str);
    let message = format!(
        "cluster state {}, {} of 16384 slots available, {} known nodes",
        field("cluster_state"),
        field("cluster_slots_ok"),
        field("cluster_known_nodes")
    );
    match field("cluster_state") {
        "ok" | "?" if plan.cluster || plan.assumed => Finding::ok("cluster", message),
        "ok" | "?" => Finding::failed("cluster", message)
            .cause("the configuration expects a single server: commands for keys of other nodes are rejected")
            .fix("set cluster = true in [redis.NAME]"),
        _ => Finding::failed("cluster", message)
            .cause("a primary failed without a replica, slots are unassigned, or this node is isolated")
            .fix("compare CLUSTER NODES on several nodes"),
    }
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    let mut scale = 1;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        (unit, scale) = (unit + 1, scale * 1024);
    }
    let (whole, rest) = (bytes / scale, bytes % scale);
    if rest == 0 {
        format!("{whole} {}", UNITS[unit])
    } else {
        format!("{whole}.{} {}", rest * 10 / scale, UNITS[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::Level;

    fn facts(info: &[(&str, &str)], config: &[(&str, &str)]) -> ServerInfo {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        ServerInfo { info: map(info), config: map(config), ..ServerInfo::default() }
    }

    #[test]
    fn versions_are_compared() {
        for (info, level, text) in [
            (vec![("redis_version", "5.0.7")], Level::Warning, "needs 6.2"),
            (vec![("redis_version", "6.2.14")], Level::Ok, "except sharded"),
            (vec![("redis_version", "8.2.1")], Level::Ok, "Redis 8.2.1"),
            (
                vec![("redis_version", "7.2.4"), ("server_name", "valkey"), ("valkey_version", "8.1.0")],
                Level::Ok,
                "Valkey 8.1.0",
            ),
            (vec![("redis_version", "unstable")], Level::Skipped, "unknown"),
            (vec![], Level::Skipped, "unknown"),
        ] {
            let finding = version(&facts(&info, &[]));
            assert!(finding.level == level && finding.message.contains(text), "{finding:?}");
        }
    }

    #[test]
    fn client_limit_of_info_is_used() {
        for (connected, level) in [("10", Level::Ok), ("81", Level::Warning), ("95", Level::Failed)] {
            let reply = [("connected_clients", connected), ("maxclients", "100")];
            assert_eq!(clients(&facts(&reply, &[])).level, level);
            assert_eq!(clients(&facts(&reply[..1], &[("maxclients", "100")])).level, level);
        }
    }

    #[test]
    fn output_buffers_must_hold_a_burst() {
        let plan = CheckPlan::default();
        for (limit, level) in [
            ("normal 0 0 0 slave 1 1 1 pubsub 33554432 8388608 60", Level::Ok),
            ("normal 0 0 0 pubsub 0 0 0", Level::Ok),
            ("pubsub 4194304 0 0", Level::Warning),
            ("pubsub 1048576 0 0", Level::Failed),
            ("pubsub 33554432 1024 1", Level::Failed),
            ("normal 0 0 0", Level::Skipped),
        ] {
            let reply = facts(&[], &[("client-output-buffer-limit", limit)]);
            assert_eq!(output_buffer(&reply, &plan).level, level, "{limit}");
        }
    }

    #[test]
    fn memory_is_compared_with_the_limit() {
        let reply = |used, policy| {
            facts(&[("used_memory", used), ("maxmemory", "1000")], &[("maxmemory-policy", policy)])
        };
        for (used, policy, level) in [
            ("800", "noeviction", Level::Ok),
            ("811", "noeviction", Level::Warning),
            ("911", "noeviction", Level::Failed),
            ("999", "allkeys-lru", Level::Warning),
        ] {
            assert_eq!(memory(&reply(used, policy)).level, level, "{used} {policy}");
        }
    }

    #[test]
    fn sizes_are_formatted() {
        for (bytes, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (33_554_432, "32 MiB")]
        {
            assert_eq!(size(bytes), shown);
        }
    }
}
