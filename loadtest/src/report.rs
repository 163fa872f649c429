//! What a run came to: the numbers, the verdict, and how they are shown. Never measures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::resources::CpuShare;

/// Above this share of a core, a thread of the load test measures itself.
const BUSY: f64 = 0.9;
/// A thread that waited for a core longer than this measures the machine.
const STARVED: f64 = 0.2;
/// Less than this of the rate that was asked for is another test.
const KEPT_RATE: f64 = 0.95;
/// A publisher that is later than this for one message in a hundred has fallen behind.
const LAG_MICROS: u64 = 20_000;

const PERCENTILES: [(&str, f64); 4] = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9)];

/// The account of one run.
#[derive(Debug)]
pub(crate) struct Report {
    /// One line: what was done.
    pub(crate) title: String,
    /// Subscribers.
    pub(crate) subscribers: u64,
    /// How long it took to connect and subscribe them all.
    pub(crate) connecting: Duration,
    /// Messages a second that were asked for.
    pub(crate) rate: f64,
    /// Messages published.
    pub(crate) published: u64,
    /// How long that took.
    pub(crate) publishing: Duration,
    /// How late messages were published, in microseconds.
    pub(crate) lag: Histogram<u64>,
    /// Deliveries that should have been.
    pub(crate) expected: u64,
    /// Deliveries that were, each counted once.
    pub(crate) delivered: u64,
    /// Messages that a subscriber never got.
    pub(crate) lost: u64,
    /// Messages that a subscriber got once more.
    pub(crate) duplicates: u64,
    /// Messages that a subscriber got after later ones.
    pub(crate) late: u64,
    /// Messages that a subscriber got of a foreign channel.
    pub(crate) misrouted: u64,
    /// Payloads that were not as published.
    pub(crate) altered: u64,
    /// Messages of another run.
    pub(crate) foreign: u64,
    /// Notices of a gap.
    pub(crate) gaps: u64,
    /// Connections that ended early, by the reason.
    pub(crate) closed: BTreeMap<String, u64>,
    /// Latency in microseconds, by transport; those without subscribers are not there.
    pub(crate) latency: Vec<(&'static str, Histogram<u64>)>,
    /// The busiest thread that heard.
    pub(crate) hearing: Option<CpuShare>,
    /// The thread that published.
    pub(crate) publisher: Option<CpuShare>,
    /// What ended the publishing early.
    pub(crate) failure: Option<String>,
}

impl Report {
    /// Whether everything arrived, once, in order, where it belongs, as it was published.
    pub(crate) fn is_clean(&self) -> bool {
        self.lost + self.duplicates + self.late + self.misrouted + self.altered == 0
    }

    /// Why the numbers may say more about this process than about the gateway.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        for (who, share) in [("a subscriber thread", self.hearing), ("the publisher", self.publisher)] {
            let Some(share) = share else { continue };
            if share.busy > BUSY {
                doubts.push(format!(
                    "{who} was busy {:.0} % of a core: the load test is the bottleneck",
                    share.busy * 100.0
                ));
            }
            if share.starved > STARVED {
                doubts.push(format!(
                    "{who} waited {:.0} % of the time for a core: the machine is full",
                    share.starved * 100.0
                ));
            }
        }
        if self.published > 1 && self.published_per_second() < self.rate * KEPT_RATE {
            doubts.push(format!(
                "the publisher kept {:.0} of {:.0} messages a second",
                self.published_per_second(),
                self.rate
            ));
        }
        let lag = self.lag.value_at_percentile(99.0);
        if lag > LAG_MICROS {
            doubts.push(format!(
                "the publisher fell behind by {} ms at p99: latencies include that",
                millis(lag)
            ));
        }
        doubts
    }

    fn published_per_second(&self) -> f64 {
        // The first message is due at once, so n messages span n - 1 intervals.
        per_second(self.published.saturating_sub(1), self.publishing)
    }

    /// The same for programs.
    pub(crate) fn to_json(&self) -> Value {
        let latency =
            self.latency.iter().map(|(name, histogram)| ((*name).to_owned(), percentiles(histogram)));
        let cpu = |share: Option<CpuShare>| {
            share.map(|share| json!({"busy": share.busy, "starved": share.starved}))
        };
        json!({
            "title": self.title,
            "clean": self.is_clean(),
            "connect": {
                "subscribers": self.subscribers,
                "seconds": self.connecting.as_secs_f64(),
                "per_second": per_second(self.subscribers, self.connecting),
            },
            "published": {
                "count": self.published,
                "seconds": self.publishing.as_secs_f64(),
                "per_second": self.published_per_second(),
                "asked_per_second": self.rate,
                "lag_p99_ms": self.lag.value_at_percentile(99.0) as f64 / 1000.0,
                "failure": self.failure,
            },
            "deliveries": {
                "expected": self.expected,
                "delivered": self.delivered,
                "per_second": per_second(self.delivered, self.publishing),
                "lost": self.lost,
                "duplicates": self.duplicates,
                "out_of_order": self.late,
                "misrouted": self.misrouted,
                "altered": self.altered,
                "foreign": self.foreign,
            },
            "gaps": self.gaps,
            "closed": self.closed,
            "latency_ms": latency.collect::<serde_json::Map<_, _>>(),
            "cpu": {"hearing": cpu(self.hearing), "publishing": cpu(self.publisher)},
            "doubts": self.doubts(),
        })
    }

    fn write_counts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connecting = self.connecting.as_secs_f64();
        let connected = per_second(self.subscribers, self.connecting);
        writeln!(f, "  {:<14}{} in {connecting:.2} s, {connected:.0}/s", "connected", self.subscribers)?;
        let published = self.published_per_second();
        writeln!(f, "  {:<14}{} at {published:.1}/s of {:.1}/s", "published", self.published, self.rate)?;
        let delivered = per_second(self.delivered, self.publishing);
        writeln!(f, "  {:<14}{} of {} at {delivered:.0}/s", "delivered", self.delivered, self.expected)?;
        for (name, count) in
            [("lost", self.lost), ("duplicated", self.duplicates), ("out of order", self.late)]
        {
            writeln!(f, "  {name:<14}{count}")?;
        }
        let rare = [
            ("misrouted", self.misrouted),
            ("altered", self.altered),
            ("of other runs", self.foreign),
            ("gap notices", self.gaps),
        ];
        for (name, count) in rare.into_iter().filter(|(_, count)| *count > 0) {
            writeln!(f, "  {name:<14}{count}")?;
        }
        for (reason, count) in &self.closed {
            writeln!(f, "  {:<14}{count}: {reason}", "closed early")?;
        }
        Ok(())
    }

    fn write_latency(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\n  {:<14}", "latency, ms")?;
        for (name, _) in PERCENTILES {
            write!(f, "{name:>10}")?;
        }
        writeln!(f, "{:>10}", "max")?;
        for (name, histogram) in &self.latency {
            write!(f, "  {name:<14}")?;
            for (_, percentile) in PERCENTILES {
                write!(f, "{:>10}", millis(histogram.value_at_percentile(percentile)))?;
            }
            writeln!(f, "{:>10}", millis(histogram.max()))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n", self.title)?;
        self.write_counts(f)?;
        self.write_latency(f)?;
        for doubt in self.doubts() {
            writeln!(f, "\n  note: {doubt}")?;
        }
        if let Some(failure) = &self.failure {
            writeln!(f, "\n  publishing ended early: {failure}")?;
        }
        Ok(())
    }
}

fn per_second(count: u64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64().max(f64::EPSILON)
}

fn millis(micros: u64) -> String {
    format!("{:.2}", micros as f64 / 1000.0)
}

fn percentiles(histogram: &Histogram<u64>) -> Value {
    let millis = |micros: u64| micros as f64 / 1000.0;
    let mut values: serde_json::Map<String, Value> = PERCENTILES
        .iter()
        .map(|(name, percentile)| {
            ((*name).to_owned(), millis(histogram.value_at_percentile(*percentile)).into())
        })
        .collect();
    values.insert("max".to_owned(), millis(histogram.max()).into());
    values.insert("count".to_owned(), histogram.len().into());
    Value::Object(values)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::latencies;

    fn report() -> Report {
        Report {
            title: "a run".to_owned(),
            subscribers: 10,
            connecting: Duration::from_millis(500),
            rate: 20.0,
            published: 21,
            publishing: Duration::from_secs(1),
            lag: latencies(),
            expected: 210,
            delivered: 210,
            lost: 0,
            duplicates: 0,
            late: 0,
            misrouted: 0,
            altered: 0,
            foreign: 0,
            gaps: 0,
            closed: BTreeMap::new(),
            latency: vec![("SSE", latencies())],
            hearing: None,
            publisher: None,
            failure: None,
        }
    }

    #[test]
    fn anything_lost_doubled_late_astray_or_altered_is_not_clean() {
        assert!(report().is_clean());
        assert!(!Report { lost: 1, ..report() }.is_clean());
        assert!(!Report { duplicates: 1, ..report() }.is_clean());
        assert!(!Report { late: 1, ..report() }.is_clean());
        assert!(!Report { misrouted: 1, ..report() }.is_clean());
        assert!(!Report { altered: 1, ..report() }.is_clean());
    }

    #[test]
    fn a_load_test_that_measured_itself_says_so() {
        let share = |busy, starved| Some(CpuShare { busy, starved });
        let mut late = latencies();
        late.saturating_record(30_000);
        assert_eq!(report().doubts(), Vec::<String>::new());
        assert_eq!(Report { hearing: share(0.95, 0.3), ..report() }.doubts().len(), 2);
        assert_eq!(Report { publisher: share(0.95, 0.0), ..report() }.doubts().len(), 1);
        assert_eq!(Report { rate: 30.0, ..report() }.doubts().len(), 1);
        assert_eq!(Report { lag: late, ..report() }.doubts().len(), 1);
    }

    #[test]
    fn the_table_and_the_json_tell_the_same() {
        let report = Report { lost: 3, closed: [("3008 slow".to_owned(), 2)].into(), ..report() };
        let table = report.to_string();
        assert!(table.contains("lost          3\n"), "{table}");
        assert!(table.contains("closed early  2: 3008 slow\n"), "{table}");
        assert_eq!(report.to_json()["deliveries"]["lost"], 3);
        assert_eq!(report.to_json()["clean"], false);
    }
}
