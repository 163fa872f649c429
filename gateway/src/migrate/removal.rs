//! Deleting from the source, where that was asked for.
//!
//! Owns the two guards: the target was looked at and has the value, and the source has not changed since that value
//! was read. Must never delete without both.

use redis::{Value, cmd};

use super::carrying::{Carrier, Ending, Item, Outcome};
use super::clock::Expiry;
use super::comparing::{Pair, TOLERANCE_MS};
use super::keyspace::{Call, read};
use super::settling::failed;
use super::trouble::Trouble;
use super::value::{Dump, Found, dumps};

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
            done.extend(
                there.into_iter().map(|(item, _, ending)| (item, Outcome { ending, deleted: false })),
            );
            return Ok(Vec::new());
        }
        let mut verified = Vec::with_capacity(there.len());
        for ((item, dump, ending), differs) in self.look_again(there).await? {
            match differs {
                None => verified.push((item, dump, ending)),
                Some(what) => {
                    let there: i64 =
                        self.session.source.ask_one(Call::new("EXISTS", &item.flight.key)).await?;
                    done.push(match there {
                        0 => (item, Outcome { ending: Ending::Expired, deleted: false }),
                        _ => (item, failed(format!("it was moved, but not deleted: {what}"))),
                    });
                }
            }
        }
        let calls = verified.iter().map(|(item, dump, _)| delete(&item.flight.key, dump)).collect();
        let answers = self.session.source.ask(calls).await?;
        let mut again = Vec::new();
        for ((mut item, dump, ending), answer) in verified.into_iter().zip(answers) {
            match read::<i64>(self.session.source.name(), answer) {
                Ok(found @ (DELETED | GONE)) => {
                    done.push((item, Outcome { ending, deleted: found == DELETED }))
                }
                Ok(_) => {
                    item.flight.stamp = dump.stamp();
                    item.is_ours = true;
                    again.push(item);
                }
                Err(Trouble::Key(cause)) => {
                    done.push((item, failed(format!("it was moved, but not deleted: {cause}"))))
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
        let mut found: Vec<(usize, Found)> = Vec::with_capacity(there.len());
        for (place, target) in self.session.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..there.len()).filter(|index| there[*index].0.route.place == place).collect();
            let keys: Vec<&[u8]> = indexes.iter().map(|index| there[*index].0.route.key.as_slice()).collect();
            found.extend(indexes.into_iter().zip(dumps(target, &keys).await?));
        }
        found.sort_unstable_by_key(|(index, _)| *index);
        let mut looked = Vec::with_capacity(there.len());
        for ((item, dump, ending), (_, found)) in there.into_iter().zip(found) {
            let pair = Pair { key: &item.flight.key, route: &item.route, measure: &item.measure };
            let here = Found::Dump(dump);
            let differs = self.session.difference(pair, &here, &found, self.stop).await?;
            let Found::Dump(dump) = here else { continue };
            looked.push(((item, dump, ending), differs));
        }
        Ok(looked)
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
        mut item: Item,
        ending: Ending,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<Item>, Trouble> {
        let pair = Pair { key: &item.flight.key, route: &item.route, measure: &item.measure };
        let differs = self.session.whole_difference(pair, self.stop).await?;
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
            // Nil: it was changed while it was copied. A difference: it was, too, or else the next look will tell.
            (None, Value::Nil) | (Some(_), _) => {
                item.is_ours = true;
                Ok(vec![item])
            }
            (None, other) => {
                let name = self.session.source.name();
                let cause =
                    read::<Value>(name, other).err().unwrap_or(Trouble::Key("not deleted".to_owned()));
                match cause {
                    Trouble::Key(cause) => {
                        done.push((item, failed(format!("it was moved, but not deleted: {cause}"))))
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
