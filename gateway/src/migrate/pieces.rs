//! Values in pieces, type by type: for servers that do not take each other's DUMP, and for values that are too large
//! to be held as a whole.
//!
//! Owns how each type is read, written and compared. Must never hold more than one piece, and must never let anybody
//! see a part of a value: it is put together under another name first.

use redis::Value;
use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::keyspace::{Call, Keyspace, read};
use super::trouble::{MigrateError, Trouble, checked};
use super::value::Kind;
use crate::instance::slot::slot_of;

mod piece;
mod stream;

use piece::Piece;

/// How many bytes of a string are one piece, and about how many of anything else.
const PIECE_BYTES: u64 = 4 * 1024 * 1024;

/// The most elements that are one piece.
const PIECE_ITEMS: u64 = 1000;

/// What the name ends with under which a value is put together.
const BUILDING: &str = ":earshot-migrate";

/// How long an unfinished value stays behind a run that was killed.
const BUILDING_MS: u64 = 10 * 60 * 1000;

/// A key that has no more milliseconds left than this may have ended by another clock.
const ENDING_MS: i64 = 1000;

/// A value to be read in pieces.
#[derive(Debug)]
pub(super) struct Whole<'v> {
    pub(super) space: &'v mut Keyspace,
    pub(super) key: &'v [u8],
    pub(super) kind: &'v Kind,
    /// Its size, about; zero where that is not known.
    pub(super) bytes: u64,
    /// Ends the work between two pieces.
    pub(super) stop: &'v CancellationToken,
}

/// How a copy ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copied {
    Done,
    /// The key is there already, and was not to be replaced.
    Exists,
    /// The value ended while it was copied.
    Expired,
}

/// Whether a key is one under which a value is being put together.
pub(super) fn is_building(key: &[u8]) -> bool {
    key.ends_with(BUILDING.as_bytes())
}

/// A name in the same slot as the key's.
fn building(key: &[u8]) -> Vec<u8> {
    let is_tagged = key.contains(&b'{') && key.contains(&b'}');
    let (open, close): (&[u8], &[u8]) = if is_tagged { (b"", b"") } else { (b"{", b"}") };
    [open, key, close, BUILDING.as_bytes()].concat()
}

impl Whole<'_> {
    /// Copies it to a key of the target, which comes into being with its expiry, in one step, at the end.
    pub(super) async fn copy(
        &mut self,
        target: &mut Keyspace,
        key: &[u8],
        expiry: Expiry,
        replace: bool,
    ) -> Result<Copied, Trouble> {
        let building = building(key);
        if target.is_cluster() && slot_of(&building) != slot_of(key) {
            return Err(Trouble::Key("its hash tag leaves no name beside it in the same slot".to_owned()));
        }
        ask_all(target, vec![Call::new("UNLINK", &building)]).await?;
        if *self.kind == Kind::Stream {
            stream::begin(target, &building).await?;
        }
        self.pour(target, &building).await?;
        if *self.kind == Kind::Stream {
            stream::copy_groups(self.space, self.key, target, &building).await?;
        }
        let copied = finish(target, &building, key, expiry, replace).await?;
        if copied == Copied::Expired && !self.is_ending().await? {
            return Err(Trouble::Key("it was lost while it was put together".to_owned()));
        }
        Ok(copied)
    }

    /// Whether the key has ended, or is about to: two clocks are never quite one.
    async fn is_ending(&mut self) -> Result<bool, Trouble> {
        let left: i64 = self.space.ask_one(Call::new("PTTL", self.key)).await?;
        Ok(left == -2 || (0..ENDING_MS).contains(&left))
    }

    async fn pour(&mut self, target: &mut Keyspace, building: &[u8]) -> Result<(), Trouble> {
        let count = self.piece_items().await?;
        let mut mark = Some(piece::beginning(self.kind));
        while let Some(from) = mark {
            self.check_stop()?;
            let (piece, next) = piece::read(self.space, self.key, self.kind, &from, count).await?;
            if let Piece::Pairs(pairs) = &piece {
                self.refuse_expiring_fields(pairs).await?;
            }
            let mut calls = piece.write(building);
            calls.push(Call::new("PEXPIRE", building).arg(BUILDING_MS));
            ask_all(target, calls).await?;
            mark = next;
        }
        Ok(())
    }

    /// What differs between it and a key of the target, if anything does. Expiry is not looked at.
    pub(super) async fn difference(
        &mut self,
        target: &mut Keyspace,
        key: &[u8],
    ) -> Result<Option<String>, Trouble> {
        let kind: String = target.ask_one(Call::new("TYPE", key)).await?;
        if kind != self.kind.as_str() {
            return Ok(Some(format!("type: {} against {kind}", self.kind)));
        }
        let Some(length) = self.kind.length_command() else {
            return Ok(Some(format!("{} values of a module are only compared by DUMP", self.kind)));
        };
        let here: u64 = self.space.ask_one(Call::new(length, self.key)).await?;
        let there: u64 = target.ask_one(Call::new(length, key)).await?;
        if here != there {
            return Ok(Some(format!("{length}: {here} against {there}")));
        }
        if !self.pieces_are_same(target, key).await? {
            return Ok(Some("content".to_owned()));
        }
        if *self.kind == Kind::Stream {
            return stream::difference(self.space, self.key, target, key).await;
        }
        Ok(None)
    }

    async fn pieces_are_same(&mut self, target: &mut Keyspace, key: &[u8]) -> Result<bool, Trouble> {
        let count = self.piece_items().await?;
        let mut mark = Some(piece::beginning(self.kind));
        while let Some(from) = mark {
            self.check_stop()?;
            let (piece, next) = piece::read(self.space, self.key, self.kind, &from, count).await?;
            let is_same = match self.kind {
                Kind::Set | Kind::Hash => piece.is_within(target, key).await?,
                _ => piece::read(target, key, self.kind, &from, count).await?.0 == piece,
            };
            if !is_same {
                return Ok(false);
            }
            mark = next;
        }
        Ok(true)
    }

    /// How many elements make a piece of about the right size.
    async fn piece_items(&mut self) -> Result<u64, Trouble> {
        let Some(length) = self.kind.length_command() else {
            return Err(Trouble::Key(format!(
                "{} values of a module are only moved by DUMP and RESTORE",
                self.kind
            )));
        };
        let length: u64 = self.space.ask_one(Call::new(length, self.key)).await?;
        let each = (self.bytes / length.max(1)).max(1);
        Ok((PIECE_BYTES / each).clamp(1, PIECE_ITEMS))
    }

    /// A field of a hash may have a TTL of its own (Redis 7.4 and newer), which only DUMP carries.
    async fn refuse_expiring_fields(&mut self, pairs: &[(Vec<u8>, Vec<u8>)]) -> Result<(), Trouble> {
        // A server that does not know the command has no such fields.
        if pairs.is_empty() || !self.space.knows("HPEXPIRETIME") {
            return Ok(());
        }
        let fields: Vec<&[u8]> = pairs.iter().map(|(field, _)| field.as_slice()).collect();
        let call = Call::new("HPEXPIRETIME", self.key).arg("FIELDS").arg(fields.len()).arg(fields);
        match self.space.ask_one::<Vec<i64>>(call).await {
            Ok(times) if times.iter().any(|time| *time >= 0) => Err(Trouble::Key(
                "its fields have TTLs of their own, which only DUMP and RESTORE carry".to_owned(),
            )),
            Ok(_) | Err(Trouble::Key(_)) => Ok(()),
            Err(trouble) => Err(trouble),
        }
    }

    fn check_stop(&self) -> Result<(), Trouble> {
        if self.stop.is_cancelled() { Err(MigrateError::Stopped.into()) } else { Ok(()) }
    }
}

/// Gives a value that is whole its expiry and its name.
async fn finish(
    target: &mut Keyspace,
    building: &[u8],
    key: &[u8],
    expiry: Expiry,
    replace: bool,
) -> Result<Copied, Trouble> {
    let ends = match expiry {
        Expiry::At(at) => Call::new("PEXPIREAT", building).arg(at),
        Expiry::Never | Expiry::Gone => Call::new("PERSIST", building),
    };
    let rename = Call::new(if replace { "RENAME" } else { "RENAMENX" }, building).arg(key);
    let mut answers = target.ask(vec![ends, rename]).await?.into_iter();
    checked(target.name(), answers.next().unwrap_or_default())?;
    let copied = match answers.next().unwrap_or_default() {
        Value::Okay | Value::Int(1) => return Ok(Copied::Done),
        Value::Int(_) => Copied::Exists,
        Value::ServerError(error) if error.details().is_some_and(|text| text.contains("no such key")) => {
            Copied::Expired
        }
        other => return Err(checked(target.name(), other).err().unwrap_or_else(strange)),
    };
    ask_all(target, vec![Call::new("UNLINK", building)]).await?;
    Ok(copied)
}

fn strange() -> Trouble {
    Trouble::Key("an answer to RENAME that nobody understands".to_owned())
}

/// Asks things that must all succeed.
async fn ask_all(space: &mut Keyspace, calls: Vec<Call>) -> Result<(), Trouble> {
    for answer in space.ask(calls).await? {
        checked(space.name(), answer)?;
    }
    Ok(())
}

/// Asks several things and reads each answer the same way.
async fn ask_each<T: redis::FromRedisValue>(
    space: &mut Keyspace,
    calls: Vec<Call>,
) -> Result<Vec<T>, Trouble> {
    let answers = space.ask(calls).await?;
    answers.into_iter().map(|answer| read(space.name(), answer)).collect()
}

impl Kind {
    fn length_command(&self) -> Option<&'static str> {
        match self {
            Self::String => Some("STRLEN"),
            Self::List => Some("LLEN"),
            Self::Set => Some("SCARD"),
            Self::SortedSet => Some("ZCARD"),
            Self::Hash => Some("HLEN"),
            Self::Stream => Some("XLEN"),
            Self::Other(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_put_together_in_its_own_slot() {
        for key in ["room:1", "{express}:room:1", "a{b}c"] {
            let building = building(key.as_bytes());
            assert!(is_building(&building), "{key}");
            assert_eq!(slot_of(&building), slot_of(key.as_bytes()), "{key}");
        }
    }
}
