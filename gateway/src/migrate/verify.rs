//! The verification: every key of the source compared with its target.
//!
//! Owns the pass and the list of differences. Must never write. What the targets have besides is theirs.

use tokio_util::sync::CancellationToken;

use super::comparing::Pair;
use super::counts::shown;
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
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
}

type Checked = (Vec<u8>, Route, Measure);

impl Verifier<'_> {
    pub(super) async fn run(&mut self) -> Result<(), Trouble> {
        let mut pace = Pace::new(self.plan.rate);
        forget_nameless(&mut self.journal.state.nodes);
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
        let routed: Vec<(Vec<u8>, Route)> = keys
            .into_iter()
            .filter_map(|key| self.plan.rules.route(&key).map(|route| (key, route)))
            .filter(|(key, route)| !self.session.stays(key, route))
            .collect();
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let measures = measure(&mut self.session.source, &keys).await?;
        let items = routed.into_iter().zip(measures);
        Ok(items.filter_map(|((key, route), measure)| Some((key, route, measure?))).collect())
    }

    async fn portion(&mut self, items: Vec<Checked>) -> Result<(), Trouble> {
        let is_large =
            matches!(items.as_slice(), [(_, _, measure)] if measure.bytes >= self.plan.pieces_above);
        let found = if is_large { vec![unread()] } else { self.both(&items).await? };
        for ((key, route, measure), (here, there)) in items.iter().zip(found) {
            if here == Found::Gone {
                continue;
            }
            let pair = Pair { key, route, measure };
            let differs = self.difference(pair, &here, &there).await?;
            self.journal.state.counts.compared += 1;
            if let Some(what) = differs
                && let Some(what) = self.second_look(pair, what).await?
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
        if measure.bytes >= self.plan.pieces_above {
            return Ok(self.difference(again, &unread().0, &unread().1).await?.map(|_| what));
        }
        let item = (pair.key.to_vec(), pair.route.clone(), measure.clone());
        let Some((here, there)) = self.both(&[item]).await?.pop() else { return Ok(Some(what)) };
        if here == Found::Gone {
            return Ok(None);
        }
        self.difference(again, &here, &there).await
    }

    /// What differs; that a key cannot be read is a difference, too.
    async fn difference(
        &mut self,
        pair: Pair<'_>,
        here: &Found,
        there: &Found,
    ) -> Result<Option<String>, Trouble> {
        match self.session.difference(pair, here, there, self.stop).await {
            Err(Trouble::Key(cause)) => Ok(Some(cause)),
            other => other,
        }
    }

    async fn both(&mut self, items: &[Checked]) -> Result<Vec<(Found, Found)>, Trouble> {
        let keys: Vec<&[u8]> = items.iter().map(|(key, ..)| key.as_slice()).collect();
        let here = dumps(&mut self.session.source, &keys).await?;
        let mut there = vec![Found::Gone; items.len()];
        for (place, target) in self.session.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..items.len()).filter(|index| items[*index].1.place == place).collect();
            let keys: Vec<&[u8]> = indexes.iter().map(|index| items[*index].1.key.as_slice()).collect();
            for (index, found) in indexes.into_iter().zip(dumps(target, &keys).await?) {
                there[index] = found;
            }
        }
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
