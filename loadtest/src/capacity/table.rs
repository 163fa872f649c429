//! Requirements as text lines.

use std::fmt::Write as _;

use super::constants::{Constants, FRAMING_BYTES, KERNEL_BYTES_PER_SOCKET};
use super::model::Requirements;
use crate::format::number;

/// Renders the requirements and the constants that they are based on.
pub(crate) fn table(name: &str, constants: &Constants, requirements: &Requirements) -> String {
    let (processors, memory) =
        (requirements.cores.iter().sum::<f64>(), requirements.bytes.iter().sum::<f64>());
    let [by_processors, by_memory, by_network] = requirements.nodes_by.map(|nodes| nodes.ceil());
    let mut text = String::new();
    let mut line = |what: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{what:<34} {value}");
    };
    line("publications", format!("{} /s", number(requirements.publications)));
    line("deliveries", format!("{} /s", number(requirements.deliveries)));
    line("new connections", format!("{} /s", number(requirements.connects)));
    line(
        "node CPU",
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
        "node memory",
        format!(
            "{} GiB: connections and channels {}, kernel sockets {}, history {}",
            gib(memory),
            gib(requirements.bytes[0]),
            gib(requirements.bytes[1]),
            gib(requirements.bytes[2])
        ),
    );
    line("node network", format!("{} Gbit/s", number(requirements.bits / 1e9)));
    line(
        "nodes",
        format!(
            "{} with {} users each: CPU needs {}, memory {}, network {}; plus one spare",
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
            "at least {} open files, limits.channels {}, limits.history_bytes {} MiB",
            count(requirements.users_per_node),
            count(requirements.channels_per_node),
            number(requirements.bytes[2] / requirements.nodes as f64 / f64::from(1 << 20))
        ),
    );
    line("nodes per publication", number(requirements.nodes_per_channel));
    line("last delivery on a node", format!("after {} ms", number(requirements.last_delivery * 1000.0)));
    line(
        "Redis",
        format!(
            "{} cores on {} servers that send {} Gbit/s; {} GiB for subscriptions, {} s per server to restore them",
            number(requirements.redis_cores),
            count(requirements.redis_servers.max(1.0)),
            number(requirements.redis_bits / 1e9),
            gib(requirements.redis_bytes),
            number(requirements.redis_resubscribe)
        ),
    );
    line(
        "loss of a node",
        format!(
            "reconnecting users need {} % of the cores of the other nodes",
            number(requirements.reconnect_core_share * 100.0)
        ),
    );
    let redis = if requirements.redis_users.is_finite() {
        format!("one Redis server supports {} users", count(requirements.redis_users))
    } else {
        "one Redis server is sufficient".to_owned()
    };
    line("limits", format!("{redis}; the first limit of a node is its {}", requirements.bottleneck));
    text + &sources(name, constants)
}

/// Rounds up quantities that cannot be fractional.
fn count(value: f64) -> String {
    let whole = value.ceil();
    if whole < 1000.0 { format!("{whole:.0}") } else { number(whole) }
}

fn gib(bytes: f64) -> String {
    number(bytes / f64::from(1 << 30))
}

/// Renders the measured constants.
fn sources(name: &str, constants: &Constants) -> String {
    let micros = |seconds: f64| number(seconds * 1e6);
    format!(
        "\nfrom {name}: {} us per delivery, {} us per publication and shard, {} us per connection, {} us per second for the \
         pings of a connection; {} bytes per connection, {} bytes per channel; Redis {} us per publication and {} us per \
         receiving node, {} us and {} bytes per subscription. Assumed: {} bytes of kernel memory per socket, {} bytes of \
         overhead per payload.\n",
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
