//! Whether a key of the source and a key of a target are the same: type, value, expiry.
//!
//! Owns what counts as the same. Equal DUMPs are; where they differ, which they do between versions and for unordered
//! values, the content decides. Must never write.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::keyspace::Call;
use super::pieces::Whole;
use super::rules::Route;
use super::session::Session;
use super::trouble::Trouble;
use super::value::{Dump, Found, Kind, Measure, dumps};

/// By how many milliseconds two expiries may differ: round trips stand between two readings of a clock.
pub(super) const TOLERANCE_MS: u64 = 1000;

/// Of how many bytes a value without an order may be to be read as a whole.
const SMALL_BYTES: usize = 64 * 1024;

const MISSING: &str = "it is not at the target";

/// A key with its place at a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'k> {
    pub(super) key: &'k [u8],
    pub(super) route: &'k Route,
    pub(super) measure: &'k Measure,
}

/// What both sides hand out of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sides<'k> {
    pub(super) pair: Pair<'k>,
    pub(super) here: &'k Found,
    pub(super) there: &'k Found,
}

/// What can be said of two sides at once.
enum Glance {
    Same,
    Differs(String),
    /// Both have a small value without an order: all of these are read in one round trip.
    Unordered,
    /// Read in pieces, each by itself.
    Apart,
}

impl Session {
    /// Reads from the targets what stands at the end of some routes.
    pub(super) async fn dumps_there(&mut self, routes: &[&Route]) -> Result<Vec<Found>, Trouble> {
        let mut found = vec![Found::Gone; routes.len()];
        for (place, target) in self.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..routes.len()).filter(|index| routes[*index].place == place).collect();
            let keys: Vec<&[u8]> = indexes.iter().map(|index| routes[*index].key.as_slice()).collect();
            for (index, there) in indexes.into_iter().zip(dumps(target, &keys).await?) {
                found[index] = there;
            }
        }
        Ok(found)
    }

    /// What differs, if anything does, of each. That a value cannot be read is a difference, too.
    pub(super) async fn differences(
        &mut self,
        sides: &[Sides<'_>],
        stop: &CancellationToken,
    ) -> Result<Vec<Option<String>>, Trouble> {
        let mut differences = vec![None; sides.len()];
        let (mut unordered, mut apart) = (Vec::new(), Vec::new());
        for (index, sides) in sides.iter().enumerate() {
            match self.glance(*sides) {
                Glance::Same => {}
                Glance::Differs(what) => differences[index] = Some(what),
                Glance::Unordered => unordered.push(index),
                Glance::Apart => apart.push(index),
            }
        }
        let pairs: Vec<Pair<'_>> = unordered.iter().map(|index| sides[*index].pair).collect();
        for (index, is_same) in unordered.into_iter().zip(self.unordered_are_same(&pairs).await?) {
            // Those that are not are looked at again, for what it is that differs.
            if !is_same {
                apart.push(index);
            }
        }
        for index in apart {
            differences[index] = match Box::pin(self.whole_difference(sides[index].pair, stop)).await {
                Err(Trouble::Key(cause)) => Some(cause),
                other => other?,
            };
        }
        Ok(differences)
    }

    fn glance(&self, Sides { pair, here, there }: Sides<'_>) -> Glance {
        if *there == Found::Gone {
            return Glance::Differs(MISSING.to_owned());
        }
        let (Found::Dump(here), Found::Dump(there)) = (here, there) else { return Glance::Apart };
        if let Some(what) = self.expiry_difference(pair, here.expiry, there.expiry) {
            return Glance::Differs(what);
        }
        let is_unordered = matches!(pair.measure.kind, Kind::Set | Kind::Hash);
        match here.payload == there.payload {
            true => Glance::Same,
            false if is_unordered && here.payload.len() <= SMALL_BYTES => Glance::Unordered,
            false => Glance::Apart,
        }
    }

    async fn unordered_are_same(&mut self, pairs: &[Pair<'_>]) -> Result<Vec<bool>, Trouble> {
        let reading = |pair: &Pair<'_>, key: &[u8]| {
            Call::new(if pair.measure.kind == Kind::Set { "SMEMBERS" } else { "HGETALL" }, key)
        };
        let here = self.source.ask(pairs.iter().map(|pair| reading(pair, pair.key)).collect()).await?;
        let mut there = vec![Value::Nil; pairs.len()];
        for (place, target) in self.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..pairs.len()).filter(|index| pairs[*index].route.place == place).collect();
            let calls =
                indexes.iter().map(|index| reading(&pairs[*index], &pairs[*index].route.key)).collect();
            for (index, answer) in indexes.iter().zip(target.ask(calls).await?) {
                there[*index] = answer;
            }
        }
        let is_same = |(here, there)| elements(here).is_some_and(|here| Some(here) == elements(there));
        Ok(here.into_iter().zip(there).map(is_same).collect())
    }

    /// What differs, if anything does, for values that are not handed out whole.
    pub(super) async fn whole_difference(
        &mut self,
        pair: Pair<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Trouble> {
        let (here, there) =
            (self.source.expiry(pair.key), self.targets[pair.route.place].expiry(&pair.route.key));
        let here = Expiry::read(self.source.ask_one(here).await?);
        let there = Expiry::read(self.targets[pair.route.place].ask_one(there).await?);
        if there == Expiry::Gone {
            return Ok(Some(MISSING.to_owned()));
        }
        match self.expiry_difference(pair, here, there) {
            Some(what) => Ok(Some(what)),
            None => self.content_difference(pair, stop).await,
        }
    }

    async fn content_difference(
        &mut self,
        pair: Pair<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Trouble> {
        let target = &mut self.targets[pair.route.place];
        let Measure { kind, bytes } = pair.measure;
        let mut whole = Whole { space: &mut self.source, key: pair.key, kind, bytes: *bytes, stop };
        // Rare and large: the others need not make room for it.
        Box::pin(whole.difference(target, &pair.route.key)).await
    }

    fn expiry_difference(&self, pair: Pair<'_>, here: Expiry, there: Expiry) -> Option<String> {
        let expected = self.expiry_there(pair.key, pair.route, here);
        (!expected.is_about(there, TOLERANCE_MS))
            .then(|| format!("expiry: {} against {}", told(expected), told(there)))
    }

    /// The same moment by the clock of the target's server.
    pub(super) fn expiry_there(&self, key: &[u8], route: &Route, expiry: Expiry) -> Expiry {
        let target = self.targets[route.place].clock_of(&route.key);
        expiry.shifted(self.source.clock_of(key).until(target))
    }
}

/// The elements of a set, or the fields and values of a hash, in an order of their own.
fn elements(answer: Value) -> Option<Vec<(Value, Value)>> {
    let mut elements = match answer {
        Value::Map(pairs) => pairs,
        Value::Set(members) | Value::Array(members) => {
            members.into_iter().map(|member| (member, Value::Nil)).collect()
        }
        _ => return None,
    };
    elements.sort_unstable_by(|(one, _), (two, _)| bytes(one).cmp(bytes(two)));
    Some(elements)
}

fn bytes(value: &Value) -> &[u8] {
    if let Value::BulkString(bytes) = value { bytes } else { &[] }
}

fn told(expiry: Expiry) -> String {
    match expiry {
        Expiry::Gone => "none, it ended".to_owned(),
        Expiry::Never => "never".to_owned(),
        Expiry::At(at) => format!("{at} ms"),
    }
}

impl Found {
    /// The value, if the server handed it out.
    pub(super) fn dump(&self) -> Option<&Dump> {
        match self {
            Self::Dump(dump) => Some(dump),
            Self::Gone | Self::Refused(_) => None,
        }
    }
}
