//! Copies keys in batches from the source to their targets.
//!
//! Owns the order within a batch: the journal records the intended writes, then the values are written, then they are
//! counted. Must never count a key before it is written, and never write a key that is not in the journal.

use std::collections::HashMap;

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::chunked::is_temp_key;
use super::clock::Expiry;
use super::endpoints::Endpoints;
use super::error::{Error, MigrateError, server_message};
use super::item::{KeyItem, KeyOutcome, KeyResult, NO_CHECKSUM, moved, portion_len};
use super::journal::{InFlightKey, Journal};
use super::keyspace::KeyCommand;
use super::rate_limit::WriteRateLimit;
use super::rules::MigrationRoute;
use super::scan::{Scan, forget_unidentified};
use super::value::{Dump, DumpReply, dumps, key_info};
use super::{MigrationPlan, Observer};

/// After values of this size the state is saved, so that they are not compared again after a crash.
const SAVE_AFTER_BYTES: u64 = 4 * 1024 * 1024;

/// Number of attempts for a key that changes while it is migrated.
const ATTEMPTS_MAX: usize = 5;

/// The copy stage.
pub(super) struct Copier<'p> {
    pub(super) plan: &'p MigrationPlan,
    pub(super) endpoints: Endpoints,
    pub(super) journal: &'p mut Journal,
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
}

impl Copier<'_> {
    /// Handles the keys that were in flight, then copies all remaining keys.
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        let mut rate_limit = WriteRateLimit::new(self.plan.rate);
        forget_unidentified(&mut self.journal.state.nodes);
        let in_flight = self.journal.state.in_flight.clone();
        let settled = in_flight.len();
        Box::pin(self.batch(in_flight)).await?;
        self.observer.advance(settled as u64);
        loop {
            if self.stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            self.refresh_clocks().await?;
            let state = &mut self.journal.state;
            let mut scan = Scan { nodes: &mut state.nodes, slots: &mut state.slots };
            let Some(mut keys) = scan.next(&mut self.endpoints.source, rate_limit.batch()).await? else {
                break;
            };
            keys.retain(|key| !is_temp_key(key));
            let count = keys.len();
            rate_limit.wait(count, self.stop).await;
            let in_flight_keys: Vec<InFlightKey> =
                keys.into_iter().map(|key| InFlightKey { key, checksums: Vec::new() }).collect();
            // Recorded together with the cursor, which is past these keys now.
            self.journal.state.in_flight.clone_from(&in_flight_keys);
            Box::pin(self.batch(in_flight_keys)).await?;
            self.observer.advance(count as u64);
        }
        self.journal.save()?;
        Ok(())
    }

    async fn refresh_clocks(&mut self) -> Result<(), Error> {
        self.endpoints.source.refresh_clocks().await?;
        for target in &mut self.endpoints.targets {
            target.refresh_clocks().await?;
        }
        Ok(())
    }

    async fn batch(&mut self, in_flight_keys: Vec<InFlightKey>) -> Result<(), Error> {
        let mut items = self.route_batch(in_flight_keys).await?;
        self.record_batch(&items)?;
        while !items.is_empty() {
            let rest = items.split_off(portion_len(&items, self.plan.chunk_threshold));
            let is_costly = items.iter().any(|item| item.info.bytes >= SAVE_AFTER_BYTES);
            self.copy_portion(std::mem::replace(&mut items, rest)).await?;
            if is_costly {
                self.journal.save()?;
            }
        }
        Ok(())
    }

    /// Determines the routes of keys, and counts the keys that need no copy.
    async fn route_batch(&mut self, in_flight_keys: Vec<InFlightKey>) -> Result<Vec<KeyItem>, Error> {
        let keys: Vec<&[u8]> =
            in_flight_keys.iter().map(|in_flight_key| in_flight_key.key.as_slice()).collect();
        let infos = key_info(&mut self.endpoints.source, &keys).await?;
        let (mut items, mut gone) = (Vec::with_capacity(in_flight_keys.len()), Vec::new());
        let mut counts = self.journal.state.counts.clone();
        for (in_flight_key, info) in in_flight_keys.into_iter().zip(infos) {
            match (self.plan.rules.route(&in_flight_key.key), info) {
                (None, _) => counts.unmatched += 1,
                (Some(route), _) if self.endpoints.is_in_place(&in_flight_key.key, &route) => {
                    counts.rules[route.rule].in_place += 1;
                }
                (Some(route), Some(info)) => {
                    items.push(KeyItem {
                        in_flight_key,
                        route,
                        info,
                        written_by_this_run: false,
                        last_failure: None,
                    });
                }
                (Some(route), None) => gone.push((in_flight_key, route)),
            }
        }
        for (in_flight_key, route) in gone {
            let was_moved = self.was_moved(&in_flight_key, &route).await?;
            let rule = &mut counts.rules[route.rule];
            rule.moved += u64::from(was_moved);
            rule.deleted += u64::from(was_moved);
            rule.expired += u64::from(!was_moved);
        }
        self.journal.state.counts = counts;
        Ok(items)
    }

    /// Records a batch in the journal. Values that are copied in chunks have no checksum to record later.
    fn record_batch(&mut self, items: &[KeyItem]) -> Result<(), MigrateError> {
        let is_large = |item: &KeyItem| item.info.bytes >= self.plan.chunk_threshold;
        let in_flight_key = |item: &KeyItem| {
            let mut in_flight_key = item.in_flight_key.clone();
            if is_large(item) {
                in_flight_key.add_checksum(NO_CHECKSUM);
            }
            in_flight_key
        };
        self.journal.state.in_flight = items.iter().map(in_flight_key).collect();
        if items.iter().any(is_large) { self.journal.save() } else { Ok(()) }
    }

    /// For a key that no longer exists at the source: whether an earlier run copied and deleted it. Otherwise it has
    /// expired.
    async fn was_moved(
        &mut self,
        in_flight_key: &InFlightKey,
        route: &MigrationRoute,
    ) -> Result<bool, Error> {
        if !self.plan.delete || in_flight_key.checksums.is_empty() {
            return Ok(false);
        }
        let target = &mut self.endpoints.targets[route.target];
        Ok(target.query_one::<i64>(KeyCommand::new("EXISTS", &route.key)).await? == 1)
    }

    /// Copies a part of a batch, and counts its keys after all of them are done.
    async fn copy_portion(&mut self, items: Vec<KeyItem>) -> Result<(), Error> {
        let length = items.len();
        let mut done: Vec<(KeyItem, KeyResult)> = Vec::with_capacity(length);
        let mut open = items;
        for _ in 0..ATTEMPTS_MAX {
            open = self.attempt(open, &mut done).await?;
            if open.is_empty() {
                break;
            }
        }
        for item in open {
            let what =
                format!("copied, but not deleted: {}", item.last_failure.as_deref().unwrap_or_default());
            done.push((item, KeyResult::failed(what)));
        }
        for (item, outcome) in done {
            let target = &self.plan.to[item.route.target].name;
            outcome.count(&item, target, &mut self.journal.state.counts);
        }
        self.journal.state.in_flight.drain(..length);
        Ok(())
    }

    /// One attempt for each item. Returns the items that have changed at the source since they were read.
    async fn attempt(
        &mut self,
        items: Vec<KeyItem>,
        done: &mut Vec<(KeyItem, KeyResult)>,
    ) -> Result<Vec<KeyItem>, Error> {
        if let [item] = items.as_slice()
            && item.info.bytes >= self.plan.chunk_threshold
        {
            return self.copy_chunked(items, done, None).await;
        }
        let keys: Vec<&[u8]> = items.iter().map(|item| item.in_flight_key.key.as_slice()).collect();
        let found = dumps(&mut self.endpoints.source, &keys).await?;
        let (mut copy_whole, mut others) = (Vec::with_capacity(items.len()), Vec::new());
        for (item, found) in items.into_iter().zip(found) {
            match found {
                DumpReply::Dump(dump) => copy_whole.push((item, dump)),
                DumpReply::Missing => done.push((item, KeyResult::not_deleted(KeyOutcome::Expired))),
                DumpReply::Rejected(cause) => others.push((item, cause)),
            }
        }
        self.record_checksums(&copy_whole, &others)?;
        let mut again = self.copy_whole(copy_whole, done).await?;
        for (item, cause) in others {
            again.extend(self.copy_chunked(vec![item], done, Some(cause)).await?);
        }
        Ok(again)
    }

    /// Copies values with RESTORE.
    async fn copy_whole(
        &mut self,
        items: Vec<(KeyItem, Dump)>,
        done: &mut Vec<(KeyItem, KeyResult)>,
    ) -> Result<Vec<KeyItem>, Error> {
        let answers = self.restore(&items).await?;
        let (mut there, mut busy, mut refused) = (Vec::with_capacity(items.len()), Vec::new(), Vec::new());
        for ((item, dump), answer) in items.into_iter().zip(answers) {
            let name = self.plan.to[item.route.target].name.as_str();
            let Some(answer) = answer else {
                refused.push((item, format!("{name} does not support RESTORE")));
                continue;
            };
            match answer {
                Value::ServerError(error) if error.code() == "BUSYKEY" => busy.push((item, dump)),
                Value::ServerError(error) => match Error::answer(name, &error) {
                    Error::Key(_) => refused.push((item, server_message(&error))),
                    error => return Err(error),
                },
                _ => {
                    let ending = moved(&dump, false);
                    there.push((item, dump, ending));
                }
            }
        }
        there.extend(self.resolve_existing(busy, done).await?);
        let mut again = self.remove(there, done).await?;
        for (item, cause) in refused {
            again.extend(self.copy_chunked(vec![item], done, Some(cause)).await?);
        }
        Ok(again)
    }

    /// Saves the checksums of the values that are about to be written.
    fn record_checksums(
        &mut self,
        copy_whole: &[(KeyItem, Dump)],
        others: &[(KeyItem, String)],
    ) -> Result<(), MigrateError> {
        let checksums = copy_whole.iter().map(|(item, dump)| (item, dump.checksum().unwrap_or(NO_CHECKSUM)));
        let checksums = checksums.chain(others.iter().map(|(item, _)| (item, NO_CHECKSUM)));
        let checksums: HashMap<&[u8], u64> =
            checksums.map(|(item, checksum)| (item.in_flight_key.key.as_slice(), checksum)).collect();
        for in_flight_key in &mut self.journal.state.in_flight {
            if let Some(checksum) = checksums.get(in_flight_key.key.as_slice()) {
                in_flight_key.add_checksum(*checksum);
            }
        }
        self.journal.save()
    }

    /// Writes values to keys that do not exist. Replies are in the order of the items; `None` if the target does not
    /// support RESTORE.
    async fn restore(&mut self, items: &[(KeyItem, Dump)]) -> Result<Vec<Option<Value>>, Error> {
        let mut answers = vec![None; items.len()];
        for place in 0..self.endpoints.targets.len() {
            if !self.endpoints.targets[place].supports("RESTORE") {
                continue;
            }
            let indexes: Vec<usize> =
                (0..items.len()).filter(|index| items[*index].0.route.target == place).collect();
            let calls = indexes
                .iter()
                .map(|index| self.restore_command(&items[*index].0, &items[*index].1))
                .collect();
            for (index, answer) in indexes.iter().zip(self.endpoints.targets[place].query(calls).await?) {
                answers[*index] = Some(answer);
            }
        }
        Ok(answers)
    }

    /// RESTORE command that fails if the key exists.
    pub(super) fn restore_command(&self, item: &KeyItem, dump: &Dump) -> KeyCommand {
        let at = match self.endpoints.target_expiry(&item.in_flight_key.key, &item.route, dump.expiry) {
            Expiry::At(at) => at,
            Expiry::Never | Expiry::Gone => 0,
        };
        KeyCommand::new("RESTORE", &item.route.key).arg(at).arg(&dump.payload).arg("ABSTTL")
    }
}
