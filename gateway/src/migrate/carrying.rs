//! Carrying: keys in batches from the source to their targets.
//!
//! Owns the order of things within a batch: the journal first says what is about to be written, then it is written,
//! then it is counted. Must never count anything before it is done, and never write anything that the journal does not
//! know of.

use std::collections::HashMap;

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::item::{Ending, IN_PIECES, Item, Outcome, moved, portion};
use super::journal::{Flight, Journal};
use super::keyspace::Call;
use super::pace::Pace;
use super::pieces::is_building;
use super::rules::Route;
use super::session::Session;
use super::trouble::{MigrateError, Trouble, said};
use super::value::{Dump, Found, dumps, measure};
use super::walk::{Walk, forget_nameless};
use super::{Observer, Plan};

/// A value that nobody wants to compare again after a kill.
const COSTLY_BYTES: u64 = 4 * 1024 * 1024;

/// How often a key that changes while it is moved is read again before it is left.
const ROUNDS: usize = 5;

/// The stage that moves.
pub(super) struct Carrier<'p> {
    pub(super) plan: &'p Plan,
    pub(super) session: Session,
    pub(super) journal: &'p mut Journal,
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
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
            let flights: Vec<Flight> =
                keys.into_iter().map(|key| Flight { key, stamps: Vec::new() }).collect();
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
        let mut items = self.sort(flights).await?;
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

    /// Finds out where keys go, and counts those that go nowhere.
    async fn sort(&mut self, flights: Vec<Flight>) -> Result<Vec<Item>, Trouble> {
        let keys: Vec<&[u8]> = flights.iter().map(|flight| flight.key.as_slice()).collect();
        let measures = measure(&mut self.session.source, &keys).await?;
        let (mut items, mut gone) = (Vec::with_capacity(flights.len()), Vec::new());
        let mut counts = self.journal.state.counts.clone();
        for (flight, measure) in flights.into_iter().zip(measures) {
            match (self.plan.rules.route(&flight.key), measure) {
                (None, _) => counts.unmatched += 1,
                (Some(route), _) if self.session.stays(&flight.key, &route) => {
                    counts.rules[route.rule].stayed += 1;
                }
                (Some(route), Some(measure)) => {
                    items.push(Item { flight, route, measure, is_ours: false, kept: None });
                }
                (Some(route), None) => gone.push((flight, route)),
            }
        }
        for (flight, route) in gone {
            let was_moved = self.was_moved(&flight, &route).await?;
            let rule = &mut counts.rules[route.rule];
            rule.moved += u64::from(was_moved);
            rule.deleted += u64::from(was_moved);
            rule.expired += u64::from(!was_moved);
        }
        self.journal.state.counts = counts;
        Ok(items)
    }

    /// Enters a batch into the journal. Values that go in pieces have no checksum that could be entered later.
    fn enter(&mut self, items: &[Item]) -> Result<(), MigrateError> {
        let is_large = |item: &Item| item.measure.bytes >= self.plan.pieces_above;
        let flight = |item: &Item| {
            let mut flight = item.flight.clone();
            if is_large(item) {
                flight.stamp(IN_PIECES);
            }
            flight
        };
        self.journal.state.in_flight = items.iter().map(flight).collect();
        if items.iter().any(is_large) { self.journal.save() } else { Ok(()) }
    }

    /// Of a key that the source does not have any more: whether an earlier run has moved and deleted it. Else it ended.
    async fn was_moved(&mut self, flight: &Flight, route: &Route) -> Result<bool, Trouble> {
        if !self.plan.delete || flight.stamps.is_empty() {
            return Ok(false);
        }
        let target = &mut self.session.targets[route.place];
        Ok(target.ask_one::<i64>(Call::new("EXISTS", &route.key)).await? == 1)
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
            done.push((item, Outcome::failed(what)));
        }
        for (item, outcome) in done {
            let target = &self.plan.to[item.route.place].name;
            outcome.count(&item, target, &mut self.journal.state.counts);
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
                Found::Gone => done.push((item, Outcome::kept(Ending::Expired))),
                Found::Refused(cause) => others.push((item, cause)),
            }
        }
        self.announce(&whole, &others)?;
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

    /// Puts on disk what is about to be written.
    fn announce(&mut self, whole: &[(Item, Dump)], others: &[(Item, String)]) -> Result<(), MigrateError> {
        let stamps = whole.iter().map(|(item, dump)| (item, dump.stamp().unwrap_or(IN_PIECES)));
        let stamps = stamps.chain(others.iter().map(|(item, _)| (item, IN_PIECES)));
        let stamps: HashMap<&[u8], u64> =
            stamps.map(|(item, stamp)| (item.flight.key.as_slice(), stamp)).collect();
        for flight in &mut self.journal.state.in_flight {
            if let Some(stamp) = stamps.get(flight.key.as_slice()) {
                flight.stamp(*stamp);
            }
        }
        self.journal.save()
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
}
