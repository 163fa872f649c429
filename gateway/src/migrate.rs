//! Moving a keyspace: every key of one Redis, of any type and with its TTL, to the instances and prefixes that rules
//! name.
//!
//! Owns the order of a move: look at everything first, then carry it in batches, then compare. Must never delete
//! anything unless told, and then only what was found at the target; must never use KEYS; must never lose its place:
//! a run that ended in any way goes on from its state file.
//!
//! - `rules`, `glob`: which key goes where.
//! - `keyspace`, `topology`, `clock`: one side, a server or a cluster, and its time.
//! - `session`: both sides at once, and whether some of them are the same.
//! - `walk`: SCAN; `journal`: the state file.
//! - `survey`: what there is, and what speaks against moving it.
//! - `carrying`, `settling`, `removal`: a batch: read, written, deleted; `item`: one key of it.
//! - `value`, `pieces`: values as a whole, and type by type.
//! - `comparing`: whether two keys are the same; `verify`: the pass that asks that of all.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::instance::InstanceSettings;
use crate::instance::address::Address;

mod chunked;
mod clock;
mod compare;
mod conflict;
mod copy;
mod counts;
mod delete;
mod endpoints;
mod error;
mod glob;
mod item;
mod journal;
mod keyspace;
mod preflight;
mod rate_limit;
mod rules;
mod run;
mod scan;
mod topology;
mod value;
mod verify;

pub use counts::{Counts, Lines, RuleCounts};
pub use error::MigrateError;
pub use preflight::{Preflight, RulePreflight};
pub use rules::{Rule, Rules};

/// How long one round trip may take: values of many megabytes are among them.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// What to do with a key that is at the target identical and differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Leave it, and count it.
    Skip,
    /// Let the source's take its place.
    Overwrite,
    /// End the run.
    Fail,
}

/// What is to be moved, and how.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The source.
    pub from: InstanceSettings,
    /// The targets; rules name them.
    pub to: Vec<InstanceSettings>,
    /// Which key goes where.
    pub rules: Rules,
    /// What to do about keys that are there identical.
    pub conflict: Conflict,
    /// Whether keys are deleted from the source once they are at the target.
    pub delete: bool,
    /// The most keys a second; `None`: as many as can be.
    pub rate: Option<NonZeroU32>,
    /// Values that take more bytes than this are read and written in pieces.
    pub chunk_threshold: u64,
    /// The state file.
    pub state: PathBuf,
    /// Whether everything is compared at the end.
    pub verify: bool,
}

impl Plan {
    /// What a state file belongs to. Conflicts and rates may be chosen anew when a run goes on.
    fn fingerprint(&self) -> String {
        let side = |side: &InstanceSettings| format!("{}/{}", side.location(), database(&side.url));
        let to: Vec<String> = self.to.iter().map(|to| format!("{}={}", to.name, side(to))).collect();
        let rules: Vec<&str> = self.rules.texts().collect();
        let delete = if self.delete { ", deleting" } else { "" };
        format!("{} to {}{delete}; {}", side(&self.from), to.join(", "), rules.join("; "))
    }
}

/// The database number of a URL.
fn database(url: &str) -> u32 {
    Address::parse(url).ok().and_then(|address| address.database).unwrap_or(0)
}

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Looking at everything.
    Preflight,
    /// Carrying.
    Move,
    /// Comparing.
    Verify,
}

/// Who is told how a run goes on.
pub trait Observer {
    /// A stage begins; there are about so many keys.
    fn begin(&self, stage: Stage, keys: u64);
    /// So many more keys are done.
    fn advance(&self, keys: u64);
    /// Something that an operator should know.
    fn message(&self, line: &str);
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was done, by this run and those that it went on from.
    pub counts: Counts,
    /// How many keys this run found in flight, and settled.
    pub settled: u64,
    /// Whether an earlier run began it.
    pub resumed: bool,
}

impl Report {
    /// Whether the targets hold everything that was to be moved.
    pub fn is_complete(&self) -> bool {
        let counts = &self.counts;
        let left = counts.sum(|rule| rule.failed + rule.skipped) + counts.unmatched;
        left == 0 && counts.differences.count == 0
    }
}

/// Looks at everything and changes nothing.
///
/// # Errors
/// When a server cannot be read, or rules contradict each other.
pub async fn dry_run(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Preflight, MigrateError> {
    run::dry_run(plan, observer, stop).await
}

/// Moves everything, and compares it where the plan says so.
///
/// # Errors
/// Why it ended before its end. Everything but [`MigrateError::Refused`] and [`MigrateError::State`] leaves a state
/// file from which the same plan goes on.
pub async fn run(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Report, MigrateError> {
    run::run(plan, observer, stop).await
}

/// Compares every key of the source with the targets, and changes nothing.
///
/// # Errors
/// When a server cannot be read.
pub async fn verify(
    plan: &Plan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Report, MigrateError> {
    run::verify(plan, observer, stop).await
}
