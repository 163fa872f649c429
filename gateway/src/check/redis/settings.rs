//! What a server's state and settings mean for a gateway.
//!
//! Owns the thresholds. Must never ask the server anything: it judges [`Facts`].

use super::super::report::Finding;
use super::facts::Facts;
use super::plan::Plan;

/// Two links, what a reconnect holds for a moment, and as much again.
const LINKS: u64 = 8;
/// A `timeout` below this cuts off clients that are merely quiet for a moment.
const IDLE_SHORT: u64 = 60;
/// A burst that a subscriber must survive while the gateway is busy.
const BURST_BYTES: u64 = 8 * 1024 * 1024;

/// Judges everything that can be read.
pub(super) fn judge(facts: &Facts, plan: &Plan) -> Vec<Finding> {
    let mut findings = vec![role(facts), version(facts)];
    findings.extend(untold(facts));
    findings.extend([clients(facts), output_buffer(facts, plan), idle(facts, plan)]);
    findings.extend([eviction(facts, plan), memory(facts), cluster(facts, plan)]);
    findings
}

fn untold(facts: &Facts) -> Vec<Finding> {
    let config = facts.config_refused.as_ref().map(|why| {
        Finding::ok(
            "config",
            format!("CONFIG is not told ({why}), as managed services have it: what INFO says is taken"),
        )
    });
    let info = facts.info_refused.as_ref().map(|why| {
        Finding::skipped(
            "info",
            format!("INFO is not told ({why}): memory, clients and eviction cannot be judged"),
        )
        .advise("ACL SETUSER … +info")
    });
    config.into_iter().chain(info).collect()
}

fn role(facts: &Facts) -> Finding {
    match facts.role() {
        Some("primary") => {
            let replicas = facts.number("connected_slaves").unwrap_or(0);
            Finding::ok("role", format!("primary, replicas: {replicas}")).with("replicas", replicas)
        }
        Some("sentinel") => Finding::failed("role", "this is a Sentinel, which keeps no data")
            .because("the URL names a Sentinel's port (26379 by default) in the place of the server's")
            .advise("name the primary, or configure the Sentinels as such"),
        Some(role) => {
            let link = facts.info.get("master_link_status").map_or("", String::as_str);
            let link =
                if link.is_empty() { String::new() } else { format!(", its link to the primary is {link}") };
            Finding::failed("role", format!("this is a replica ({role}{link})"))
                .because("the URL is that of a reader endpoint, or a fail-over has demoted the server")
                .advise(
                    "dial the primary: what is published through a replica reaches that replica's subscribers \
                     alone, and logs cannot be written there",
                )
        }
        None => Finding::skipped("role", "not told: neither ROLE nor INFO may be run"),
    }
}

fn version(facts: &Facts) -> Finding {
    let name = facts.info.get("server_name").or_else(|| facts.hello.get("server"));
    let is_valkey = facts.info.contains_key("valkey_version") || name.is_some_and(|name| name == "valkey");
    let own = facts.info.get("valkey_version").or_else(|| facts.hello.get("version"));
    let compatible = facts.info.get("redis_version").or(own);
    let Some(version) = compatible else {
        return Finding::skipped("version", "not told");
    };
    let shown = match (is_valkey, own) {
        (true, Some(own)) => format!("Valkey {own}"),
        _ => format!("Redis {version}"),
    };
    let finding = match numbers(version) {
        Some(at) if at < (6, 2) => {
            Finding::warning("version", format!("{shown}: `source = \"stream\"` needs 6.2"))
                .because("the scripts that keep a log use ranges that older servers do not know")
                .advise("upgrade, or keep every namespace at `source = \"pubsub\"`")
        }
        Some(at) if at < (7, 0) => {
            Finding::ok("version", format!("{shown}; it has no sharded pub/sub (7.0), all else is there"))
        }
        Some(_) => Finding::ok("version", format!("{shown}, which has everything")),
        None => Finding::skipped("version", format!("{shown}: unknown, so nothing can be said of it")),
    };
    finding.with("version", version.as_str())
}

fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

fn clients(facts: &Facts) -> Finding {
    let (Some(connected), most) = (facts.number("connected_clients"), facts.setting("maxclients")) else {
        return Finding::skipped("clients", "not told");
    };
    let Some(most) = most.and_then(|most| most.parse::<u64>().ok()).filter(|most| *most > 0) else {
        return Finding::ok("clients", format!("{connected} connected; the most is not told"))
            .with("connected", connected);
    };
    let said = format!("{connected} of {most} (maxclients) connected");
    let finding = if most < connected + LINKS {
        Finding::failed("clients", said)
            .because("connections are never closed by some application, or maxclients is too low")
            .advise("see who holds them (CLIENT LIST), close what leaks, then raise maxclients; a gateway needs two, and two more while it dials anew")
    } else if connected * 5 > most * 4 {
        Finding::warning("clients", said)
            .because("connections are never closed by some application, or maxclients is too low")
            .advise("see who holds them (CLIENT LIST), close what leaks, then raise maxclients")
    } else {
        Finding::ok("clients", said)
    };
    finding.with("connected", connected).with("maxclients", most)
}

/// `client-output-buffer-limit pubsub`: hard limit, soft limit, seconds.
fn output_buffer(facts: &Facts, plan: &Plan) -> Finding {
    const CHECK: &str = "output-buffer";
    let Some((hard, soft, seconds)) = facts.setting("client-output-buffer-limit").and_then(pubsub_limit)
    else {
        return Finding::skipped(CHECK, "client-output-buffer-limit is not told")
            .advise("see the service's parameters: client-output-buffer-limit-pubsub-hard-limit and its siblings; 32 MiB is the usual");
    };
    let said = format!("pubsub: {} at once, or {} for {seconds} s", size(hard), size(soft));
    let largest = plan.publication_bytes as u64;
    let least = [hard, soft].into_iter().filter(|limit| *limit > 0).min();
    let finding = match least {
        Some(least) if least < 2 * largest => Finding::failed(CHECK, said)
            .because(format!("a publication may have {} (publication_bytes): a few of them would have the link cut, which is a gap for every client", size(largest)))
            .advise("CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\", or more"),
        Some(_) if hard > 0 && hard < BURST_BYTES => Finding::warning(CHECK, said)
            .because("a burst that the gateway cannot read at once would have the link cut, which is a gap for every client")
            .advise("CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\", or more"),
        Some(_) => Finding::ok(CHECK, said),
        None => Finding::ok(CHECK, "pubsub: without a limit"),
    };
    finding.with("hard_bytes", hard).with("soft_bytes", soft).with("soft_seconds", seconds)
}

fn pubsub_limit(text: &str) -> Option<(u64, u64, u64)> {
    let mut words = text.split_whitespace().skip_while(|word| *word != "pubsub").skip(1).map(str::parse);
    Some((words.next()?.ok()?, words.next()?.ok()?, words.next()?.ok()?))
}

/// `timeout`: how long a client may be quiet.
fn idle(facts: &Facts, plan: &Plan) -> Finding {
    let Some(timeout) = facts.setting("timeout").and_then(|text| text.parse::<u64>().ok()) else {
        return Finding::skipped("timeout", "not told; links are pinged often enough for any usual one");
    };
    let ping = plan.ping_interval;
    let finding = if timeout == 0 {
        Finding::ok("timeout", "quiet clients are never cut off")
    } else if ping.as_secs() * 2 >= timeout {
        Finding::failed(
            "timeout",
            format!("quiet clients are cut off after {timeout} s, but links are pinged every {ping:?}"),
        )
        .because("`timeout` on the server, or `ping_interval` of the instance")
        .advise("lower ping_interval below half of it, or raise `timeout`")
    } else if timeout < IDLE_SHORT {
        Finding::warning("timeout", format!("quiet clients are cut off after {timeout} s; links are pinged every {ping:?} and stay"))
            .because("backends that publish now and then are cut off as well, and may lose what they publish at that moment")
            .advise("CONFIG SET timeout 300, or 0")
    } else {
        Finding::ok(
            "timeout",
            format!("quiet clients are cut off after {timeout} s; links are pinged every {ping:?} and stay"),
        )
    };
    finding.with("seconds", timeout)
}

fn eviction(facts: &Facts, plan: &Plan) -> Finding {
    const CHECK: &str = "eviction";
    let Some(policy) = facts.setting("maxmemory-policy") else {
        return Finding::skipped(CHECK, "maxmemory-policy is not told");
    };
    let bounded = facts.setting("maxmemory").is_some_and(|most| most != "0");
    let finding = if plan.logs.is_empty() {
        Finding::ok(CHECK, format!("{policy}; nothing is kept here"))
    } else if policy == "noeviction" {
        Finding::ok(CHECK, "noeviction: what is kept here stays")
    } else if !bounded {
        Finding::ok(CHECK, format!("{policy}, but without maxmemory nothing is ever evicted"))
    } else {
        Finding::warning(CHECK, format!("{policy}: when memory is full, logs of `stream` channels are evicted, too"))
            .because("every key that the gateway keeps expires, so no policy but noeviction spares it")
            .advise("keep logs on an instance with noeviction, or leave it enough memory; an evicted log is a gap (log-lost)")
    };
    finding.with("policy", policy)
}

fn memory(facts: &Facts) -> Finding {
    let Some(used) = facts.number("used_memory") else { return Finding::skipped("memory", "not told") };
    let most = facts.setting("maxmemory").and_then(|text| text.parse::<u64>().ok()).filter(|most| *most > 0);
    let whole = most.or_else(|| facts.number("total_system_memory").filter(|whole| *whole > 0));
    let Some(whole) = whole else {
        return Finding::ok("memory", format!("{} used", size(used))).with("used_bytes", used);
    };
    let of = if most.is_some() { "maxmemory" } else { "the machine's; there is no maxmemory" };
    let said = format!("{} of {} ({of}) used", size(used), size(whole));
    let evicts = facts.setting("maxmemory-policy").is_some_and(|policy| policy != "noeviction");
    let finding = match used.saturating_mul(100) / whole {
        91.. if !evicts => Finding::failed("memory", said)
            .because("when it is full, every write is refused (OOM)")
            .advise("raise maxmemory, or have fewer or shorter-lived keys"),
        81.. => Finding::warning("memory", said)
            .because(if evicts {
                "when it is full, keys are evicted"
            } else {
                "when it is full, every write is refused (OOM)"
            })
            .advise("raise maxmemory, or have fewer or shorter-lived keys"),
        _ => Finding::ok("memory", said),
    };
    finding.with("used_bytes", used).with("most_bytes", whole)
}

fn cluster(facts: &Facts, plan: &Plan) -> Finding {
    if !facts.is_cluster() {
        let said = "no: one server has everything";
        return if plan.cluster {
            Finding::failed("cluster", said)
                .because("the configuration takes it for a cluster")
                .advise("take `cluster` out of [redis.NAME], or dial a node of the cluster")
        } else {
            Finding::ok("cluster", said)
        };
    }
    let field = |name: &str| facts.cluster.get(name).map_or("?", String::as_str);
    let said = format!(
        "yes: state {}, {} of 16384 slots served, {} nodes",
        field("cluster_state"),
        field("cluster_slots_ok"),
        field("cluster_known_nodes")
    );
    match field("cluster_state") {
        "ok" | "?" if plan.cluster || plan.assumed => Finding::ok("cluster", said),
        "ok" | "?" => Finding::failed("cluster", said)
            .because("the configuration takes it for a single server: what belongs to other nodes is refused")
            .advise("cluster = true in [redis.NAME]"),
        _ => Finding::failed("cluster", said)
            .because(
                "a primary is gone without a replica in its place, slots are nobody's, or this node is cut off from the others",
            )
            .advise("see CLUSTER NODES on several of them"),
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

    fn facts(info: &[(&str, &str)], config: &[(&str, &str)]) -> Facts {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        Facts { info: map(info), config: map(config), ..Facts::default() }
    }

    #[test]
    fn versions_are_told_apart() {
        for (info, level, text) in [
            (vec![("redis_version", "5.0.7")], Level::Warning, "needs 6.2"),
            (vec![("redis_version", "6.2.14")], Level::Ok, "no sharded"),
            (vec![("redis_version", "8.2.1")], Level::Ok, "Redis 8.2.1"),
            (
                vec![("redis_version", "7.2.4"), ("server_name", "valkey"), ("valkey_version", "8.1.0")],
                Level::Ok,
                "Valkey 8.1.0",
            ),
            (vec![("redis_version", "unstable")], Level::Skipped, "unknown"),
            (vec![], Level::Skipped, "not told"),
        ] {
            let finding = version(&facts(&info, &[]));
            assert!(finding.level == level && finding.said.contains(text), "{finding:?}");
        }
    }

    #[test]
    fn room_for_clients_is_judged_by_what_info_says_as_well() {
        for (connected, level) in [("10", Level::Ok), ("81", Level::Warning), ("95", Level::Failed)] {
            let told = [("connected_clients", connected), ("maxclients", "100")];
            assert_eq!(clients(&facts(&told, &[])).level, level);
            assert_eq!(clients(&facts(&told[..1], &[("maxclients", "100")])).level, level);
        }
    }

    #[test]
    fn output_buffers_must_hold_a_burst() {
        let plan = Plan::default();
        for (limit, level) in [
            ("normal 0 0 0 slave 1 1 1 pubsub 33554432 8388608 60", Level::Ok),
            ("normal 0 0 0 pubsub 0 0 0", Level::Ok),
            ("pubsub 4194304 0 0", Level::Warning),
            ("pubsub 1048576 0 0", Level::Failed),
            ("pubsub 33554432 1024 1", Level::Failed),
            ("normal 0 0 0", Level::Skipped),
        ] {
            let told = facts(&[], &[("client-output-buffer-limit", limit)]);
            assert_eq!(output_buffer(&told, &plan).level, level, "{limit}");
        }
    }

    #[test]
    fn memory_is_judged_against_what_there_is() {
        let told = |used, policy| {
            facts(&[("used_memory", used), ("maxmemory", "1000")], &[("maxmemory-policy", policy)])
        };
        for (used, policy, level) in [
            ("800", "noeviction", Level::Ok),
            ("811", "noeviction", Level::Warning),
            ("911", "noeviction", Level::Failed),
            ("999", "allkeys-lru", Level::Warning),
        ] {
            assert_eq!(memory(&told(used, policy)).level, level, "{used} {policy}");
        }
    }

    #[test]
    fn sizes_are_for_people() {
        for (bytes, shown) in
            [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (33_554_432, "32 MiB")]
        {
            assert_eq!(size(bytes), shown);
        }
    }
}
