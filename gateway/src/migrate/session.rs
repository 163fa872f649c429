//! Source and targets, connected, and what is known of them together.
//!
//! Owns the connections of a run and the knowledge of which sides are one and the same keyspace. Must never be kept
//! over a lost connection: a new one is opened.

use redis::cmd;
use tokio::time::Instant;

use super::keyspace::{Call, Keyspace};
use super::rules::Route;
use super::trouble::{MigrateError, Trouble};
use super::{Observer, Plan};

/// How long a key lives that is only there to be seen from the other side.
const SIGN_MS: u64 = 60_000;

/// Both sides.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) source: Keyspace,
    pub(super) targets: Vec<Keyspace>,
    /// Which targets are the source itself.
    home: Vec<bool>,
    /// Targets that are the same keyspace have the same number.
    group: Vec<usize>,
}

impl Session {
    /// Connects to everything.
    pub(super) async fn open(plan: &Plan) -> Result<Self, Trouble> {
        let since = Instant::now();
        let mut source = Keyspace::open(&plan.from, since).await?;
        let mut targets = Vec::with_capacity(plan.to.len());
        let mut home = Vec::with_capacity(plan.to.len());
        let mut group = Vec::with_capacity(plan.to.len());
        for settings in &plan.to {
            let mut target = Keyspace::open(settings, since).await?;
            home.push(is_same(&mut source, &mut target).await?);
            let mut same = targets.len();
            for (place, other) in targets.iter_mut().enumerate() {
                if same > place && is_same(other, &mut target).await? {
                    same = place;
                }
            }
            group.push(same);
            targets.push(target);
        }
        Ok(Self { source, targets, home, group })
    }

    /// Whether a key is where it belongs already.
    pub(super) fn stays(&self, key: &[u8], route: &Route) -> bool {
        self.home[route.place] && route.key == key
    }

    /// Whether a route ends in the keyspace that it begins in.
    pub(super) fn is_at_home(&self, route: &Route) -> bool {
        self.home[route.place]
    }

    /// Whether two routes end in the same keyspace.
    pub(super) fn meet(&self, one: &Route, two: &Route) -> bool {
        self.group[one.place] == self.group[two.place]
    }

    /// Warns of targets that throw keys away by themselves.
    pub(super) async fn warn(&mut self, observer: &dyn Observer) -> Result<(), Trouble> {
        for target in &mut self.targets {
            let mut info = cmd("INFO");
            info.arg("memory");
            // Where INFO is not allowed, there is nothing to be said.
            let text: String = match target.ask_node(0, info).await {
                Ok(text) => text,
                Err(Trouble::Key(_)) => continue,
                Err(trouble) => return Err(trouble),
            };
            let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let policy = field("maxmemory_policy").unwrap_or("noeviction").trim();
            if policy != "noeviction" && field("maxmemory").is_some_and(|most| most.trim() != "0") {
                observer.say(&format!(
                    "{}: maxmemory-policy is {policy}: when its memory is full, it drops keys, moved ones, too",
                    target.name()
                ));
            }
        }
        Ok(())
    }
}

/// Whether two sides are one keyspace: the same server and the same database, whatever their URLs say.
async fn is_same(one: &mut Keyspace, two: &mut Keyspace) -> Result<bool, Trouble> {
    let nameless = |space: &Keyspace| space.nodes.iter().any(|node| node.is_nameless());
    let meets = |space: &Keyspace, id: &str| space.nodes.iter().any(|node| node.run_id == id);
    if !nameless(one) && !nameless(two) && !two.nodes.iter().any(|node| meets(one, &node.run_id)) {
        return Ok(false);
    }
    // The same server, or one that does not say who it is: only a key shows whether it is the same database.
    let sign = format!("earshot:migrate:{}", uuid::Uuid::new_v4());
    let set: Result<(), Trouble> =
        two.ask_one(Call::new("SET", sign.as_bytes()).arg("").arg("PX").arg(SIGN_MS)).await;
    set.map_err(|trouble| match trouble {
        Trouble::Key(cause) => Trouble::Ends(MigrateError::Refused(format!(
            "{} and {} may be one keyspace, and it cannot be found out: {cause}",
            one.name(),
            two.name()
        ))),
        trouble => trouble,
    })?;
    let seen: i64 = one.ask_one(Call::new("EXISTS", sign.as_bytes())).await?;
    two.ask_one::<i64>(Call::new("DEL", sign.as_bytes())).await?;
    Ok(seen == 1)
}
