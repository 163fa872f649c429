//! Deletes keys from the source, if requested.
//!
//! Owns the two conditions: the target has the same value, and the source has not changed since that value was read.
//! Must never delete a key unless both are met.

use redis::{Value, cmd};

use super::clock::Expiry;
use super::compare::EXPIRY_TOLERANCE_MS;
use super::copy::Copier;
use super::error::Error;
use super::item::{KeyItem, KeyOutcome, KeyResult};
use super::keyspace::{KeyCommand, read};
use super::rules::MigrationRoute;
use super::value::{Dump, DumpReply};

/// Deletes a key if its DUMP has the given length and checksum and its expiry is unchanged.
const DELETE: &str = include_str!("delete.lua");

/// Results of the script.
const DELETED: i64 = 1;
const GONE: i64 = 0;

impl Copier<'_> {
    /// Deletes keys from the source that are at the target. Returns items that have changed since they were read.
    /// Without `--delete` all items are done.
    pub(super) async fn remove(
        &mut self,
        there: Vec<(KeyItem, Dump, KeyOutcome)>,
        done: &mut Vec<(KeyItem, KeyResult)>,
    ) -> Result<Vec<KeyItem>, Error> {
        if !self.plan.delete {
            done.extend(there.into_iter().map(|(item, _, ending)| (item, KeyResult::not_deleted(ending))));
            return Ok(Vec::new());
        }
        let (mut verified, mut again) = (Vec::with_capacity(there.len()), Vec::new());
        for ((item, dump, ending), differs) in self.compare_with_target(there).await? {
            match differs {
                None => verified.push((item, dump, ending)),
                Some(what) => {
                    let there: i64 = self
                        .endpoints
                        .source
                        .query_one(KeyCommand::new("EXISTS", &item.in_flight_key.key))
                        .await?;
                    match there {
                        0 => done.push((item, KeyResult::not_deleted(KeyOutcome::Expired))),
                        _ => again.push(item.retry(what)),
                    }
                }
            }
        }
        let calls = verified.iter().map(|(item, dump, _)| delete(&item.in_flight_key.key, dump)).collect();
        let answers = self.endpoints.source.query(calls).await?;
        for ((item, _, ending), answer) in verified.into_iter().zip(answers) {
            match read::<i64>(self.endpoints.source.name(), answer) {
                Ok(found @ (DELETED | GONE)) => {
                    done.push((item, KeyResult { ending, deleted: found == DELETED }))
                }
                Ok(_) => again.push(item.retry("the key keeps changing".to_owned())),
                Err(Error::Key(cause)) => {
                    done.push((item, KeyResult::failed(format!("copied, but not deleted: {cause}"))))
                }
                Err(error) => return Err(error),
            }
        }
        Ok(again)
    }

    /// Reads the written values back from the targets; returns the difference of each, if any.
    async fn compare_with_target(
        &mut self,
        there: Vec<(KeyItem, Dump, KeyOutcome)>,
    ) -> Result<Vec<((KeyItem, Dump, KeyOutcome), Option<String>)>, Error> {
        let routes: Vec<&MigrationRoute> = there.iter().map(|(item, ..)| &item.route).collect();
        let found = self.endpoints.target_dumps(&routes).await?;
        let (whole, endings): (Vec<(KeyItem, DumpReply)>, Vec<KeyOutcome>) =
            there.into_iter().map(|(item, dump, ending)| ((item, DumpReply::Dump(dump)), ending)).unzip();
        let differences = self.differences(&whole, &found).await?;
        let looked = whole.into_iter().zip(endings).zip(differences);
        Ok(looked
            .filter_map(|(((item, here), ending), differs)| match here {
                DumpReply::Dump(dump) => Some(((item, dump, ending), differs)),
                DumpReply::Missing | DumpReply::Rejected(_) => None,
            })
            .collect())
    }

    /// Makes the source detect changes of a key.
    pub(super) async fn watch(&mut self, key: &[u8]) -> Result<(), Error> {
        self.endpoints.source.query_one(KeyCommand::new("WATCH", key)).await
    }

    /// Ends change detection without a deletion.
    pub(super) async fn unwatch(&mut self, key: &[u8]) -> Result<(), Error> {
        self.endpoints.source.query_one(KeyCommand { key: key.to_vec(), cmd: cmd("UNWATCH") }).await
    }

    /// Deletes a key that was watched while it was copied in chunks, if the target has the same value and the key has
    /// not changed.
    pub(super) async fn delete_watched(
        &mut self,
        item: KeyItem,
        ending: KeyOutcome,
        done: &mut Vec<(KeyItem, KeyResult)>,
    ) -> Result<Vec<KeyItem>, Error> {
        let differs = self.endpoints.chunked_difference(item.pair(), self.stop).await?;
        let key = &item.in_flight_key.key;
        let only = |name: &str| KeyCommand { key: key.clone(), cmd: cmd(name) };
        let calls = match differs {
            None => vec![only("MULTI"), KeyCommand::new("UNLINK", key), only("EXEC")],
            Some(_) => vec![only("UNWATCH")],
        };
        let answer = self.endpoints.source.query(calls).await?.pop().unwrap_or_default();
        match (differs, answer) {
            (None, Value::Array(answers)) => {
                let deleted = answers.first() == Some(&Value::Int(1));
                done.push((item, KeyResult { ending, deleted }));
                Ok(Vec::new())
            }
            (None, Value::Nil) => Ok(vec![item.retry("the key keeps changing".to_owned())]),
            (Some(what), _) => Ok(vec![item.retry(what)]),
            (None, other) => {
                let name = self.endpoints.source.name();
                let cause = read::<Value>(name, other)
                    .err()
                    .unwrap_or(Error::Key("unexpected reply to EXEC".to_owned()));
                match cause {
                    Error::Key(cause) => {
                        done.push((item, KeyResult::failed(format!("copied, but not deleted: {cause}"))))
                    }
                    error => return Err(error),
                }
                Ok(Vec::new())
            }
        }
    }
}

fn delete(key: &[u8], dump: &Dump) -> KeyCommand {
    let mut script = cmd("EVAL");
    let last = &dump.payload[dump.payload.len().saturating_sub(8)..];
    let at = match dump.expiry {
        Expiry::At(at) => at,
        Expiry::Never | Expiry::Gone => -1,
    };
    script.arg(DELETE).arg(1).arg(key).arg(dump.payload.len()).arg(last).arg(at).arg(EXPIRY_TOLERANCE_MS);
    KeyCommand { key: key.to_vec(), cmd: script }
}
