//! The capacity model: computes requirements from the workload and the unit costs. Pure arithmetic.

use super::constants::{Constants, FRAMING_BYTES, HISTORY_ENTRY_BYTES, KERNEL_BYTES_PER_SOCKET};
use super::{NodeSize, Workload};

/// Planned utilization of every resource. The rest is reserved for bursts, reconnects and a failed node.
pub(crate) const UTILIZATION_MAX: f64 = 0.5;
const GIB: f64 = (1 << 30) as f64;

/// Requirements of a workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Requirements {
    /// Publications per second, over all channels.
    pub(crate) publications: f64,
    /// Deliveries per second, to all users.
    pub(crate) deliveries: f64,
    /// Connections per second.
    pub(crate) connects: f64,
    /// Cores for deliveries, for publications on their path to shards, for pings, and for connecting.
    pub(crate) cores: [f64; 4],
    /// Bytes of connections and channels, of kernel sockets, and of history.
    pub(crate) bytes: [f64; 3],
    /// Bits per second sent by the nodes.
    pub(crate) bits: f64,
    /// Nodes required by processors, by memory and by network, at the planned utilization.
    pub(crate) nodes_by: [f64; 3],
    /// Required nodes: the maximum of these, plus one that may fail.
    pub(crate) nodes: u64,
    /// Nodes that receive a publication.
    pub(crate) nodes_per_channel: f64,
    /// Channels per node.
    pub(crate) channels_per_node: f64,
    /// Seconds until the last subscriber of a node receives a publication, with all cores of the node.
    pub(crate) last_delivery: f64,
    /// Cores of Redis.
    pub(crate) redis_cores: f64,
    /// Redis servers with one core each, at the planned utilization.
    pub(crate) redis_servers: f64,
    /// Users that one Redis server supports.
    pub(crate) redis_users: f64,
    /// Bits per second sent by all Redis servers.
    pub(crate) redis_bits: f64,
    /// Bytes of Redis for subscriptions.
    pub(crate) redis_bytes: f64,
    /// Seconds that each Redis server needs to restore all subscriptions.
    pub(crate) redis_resubscribe: f64,
    /// Users per node.
    pub(crate) users_per_node: f64,
    /// After the loss of a node: share of a node's cores that reconnecting users need on each of the others.
    pub(crate) reconnect_core_share: f64,
    /// Resource that limits a node first.
    pub(crate) bottleneck: &'static str,
}

impl Requirements {
    /// Computes the requirements.
    pub(crate) fn of(constants: &Constants, workload: &Workload, machine: &NodeSize) -> Self {
        let requirements = Self::at(constants, workload, machine);
        Self { redis_users: redis_users(constants, workload, machine), ..requirements }
    }

    fn at(constants: &Constants, workload: &Workload, machine: &NodeSize) -> Self {
        let users = workload.users as f64;
        let subscribers_per_channel = (workload.subscribers_per_channel as f64).min(users);
        let channels = users / subscribers_per_channel;
        let rate = workload.per_minute / 60.0;
        let (publications, deliveries) = (channels * rate, users * rate);
        let connects = users / workload.session_duration.as_secs_f64();
        let bits_each = (workload.size as f64 + FRAMING_BYTES) * 8.0;
        let bits = deliveries * bits_each;
        let kept = (rate * workload.history_ttl.as_secs_f64()).min(workload.history_size as f64);
        // The number of nodes per channel depends on the number of nodes, and vice versa.
        let mut nodes = 1.0_f64;
        loop {
            let nodes_per_channel =
                nodes_per_channel(workload.colocated, subscribers_per_channel, users, nodes);
            let cores = [
                deliveries * constants.delivery,
                publications * nodes_per_channel * constants.publication,
                users * constants.idle,
                connects * constants.connect,
            ];
            let bytes = [
                users * constants.connection_bytes + channels * nodes_per_channel * constants.channel_bytes,
                users * KERNEL_BYTES_PER_SOCKET,
                channels * nodes_per_channel * kept * (workload.size as f64 + HISTORY_ENTRY_BYTES),
            ];
            let nodes_by = [
                cores.iter().sum::<f64>() / (f64::from(machine.cores) * UTILIZATION_MAX),
                bytes.iter().sum::<f64>() / (machine.memory * GIB * UTILIZATION_MAX),
                bits / (machine.network * 1e9 * UTILIZATION_MAX),
            ];
            let enough = nodes_by.into_iter().fold(1.0, f64::max).ceil() + 1.0;
            if enough > nodes {
                nodes = enough;
                continue;
            }
            let redis_cores =
                publications * (constants.redis_publication + nodes_per_channel * constants.redis_gateway);
            let redis_servers = redis_cores / UTILIZATION_MAX;
            let subscriptions = channels * nodes_per_channel;
            let users_per_node = users / nodes;
            let back = users_per_node / workload.reconnect_within.as_secs_f64() * constants.connect;
            return Self {
                publications,
                deliveries,
                connects,
                cores,
                bytes,
                bits,
                nodes_by,
                nodes: nodes as u64,
                nodes_per_channel,
                channels_per_node: subscriptions / nodes,
                last_delivery: subscribers_per_channel / nodes_per_channel * constants.delivery
                    / f64::from(machine.cores),
                redis_cores,
                redis_servers,
                redis_users: f64::INFINITY,
                redis_bits: publications * nodes_per_channel * bits_each,
                redis_bytes: subscriptions * constants.redis_subscription_bytes,
                redis_resubscribe: subscriptions * constants.redis_subscription
                    / redis_servers.ceil().max(1.0),
                users_per_node,
                reconnect_core_share: back / (nodes - 1.0) / f64::from(machine.cores),
                bottleneck: bottleneck(nodes_by),
            };
        }
    }
}

/// Number of nodes with a subscriber of a channel. With random balancing it depends on chance; with co-located users it
/// is the smallest number of nodes that can hold them.
fn nodes_per_channel(colocated: bool, subscribers_per_channel: f64, users: f64, nodes: f64) -> f64 {
    if colocated {
        (subscribers_per_channel * nodes / users).max(1.0)
    } else {
        nodes * (1.0 - (1.0 - 1.0 / nodes).powf(subscribers_per_channel))
    }
}

/// Number of such users that one Redis server supports at the planned utilization. Adding a node is simple, while
/// adding a Redis server moves channels, so this limit must be known in advance. Fewer users need fewer nodes, so the
/// value is not proportional.
fn redis_users(constants: &Constants, workload: &Workload, machine: &NodeSize) -> f64 {
    let servers =
        |users| Requirements::at(constants, &Workload { users, ..workload.clone() }, machine).redis_servers;
    let (mut enough, mut full) = (0, workload.users);
    if servers(full) <= 1.0 {
        return f64::INFINITY;
    }
    while full - enough > (full / 1000).max(1) {
        let middle = enough + (full - enough) / 2;
        if servers(middle) <= 1.0 {
            enough = middle;
        } else {
            full = middle;
        }
    }
    full as f64
}

/// Resource that requires the most nodes.
fn bottleneck([processors, memory, network]: [f64; 3]) -> &'static str {
    let all = [(processors, "CPU"), (memory, "memory"), (network, "network")];
    all.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capacity::UserTransport;

    const CONSTANTS: Constants = Constants {
        delivery: 8e-6,
        publication: 2e-6,
        connect: 20e-6,
        idle: 4e-7,
        connection_bytes: 1024.0,
        channel_bytes: 2048.0,
        redis_publication: 5e-6,
        redis_gateway: 1e-6,
        redis_subscription: 1e-6,
        redis_subscription_bytes: 200.0,
    };
    const MACHINE: NodeSize = NodeSize { cores: 8, memory: 16.0, network: 10.0 };

    fn workload(subscribers_per_channel: u64, per_minute: f64, colocated: bool) -> Workload {
        Workload {
            users: 10_000_000,
            transport: UserTransport::Ws,
            subscribers_per_channel,
            per_minute,
            size: 128,
            history_ttl: Duration::from_secs(60),
            history_size: 64,
            reconnect_within: Duration::from_secs(30),
            session_duration: Duration::from_secs(1800),
            colocated,
        }
    }

    fn requirements(subscribers_per_channel: u64, per_minute: f64, colocated: bool) -> Requirements {
        Requirements::of(&CONSTANTS, &workload(subscribers_per_channel, per_minute, colocated), &MACHINE)
    }

    #[test]
    fn private_channels_are_limited_by_redis_and_memory() {
        let requirements = requirements(1, 1.0, false);
        assert!((requirements.nodes_per_channel - 1.0).abs() < 1e-9);
        assert!((requirements.publications - requirements.deliveries).abs() < 1e-9);
        assert!((requirements.redis_cores - 10e6 / 60.0 * 6e-6).abs() < 1e-6, "{requirements:?}");
        assert_eq!(requirements.bottleneck, "memory", "{requirements:?}");
        // One core per second for ten million users, at half utilization.
        assert!((requirements.redis_users / 5e6 - 1.0).abs() < 0.01, "{requirements:?}");
        assert!(
            (requirements.channels_per_node * requirements.nodes as f64 - 10e6).abs() < 1.0,
            "{requirements:?}"
        );
    }

    #[test]
    fn rooms_reach_most_nodes_unless_colocated() {
        let (spread, colocated) = (requirements(50, 60.0, false), requirements(50, 60.0, true));
        assert!(
            spread.nodes_per_channel > 0.7 * spread.nodes.min(50) as f64 && spread.nodes_per_channel < 50.0,
            "{spread:?}"
        );
        assert_eq!(spread.bottleneck, "CPU", "{spread:?}");
        let before = Requirements::of(
            &CONSTANTS,
            &Workload { users: spread.redis_users as u64 * 99 / 100, ..workload(50, 60.0, false) },
            &MACHINE,
        );
        assert!(spread.redis_users < 5e6 && before.redis_servers <= 1.0, "{spread:?}");
        assert!((colocated.nodes_per_channel - 1.0).abs() < 1e-9);
        assert!(colocated.redis_cores < spread.redis_cores / 2.0);
    }

    #[test]
    fn single_channel_costs_redis_almost_nothing() {
        let requirements = requirements(10_000_000, 60.0, false);
        assert!((requirements.publications - 1.0).abs() < 1e-9);
        assert!(requirements.redis_cores < 1e-3, "{requirements:?}");
        assert!(requirements.redis_users.is_infinite(), "{requirements:?}");
        assert!((requirements.cores[0] - 80.0).abs() < 1e-6);
        assert_eq!(
            requirements.nodes, 23,
            "80 cores and 4 for pings and a little more, of 8 each half, and one more: {requirements:?}"
        );
        // A 23rd of ten million, on eight cores.
        assert!((requirements.last_delivery - 10e6 / 23.0 * 1e-6).abs() < 1e-6, "{requirements:?}");
    }

    #[test]
    fn shorter_sessions_need_more_cpu() {
        let connecting = |session_duration| {
            let workload = Workload {
                session_duration: Duration::from_secs(session_duration),
                ..workload(1, 1.0, false)
            };
            Requirements::of(&CONSTANTS, &workload, &MACHINE).cores[3]
        };
        assert!((connecting(100) - 10e6 / 100.0 * 20e-6).abs() < 1e-9 && connecting(200) < connecting(100));
    }

    #[test]
    fn colocation_is_limited_by_node_size() {
        let (all, more) = (requirements(10_000_000, 60.0, true), requirements(20_000_000, 60.0, true));
        assert!((all.nodes_per_channel - all.nodes as f64).abs() < 1e-6, "{all:?}");
        assert_eq!(all, more);
    }

    #[test]
    fn plan_uses_half_of_each_resource_and_a_spare_node() {
        let requirements = requirements(1000, 60.0, false);
        let most = requirements.nodes_by.into_iter().fold(0.0, f64::max);
        assert!(
            requirements.nodes as f64 >= most + 1.0 && (requirements.nodes as f64) < most + 3.0,
            "{requirements:?}"
        );
    }
}
