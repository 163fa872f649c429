//! A row of the summary table, and the medians in it.

use serde::{Deserialize, Serialize};

use super::run::RunMetrics;
use super::{BenchRun, Subject};

/// Row of the summary table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct SummaryRow {
    /// Label.
    #[serde(alias = "what")]
    pub(crate) label: String,
    /// Unit.
    pub(crate) unit: String,
    /// Median of the kernel baseline; `None` if not measured.
    #[serde(alias = "bare_loop")]
    pub(crate) kernel_baseline: Option<f64>,
    /// Median of nchan.
    pub(crate) nchan: Option<f64>,
    /// Median of Centrifugo.
    #[serde(default)]
    pub(crate) centrifugo: Option<f64>,
    /// Median of Earshot.
    pub(crate) earshot: Option<f64>,
    /// Lowest and highest value of Earshot.
    pub(crate) spread: Option<(f64, f64)>,
    /// Each goal with its result, and ratios to the other servers.
    pub(crate) goals: Vec<String>,
    /// For maximum rates: subjects with spare capacity.
    #[serde(default)]
    pub(crate) notes: Vec<String>,
    /// Whether all goals are met; `None` without goals or values.
    pub(crate) met: Option<bool>,
}

/// Median of a metric over all rounds of a case.
pub(crate) fn median(
    runs: &[BenchRun],
    case: &str,
    subject: Subject,
    select: impl Fn(&RunMetrics) -> Option<f64>,
) -> Option<f64> {
    crate::median::median(values(runs, case, subject, select))
}

/// Values of a metric in all rounds of a case.
pub(crate) fn values(
    runs: &[BenchRun],
    case: &str,
    subject: Subject,
    select: impl Fn(&RunMetrics) -> Option<f64>,
) -> Vec<f64> {
    let of_it = runs.iter().filter(|run| run.case == case && run.subject == subject);
    of_it.filter_map(|run| select(&run.metrics)).collect()
}
