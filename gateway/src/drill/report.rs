//! What came of the exercises, and how it is told.
//!
//! Owns the two forms of a report: a table for people, and one JSON document, whose keys stay as they are. Must never
//! judge: whoever looks does.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

use super::ledger::Count;

/// How an exercise went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Everything was as it should be.
    Passed,
    /// Something was not.
    Failed,
    /// It could not be done; the text says why.
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

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// A word that stays the same, for scripts.
    pub check: &'static str,
    /// Whether it was as it should be.
    pub ok: bool,
    /// What was seen.
    pub said: String,
}

/// What became of what was published on a channel, at one client or at all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Numbers that were published, once for each client.
    pub published: u64,
    /// Numbers that came.
    pub delivered: u64,
    /// Numbers that are missing, and were announced as a gap.
    pub announced: u64,
    /// Numbers that are missing without a word.
    pub lost: u64,
    /// Numbers that came once more, or after a later one.
    pub twice: u64,
    /// Gaps that were told.
    pub gaps: u64,
}

impl Tally {
    pub(super) fn of(count: Count, published: u64) -> Self {
        let Count { delivered, announced, lost, twice, gaps } = count;
        Self { published, delivered, announced, lost, twice, gaps }
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            published: self.published + other.published,
            delivered: self.delivered + other.delivered,
            announced: self.announced + other.announced,
            lost: self.lost + other.lost,
            twice: self.twice + other.twice,
            gaps: self.gaps + other.gaps,
        }
    }

    /// Whether the books balance, with nothing lost and nothing twice.
    pub(super) fn is_good(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.delivered + self.announced == self.published
    }
}

/// The account of one client in one channel.
#[derive(Clone, Debug, Serialize)]
pub struct Account {
    /// `websocket-json`, `websocket-protobuf` or `sse`.
    pub client: &'static str,
    /// `plain` or `log`.
    pub channel: &'static str,
    /// What became of it.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Whence a gateway comes back, which says what the time until it hears again means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Return {
    /// Redis, or the way to it, was away or silent.
    Redis,
    /// Redis refused, and haste helps nobody then.
    Refusal,
    /// The gateway itself.
    Gateway,
}

/// What came of one exercise.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// Its name.
    pub exercise: &'static str,
    /// How it went.
    pub verdict: Verdict,
    /// Why it was not done, or could not be ended.
    pub why: Option<String>,
    /// What came back.
    pub returned: Return,
    /// From the fault until the gateway said so.
    #[serde(rename = "known_milliseconds", serialize_with = "milliseconds")]
    pub known: Option<Duration>,
    /// From the return until the first client heard again.
    #[serde(rename = "heard_milliseconds", serialize_with = "milliseconds")]
    pub heard: Option<Duration>,
    /// From the return until the last of the clients that keep account heard again.
    #[serde(rename = "heard_by_all_milliseconds", serialize_with = "milliseconds")]
    pub heard_by_all: Option<Duration>,
    /// The sum of the accounts.
    pub total: Tally,
    /// Each client and channel.
    pub accounts: Vec<Account>,
    /// The many channels of `--channels`, all together.
    pub crowd: Option<Tally>,
    /// What was looked at.
    pub checks: Vec<Check>,
}

impl Outcome {
    pub(super) fn new(exercise: &'static str, returned: Return) -> Self {
        Self {
            exercise,
            verdict: Verdict::Passed,
            why: None,
            returned,
            known: None,
            heard: None,
            heard_by_all: None,
            total: Tally::default(),
            accounts: Vec::new(),
            crowd: None,
            checks: Vec::new(),
        }
    }

    pub(super) fn ended(mut self, verdict: Verdict, why: String) -> Self {
        (self.verdict, self.why) = (verdict, Some(why));
        self
    }

    /// Looks at something.
    pub(super) fn check(&mut self, check: &'static str, ok: bool, said: impl Into<String>) {
        if !ok {
            self.verdict = Verdict::Failed;
        }
        self.checks.push(Check { check, ok, said: said.into() });
    }
}

fn milliseconds<S: serde::Serializer>(time: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
    time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3).serialize(to)
}

/// Everything that was done.
#[derive(Clone, Debug)]
pub struct Report {
    /// Where the Redis is, without any secret.
    pub redis: String,
    /// Where the gateway is.
    pub gateway: String,
    /// Channels that were subscribed to beside those that are accounted for.
    pub channels: usize,
    /// In the order in which they were done.
    pub outcomes: Vec<Outcome>,
}

impl Report {
    /// Whether nothing failed, and something was done.
    pub fn is_good(&self) -> bool {
        self.count(Verdict::Failed) == 0
            && self.outcomes.iter().any(|outcome| outcome.verdict == Verdict::Passed)
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.outcomes.iter().filter(|outcome| outcome.verdict == verdict).count()
    }

    /// The longest time between a fault and its being known.
    pub fn worst_known(&self) -> Option<Duration> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.returned != Return::Gateway)
            .filter_map(|outcome| outcome.known)
            .max()
    }

    /// The longest time from a return of this kind to hearing.
    pub fn worst_heard(&self, returned: Return) -> Option<Duration> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.returned == returned)
            .filter_map(|outcome| outcome.heard)
            .max()
    }

    /// The JSON document. Keys may be added to it, none changes its meaning.
    pub fn to_json(&self) -> Value {
        let millis = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 1e6).round() / 1e3);
        serde_json::json!({
            "earshot": env!("CARGO_PKG_VERSION"),
            "result": if self.is_good() { "ok" } else { "failed" },
            "redis": self.redis,
            "gateway": self.gateway,
            "channels": self.channels,
            "worst": {
                "known_milliseconds": millis(self.worst_known()),
                "heard_milliseconds": millis(self.worst_heard(Return::Redis)),
                "heard_after_refusal_milliseconds": millis(self.worst_heard(Return::Refusal)),
            },
            "exercises": self.outcomes,
        })
    }
}

/// The text for people.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { redis, gateway, channels, .. } = self;
        writeln!(f, "gateway {gateway}, Redis {redis}, {channels} more channels\n")?;
        writeln!(
            f,
            "{:<18} {:>11} {:>11} {:>11} {:>10} {:>10} {:>6}  verdict",
            "exercise", "known after", "heard again", "by all", "delivered", "announced", "lost"
        )?;
        self.outcomes.iter().try_for_each(|outcome| write!(f, "{outcome}"))?;
        writeln!(f)?;
        for (what, time) in [
            ("from a fault to knowing it", self.worst_known()),
            ("from Redis' return to hearing", self.worst_heard(Return::Redis)),
            ("from the end of a refusal to hearing", self.worst_heard(Return::Refusal)),
        ] {
            if let Some(time) = time {
                writeln!(f, "worst {what}: {}", shown(time))?;
            }
        }
        let (failed, skipped) = (self.count(Verdict::Failed), self.count(Verdict::Skipped));
        match failed {
            0 if self.is_good() => writeln!(f, "All passed. Skipped: {skipped}."),
            0 => writeln!(f, "Nothing was done. Skipped: {skipped}."),
            failed => writeln!(f, "Failed: {failed}. Skipped: {skipped}."),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), shown);
        let Tally { delivered, announced, lost, .. } = self.total;
        writeln!(
            f,
            "{:<18} {:>11} {:>11} {:>11} {delivered:>10} {announced:>10} {lost:>6}  {}",
            self.exercise,
            time(self.known),
            time(self.heard),
            time(self.heard_by_all),
            self.verdict.as_str()
        )?;
        if let Some(why) = &self.why {
            writeln!(f, "    {why}")?;
        }
        self.checks
            .iter()
            .filter(|check| !check.ok)
            .try_for_each(|check| writeln!(f, "    {}: {}", check.check, check.said))
    }
}

/// A time as people read it.
fn shown(time: Duration) -> String {
    match time.as_millis() {
        0..10 => format!("{:.1} ms", time.as_secs_f64() * 1e3),
        10..1000 => format!("{} ms", time.as_millis()),
        _ => format!("{:.2} s", time.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let tally = Tally { published: 10, delivered: 8, announced: 2, ..Tally::default() };
        let mut kill = Outcome::new("kill", Return::Redis);
        (kill.known, kill.heard) = (Some(Duration::from_micros(3400)), Some(Duration::from_millis(1500)));
        kill.total = tally;
        kill.check("accounts", tally.is_good(), "8 + 2 of 10");
        let gateway = Outcome::new("gateway-killed", Return::Gateway);
        let skipped = gateway.ended(Verdict::Skipped, "it is not a child".to_owned());
        Report {
            redis: "redis://h".to_owned(),
            gateway: "h:1".to_owned(),
            channels: 0,
            outcomes: vec![kill, skipped],
        }
    }

    #[test]
    fn people_read_a_table() {
        let text = report().to_string();
        assert!(text.contains("kill                    3.4 ms      1.50 s           -          8          2      0  passed\n"), "{text}");
        assert!(
            text.contains("    it is not a child\n") && text.ends_with("All passed. Skipped: 1.\n"),
            "{text}"
        );
        let mut report = report();
        report.outcomes[0].check("told", false, "nobody was told");
        let text = report.to_string();
        assert!(text.contains("FAILED\n    told: nobody was told\n") && !report.is_good(), "{text}");
    }

    #[test]
    fn scripts_read_one_document() {
        let json = report().to_json();
        assert_eq!((&json["result"], &json["worst"]["heard_milliseconds"]), (&"ok".into(), &1500.0.into()));
        let kill = &json["exercises"][0];
        assert_eq!((&kill["known_milliseconds"], &kill["total"]["announced"]), (&3.4.into(), &2.into()));
        assert_eq!((&kill["verdict"], &kill["heard_by_all_milliseconds"]), (&"passed".into(), &Value::Null));
    }

    #[test]
    fn a_drill_that_did_nothing_is_no_good_one() {
        let mut report = report();
        report.outcomes.remove(0);
        assert!(!report.is_good());
    }
}
