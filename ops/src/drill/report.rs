//! Results of the faults, as a table for people and as a JSON document.
//!
//! Owns both formats; JSON keys are stable. Must never evaluate anything.

use std::fmt;
use std::time::Duration;

use earshot_client::ledger::LedgerCounts;
use serde::Serialize;
use serde_json::Value;

/// Result of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All checks passed.
    Passed,
    /// At least one check failed.
    Failed,
    /// The fault could not be injected, for the given reason.
    Skipped,
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// One check.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// Stable identifier, for scripts.
    pub check: &'static str,
    /// Whether it passed.
    pub ok: bool,
    /// What was observed.
    pub message: String,
}

/// Messages of one channel, for one client or for all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct DrillTotals {
    /// Published numbers, once for each client.
    pub published: u64,
    /// Received numbers.
    pub delivered: u64,
    /// Missing numbers that were reported as a gap.
    pub reported: u64,
    /// Missing numbers that were not reported.
    pub lost: u64,
    /// Numbers received twice or out of order.
    pub duplicates: u64,
    /// Gap notices.
    pub gaps: u64,
}

impl DrillTotals {
    pub(super) fn of(count: LedgerCounts, published: u64) -> Self {
        let LedgerCounts { delivered, reported, lost, late, duplicates, gaps } = count;
        Self { published, delivered, reported, lost, duplicates: duplicates + late, gaps }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            published: self.published + other.published,
            delivered: self.delivered + other.delivered,
            reported: self.reported + other.reported,
            lost: self.lost + other.lost,
            duplicates: self.duplicates + other.duplicates,
            gaps: self.gaps + other.gaps,
        }
    }

    /// Whether the numbers add up, with nothing lost or duplicated.
    pub(super) fn is_ok(&self) -> bool {
        self.lost == 0 && self.duplicates == 0 && self.delivered + self.reported == self.published
    }
}

/// Totals of one client on one channel.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// `websocket-json`, `websocket-protobuf` or `sse`.
    pub client: &'static str,
    /// `plain` or `log`.
    pub channel: &'static str,
    /// The totals.
    #[serde(flatten)]
    pub totals: DrillTotals,
}

/// What recovers, on which the meaning of the recovery time depends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RecoveryOutcome {
    /// Redis, or the network to it, was unavailable.
    Redis,
    /// Redis rejected the gateway, which then retries slowly.
    Rejection,
    /// The gateway itself.
    Gateway,
}

/// Result of one fault.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Name of the fault.
    pub fault: &'static str,
    /// The result.
    pub verdict: Verdict,
    /// Why it was skipped or ended early.
    pub reason: Option<String>,
    /// What recovered.
    pub recovery: RecoveryOutcome,
    /// From the fault until the gateway reported it.
    #[serde(rename = "detected_milliseconds", serialize_with = "milliseconds")]
    pub detected: Option<Duration>,
    /// From the end of the fault until the first client received a message.
    #[serde(rename = "recovered_milliseconds", serialize_with = "milliseconds")]
    pub recovered: Option<Duration>,
    /// From the end of the fault until the last verifying client received a message.
    #[serde(rename = "recovered_by_all_milliseconds", serialize_with = "milliseconds")]
    pub recovered_by_all: Option<Duration>,
    /// Sum of the accounts.
    pub total: DrillTotals,
    /// For each client and channel.
    pub accounts: Vec<Account>,
    /// Background load of `--channels`, all channels together.
    pub background: Option<DrillTotals>,
    /// All checks.
    pub checks: Vec<Check>,
}

impl Outcome {
    pub(super) fn new(fault: &'static str, recovery: RecoveryOutcome) -> Self {
        Self {
            fault,
            verdict: Verdict::Passed,
            reason: None,
            recovery,
            detected: None,
            recovered: None,
            recovered_by_all: None,
            total: DrillTotals::default(),
            accounts: Vec::new(),
            background: None,
            checks: Vec::new(),
        }
    }

    pub(super) fn finished(mut self, verdict: Verdict, reason: String) -> Self {
        (self.verdict, self.reason) = (verdict, Some(reason));
        self
    }

    /// Records a check.
    pub(super) fn check(&mut self, check: &'static str, ok: bool, message: impl Into<String>) {
        if !ok {
            self.verdict = Verdict::Failed;
        }
        self.checks.push(Check { check, ok, message: message.into() });
    }
}

fn milliseconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3).serialize(to)
}

/// Results of a drill.
#[derive(Clone, Debug)]
pub struct DrillReport {
    /// Location of Redis, without credentials.
    pub redis: String,
    /// Location of the gateway.
    pub gateway: String,
    /// Number of channels of the background load.
    pub channels: usize,
    /// In the order of execution.
    pub outcomes: Vec<Outcome>,
}

impl DrillReport {
    /// Whether at least one fault passed and none failed.
    pub fn is_ok(&self) -> bool {
        self.count(Verdict::Failed) == 0
            && self.outcomes.iter().any(|outcome| outcome.verdict == Verdict::Passed)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
    }

    /// Longest detection time.
    pub fn worst_detected(&self) -> Option<Duration> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.recovery != RecoveryOutcome::Gateway)
            .filter_map(|outcome| outcome.detected)
            .max()
    }

    /// Longest recovery time of this kind.
    pub fn worst_recovered(&self, recovery: RecoveryOutcome) -> Option<Duration> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.recovery == recovery)
            .filter_map(|outcome| outcome.recovered)
            .max()
    }

    /// The JSON document. Keys may be added; existing ones keep their meaning.
    pub fn to_json(&self) -> Value {
        let millis = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3);
        serde_json::json!({
            "earshot": env!("CARGO_PKG_VERSION"),
            "result": if self.is_ok() { "ok" } else { "failed" },
            "redis": self.redis,
            "gateway": self.gateway,
            "channels": self.channels,
            "worst": {
                "detected_milliseconds": millis(self.worst_detected()),
                "recovered_milliseconds": millis(self.worst_recovered(RecoveryOutcome::Redis)),
                "recovered_after_rejection_milliseconds": millis(self.worst_recovered(RecoveryOutcome::Rejection)),
            },
            "faults": self.outcomes,
        })
    }
}

/// The table for people.
impl fmt::Display for DrillReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { redis, gateway, channels, .. } = self;
        writeln!(f, "gateway {gateway}, Redis {redis}, {channels} background channels\n")?;
        writeln!(
            f,
            "{:<18} {:>11} {:>11} {:>11} {:>10} {:>10} {:>6}  verdict",
            "fault", "detected", "recovered", "by all", "delivered", "reported", "lost"
        )?;
        self.outcomes.iter().try_for_each(|outcome| write!(f, "{outcome}"))?;
        writeln!(f)?;
        for (what, time) in [
            ("detection of a fault", self.worst_detected()),
            (
                "recovery of the first client after Redis is available",
                self.worst_recovered(RecoveryOutcome::Redis),
            ),
            (
                "recovery of the first client after a rejection ended",
                self.worst_recovered(RecoveryOutcome::Rejection),
            ),
        ] {
            if let Some(time) = time {
                writeln!(f, "worst {what}: {}", format_duration(time))?;
            }
        }
        let (failed, skipped) = (self.count(Verdict::Failed), self.count(Verdict::Skipped));
        match failed {
            0 if self.is_ok() => writeln!(f, "all passed, skipped: {skipped}"),
            0 => writeln!(f, "nothing was tested, skipped: {skipped}"),
            failed => writeln!(f, "failed: {failed}, skipped: {skipped}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), format_duration);
        let DrillTotals { delivered, reported, lost, .. } = self.total;
        writeln!(
            f,
            "{:<18} {:>11} {:>11} {:>11} {delivered:>10} {reported:>10} {lost:>6}  {}",
            self.fault,
            time(self.detected),
            time(self.recovered),
            time(self.recovered_by_all),
            self.verdict.as_str()
        )?;
        if let Some(reason) = &self.reason {
            writeln!(f, "    {reason}")?;
        }
        self.checks
            .iter()
            .filter(|check| !check.ok)
            .try_for_each(|check| writeln!(f, "    {}: {}", check.check, check.message))
    }
}

/// Formats a duration for people.
fn format_duration(time: Duration) -> String {
    match time.as_millis() {
        0..10 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        10..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> DrillReport {
        let totals = DrillTotals { published: 10, delivered: 8, reported: 2, ..DrillTotals::default() };
        let mut kill = Outcome::new("kill", RecoveryOutcome::Redis);
        (kill.detected, kill.recovered) =
            (Some(Duration::from_micros(3400)), Some(Duration::from_millis(1500)));
        kill.total = totals;
        kill.check("accounts", totals.is_ok(), "8 + 2 of 10");
        let gateway = Outcome::new("gateway-killed", RecoveryOutcome::Gateway);
        let skipped =
            gateway.finished(Verdict::Skipped, "requires a gateway started by the drill".to_owned());
        DrillReport {
            redis: "redis://h".to_owned(),
            gateway: "h:1".to_owned(),
            channels: 0,
            outcomes: vec![kill, skipped],
        }
    }

    #[test]
    fn table_for_people() {
        let text = report().to_string();
        assert!(text.contains("kill                    3.4 ms      1.50 s           -          8          2      0  passed\n"), "{text}");
        assert!(
            text.contains("    requires a gateway started by the drill\n")
                && text.ends_with("all passed, skipped: 1\n"),
            "{text}"
        );
        let mut report = report();
        report.outcomes[0].check("notified", false, "no client was notified");
        let text = report.to_string();
        assert!(text.contains("FAILED\n    notified: no client was notified\n") && !report.is_ok(), "{text}");
    }

    #[test]
    fn json_document() {
        let json = report().to_json();
        assert_eq!(
            (&json["result"], &json["worst"]["recovered_milliseconds"]),
            (&"ok".into(), &1500.0.into())
        );
        let kill = &json["faults"][0];
        assert_eq!((&kill["detected_milliseconds"], &kill["total"]["reported"]), (&3.4.into(), &2.into()));
        assert_eq!(
            (&kill["verdict"], &kill["recovered_by_all_milliseconds"]),
            (&"passed".into(), &Value::Null)
        );
    }

    #[test]
    fn empty_drill_does_not_pass() {
        let mut report = report();
        report.outcomes.remove(0);
        assert!(!report.is_ok());
    }
}
