//! Migration of a keyspace: copies every key of one Redis server, of any type and with its TTL, to the instances and prefixes
//! that rules define.
//!
//! Owns the order of a migration: preflight check, copy in batches, verification. Must never delete a key unless
//! requested, and then only if the target has the same value; must never use KEYS; must always be resumable: a run that
//! ended for any reason continues from its state file.
//!
//! - `rules`, `glob`: routing of keys.
//! - `keyspace`, `clock`: one endpoint, a server or a cluster, and its time.
//! - `endpoints`: source and targets together, and which of them are the same keyspace.
//! - `scan`: SCAN; `journal`: the state file.
//! - `preflight`: checks before a migration, and the dry run.
//! - `copy`, `conflict`, `delete`: a batch is read, written and deleted; `item`: one key of it.
//! - `value`, `chunked`: values as a whole, and in chunks by type.
//! - `compare`: comparison of two keys; `verify`: comparison of all keys.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use earshot_redis_link::ConnectConfig;
use earshot_redis_link::address::Address;

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
mod value;
mod verify;

pub use counts::{Counts, Lines, RuleCounts};
pub use error::MigrateError;
pub use preflight::{Preflight, RulePreflight};
pub use rules::{Rule, Rules};

/// Timeout of one round trip; values can have many megabytes.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);

/// How to handle a key that exists at the target with a different value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// Keep the target's value and count the key.
    Skip,
    /// Overwrite it with the source's value.
    Overwrite,
    /// End the run.
    Fail,
}

/// Configuration of a migration.
#[derive(Clone, Debug)]
pub struct MigrationPlan {
    /// The source.
    pub from: ConnectConfig,
    /// The targets; rules refer to them by name.
    pub to: Vec<ConnectConfig>,
    /// Routing of keys.
    pub rules: Rules,
    /// Handling of keys that exist at the target.
    pub conflict: Conflict,
    /// Whether to delete keys from the source after they have been copied.
    pub delete: bool,
    /// Maximum number of keys per second; `None` for no limit.
    pub rate: Option<NonZeroU32>,
    /// Values of at least this size in bytes are read and written in chunks.
    pub chunk_threshold: u64,
    /// Path of the state file.
    pub state: PathBuf,
    /// Whether to verify all keys at the end.
    pub verify: bool,
}

impl MigrationPlan {
    /// Identifies the migration that a state file belongs to. Conflict handling and rate may change when a run is
    /// resumed.
    fn fingerprint(&self) -> String {
        let side = |side: &ConnectConfig| format!("{}/{}", side.location(), database(&side.url));
        let to: Vec<String> = self.to.iter().map(|to| format!("{}={}", to.name, side(to))).collect();
        let rules: Vec<&str> = self.rules.texts().collect();
        let delete = if self.delete { ", deleting" } else { "" };
        format!("{} to {}{delete}; {}", side(&self.from), to.join(", "), rules.join("; "))
    }
}

/// Database number of a URL.
fn database(url: &str) -> u32 {
    Address::parse(url).ok().and_then(|address| address.database).unwrap_or(0)
}

/// Stage of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Checking all keys.
    Preflight,
    /// Copying.
    Move,
    /// Verifying.
    Verify,
}

/// Receives the progress of a run.
pub trait Observer {
    /// A stage has started, with about this many keys.
    fn begin(&self, stage: Stage, keys: u64);
    /// More keys have been processed.
    fn advance(&self, keys: u64);
    /// A message for the operator.
    fn message(&self, line: &str);
}

/// Result of a run.
#[derive(Clone, Debug)]
pub struct MigrationReport {
    /// Counters of this run and of the runs that it resumed.
    pub counts: Counts,
    /// Number of keys that were in flight when this run started.
    pub settled: u64,
    /// Whether this run resumed an earlier one.
    pub resumed: bool,
}

impl MigrationReport {
    /// Whether the targets have every key that was to be migrated.
    pub fn is_complete(&self) -> bool {
        let counts = &self.counts;
        let left = counts.sum(|rule| rule.failed + rule.skipped) + counts.unmatched;
        left == 0 && counts.differences.count == 0
    }
}

/// Checks all keys without changing anything.
///
/// # Errors
/// If a server cannot be read.
pub async fn dry_run(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<Preflight, MigrateError> {
    run::dry_run(plan, observer, stop).await
}

/// Migrates all keys, and verifies them if the plan requires it.
///
/// # Errors
/// Why the run ended early. All errors except [`MigrateError::Refused`] and [`MigrateError::State`] leave a state file
/// from which the same plan can be resumed.
pub async fn run(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<MigrationReport, MigrateError> {
    run::run(plan, observer, stop).await
}

/// Compares every key of the source with its target without changing anything.
///
/// # Errors
/// If a server cannot be read.
pub async fn verify(
    plan: &MigrationPlan,
    observer: &dyn Observer,
    stop: &CancellationToken,
) -> Result<MigrationReport, MigrateError> {
    run::verify(plan, observer, stop).await
}
