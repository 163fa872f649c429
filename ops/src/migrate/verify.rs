//! Verification: compares every key of the source with its target.
//!
//! Owns the scan and the list of differences. Must never write. Ignores other keys of the targets.

use tokio_util::sync::CancellationToken;

use super::chunked::is_temp_key;
use super::compare::{KeyPair, ValuePair};
use super::counts::{Lines, display_key};
use super::endpoints::Endpoints;
use super::error::{Error, MigrateError};
use super::journal::Journal;
use super::rate_limit::WriteRateLimit;
use super::rules::MigrationRoute;
use super::scan::{Scan, forget_unidentified};
use super::value::{DumpReply, KeyInfo, dumps, key_info};
use super::{MigrationPlan, Observer};

/// Approximate number of bytes that are read from each side at once.
const PORTION_BYTES: u64 = 16 * 1024 * 1024;

/// Number of batches between two saves; batches since the last save are verified again after a crash.
const SAVE_EVERY_BATCHES: usize = 20;

/// The verification stage.
pub(super) struct Verifier<'p> {
    pub(super) plan: &'p MigrationPlan,
    pub(super) endpoints: Endpoints,
    pub(super) journal: &'p mut Journal,
    /// Whether no copy preceded, so that keys without a rule have not been counted.
    pub(super) is_standalone: bool,
    pub(super) observer: &'p dyn Observer,
    pub(super) stop: &'p CancellationToken,
}

type CheckedKey = (Vec<u8>, MigrationRoute, KeyInfo);

impl Verifier<'_> {
    pub(super) async fn run(&mut self) -> Result<(), Error> {
        let mut rate_limit = WriteRateLimit::new(self.plan.rate);
        self.begin();
        for batch in 1_usize.. {
            if self.stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            if batch.is_multiple_of(SAVE_EVERY_BATCHES) {
                self.journal.save()?;
            }
            let before = self.journal.state.clone();
            match self.batch(&mut rate_limit).await {
                Ok(true) => {}
                Ok(false) => break,
                // The next attempt repeats the batch.
                Err(error) => {
                    self.journal.state = before;
                    return Err(error);
                }
            }
        }
        self.journal.save()?;
        Ok(())
    }

    /// Continues from the cursors, or restarts with reset counters.
    fn begin(&mut self) {
        let state = &mut self.journal.state;
        forget_unidentified(&mut state.nodes);
        Scan { nodes: &mut state.nodes, slots: &mut state.slots }.align(&self.endpoints.source);
        if state.nodes.iter().all(|position| !position.done && position.cursor == "0") {
            state.counts.compared = 0;
            state.counts.differences = Lines::default();
        }
    }

    /// Compares a batch of keys; `false` when the scan is complete.
    async fn batch(&mut self, rate_limit: &mut WriteRateLimit) -> Result<bool, Error> {
        let state = &mut self.journal.state;
        let mut scan = Scan { nodes: &mut state.nodes, slots: &mut state.slots };
        let Some(mut keys) = scan.next(&mut self.endpoints.source, rate_limit.batch()).await? else {
            return Ok(false);
        };
        keys.retain(|key| !is_temp_key(key));
        let count = keys.len();
        rate_limit.wait(count, self.stop).await;
        let mut items = self.measured(keys).await?;
        while !items.is_empty() {
            let rest = items.split_off(portion_len(&items, self.plan.chunk_threshold));
            self.portion(std::mem::replace(&mut items, rest)).await?;
        }
        self.observer.advance(count as u64);
        Ok(true)
    }

    async fn measured(&mut self, keys: Vec<Vec<u8>>) -> Result<Vec<CheckedKey>, Error> {
        let mut routed = Vec::with_capacity(keys.len());
        for key in keys {
            match self.plan.rules.route(&key) {
                None => self.journal.state.counts.unmatched += u64::from(self.is_standalone),
                Some(route) if self.endpoints.is_in_place(&key, &route) => {}
                Some(route) => routed.push((key, route)),
            }
        }
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let infos = key_info(&mut self.endpoints.source, &keys).await?;
        let items = routed.into_iter().zip(infos);
        Ok(items.filter_map(|((key, route), info)| Some((key, route, info?))).collect())
    }

    async fn portion(&mut self, items: Vec<CheckedKey>) -> Result<(), Error> {
        let is_large = matches!(items.as_slice(), [(_, _, info)] if info.bytes >= self.plan.chunk_threshold);
        let found = if is_large { vec![chunked_pair()] } else { self.read_both(&items).await? };
        let sides = |((key, route, info), (here, there))| {
            let pair = KeyPair { key, route, info };
            ValuePair { pair, here, there }
        };
        let pairs = items.iter().map(|(key, route, info)| (key.as_slice(), route, info));
        let sides: Vec<ValuePair<'_>> = pairs
            .zip(found.iter().map(|(here, there)| (here, there)))
            .map(sides)
            .filter(|sides| *sides.here != DumpReply::Missing)
            .collect();
        let differences = self.endpoints.differences(&sides, self.stop).await?;
        self.journal.state.counts.compared += sides.len() as u64;
        for (sides, differs) in sides.into_iter().zip(differences) {
            let KeyPair { key, route, .. } = sides.pair;
            if let Some(what) = differs
                && let Some(what) = self.recheck(sides.pair, what).await?
            {
                let target = &self.plan.to[route.target].name;
                let line = || format!("{} → {target} {}: {what}", display_key(key), display_key(&route.key));
                self.journal.state.counts.differences.add(line);
            }
        }
        Ok(())
    }

    /// Compares a key again: it may have expired or changed between the two reads.
    async fn recheck(&mut self, pair: KeyPair<'_>, what: String) -> Result<Option<String>, Error> {
        let Some(Some(info)) = key_info(&mut self.endpoints.source, &[pair.key]).await?.pop() else {
            return Ok(None);
        };
        let again = KeyPair { info: &info, ..pair };
        let item = (pair.key.to_vec(), pair.route.clone(), info.clone());
        let is_large = info.bytes >= self.plan.chunk_threshold;
        let found = if is_large { Some(chunked_pair()) } else { self.read_both(&[item]).await?.pop() };
        let Some((here, there)) = found else { return Ok(Some(what)) };
        if here == DumpReply::Missing {
            return Ok(None);
        }
        let sides = ValuePair { pair: again, here: &here, there: &there };
        Ok(self.endpoints.differences(&[sides], self.stop).await?.pop().flatten())
    }

    async fn read_both(&mut self, items: &[CheckedKey]) -> Result<Vec<(DumpReply, DumpReply)>, Error> {
        let keys: Vec<&[u8]> = items.iter().map(|(key, ..)| key.as_slice()).collect();
        let routes: Vec<&MigrationRoute> = items.iter().map(|(_, route, _)| route).collect();
        let here = dumps(&mut self.endpoints.source, &keys).await?;
        let there = self.endpoints.target_dumps(&routes).await?;
        Ok(here.into_iter().zip(there).collect())
    }
}

/// Replies for values that are compared in chunks.
fn chunked_pair() -> (DumpReply, DumpReply) {
    (DumpReply::Rejected(String::new()), DumpReply::Rejected(String::new()))
}

fn portion_len(items: &[CheckedKey], chunk_threshold: u64) -> usize {
    let mut bytes = 0;
    for (index, (_, _, info)) in items.iter().enumerate() {
        bytes += info.bytes;
        if info.bytes >= chunk_threshold || bytes > PORTION_BYTES {
            return index.max(1);
        }
    }
    items.len()
}
