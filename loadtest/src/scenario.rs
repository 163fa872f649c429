//! The scenarios, one file each. A scenario defines the sequence of events and its specific measures; [`run_context`]
//! executes it.

pub(crate) mod burst;
pub(crate) mod churn;
pub(crate) mod connect;
pub(crate) mod fanout;
pub(crate) mod idle;
pub(crate) mod many_channels;
pub(crate) mod resume;
mod run_context;
pub(crate) mod slow;
pub(crate) mod soak;

use crate::error::RunError;
use crate::record::{Measure, Record};

/// For scenarios that have no cohort other than the two transports.
const NO_THIRD_COHORT: (&str, bool) = ("none", true);

/// Adds a measure that is specific to a scenario.
fn measure(record: &mut Record, name: &str, label: &str, value: f64, unit: &str) {
    let (name, label, unit) = (name.to_owned(), label.to_owned(), unit.to_owned());
    record.measures.push(Measure { name, label, value, unit });
}
