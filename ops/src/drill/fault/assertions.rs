//! Evaluates the result of a fault.
//!
//! Owns the expectations for each fault. Must never accept ledgers that are not exact.

use super::Fault;
use crate::drill::health_monitor::{HealthSample, Summary};
use crate::drill::report::{DrillTotals, Outcome};
use crate::drill::scrape::Numbers;

/// Everything that was observed.
pub(super) struct Evidence {
    pub(super) before: Numbers,
    pub(super) during: Option<Numbers>,
    pub(super) after: Result<Numbers, String>,
    pub(super) summary: Summary,
    pub(super) latest: HealthSample,
    /// The condition that was not met when a wait timed out.
    pub(super) unsettled: Option<String>,
    /// Clients that were disconnected.
    pub(super) disconnected: Vec<String>,
}

/// Evaluates all checks.
pub(super) fn evaluate(fault: Fault, evidence: &Evidence, outcome: &mut Outcome) {
    check_ledgers(fault, outcome);
    if fault == Fault::Baseline {
        return;
    }
    let Evidence { summary, latest, unsettled, disconnected, .. } = evidence;
    match unsettled {
        None => outcome.check("recovered", latest.is_healthy(), latest.description()),
        Some(missing) => outcome.check("recovered", false, missing),
    }
    if fault == Fault::GatewayKilled {
        return;
    }
    outcome.check(
        "health",
        summary.unanswered == 0,
        format!("{} samples without a response", summary.unanswered),
    );
    let message = if disconnected.is_empty() {
        "no client was disconnected".to_owned()
    } else {
        disconnected.join("; ")
    };
    outcome.check("clients", disconnected.is_empty(), message);
    if is_lasting(fault) {
        check_during(evidence, outcome);
    }
    check_metrics(fault, evidence, outcome);
}

/// Whether the fault lasts long enough to be seen by polling.
fn is_lasting(fault: Fault) -> bool {
    !matches!(
        fault,
        Fault::Baseline | Fault::Cut | Fault::SubscriberKilled | Fault::OutputBuffer | Fault::Failover
    )
}

fn check_ledgers(fault: Fault, outcome: &mut Outcome) {
    let DrillTotals { published, delivered, reported, lost, duplicates, .. } = outcome.total;
    let message = format!(
        "published {published}, delivered {delivered}, reported {reported}, lost {lost}, duplicates {duplicates}"
    );
    let is_ok = outcome.accounts.iter().all(|account| account.totals.is_ok());
    outcome.check("accounts", is_ok, message);
    let of = |name: &str| {
        let accounts = outcome.accounts.iter().filter(|account| account.channel == name);
        accounts.map(|account| account.totals).collect::<Vec<_>>()
    };
    let (plain, log) = (of("plain"), of("log"));
    if !log.is_empty() {
        let reported: u64 = log.iter().map(|totals| totals.reported + totals.gaps).sum();
        outcome.check(
            "log",
            reported == 0,
            format!("{reported} missing messages or gaps, though Redis kept everything"),
        );
    }
    let notified = plain.iter().filter(|totals| totals.gaps > 0).count();
    let message = format!("{notified} of {} clients were notified of a gap", plain.len());
    match fault {
        Fault::Baseline => outcome.check("notified", notified == 0, message),
        _ => outcome.check("notified", notified == plain.len(), message),
    }
    if let Some(background) = outcome.background {
        let DrillTotals { published, delivered, reported, lost, duplicates, .. } = background;
        let message = format!(
            "published {published}, delivered {delivered}, reported {reported}, lost {lost}, duplicates {duplicates}"
        );
        outcome.check("channels", background.is_ok(), message);
    }
}

fn check_during(evidence: &Evidence, outcome: &mut Outcome) {
    let Evidence { summary, during, .. } = evidence;
    outcome.check("ready", summary.unready, "/ready was 503 during the fault");
    outcome.check("degraded", summary.degraded, "/health was degraded, with cache memory, during the fault");
    let causes: Vec<&str> = summary.causes.iter().map(String::as_str).collect();
    outcome.check("cause", !causes.is_empty(), causes.join("; "));
    let up = during.map(|numbers| numbers.up);
    outcome.check(
        "redis_up",
        up == Some(0.0),
        up.map_or("not scraped".to_owned(), |up| format!("the minimum of earshot_redis_up was {up}")),
    );
}

fn check_metrics(fault: Fault, evidence: &Evidence, outcome: &mut Outcome) {
    let after = match &evidence.after {
        Ok(after) => *after,
        Err(reason) => return outcome.check("metrics", false, reason),
    };
    let increase = |of: fn(&Numbers) -> f64| of(&after) - of(&evidence.before);
    outcome.check("metrics", after.up == 1.0, format!("earshot_redis_up is {} after recovery", after.up));
    let lost = increase(|numbers| numbers.lost);
    outcome.check("losses", lost > 0.0, format!("earshot_redis_link_failures_total increased by {lost}"));
    if matches!(fault, Fault::Stop | Fault::HalfOpen) {
        let not_receiving = increase(|numbers| numbers.not_receiving);
        outcome.check(
            "not_receiving",
            not_receiving > 0.0,
            format!(
                "earshot_redis_link_failures_total{{reason=\"not-receiving\"}} increased by {not_receiving}"
            ),
        );
    }
    let gaps = increase(|numbers| numbers.link_gaps);
    outcome.check(
        "gaps",
        gaps > 0.0,
        format!("earshot_gaps_total{{reason=\"link-down\"}} increased by {gaps}"),
    );
    let logs = increase(|numbers| numbers.log_gaps);
    outcome.check("logs", logs == 0.0, format!("gaps of stream channels: {logs}"));
}
