//! Carrying: keys in batches from the source to their targets.
//!
//! Owns the order of things within a batch: the journal first says what is about to be written, then it is written,
//! then it is counted. Must never count anything before it is done, and never write anything that the journal does not
//! know of.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::counts::shown;
use super::journal::{Flight, Journal};
use super::keyspace::Call;
use super::pace::Pace;
use super::pieces::is_building;
use super::rules::Route;
use super::session::Session;
use super::trouble::{MigrateError, Trouble, said};
use super::value::{Dump, Found, Measure, dumps, measure};
use super::walk::{Walk, forget_nameless};
use super::{Observer, Plan};

/// About how many bytes are read at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// A value that nobody wants to compare again after a kill.
const COSTLY_BYTES: u64 = 4 * 1024 * 1024;

/// How often a key that changes while it is moved is read again before it is left.
const ROUNDS: usize = 5;

/// The stamp of a value that is written in pieces, and has no checksum.
pub(super) const IN_PIECES: u64 = 0;

/// The stage that moves.
pub(super) struct Carrier<'p> {
    pub(super) plan: &'p Plan,
    pub(super) session: Session,
    pub(super) journal: &'p mut Journal,
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
}

/// A key on its way.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) flight: Flight,
    pub(super) route: Route,
    pub(super) measure: Measure,
    /// Whether what is at the target was written by this very run.
    pub(super) is_ours: bool,
    /// Why it was not deleted the last time.
    pub(super) kept: Option<String>,
}

/// How the move of a key ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) ending: Ending,
    pub(super) deleted: bool,
}

#[derive(Debug)]
pub(super) enum Ending {
    Moved { bytes: u64, has_ttl: bool, overwritten: bool },
    Already,
    Skipped,
    Expired,
    Failed(String),
}

impl Carrier<'_> {
    /// Settles what is in flight, then carries everything that is still to be walked.
    pub(super) async fn run(&mut self) -> Result<(), Trouble> {
        let mut pace = Pace::new(self.plan.rate);
        forget_nameless(&mut self.journal.state.nodes);
        let in_flight = self.journal.state.in_flight.clone();
        let settled = in_flight.len();
        Box::pin(self.batch(in_flight)).await?;
        self.observer.advance(settled as u64);
        loop {
            if self.stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            self.keep_time().await?;
            let state = &mut self.journal.state;
            let mut walk = Walk { nodes: &mut state.nodes, slots: &mut state.slots };
            let Some(mut keys) = walk.next(&mut self.session.source, pace.batch()).await? else { break };
            keys.retain(|key| !is_building(key));
            let count = keys.len();
            pace.wait(count, self.stop).await;
            let flights: Vec<Flight> = keys.into_iter().map(|key| Flight { key, stamp: None }).collect();
            // With the cursor, which stands behind them now: whatever happens, they are not forgotten.
            self.journal.state.in_flight.clone_from(&flights);
            Box::pin(self.batch(flights)).await?;
            self.observer.advance(count as u64);
        }
        self.journal.save()?;
        Ok(())
    }

    async fn keep_time(&mut self) -> Result<(), Trouble> {
        self.session.source.keep_time().await?;
        for target in &mut self.session.targets {
            target.keep_time().await?;
        }
        Ok(())
    }

    async fn batch(&mut self, flights: Vec<Flight>) -> Result<(), Trouble> {
        let keys: Vec<&[u8]> = flights.iter().map(|flight| flight.key.as_slice()).collect();
        let measures = measure(&mut self.session.source, &keys).await?;
        let mut items = Vec::with_capacity(flights.len());
        for (flight, measure) in flights.into_iter().zip(measures) {
            match self.plan.rules.route(&flight.key) {
                None => self.journal.state.counts.unmatched += 1,
                Some(route) if self.session.stays(&flight.key, &route) => {
                    self.journal.state.counts.rules[route.rule].stayed += 1;
                }
                Some(route) => match measure {
                    Some(measure) => items.push(Item { flight, route, measure, is_ours: false, kept: None }),
                    None => self.gone(&flight, &route).await?,
                },
            }
        }
        self.enter(&items)?;
        while !items.is_empty() {
            let rest = items.split_off(portion(&items, self.plan.pieces_above));
            let is_costly = items.iter().any(|item| item.measure.bytes >= COSTLY_BYTES);
            self.portion(std::mem::replace(&mut items, rest)).await?;
            if is_costly {
                self.journal.save()?;
            }
        }
        Ok(())
    }

    /// Enters a batch into the journal. Values that go in pieces have no checksum that could be entered later.
    fn enter(&mut self, items: &[Item]) -> Result<(), MigrateError> {
        let is_large = |item: &Item| item.measure.bytes >= self.plan.pieces_above;
        let flight = |item: &Item| {
            let stamp = if is_large(item) { Some(IN_PIECES) } else { item.flight.stamp };
            Flight { key: item.flight.key.clone(), stamp }
        };
        self.journal.state.in_flight = items.iter().map(flight).collect();
        if items.iter().any(is_large) { self.journal.save() } else { Ok(()) }
    }

    /// A key that the source does not have any more: it ended, or an earlier run moved and deleted it.
    async fn gone(&mut self, flight: &Flight, route: &Route) -> Result<(), Trouble> {
        let begun = self.plan.delete && flight.stamp.is_some();
        let there: i64 = match begun {
            true => self.session.targets[route.place].ask_one(Call::new("EXISTS", &route.key)).await?,
            false => 0,
        };
        let counts = &mut self.journal.state.counts.rules[route.rule];
        if there == 1 {
            counts.moved += 1;
            counts.deleted += 1;
        } else {
            counts.expired += 1;
        }
        Ok(())
    }

    /// Moves some keys of a batch, and counts them once all of them are done.
    async fn portion(&mut self, items: Vec<Item>) -> Result<(), Trouble> {
        let length = items.len();
        let mut done: Vec<(Item, Outcome)> = Vec::with_capacity(length);
        let mut open = items;
        for _ in 0..ROUNDS {
            open = self.round(open, &mut done).await?;
            if open.is_empty() {
                break;
            }
        }
        for item in open {
            let what = format!("it was moved, but not deleted: {}", item.kept.as_deref().unwrap_or_default());
            done.push((item, Outcome { ending: Ending::Failed(what), deleted: false }));
        }
        for (item, outcome) in done {
            self.count(&item, outcome);
        }
        self.journal.state.in_flight.drain(..length);
        Ok(())
    }

    /// One attempt at each; what comes back has changed at the source since it was read.
    async fn round(
        &mut self,
        items: Vec<Item>,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<Item>, Trouble> {
        if let [item] = items.as_slice()
            && item.measure.bytes >= self.plan.pieces_above
        {
            return self.in_pieces(items, done, None).await;
        }
        let keys: Vec<&[u8]> = items.iter().map(|item| item.flight.key.as_slice()).collect();
        let found = dumps(&mut self.session.source, &keys).await?;
        let (mut whole, mut others) = (Vec::with_capacity(items.len()), Vec::new());
        for (item, found) in items.into_iter().zip(found) {
            match found {
                Found::Dump(dump) => whole.push((item, dump)),
                Found::Gone => done.push((item, Outcome { ending: Ending::Expired, deleted: false })),
                Found::Refused(cause) => {
                    self.announce(&item.flight.key, IN_PIECES);
                    others.push((item, cause));
                }
            }
        }
        // The journal is put on disk there, for all of them.
        let mut again = self.whole(whole, done).await?;
        for (item, cause) in others {
            again.extend(self.in_pieces(vec![item], done, Some(cause)).await?);
        }
        Ok(again)
    }

    /// Moves values that the source has handed out whole.
    async fn whole(
        &mut self,
        items: Vec<(Item, Dump)>,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<Item>, Trouble> {
        for (item, dump) in &items {
            self.announce(&item.flight.key, dump.stamp().unwrap_or(IN_PIECES));
        }
        self.journal.save()?;
        let answers = self.restore(&items).await?;
        let (mut there, mut busy, mut refused) = (Vec::with_capacity(items.len()), Vec::new(), Vec::new());
        for ((item, dump), answer) in items.into_iter().zip(answers) {
            let name = self.plan.to[item.route.place].name.as_str();
            let Some(answer) = answer else {
                refused.push((item, format!("{name} does not know RESTORE")));
                continue;
            };
            match answer {
                Value::ServerError(error) if error.code() == "BUSYKEY" => busy.push((item, dump)),
                Value::ServerError(error) => match Trouble::answer(name, &error) {
                    Trouble::Key(_) => refused.push((item, said(&error))),
                    trouble => return Err(trouble),
                },
                _ => {
                    let ending = moved(&dump, false);
                    there.push((item, dump, ending));
                }
            }
        }
        there.extend(self.settle(busy, done).await?);
        let mut again = self.remove(there, done).await?;
        for (item, cause) in refused {
            again.extend(self.in_pieces(vec![item], done, Some(cause)).await?);
        }
        Ok(again)
    }

    /// Enters into the journal what is about to be written.
    pub(super) fn announce(&mut self, key: &[u8], stamp: u64) {
        // The portion under way is the front of the list.
        if let Some(flight) = self.journal.state.in_flight.iter_mut().find(|flight| flight.key == key) {
            flight.stamp = Some(stamp);
        }
    }

    /// Writes values where nothing is yet; the answers stand in the order of the items. `None`: the target cannot.
    async fn restore(&mut self, items: &[(Item, Dump)]) -> Result<Vec<Option<Value>>, Trouble> {
        let mut answers = vec![None; items.len()];
        for place in 0..self.session.targets.len() {
            if !self.session.targets[place].knows("RESTORE") {
                continue;
            }
            let indexes: Vec<usize> =
                (0..items.len()).filter(|index| items[*index].0.route.place == place).collect();
            let calls =
                indexes.iter().map(|index| self.restoring(&items[*index].0, &items[*index].1)).collect();
            for (index, answer) in indexes.iter().zip(self.session.targets[place].ask(calls).await?) {
                answers[*index] = Some(answer);
            }
        }
        Ok(answers)
    }

    /// The command that writes a value, unless something is there.
    pub(super) fn restoring(&self, item: &Item, dump: &Dump) -> Call {
        let at = match self.session.expiry_there(&item.flight.key, &item.route, dump.expiry) {
            Expiry::At(at) => at,
            Expiry::Never | Expiry::Gone => 0,
        };
        Call::new("RESTORE", &item.route.key).arg(at).arg(&dump.payload).arg("ABSTTL")
    }

    fn count(&mut self, item: &Item, outcome: Outcome) {
        let counts = &mut self.journal.state.counts;
        let rule = &mut counts.rules[item.route.rule];
        rule.deleted += u64::from(outcome.deleted);
        match outcome.ending {
            Ending::Moved { bytes, has_ttl, overwritten } => {
                rule.count(item.measure.kind.as_str(), bytes, has_ttl);
                rule.overwritten += u64::from(overwritten);
            }
            Ending::Already => rule.already += 1,
            Ending::Skipped => rule.skipped += 1,
            Ending::Expired => rule.expired += 1,
            Ending::Failed(cause) => {
                rule.failed += 1;
                let line = || {
                    format!("{} → {}: {cause}", shown(&item.flight.key), self.plan.to[item.route.place].name)
                };
                counts.failures.add(line);
            }
        }
    }
}

/// A value that has come to its target.
pub(super) fn moved(dump: &Dump, overwritten: bool) -> Ending {
    let has_ttl = matches!(dump.expiry, Expiry::At(_));
    Ending::Moved { bytes: dump.payload.len() as u64, has_ttl, overwritten }
}

/// How many of these are read at once; a value for pieces stands alone.
fn portion(items: &[Item], pieces_above: u64) -> usize {
    let mut bytes = 0;
    for (index, item) in items.iter().enumerate() {
        bytes += item.measure.bytes;
        let is_large = item.measure.bytes >= pieces_above;
        if is_large || bytes > PORTION_BYTES {
            return index.max(1);
        }
    }
    items.len()
}
