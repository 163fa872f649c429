//! The costs as a Markdown table, with medians over several rounds.

use std::fmt::Write as _;

use super::resp::SUBSCRIBE_CHUNK;
use super::{PublishCost, PublishPattern, RedisCosts};
use crate::format::number;

/// Renders the table of several rounds.
pub(crate) fn table(rounds: &[RedisCosts]) -> String {
    let Some(first) = rounds.first() else { return String::new() };
    let (size, channels) = (first.size, first.channels);
    let mut patterns: Vec<PublishPattern> = first.publish.iter().map(|publish| publish.pattern).collect();
    patterns.dedup();
    let columns: Vec<String> = patterns.iter().map(|pattern| column(*pattern)).collect();
    let mut text = format!(
        "| Redis CPU time per `PUBLISH` of {size} bytes, µs (in parentheses: its core, including interrupts) | {} |\n|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    let mut gateways: Vec<usize> = first.publish.iter().map(|publish| publish.gateways).collect();
    gateways.sort_unstable();
    gateways.dedup();
    for gateways in gateways {
        let cells = patterns.iter().map(|pattern| cell(rounds, gateways, *pattern));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| received by {} | {} |",
            gateways_label(gateways),
            cells.collect::<Vec<_>>().join(" | ")
        );
    }
    let _ = writeln!(
        text,
        "\n| Redis, {} channels, {SUBSCRIBE_CHUNK} per `SUBSCRIBE` | CPU time each, µs | memory each, bytes |\n|---|---|---|",
        number(f64::from(channels))
    );
    for index in 0..first.subscribe.len() {
        let of = |pick: fn(&super::SubscribeCost) -> f64| {
            median(rounds.iter().filter_map(|costs| costs.subscribe.get(index).map(pick)))
        };
        let (micros, bytes) = (of(|cost| cost.micros), of(|cost| cost.bytes));
        let gateways_label = ["first", "second", "third"].get(index).copied().unwrap_or("further");
        let _ =
            writeln!(text, "| {gateways_label} gateway of each channel | {micros:.2} | {} |", number(bytes));
    }
    let bytes = median(rounds.iter().map(|costs| costs.bytes_per_connection));
    let _ = writeln!(text, "| new connection | | {} |", number(bytes));
    text
}

fn column(PublishPattern { publishers, pipeline }: PublishPattern) -> String {
    match publishers {
        1 => format!("1 publisher, {pipeline} in flight"),
        more => format!("{more} publishers, {pipeline} in flight each"),
    }
}

fn gateways_label(gateways: usize) -> String {
    match gateways {
        0 => "no gateway".to_owned(),
        1 => "1 gateway".to_owned(),
        more => format!("{more} gateways"),
    }
}

fn cell(rounds: &[RedisCosts], gateways: usize, pattern: PublishPattern) -> String {
    let those = || {
        let all = rounds.iter().flat_map(|costs| &costs.publish);
        all.filter(|publish| (publish.gateways, publish.pattern) == (gateways, pattern))
    };
    let micros = median(those().map(|publish: &PublishCost| publish.micros));
    let core: Vec<f64> = those().filter_map(|publish| publish.core_micros).collect();
    if core.is_empty() {
        format!("{micros:.2}")
    } else {
        format!("{micros:.2} ({:.2})", median(core.into_iter()))
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    crate::median::median(values).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis_costs::SubscribeCost;

    #[test]
    fn table_has_a_row_of_medians_per_gateway_count() {
        let costs = |micros: f64| {
            let publish = |gateways, publishers| PublishCost {
                gateways,
                pattern: PublishPattern { publishers, pipeline: 64 / publishers },
                micros: micros * gateways as f64 * publishers as f64 / 64.0,
                core_micros: (gateways > 0).then_some(9.0),
                count: 1,
            };
            RedisCosts {
                size: 128,
                channels: 10,
                publish: vec![publish(0, 64), publish(2, 64), publish(0, 1), publish(2, 1)],
                subscribe: vec![SubscribeCost { micros: 1.5, bytes: 120.4 }; 2],
                bytes_per_connection: 1700.0,
            }
        };
        let text = table(&[costs(1.0), costs(64.0), costs(640.0)]);
        for line in [
            "interrupts) | 64 publishers, 1 in flight each | 1 publisher, 64 in flight |",
            "| received by no gateway | 0.00 | 0.00 |",
            "| received by 2 gateways | 128.00 (9.00) | 2.00 (9.00) |",
            "| second gateway of each channel | 1.50 | 120 |",
            "| new connection | | 1,700 |",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert_eq!(table(&[]), "");
    }
}
