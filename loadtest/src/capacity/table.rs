//! What is needed, as lines that can be quoted. Never computes.

use std::fmt::Write as _;

use super::constants::{BYTES_AROUND, Constants, KERNEL_BYTES_PER_SOCKET};
use super::model::Need;
use crate::bench::markdown::number;

/// What is needed, and the constants that it comes from.
pub(crate) fn table(name: &str, constants: &Constants, need: &Need) -> String {
    let (processors, memory) = (need.cores.iter().sum::<f64>(), need.bytes.iter().sum::<f64>());
    let [by_processors, by_memory, by_network] = need.nodes_by.map(|nodes| nodes.ceil());
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<34} {value}");
    };
    line("publications", format!("{} /s", number(need.publications)));
    line("deliveries", format!("{} /s", number(need.deliveries)));
    line("connections", format!("{} /s", number(need.connects)));
    line(
        "processors of the nodes",
        format!(
            "{} cores: deliveries {}, publications {}, pings {}, connecting {}",
            number(processors),
            number(need.cores[0]),
            number(need.cores[1]),
            number(need.cores[2]),
            number(need.cores[3])
        ),
    );
    line(
        "memory of the nodes",
        format!(
            "{} GiB: connections and channels {}, the kernel's sockets {}, history {}",
            gib(memory),
            gib(need.bytes[0]),
            gib(need.bytes[1]),
            gib(need.bytes[2])
        ),
    );
    line("network of the nodes", format!("{} Gbit/s", number(need.bits / 1e9)));
    line(
        "nodes",
        format!(
            "{} of {} users: by processors {}, memory {}, network {}, and one that may be away",
            count(need.nodes as f64),
            count(need.users_per_node),
            count(by_processors),
            count(by_memory),
            count(by_network)
        ),
    );
    line(
        "each node",
        format!(
            "{} open files, limits.channels {}, limits.history_bytes {} MiB, at the least",
            count(need.users_per_node),
            count(need.channels_per_node),
            number(need.bytes[2] / need.nodes as f64 / f64::from(1 << 20))
        ),
    );
    line("nodes that hear a publication", number(need.reach));
    line("the last subscriber of a node", format!("hears it after {} ms", number(need.last * 1000.0)));
    line(
        "Redis",
        format!(
            "{} cores on {} servers that send {} Gbit/s; {} GiB for subscriptions, {} s of each to make them again",
            number(need.redis_cores),
            count(need.redis_servers.max(1.0)),
            number(need.redis_bits / 1e9),
            gib(need.redis_bytes),
            number(need.redis_return)
        ),
    );
    line(
        "when a node is lost",
        format!("the others spend {} % of their cores on its users", number(need.return_cores * 100.0)),
    );
    let redis = if need.redis_users.is_finite() {
        format!("one Redis is full at {} users", count(need.redis_users))
    } else {
        "one Redis is enough".to_owned()
    };
    line("the walls", format!("{redis}; a node runs out of {} first", need.scarce));
    text + &sources(name, constants)
}

/// Of what there are no parts.
fn count(value: f64) -> String {
    let whole = value.ceil();
    if whole < 1000.0 { format!("{whole:.0}") } else { number(whole) }
}

fn gib(bytes: f64) -> String {
    number(bytes / f64::from(1 << 30))
}

/// What was measured, so that one sees what the rest comes from.
fn sources(name: &str, constants: &Constants) -> String {
    let micros = |seconds: f64| number(seconds * 1e6);
    format!(
        "\nfrom {name}: {} us a delivery, {} a publication on its way to a shard, {} a connection, {} a second for the \
         pings of a connection; {} bytes a connection, {} a channel; Redis {} us a publication and {} for each node that \
         hears it, {} a subscription of {} bytes. Not from there: {} bytes of the kernel a socket, {} around a payload.\n",
        micros(constants.delivery),
        micros(constants.publication),
        micros(constants.connect),
        micros(constants.idle),
        number(constants.connection_bytes),
        number(constants.channel_bytes),
        micros(constants.redis_publication),
        micros(constants.redis_gateway),
        micros(constants.redis_subscription),
        number(constants.redis_subscription_bytes),
        number(KERNEL_BYTES_PER_SOCKET),
        number(BYTES_AROUND)
    )
}
