//! Whether a key of the source and a key of a target are the same: type, value, expiry.
//!
//! Owns what counts as the same. Equal DUMPs are; where they differ, which they do between versions and for unordered
//! values, the content decides. Must never write.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::chunked::ChunkedValue;
use super::clock::Expiry;
use super::endpoints::Endpoints;
use super::error::Error;
use super::keyspace::KeyCommand;
use super::rules::Route;
use super::value::{Dump, DumpReply, KeyInfo, ValueType, dumps};

/// By how many milliseconds two expiries may differ: round trips stand between two readings of a clock.
pub(super) const EXPIRY_TOLERANCE_MS: u64 = 1000;

/// Of how many bytes a value without an order may be to be read as a whole.
const UNORDERED_BYTES_MAX: usize = 64 * 1024;

const MISSING: &str = "it is not at the target";

/// A key with its place at a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPair<'k> {
    pub(super) key: &'k [u8],
    pub(super) route: &'k Route,
    pub(super) info: &'k KeyInfo,
}

/// What both sides hand out of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValuePair<'k> {
    pub(super) pair: KeyPair<'k>,
    pub(super) here: &'k DumpReply,
    pub(super) there: &'k DumpReply,
}

/// What can be server_message of two sides at once.
enum Comparison {
    Same,
    Differs(String),
    /// Both have a small value without an order: all of these are read in one round trip.
    Unordered,
    /// Read in pieces, each by itself.
    Chunked,
}

impl Endpoints {
    /// Reads from the targets what stands at the end of some routes.
    pub(super) async fn target_dumps(&mut self, routes: &[&Route]) -> Result<Vec<DumpReply>, Error> {
        let mut found = vec![DumpReply::Missing; routes.len()];
        for (place, target) in self.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..routes.len()).filter(|index| routes[*index].target == place).collect();
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
        sides: &[ValuePair<'_>],
        stop: &CancellationToken,
    ) -> Result<Vec<Option<String>>, Error> {
        let mut differences = vec![None; sides.len()];
        let (mut unordered, mut apart) = (Vec::new(), Vec::new());
        for (index, sides) in sides.iter().enumerate() {
            match self.glance(*sides) {
                Comparison::Same => {}
                Comparison::Differs(what) => differences[index] = Some(what),
                Comparison::Unordered => unordered.push(index),
                Comparison::Chunked => apart.push(index),
            }
        }
        let pairs: Vec<KeyPair<'_>> = unordered.iter().map(|index| sides[*index].pair).collect();
        for (index, is_same) in unordered.into_iter().zip(self.unordered_match(&pairs).await?) {
            // Those that are not are looked at again, for what it is that differs.
            if !is_same {
                apart.push(index);
            }
        }
        for index in apart {
            differences[index] = match Box::pin(self.chunked_difference(sides[index].pair, stop)).await {
                Err(Error::Key(cause)) => Some(cause),
                other => other?,
            };
        }
        Ok(differences)
    }

    fn glance(&self, ValuePair { pair, here, there }: ValuePair<'_>) -> Comparison {
        if *there == DumpReply::Missing {
            return Comparison::Differs(MISSING.to_owned());
        }
        let (DumpReply::Dump(here), DumpReply::Dump(there)) = (here, there) else {
            return Comparison::Chunked;
        };
        if let Some(what) = self.expiry_difference(pair, here.expiry, there.expiry) {
            return Comparison::Differs(what);
        }
        let is_unordered = matches!(pair.info.kind, ValueType::Set | ValueType::Hash);
        match here.payload == there.payload {
            true => Comparison::Same,
            false if is_unordered && here.payload.len() <= UNORDERED_BYTES_MAX => Comparison::Unordered,
            false => Comparison::Chunked,
        }
    }

    async fn unordered_match(&mut self, pairs: &[KeyPair<'_>]) -> Result<Vec<bool>, Error> {
        let reading = |pair: &KeyPair<'_>, key: &[u8]| {
            KeyCommand::new(if pair.info.kind == ValueType::Set { "SMEMBERS" } else { "HGETALL" }, key)
        };
        let here = self.source.query(pairs.iter().map(|pair| reading(pair, pair.key)).collect()).await?;
        let mut there = vec![Value::Nil; pairs.len()];
        for (place, target) in self.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..pairs.len()).filter(|index| pairs[*index].route.target == place).collect();
            let calls =
                indexes.iter().map(|index| reading(&pairs[*index], &pairs[*index].route.key)).collect();
            for (index, answer) in indexes.iter().zip(target.query(calls).await?) {
                there[*index] = answer;
            }
        }
        let is_same = |(here, there)| elements(here).is_some_and(|here| Some(here) == elements(there));
        Ok(here.into_iter().zip(there).map(is_same).collect())
    }

    /// What differs, if anything does, for values that are not handed out whole.
    pub(super) async fn chunked_difference(
        &mut self,
        pair: KeyPair<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Error> {
        let (here, there) =
            (self.source.expiry(pair.key), self.targets[pair.route.target].expiry(&pair.route.key));
        let here = Expiry::read(self.source.query_one(here).await?);
        let there = Expiry::read(self.targets[pair.route.target].query_one(there).await?);
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
        pair: KeyPair<'_>,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Error> {
        let target = &mut self.targets[pair.route.target];
        let KeyInfo { kind, bytes } = pair.info;
        let mut whole = ChunkedValue { space: &mut self.source, key: pair.key, kind, bytes: *bytes, stop };
        // Rare and large: the others need not make room for it.
        Box::pin(whole.difference(target, &pair.route.key)).await
    }

    fn expiry_difference(&self, pair: KeyPair<'_>, here: Expiry, there: Expiry) -> Option<String> {
        let expected = self.target_expiry(pair.key, pair.route, here);
        (!expected.is_close_to(there, EXPIRY_TOLERANCE_MS))
            .then(|| format!("expiry: {} against {}", told(expected), told(there)))
    }

    /// The same moment by the clock of the target's server.
    pub(super) fn target_expiry(&self, key: &[u8], route: &Route, expiry: Expiry) -> Expiry {
        let target = self.targets[route.target].clock_of(&route.key);
        expiry.shifted(self.source.clock_of(key).offset_to(target))
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

impl DumpReply {
    /// The value, if the server handed it out.
    pub(super) fn dump(&self) -> Option<&Dump> {
        match self {
            Self::Dump(dump) => Some(dump),
            Self::Missing | Self::Rejected(_) => None,
        }
    }
}
