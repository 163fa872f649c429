//! The text of `/metrics`: the Prometheus text format, or OpenMetrics if the client prefers it.
//!
//! Owns the choice and the differences between the two.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::registry::Registry;

use super::Metrics;
use super::process::{BuildInfo, Process};
use super::totals::Totals;

/// A text format of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// The Prometheus text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics, version 1.0.0.
    OpenMetrics,
}

impl TextFormat {
    /// Chooses the format for the values of the `Accept` headers: OpenMetrics if it is listed with at least the weight
    /// of plain text, otherwise the Prometheus text format.
    pub fn for_accept<'a>(accept: impl IntoIterator<Item = &'a str>) -> Self {
        let (mut open_metrics, mut plain) = (0.0_f32, 0.0_f32);
        for range in accept.into_iter().flat_map(|value| value.split(',')) {
            let mut parts = range.split(';').map(str::trim);
            let media_type = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=")?.parse().ok()).unwrap_or(1.0);
            match media_type.as_str() {
                "application/openmetrics-text" => open_metrics = open_metrics.max(weight),
                "text/plain" | "text/*" | "*/*" => plain = plain.max(weight),
                _ => {}
            }
        }
        if open_metrics > 0.0 && open_metrics >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The value of `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// Encodes the counters, and the metrics that `more` registers, as text.
///
/// # Errors
/// If formatting fails, which does not happen for a text in memory.
pub fn encode(
    metrics: &Arc<Metrics>,
    format: TextFormat,
    more: impl FnOnce(&mut Registry),
) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("earshot");
    registry.register_collector(Box::new(BuildInfo));
    registry.register_collector(Box::new(Totals(Arc::clone(metrics))));
    metrics.api.register(&mut registry);
    more(&mut registry);
    // The names of `process_*` metrics are the same for all programs.
    let mut process = Registry::default();
    process.register_collector(Box::new(Process(metrics.process)));
    let mut out = String::new();
    encode_registry(&mut out, &registry)?;
    encode_registry(&mut out, &process)?;
    encode_eof(&mut out)?;
    match format {
        TextFormat::OpenMetrics => Ok(out),
        TextFormat::Prometheus => to_prometheus(&out),
    }
}

/// Converts OpenMetrics to the Prometheus text format: the metadata of a counter has the name of its samples, and there is
/// no end marker.
fn to_prometheus(text: &str) -> Result<String, fmt::Error> {
    let mut out = String::with_capacity(text.len() + 1024);
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let Some(help) = line.strip_prefix("# HELP ") else {
            if !line.starts_with("# ") {
                writeln!(out, "{line}")?;
            }
            continue;
        };
        let (name, help) = help.split_once(' ').unwrap_or((help, ""));
        // The type follows the help text.
        let kind = lines.next().and_then(|line| line.rsplit_once(' ')).map_or("untyped", |(_, kind)| kind);
        let suffix = if kind == "counter" { "_total" } else { "" };
        writeln!(out, "# HELP {name}{suffix} {}", help.strip_suffix('.').unwrap_or(help))?;
        writeln!(out, "# TYPE {name}{suffix} {kind}")?;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_the_weights_of_accept() {
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.1";
        for (accept, format) in [
            (&[][..], TextFormat::Prometheus),
            (&["*/*"], TextFormat::Prometheus),
            (&["text/plain"], TextFormat::Prometheus),
            (&["application/openmetrics-text"], TextFormat::OpenMetrics),
            (&[prometheus], TextFormat::OpenMetrics),
            (&["application/openmetrics-text; q=0.2, text/plain"], TextFormat::Prometheus),
            (&["application/openmetrics-text;q=0", "text/html"], TextFormat::Prometheus),
            (&["text/plain;q=0.3", "Application/OpenMetrics-Text"], TextFormat::OpenMetrics),
        ] {
            assert_eq!(TextFormat::for_accept(accept.iter().copied()), format, "{accept:?}");
        }
    }

    #[test]
    fn the_metadata_of_counters_is_converted() {
        let text = "# HELP a_b Some text.\n# TYPE a_b counter\na_b_total{x=\"1 2\"} 1\n\
                    # HELP c Text.\n# TYPE c gauge\nc 2\n# EOF\n";
        let expected = "# HELP a_b_total Some text\n# TYPE a_b_total counter\na_b_total{x=\"1 2\"} 1\n\
                        # HELP c Text\n# TYPE c gauge\nc 2\n";
        assert_eq!(to_prometheus(text).unwrap(), expected);
    }
}
