//! Compares a key of the source with a key of a target: type, value, expiry.
//!
//! Owns the definition of equality. Keys with equal DUMPs are equal; otherwise the content decides, since DUMPs
//! differ between versions and for unordered types. Must never write.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::chunked::ChunkedValue;
use super::clock::Expiry;
use super::endpoints::Endpoints;
use super::error::Error;
use super::keyspace::KeyCommand;
use super::rules::MigrationRoute;
use super::value::{Dump, DumpReply, KeyInfo, ValueType, dumps};

/// Allowed difference between two expiry times, caused by the round trips between two clock readings.
pub(super) const EXPIRY_TOLERANCE_MS: u64 = 1000;

/// Maximum size of the DUMP of an unordered value that is compared with one command per side.
const UNORDERED_BYTES_MAX: usize = 64 * 1024;

const MISSING: &str = "missing at the target";

/// A key of the source with its route.
#[derive(Clone, Copy, Debug)]
pub(super) struct KeyPair<'k> {
    pub(super) key: &'k [u8],
    pub(super) route: &'k MigrationRoute,
    pub(super) info: &'k KeyInfo,
}

/// Replies of both sides to DUMP for a pair of keys.
#[derive(Clone, Copy, Debug)]
pub(super) struct ValuePair<'k> {
    pub(super) pair: KeyPair<'k>,
    pub(super) here: &'k DumpReply,
    pub(super) there: &'k DumpReply,
}

/// Result of comparing two DUMP replies.
enum DumpComparison {
    Same,
    Differs(String),
    /// Small unordered values on both sides, which are compared together in one round trip.
    Unordered,
    /// To be compared in chunks, one at a time.
    Chunked,
}

impl Endpoints {
    /// Reads the DUMPs of the routes' targets.
    pub(super) async fn target_dumps(&mut self, routes: &[&MigrationRoute]) -> Result<Vec<DumpReply>, Error> {
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

    /// First difference of each pair, if any. A value that cannot be read counts as a difference.
    pub(super) async fn differences(
        &mut self,
        sides: &[ValuePair<'_>],
        stop: &CancellationToken,
    ) -> Result<Vec<Option<String>>, Error> {
        let mut differences = vec![None; sides.len()];
        let (mut unordered, mut apart) = (Vec::new(), Vec::new());
        for (index, sides) in sides.iter().enumerate() {
            match self.compare_dumps(*sides) {
                DumpComparison::Same => {}
                DumpComparison::Differs(what) => differences[index] = Some(what),
                DumpComparison::Unordered => unordered.push(index),
                DumpComparison::Chunked => apart.push(index),
            }
        }
        let pairs: Vec<KeyPair<'_>> = unordered.iter().map(|index| sides[*index].pair).collect();
        for (index, is_same) in unordered.into_iter().zip(self.unordered_match(&pairs).await?) {
            // Different values are compared again to describe the difference.
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

    fn compare_dumps(&self, ValuePair { pair, here, there }: ValuePair<'_>) -> DumpComparison {
        if *there == DumpReply::Missing {
            return DumpComparison::Differs(MISSING.to_owned());
        }
        let (DumpReply::Dump(here), DumpReply::Dump(there)) = (here, there) else {
            return DumpComparison::Chunked;
        };
        if let Some(what) = self.expiry_difference(pair, here.expiry, there.expiry) {
            return DumpComparison::Differs(what);
        }
        let is_unordered = matches!(pair.info.kind, ValueType::Set | ValueType::Hash);
        match here.payload == there.payload {
            true => DumpComparison::Same,
            false if is_unordered && here.payload.len() <= UNORDERED_BYTES_MAX => DumpComparison::Unordered,
            false => DumpComparison::Chunked,
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

    /// First difference of values that are not available as DUMP.
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
        // Boxed because it is rare and its future is large.
        Box::pin(whole.difference(target, &pair.route.key)).await
    }

    fn expiry_difference(&self, pair: KeyPair<'_>, here: Expiry, there: Expiry) -> Option<String> {
        let expected = self.target_expiry(pair.key, pair.route, here);
        (!expected.is_close_to(there, EXPIRY_TOLERANCE_MS))
            .then(|| format!("expiry: expected {}, found {}", expiry_text(expected), expiry_text(there)))
    }

    /// The same moment on the clock of the target's server.
    pub(super) fn target_expiry(&self, key: &[u8], route: &MigrationRoute, expiry: Expiry) -> Expiry {
        let target = self.targets[route.target].clock_of(&route.key);
        expiry.shifted(self.source.clock_of(key).offset_to(target))
    }
}

/// Sorted elements of a set, or fields and values of a hash.
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

fn expiry_text(expiry: Expiry) -> String {
    match expiry {
        Expiry::Gone => "expired".to_owned(),
        Expiry::Never => "never".to_owned(),
        Expiry::At(at) => format!("{at} ms"),
    }
}

impl DumpReply {
    /// The DUMP, if the server returned one.
    pub(super) fn dump(&self) -> Option<&Dump> {
        match self {
            Self::Dump(dump) => Some(dump),
            Self::Missing | Self::Rejected(_) => None,
        }
    }
}
