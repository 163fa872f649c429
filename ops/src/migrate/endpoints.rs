//! Connected source and targets.
//!
//! Owns the connections of a run and the knowledge of which endpoints are the same keyspace. Must be replaced after a
//! connection is lost.

use redis::cmd;
use tokio::time::Instant;

use super::error::{Error, MigrateError};
use super::keyspace::{KeyCommand, Keyspace};
use super::rules::MigrationRoute;
use super::{MigrationPlan, Observer};

/// TTL of the key that detects whether two endpoints are the same keyspace.
const MARKER_TTL_MS: u64 = 60_000;

/// Source and targets.
#[derive(Debug)]
pub(super) struct Endpoints {
    pub(super) source: Keyspace,
    pub(super) targets: Vec<Keyspace>,
    /// Whether each target is the source itself.
    is_source: Vec<bool>,
    /// Group of each target; targets in the same keyspace have the same group.
    keyspace_group: Vec<usize>,
}

impl Endpoints {
    /// Connects to all servers.
    pub(super) async fn open(plan: &MigrationPlan) -> Result<Self, Error> {
        let since = Instant::now();
        let mut source = Keyspace::open(&plan.from, since).await?;
        let mut targets = Vec::with_capacity(plan.to.len());
        let mut is_source = Vec::with_capacity(plan.to.len());
        let mut group = Vec::with_capacity(plan.to.len());
        for settings in &plan.to {
            let mut target = Keyspace::open(settings, since).await?;
            is_source.push(is_same_keyspace(&mut source, &mut target).await?);
            let mut same = targets.len();
            for (place, other) in targets.iter_mut().enumerate() {
                if same > place && is_same_keyspace(other, &mut target).await? {
                    same = place;
                }
            }
            group.push(same);
            targets.push(target);
        }
        Ok(Self { source, targets, is_source, keyspace_group: group })
    }

    /// Whether source and target are the same key of the same keyspace.
    pub(super) fn is_in_place(&self, key: &[u8], route: &MigrationRoute) -> bool {
        self.is_source[route.target] && route.key == key
    }

    /// Whether a route ends in the source keyspace.
    pub(super) fn targets_source(&self, route: &MigrationRoute) -> bool {
        self.is_source[route.target]
    }

    /// Whether two routes end in the same keyspace.
    pub(super) fn same_keyspace(&self, one: &MigrationRoute, two: &MigrationRoute) -> bool {
        self.keyspace_group[one.target] == self.keyspace_group[two.target]
    }

    /// Warns about targets that evict keys.
    pub(super) async fn warn(&mut self, observer: &dyn Observer) -> Result<(), Error> {
        for target in &mut self.targets {
            let mut info = cmd("INFO");
            info.arg("memory");
            // Without permission for INFO there is no warning.
            let text: String = match target.query_node(0, info).await {
                Ok(text) => text,
                Err(Error::Key(_)) => continue,
                Err(error) => return Err(error),
            };
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let policy = field("maxmemory_policy").unwrap_or("noeviction").trim();
            if policy != "noeviction" && field("maxmemory").is_some_and(|most| most.trim() != "0") {
                observer.message(&format!(
                    "{}: maxmemory-policy is {policy}: it evicts keys when its memory is full, including copied ones",
                    target.name()
                ));
            }
        }
        Ok(())
    }
}

/// Whether two endpoints are the same database of the same server, regardless of their URLs.
async fn is_same_keyspace(one: &mut Keyspace, two: &mut Keyspace) -> Result<bool, Error> {
    let no_run_id = |space: &Keyspace| space.nodes.iter().any(|node| node.has_no_run_id());
    let meets = |space: &Keyspace, id: &str| space.nodes.iter().any(|node| node.run_id == id);
    if !no_run_id(one) && !no_run_id(two) && !two.nodes.iter().any(|node| meets(one, &node.run_id)) {
        return Ok(false);
    }
    // The same server, or a server without a run id: only a key shows whether it is the same database.
    let sign = format!("earshot:migrate:{}", uuid::Uuid::new_v4());
    let set: Result<(), Error> =
        two.query_one(KeyCommand::new("SET", sign.as_bytes()).arg("").arg("PX").arg(MARKER_TTL_MS)).await;
    set.map_err(|error| match error {
        Error::Key(cause) => Error::Fatal(MigrateError::Refused(format!(
            "cannot determine whether {} and {} are the same keyspace: {cause}",
            one.name(),
            two.name()
        ))),
        error => error,
    })?;
    let seen: i64 = one.query_one(KeyCommand::new("EXISTS", sign.as_bytes())).await?;
    two.query_one::<i64>(KeyCommand::new("DEL", sign.as_bytes())).await?;
    Ok(seen == 1)
}
