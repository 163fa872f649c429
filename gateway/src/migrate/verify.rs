//! The verification: every key of the source compared with its target.
//!
//! Owns the pass and the list of differences. Must never write. What the targets have besides is theirs.

use tokio_util::sync::CancellationToken;

use super::comparing::{Pair, Sides};
use super::counts::{Lines, shown};
use super::journal::Journal;
use super::pace::Pace;
use super::pieces::is_building;
use super::rules::Route;
use super::session::Session;
use super::trouble::{MigrateError, Trouble};
use super::value::{Found, Measure, dumps, measure};
use super::walk::{Walk, forget_nameless};
use super::{Observer, Plan};

/// About how many bytes are read from each side at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// After how many batches the state is put on disk: a verification that is done twice harms nobody.
const SAVE_EVERY: usize = 20;

/// The stage that compares.
pub(super) struct Verifier<'p> {
    pub(super) plan: &'p Plan,
    pub(super) session: Session,
    pub(super) journal: &'p mut Journal,
    /// Whether nothing was moved before, so that nobody has counted the keys that no rule matches.
    pub(super) is_alone: bool,
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
}

type Checked = (Vec<u8>, Route, Measure);

impl Verifier<'_> {
    pub(super) async fn run(&mut self) -> Result<(), Trouble> {
        let mut pace = Pace::new(self.plan.rate);
        self.begin();
        for batch in 1_usize.. {
            if self.stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            if batch.is_multiple_of(SAVE_EVERY) {
                self.journal.save()?;
            }
            let before = self.journal.state.clone();
            match self.batch(&mut pace).await {
                Ok(true) => {}
                Ok(false) => break,
                // The batch is done again by whoever goes on.
                Err(trouble) => {
                    self.journal.state = before;
                    return Err(trouble);
                }
            }
        }
        self.journal.save()?;
        Ok(())
    }

    /// Goes on where an earlier connection stood, or begins anew, with new sums.
    fn begin(&mut self) {
        let state = &mut self.journal.state;
        forget_nameless(&mut state.nodes);
        Walk { nodes: &mut state.nodes, slots: &mut state.slots }.align(&self.session.source);
        if state.nodes.iter().all(|walked| !walked.done && walked.cursor == "0") {
            state.counts.compared = 0;
            state.counts.differences = Lines::default();
        }
    }

    /// Compares some keys; `false` when there are no more.
    async fn batch(&mut self, pace: &mut Pace) -> Result<bool, Trouble> {
        let state = &mut self.journal.state;
        let mut walk = Walk { nodes: &mut state.nodes, slots: &mut state.slots };
        let Some(mut keys) = walk.next(&mut self.session.source, pace.batch()).await? else {
            return Ok(false);
        };
        keys.retain(|key| !is_building(key));
        let count = keys.len();
        pace.wait(count, self.stop).await;
        let mut items = self.measured(keys).await?;
        while !items.is_empty() {
            let rest = items.split_off(portion(&items, self.plan.pieces_above));
            self.portion(std::mem::replace(&mut items, rest)).await?;
        }
        self.observer.advance(count as u64);
        Ok(true)
    }

    async fn measured(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<Checked>, Trouble> {
        let mut routed = Vec::with_capacity(keys.len());
        for key in keys {
            match self.plan.rules.route(&key) {
                None => self.journal.state.counts.unmatched += u64::from(self.is_alone),
                Some(route) if self.session.stays(&key, &route) => {}
                Some(route) => routed.push((key, route)),
            }
        }
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let measures = measure(&mut self.session.source, &keys).await?;
        let items = routed.into_iter().zip(measures);
        Ok(items.filter_map(|((key, route), measure)| Some((key, route, measure?))).collect())
    }

    async fn portion(&mut self, items: Vec<Checked>) -> Result<(), Trouble> {
        let is_large =
            matches!(items.as_slice(), [(_, _, measure)] if measure.bytes >= self.plan.pieces_above);
        let found = if is_large { vec![unread()] } else { self.both(&items).await? };
        let sides = |((key, route, measure), (here, there))| {
            let pair = Pair { key, route, measure };
            Sides { pair, here, there }
        };
        let pairs = items.iter().map(|(key, route, measure)| (key.as_slice(), route, measure));
        let sides: Vec<Sides<'_>> = pairs
            .zip(found.iter().map(|(here, there)| (here, there)))
            .map(sides)
            .filter(|sides| *sides.here != Found::Gone)
            .collect();
        let differences = self.session.differences(&sides, self.stop).await?;
        self.journal.state.counts.compared += sides.len() as u64;
        for (sides, differs) in sides.into_iter().zip(differences) {
            let Pair { key, route, .. } = sides.pair;
            if let Some(what) = differs
                && let Some(what) = self.second_look(sides.pair, what).await?
            {
                let target = &self.plan.to[route.place].name;
                let line = || format!("{} → {target} {}: {what}", shown(key), shown(&route.key));
                self.journal.state.counts.differences.add(line);
            }
        }
        Ok(())
    }

    /// A key may have ended, or changed, between the two readings.
    async fn second_look(&mut self, pair: Pair<'_>, what: String) -> Result<Option<String>, Trouble> {
        let Some(Some(measure)) = measure(&mut self.session.source, &[pair.key]).await?.pop() else {
            return Ok(None);
        };
        let again = Pair { measure: &measure, ..pair };
        let item = (pair.key.to_vec(), pair.route.clone(), measure.clone());
        let is_large = measure.bytes >= self.plan.pieces_above;
        let found = if is_large { Some(unread()) } else { self.both(&[item]).await?.pop() };
        let Some((here, there)) = found else { return Ok(Some(what)) };
        if here == Found::Gone {
            return Ok(None);
        }
        let sides = Sides { pair: again, here: &here, there: &there };
        Ok(self.session.differences(&[sides], self.stop).await?.pop().flatten())
    }

    async fn both(&mut self, items: &[Checked]) -> Result<Vec<(Found, Found)>, Trouble> {
        let keys: Vec<&[u8]> = items.iter().map(|(key, ..)| key.as_slice()).collect();
        let routes: Vec<&Route> = items.iter().map(|(_, route, _)| route).collect();
        let here = dumps(&mut self.session.source, &keys).await?;
        let there = self.session.dumps_there(&routes).await?;
        Ok(here.into_iter().zip(there).collect())
    }
}

/// A value that is to be compared in pieces.
fn unread() -> (Found, Found) {
    (Found::Refused(String::new()), Found::Refused(String::new()))
}

fn portion(items: &[Checked], pieces_above: u64) -> usize {
    let mut bytes = 0;
    for (index, (_, _, measure)) in items.iter().enumerate() {
        bytes += measure.bytes;
        if measure.bytes >= pieces_above || bytes > PORTION_BYTES {
            return index.max(1);
        }
    }
    items.len()
}
