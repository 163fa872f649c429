//! Whether a key of the source and a key of a target are the same: type, value, expiry.
//!
//! Owns what counts as the same. Equal DUMPs are; where they differ, which they do between versions and for unordered
//! values, the content decides. Must never write.

use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::pieces::Whole;
use super::rules::Route;
use super::session::Session;
use super::trouble::Trouble;
use super::value::{Dump, Found, Measure};

/// By how many milliseconds two expiries may differ: round trips stand between two readings of a clock.
pub(super) const TOLERANCE_MS: u64 = 1000;

/// A key with its place at a target.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'k> {
    pub(super) key: &'k [u8],
    pub(super) route: &'k Route,
    pub(super) measure: &'k Measure,
}

impl Session {
    /// What differs, if anything does. `here` and `there` are what both sides hand out.
    pub(super) async fn difference(
        &mut self,
        pair: Pair<'_>,
        here: &Found,
        there: &Found,
        stop: &CancellationToken,
    ) -> Result<Option<String>, Trouble> {
        if *there == Found::Gone {
            return Ok(Some("it is not at the target".to_owned()));
        }
        let dumps = if let (Found::Dump(here), Found::Dump(there)) = (here, there) {
            if let Some(what) = self.expiry_difference(pair, here.expiry, there.expiry) {
                return Ok(Some(what));
            }
            Some((here, there))
        } else {
            None
        };
        match dumps {
            Some((here, there)) if here.payload == there.payload => Ok(None),
            Some(_) => self.content_difference(pair, stop).await,
            None => self.whole_difference(pair, stop).await,
        }
    }

    /// As [`Session::difference`], for values that are not handed out whole.
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
            return Ok(Some("it is not at the target".to_owned()));
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
