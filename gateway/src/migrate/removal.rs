//! Deleting from the source, where that was asked for.
//!
//! Owns the two guards: the target was looked at and has the value, and the source has not changed since that value
//! was read. Must never delete without both.

use redis::{Value, cmd};

use super::carrying::Carrier;
use super::clock::Expiry;
use super::comparing::TOLERANCE_MS;
use super::item::{Ending, Item, Outcome};
use super::keyspace::{Call, read};
use super::rules::Route;
use super::trouble::Trouble;
use super::value::{Dump, Found};

/// Deletes a key if its value is the one of this length and checksum, and ends at this time.
const DELETE: &str = include_str!("delete.lua");

/// What the script found.
const DELETED: i64 = 1;
const GONE: i64 = 0;

impl Carrier<'_> {
    /// Deletes what is at its target; what comes back has changed since it was read. Without a wish to delete, they are
    /// done.
    pub(super) async fn remove(
        &mut self,
        there: Vec<(Item, Dump, Ending)>,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<Item>, Trouble> {
        if !self.plan.delete {
            done.extend(there.into_iter().map(|(item, _, ending)| (item, Outcome::kept(ending))));
            return Ok(Vec::new());
        }
        let (mut verified, mut again) = (Vec::with_capacity(there.len()), Vec::new());
        for ((item, dump, ending), differs) in self.look_again(there).await? {
            match differs {
                None => verified.push((item, dump, ending)),
                Some(what) => {
                    let there: i64 =
                        self.session.source.ask_one(Call::new("EXISTS", &item.flight.key)).await?;
                    match there {
                        0 => done.push((item, Outcome::kept(Ending::Expired))),
                        _ => again.push(item.again(what)),
                    }
                }
            }
        }
        let calls = verified.iter().map(|(item, dump, _)| delete(&item.flight.key, dump)).collect();
        let answers = self.session.source.ask(calls).await?;
        for ((item, _, ending), answer) in verified.into_iter().zip(answers) {
            match read::<i64>(self.session.source.name(), answer) {
                Ok(found @ (DELETED | GONE)) => {
                    done.push((item, Outcome { ending, deleted: found == DELETED }))
                }
                Ok(_) => again.push(item.again("it keeps changing".to_owned())),
                Err(Trouble::Key(cause)) => {
                    done.push((item, Outcome::failed(format!("it was moved, but not deleted: {cause}"))))
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(again)
    }

    /// Reads from the targets what was written there, and says what differs.
    async fn look_again(
        &mut self,
        there: Vec<(Item, Dump, Ending)>,
    ) -> Result<Vec<((Item, Dump, Ending), Option<String>)>, Trouble> {
        let routes: Vec<&Route> = there.iter().map(|(item, ..)| &item.route).collect();
        let found = self.session.dumps_there(&routes).await?;
        let (whole, endings): (Vec<(Item, Found)>, Vec<Ending>) =
            there.into_iter().map(|(item, dump, ending)| ((item, Found::Dump(dump)), ending)).unzip();
        let differences = self.differences(&whole, &found).await?;
        let looked = whole.into_iter().zip(endings).zip(differences);
        Ok(looked
            .filter_map(|(((item, here), ending), differs)| match here {
                Found::Dump(dump) => Some(((item, dump, ending), differs)),
                Found::Gone | Found::Refused(_) => None,
            })
            .collect())
    }

    /// From here on the source remembers whether a key changes.
    pub(super) async fn watch(&mut self, key: &[u8]) -> Result<(), Trouble> {
        self.session.source.ask_one(Call::new("WATCH", key)).await
    }

    /// Nothing will be deleted.
    pub(super) async fn unwatch(&mut self, key: &[u8]) -> Result<(), Trouble> {
        self.session.source.ask_one(Call { key: key.to_vec(), cmd: cmd("UNWATCH") }).await
    }

    /// Deletes a key that was watched while it was copied in pieces, if the target has it and nothing has changed.
    pub(super) async fn remove_watched(
        &mut self,
        item: Item,
        ending: Ending,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<Item>, Trouble> {
        let differs = self.session.whole_difference(item.pair(), self.stop).await?;
        let key = &item.flight.key;
        let only = |name: &str| Call { key: key.clone(), cmd: cmd(name) };
        let calls = match differs {
            None => vec![only("MULTI"), Call::new("UNLINK", key), only("EXEC")],
            Some(_) => vec![only("UNWATCH")],
        };
        let answer = self.session.source.ask(calls).await?.pop().unwrap_or_default();
        match (differs, answer) {
            (None, Value::Array(answers)) => {
                let deleted = answers.first() == Some(&Value::Int(1));
                done.push((item, Outcome { ending, deleted }));
                Ok(Vec::new())
            }
            (None, Value::Nil) => Ok(vec![item.again("it keeps changing".to_owned())]),
            (Some(what), _) => Ok(vec![item.again(what)]),
            (None, other) => {
                let name = self.session.source.name();
                let cause =
                    read::<Value>(name, other).err().unwrap_or(Trouble::Key("not deleted".to_owned()));
                match cause {
                    Trouble::Key(cause) => {
                        done.push((item, Outcome::failed(format!("it was moved, but not deleted: {cause}"))))
                    }
                    trouble => return Err(trouble),
                }
                Ok(Vec::new())
            }
        }
    }
}

fn delete(key: &[u8], dump: &Dump) -> Call {
    let mut script = cmd("EVAL");
    let last = &dump.payload[dump.payload.len().saturating_sub(8)..];
    let at = match dump.expiry {
        Expiry::At(at) => at,
        Expiry::Never | Expiry::Gone => -1,
    };
    script.arg(DELETE).arg(1).arg(key).arg(dump.payload.len()).arg(last).arg(at).arg(TOLERANCE_MS);
    Call { key: key.to_vec(), cmd: script }
}
