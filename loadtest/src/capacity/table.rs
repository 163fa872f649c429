//! What is needed, as lines that can be quoted. Never computes.

use std::fmt::Write as _;

use super::constants::{Constants, FRAMING_BYTES, KERNEL_BYTES_PER_SOCKET};
use super::model::Requirements;
use crate::bench::markdown::number;

/// What is needed, and the constants that it comes from.
pub(crate) fn table(name: &str, constants: &Constants, requirements: &Requirements) -> String {
    let (processors, memory) =
        (requirements.cores.iter().sum::<f64>(), requirements.bytes.iter().sum::<f64>());
    let [by_processors, by_memory, by_network] = requirements.nodes_by.map(|nodes| nodes.ceil());
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a string context fail.
        let _ = writeln!(text, "{what:<34} {value}");
    };
    line("publications", format!("{} /s", number(requirements.publications)));
    line("deliveries", format!("{} /s", number(requirements.deliveries)));
    line("connections", format!("{} /s", number(requirements.connects)));
    line(
        "processors of the nodes",
        format!(
            "{} cores: deliveries {}, publications {}, pings {}, connecting {}",
            number(processors),
            number(requirements.cores[0]),
            number(requirements.cores[1]),
            number(requirements.cores[2]),
            number(requirements.cores[3])
        ),
    );
    line(
        "memory of the nodes",
        format!(
            "{} GiB: connections and channels {}, the kernel's sockets {}, history {}",
            gib(memory),
            gib(requirements.bytes[0]),
            gib(requirements.bytes[1]),
            gib(requirements.bytes[2])
        ),
    );
    line("network of the nodes", format!("{} Gbit/s", number(requirements.bits / 1e9)));
    line(
        "nodes",
        format!(
            "{} of {} users: by processors {}, memory {}, network {}, and one that may be away",
            count(requirements.nodes as f64),
            count(requirements.users_per_node),
            count(by_processors),
            count(by_memory),
            count(by_network)
        ),
    );
    line(
        "each node",
        format!(
            "{} open files, limits.channels {}, limits.history_bytes {} MiB, at the least",
            count(requirements.users_per_node),
            count(requirements.channels_per_node),
            number(requirements.bytes[2] / requirements.nodes as f64 / f64::from(1 << 20))
        ),
    );
    line("nodes that hear a publication", number(requirements.nodes_per_channel));
    line(
        "the last subscriber of a node",
        format!("hears it after {} ms", number(requirements.last_delivery * 1000.0)),
    );
    line(
        "Redis",
        format!(
            "{} cores on {} servers that send {} Gbit/s; {} GiB for subscriptions, {} s of each to make them again",
            number(requirements.redis_cores),
            count(requirements.redis_servers.max(1.0)),
            number(requirements.redis_bits / 1e9),
            gib(requirements.redis_bytes),
            number(requirements.redis_resubscribe)
        ),
    );
    line(
        "when a node is lost",
        format!(
            "the others spend {} % of their cores on its users",
            number(requirements.reconnect_core_share * 100.0)
        ),
    );
    let redis = if requirements.redis_users.is_finite() {
        format!("one Redis is full at {} users", count(requirements.redis_users))
    } else {
        "one Redis is enough".to_owned()
    };
    line("the walls", format!("{redis}; a node runs out of {} first", requirements.bottleneck));
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
        number(FRAMING_BYTES)
    )
}
