//! What must be so after a fault, and while it lasts.
//!
//! Owns the expectations of each exercise. Must never be content with less than exact books.

use super::Exercise;
use crate::drill::report::{Outcome, Tally};
use crate::drill::scrape::Numbers;
use crate::drill::watch::{Seen, Sight};

/// Everything that was seen.
pub(super) struct Evidence {
    pub(super) before: Numbers,
    pub(super) during: Option<Numbers>,
    pub(super) after: Result<Numbers, String>,
    pub(super) seen: Seen,
    pub(super) last: Sight,
    /// What was still missing when the waiting ended.
    pub(super) settled: Option<String>,
    /// Clients whose connection ended.
    pub(super) ended: Vec<String>,
}

/// Looks at everything.
pub(super) fn judge(exercise: Exercise, evidence: &Evidence, outcome: &mut Outcome) {
    books(exercise, outcome);
    if exercise == Exercise::Steady {
        return;
    }
    let Evidence { seen, last, settled, ended, .. } = evidence;
    match settled {
        None => outcome.check("after", last.is_well(), last.said()),
        Some(missing) => outcome.check("after", false, missing),
    }
    if exercise == Exercise::GatewayKilled {
        return;
    }
    outcome.check("health", seen.unanswered == 0, format!("{} looks were not answered", seen.unanswered));
    let said = if ended.is_empty() { "every connection stayed".to_owned() } else { ended.join("; ") };
    outcome.check("clients", ended.is_empty(), said);
    if lasts(exercise) {
        during(evidence, outcome);
    }
    metrics(exercise, evidence, outcome);
}

/// Whether a fault is there long enough to be seen by whoever asks.
fn lasts(exercise: Exercise) -> bool {
    !matches!(
        exercise,
        Exercise::Steady
            | Exercise::Cut
            | Exercise::SubscriberKilled
            | Exercise::OutputBuffer
            | Exercise::FailOver
    )
}

fn books(exercise: Exercise, outcome: &mut Outcome) {
    let Tally { published, delivered, announced, lost, twice, .. } = outcome.total;
    let said = format!(
        "published {published}, delivered {delivered}, announced {announced}, lost {lost}, twice {twice}"
    );
    let is_good = outcome.accounts.iter().all(|account| account.tally.is_good());
    outcome.check("accounts", is_good, said);
    let of = |name: &str| {
        let accounts = outcome.accounts.iter().filter(|account| account.channel == name);
        accounts.map(|account| account.tally).collect::<Vec<_>>()
    };
    let (plain, log) = (of("plain"), of("log"));
    if !log.is_empty() {
        let announced: u64 = log.iter().map(|tally| tally.announced + tally.gaps).sum();
        outcome.check("log", announced == 0, format!("{announced} gaps where Redis kept everything"));
    }
    let told = plain.iter().filter(|tally| tally.gaps > 0).count();
    let said = format!("{told} of {} clients were told of a gap", plain.len());
    match exercise {
        Exercise::Steady => outcome.check("told", told == 0, said),
        _ => outcome.check("told", told == plain.len(), said),
    }
    if let Some(crowd) = outcome.crowd {
        let Tally { published, delivered, announced, lost, twice, .. } = crowd;
        let said = format!(
            "published {published}, delivered {delivered}, announced {announced}, lost {lost}, twice {twice}"
        );
        outcome.check("channels", crowd.is_good(), said);
    }
}

fn during(evidence: &Evidence, outcome: &mut Outcome) {
    let Evidence { seen, during, .. } = evidence;
    outcome.check("ready", seen.unready, "/ready was 503 while the fault lasted");
    outcome.check("degraded", seen.degraded, "/health said degraded and memory while the fault lasted");
    let causes: Vec<&str> = seen.causes.iter().map(String::as_str).collect();
    outcome.check("cause", !causes.is_empty(), causes.join("; "));
    let up = during.map(|numbers| numbers.up);
    outcome.check("redis_up", up == Some(0.0), format!("the least of earshot_redis_up was {up:?}"));
}

fn metrics(exercise: Exercise, evidence: &Evidence, outcome: &mut Outcome) {
    let after = match &evidence.after {
        Ok(after) => *after,
        Err(why) => return outcome.check("metrics", false, why),
    };
    let grown = |of: fn(&Numbers) -> f64| of(&after) - of(&evidence.before);
    outcome.check("metrics", after.up == 1.0, format!("earshot_redis_up is {} afterwards", after.up));
    let lost = grown(|numbers| numbers.lost);
    outcome.check("losses", lost > 0.0, format!("earshot_redis_lost_total grew by {lost}"));
    if matches!(exercise, Exercise::Stop | Exercise::HalfOpen) {
        let deaf = grown(|numbers| numbers.deaf);
        outcome.check("deaf", deaf > 0.0, format!("earshot_redis_lost_total of cause deaf grew by {deaf}"));
    }
    let gaps = grown(|numbers| numbers.deaf_gaps);
    outcome.check("gaps", gaps > 0.0, format!("earshot_gaps_total of cause deaf grew by {gaps}"));
    let logs = grown(|numbers| numbers.log_gaps);
    outcome.check("logs", logs == 0.0, format!("gaps of logs: {logs}"));
}
