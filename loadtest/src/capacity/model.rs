//! The model: from what is asked for and what one of each costs to what all of it takes. Pure arithmetic. Never prints.

use super::constants::{BYTES_AROUND, BYTES_KEPT, Constants, KERNEL_BYTES_PER_SOCKET};
use super::{Demand, Machine};

/// No more than this of anything is planned with: the rest is for bursts, for those who come back, and for a node that
/// is away.
pub(crate) const PLANNED: f64 = 0.5;
const GIB: f64 = (1 << 30) as f64;

/// What all of it takes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Need {
    /// Publications a second, over all channels.
    pub(crate) publications: f64,
    /// Deliveries a second, to all users.
    pub(crate) deliveries: f64,
    /// Users who connect a second.
    pub(crate) connects: f64,
    /// Cores for deliveries, for publications on their way to shards, for pings, and for connecting.
    pub(crate) cores: [f64; 4],
    /// Bytes of connections and channels, of the kernel's sockets, and of history.
    pub(crate) bytes: [f64; 3],
    /// Bits a second that leave the nodes.
    pub(crate) bits: f64,
    /// Nodes by processors, by memory and by network, planned with half of each.
    pub(crate) nodes_by: [f64; 3],
    /// Nodes in the end: the most of these, and one that may be away.
    pub(crate) nodes: u64,
    /// Nodes that hear a publication.
    pub(crate) reach: f64,
    /// Channels that one node hears.
    pub(crate) channels_per_node: f64,
    /// Seconds of a node, with all of its cores, until the last of its subscribers has a publication.
    pub(crate) last: f64,
    /// Cores of Redis.
    pub(crate) redis_cores: f64,
    /// Redis servers, each of which has one core for all of it, planned with half.
    pub(crate) redis_servers: f64,
    /// Users with whom one Redis server is full.
    pub(crate) redis_users: f64,
    /// Bits a second that leave all Redis servers.
    pub(crate) redis_bits: f64,
    /// Bytes of Redis for subscriptions.
    pub(crate) redis_bytes: f64,
    /// Seconds of each of these servers until all is subscribed again when they are back.
    pub(crate) redis_return: f64,
    /// Users of one node.
    pub(crate) users_per_node: f64,
    /// When a node is lost: the share of a node's cores that the newcomers take on each of the others.
    pub(crate) return_cores: f64,
    /// What a node has least of.
    pub(crate) scarce: &'static str,
}

impl Need {
    /// See the module.
    pub(crate) fn of(constants: &Constants, demand: &Demand, machine: &Machine) -> Self {
        let need = Self::at(constants, demand, machine);
        Self { redis_users: redis_users(constants, demand, machine), ..need }
    }

    fn at(constants: &Constants, demand: &Demand, machine: &Machine) -> Self {
        let users = demand.users as f64;
        let audience = (demand.audience as f64).min(users);
        let channels = users / audience;
        let rate = demand.per_minute / 60.0;
        let (publications, deliveries) = (channels * rate, users * rate);
        let connects = users / demand.stay.as_secs_f64();
        let bits_each = (demand.size as f64 + BYTES_AROUND) * 8.0;
        let bits = deliveries * bits_each;
        let kept = (rate * demand.history_ttl.as_secs_f64()).min(demand.history_size as f64);
        // How many nodes hear a channel depends on how many there are, and they on it.
        let mut nodes = 1.0_f64;
        loop {
            let reach = reach(demand.gathered, audience, users, nodes);
            let cores = [
                deliveries * constants.delivery,
                publications * reach * constants.publication,
                users * constants.idle,
                connects * constants.connect,
            ];
            let bytes = [
                users * constants.connection_bytes + channels * reach * constants.channel_bytes,
                users * KERNEL_BYTES_PER_SOCKET,
                channels * reach * kept * (demand.size as f64 + BYTES_KEPT),
            ];
            let nodes_by = [
                cores.iter().sum::<f64>() / (f64::from(machine.cores) * PLANNED),
                bytes.iter().sum::<f64>() / (machine.memory * GIB * PLANNED),
                bits / (machine.network * 1e9 * PLANNED),
            ];
            let enough = nodes_by.into_iter().fold(1.0, f64::max).ceil() + 1.0;
            if enough > nodes {
                nodes = enough;
                continue;
            }
            let redis_cores = publications * (constants.redis_publication + reach * constants.redis_gateway);
            let redis_servers = redis_cores / PLANNED;
            let subscriptions = channels * reach;
            let users_per_node = users / nodes;
            let back = users_per_node / demand.back_within.as_secs_f64() * constants.connect;
            return Self {
                publications,
                deliveries,
                connects,
                cores,
                bytes,
                bits,
                nodes_by,
                nodes: nodes as u64,
                reach,
                channels_per_node: subscriptions / nodes,
                last: audience / reach * constants.delivery / f64::from(machine.cores),
                redis_cores,
                redis_servers,
                redis_users: f64::INFINITY,
                redis_bits: publications * reach * bits_each,
                redis_bytes: subscriptions * constants.redis_subscription_bytes,
                redis_return: subscriptions * constants.redis_subscription / redis_servers.ceil().max(1.0),
                users_per_node,
                return_cores: back / (nodes - 1.0) / f64::from(machine.cores),
                scarce: scarce(nodes_by),
            };
        }
    }
}

/// How many of the nodes have a subscriber of a channel, when balancers spread users at random. When they bring them
/// together, it is as many as it takes to hold them.
fn reach(gathered: bool, audience: f64, users: f64, nodes: f64) -> f64 {
    if gathered {
        (audience * nodes / users).max(1.0)
    } else {
        nodes * (1.0 - (1.0 - 1.0 / nodes).powf(audience))
    }
}

/// With how many of such users one Redis server is full, of which half is planned with. A node more is a start, a server
/// more is another place for channels: so that is the wall to know of beforehand. Fewer users are on fewer nodes, so this
/// is no share of what all of them take.
fn redis_users(constants: &Constants, demand: &Demand, machine: &Machine) -> f64 {
    let servers = |users| Need::at(constants, &Demand { users, ..demand.clone() }, machine).redis_servers;
    let (mut enough, mut full) = (0, demand.users);
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

/// That by which the most nodes are needed.
fn scarce([processors, memory, network]: [f64; 3]) -> &'static str {
    let all = [(processors, "processors"), (memory, "memory"), (network, "network")];
    all.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).map_or("", |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::capacity::Transport;

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
    const MACHINE: Machine = Machine { cores: 8, memory: 16.0, network: 10.0 };

    fn demand(audience: u64, per_minute: f64, gathered: bool) -> Demand {
        Demand {
            users: 10_000_000,
            transport: Transport::Ws,
            audience,
            per_minute,
            size: 128,
            history_ttl: Duration::from_secs(60),
            history_size: 64,
            back_within: Duration::from_secs(30),
            stay: Duration::from_secs(1800),
            gathered,
        }
    }

    fn need(audience: u64, per_minute: f64, gathered: bool) -> Need {
        Need::of(&CONSTANTS, &demand(audience, per_minute, gathered), &MACHINE)
    }

    #[test]
    fn a_channel_of_ones_own_is_heard_by_one_node_and_held_up_by_redis_and_memory() {
        let need = need(1, 1.0, false);
        assert!((need.reach - 1.0).abs() < 1e-9);
        assert!((need.publications - need.deliveries).abs() < 1e-9);
        assert!((need.redis_cores - 10e6 / 60.0 * 6e-6).abs() < 1e-6, "{need:?}");
        assert_eq!(need.scarce, "memory", "{need:?}");
        // One core a second for ten million, of which half is planned with.
        assert!((need.redis_users / 5e6 - 1.0).abs() < 0.01, "{need:?}");
        assert!((need.channels_per_node * need.nodes as f64 - 10e6).abs() < 1.0, "{need:?}");
    }

    #[test]
    fn rooms_are_heard_by_nearly_all_nodes_unless_they_are_gathered() {
        let (spread, gathered) = (need(50, 60.0, false), need(50, 60.0, true));
        assert!(spread.reach > 0.7 * spread.nodes.min(50) as f64 && spread.reach < 50.0, "{spread:?}");
        assert_eq!(spread.scarce, "processors", "{spread:?}");
        let before = Need::of(
            &CONSTANTS,
            &Demand { users: spread.redis_users as u64 * 99 / 100, ..demand(50, 60.0, false) },
            &MACHINE,
        );
        assert!(spread.redis_users < 5e6 && before.redis_servers <= 1.0, "{spread:?}");
        assert!((gathered.reach - 1.0).abs() < 1e-9);
        assert!(gathered.redis_cores < spread.redis_cores / 2.0);
    }

    #[test]
    fn one_channel_for_all_costs_redis_nothing() {
        let need = need(10_000_000, 60.0, false);
        assert!((need.publications - 1.0).abs() < 1e-9);
        assert!(need.redis_cores < 1e-3, "{need:?}");
        assert!(need.redis_users.is_infinite(), "{need:?}");
        assert!((need.cores[0] - 80.0).abs() < 1e-6);
        assert_eq!(
            need.nodes, 23,
            "80 cores and 4 for pings and a little more, of 8 each half, and one more: {need:?}"
        );
        // A 23rd of ten million, by eight cores.
        assert!((need.last - 10e6 / 23.0 * 1e-6).abs() < 1e-6, "{need:?}");
    }

    #[test]
    fn whoever_comes_and_goes_takes_processors() {
        let connecting = |stay| {
            let demand = Demand { stay: Duration::from_secs(stay), ..demand(1, 1.0, false) };
            Need::of(&CONSTANTS, &demand, &MACHINE).cores[3]
        };
        assert!((connecting(100) - 10e6 / 100.0 * 20e-6).abs() < 1e-9 && connecting(200) < connecting(100));
    }

    #[test]
    fn nobody_is_brought_to_a_node_that_cannot_hold_all_and_a_channel_has_no_more_than_all_users() {
        let (all, more) = (need(10_000_000, 60.0, true), need(20_000_000, 60.0, true));
        assert!((all.reach - all.nodes as f64).abs() < 1e-6, "{all:?}");
        assert_eq!(all, more);
    }

    #[test]
    fn what_is_planned_with_is_half_of_everything_and_one_node_may_go() {
        let need = need(1000, 60.0, false);
        let most = need.nodes_by.into_iter().fold(0.0, f64::max);
        assert!(need.nodes as f64 >= most + 1.0 && (need.nodes as f64) < most + 3.0, "{need:?}");
    }
}
