//! Handles keys that exist at the target already: equal ones, ones written by an earlier run, and conflicts; and values
//! copied in chunks.
//!
//! Owns conflict resolution. Must never overwrite a value that a migration did not write, unless requested.

use super::chunked::{ChunkedValue, CopyStatus};
use super::clock::Expiry;
use super::compare::ValuePair;
use super::copy::Copier;
use super::counts::display_key;
use super::error::{Error, MigrateError};
use super::item::{KeyItem, KeyOutcome, KeyResult, moved};
use super::rules::MigrationRoute;
use super::value::{Dump, DumpReply};
use super::{Conflict, keyspace::KeyCommand};

impl Copier<'_> {
    /// Handles keys for which RESTORE returned BUSYKEY. Returns those whose value at the target is correct now.
    pub(super) async fn resolve_existing(
        &mut self,
        busy: Vec<(KeyItem, Dump)>,
        done: &mut Vec<(KeyItem, KeyResult)>,
    ) -> Result<Vec<(KeyItem, Dump, KeyOutcome)>, Error> {
        let routes: Vec<&MigrationRoute> = busy.iter().map(|(item, _)| &item.route).collect();
        let found = self.endpoints.target_dumps(&routes).await?;
        let whole: Vec<(KeyItem, DumpReply)> =
            busy.into_iter().map(|(item, dump)| (item, DumpReply::Dump(dump))).collect();
        let differences = self.differences(&whole, &found).await?;
        let mut there = Vec::with_capacity(whole.len());
        for (((item, here), found), differs) in whole.into_iter().zip(found).zip(differences) {
            let DumpReply::Dump(dump) = here else { continue };
            let is_own = item.was_written_by_migration(&found);
            match differs {
                None if item.was_started() || item.written_by_this_run => {
                    let ending = moved(&dump, false);
                    there.push((item, dump, ending));
                }
                None => there.push((item, dump, KeyOutcome::Already)),
                Some(what) => match self.resolve_conflict(&item, is_own, &what)? {
                    ConflictAction::Replace { overwritten } => match self.replace(&item, &dump).await? {
                        Ok(()) => {
                            let ending = moved(&dump, overwritten);
                            there.push((item, dump, ending));
                        }
                        Err(cause) => done.push((item, KeyResult::failed(cause))),
                    },
                    ConflictAction::Leave => done.push((item, KeyResult::not_deleted(KeyOutcome::Skipped))),
                },
            }
        }
        Ok(there)
    }

    /// Differences between values that were read and those found at the target.
    pub(super) async fn differences(
        &mut self,
        whole: &[(KeyItem, DumpReply)],
        found: &[DumpReply],
    ) -> Result<Vec<Option<String>>, Error> {
        let sides = |((item, here), there)| ValuePair { pair: KeyItem::pair(item), here, there };
        let sides: Vec<ValuePair<'_>> =
            whole.iter().map(|(item, here)| (item, here)).zip(found).map(sides).collect();
        self.endpoints.differences(&sides, self.stop).await
    }

    /// Decides how to handle a key that exists at the target with a different value.
    fn resolve_conflict(&self, item: &KeyItem, is_own: bool, what: &str) -> Result<ConflictAction, Error> {
        match self.plan.conflict {
            _ if is_own => Ok(ConflictAction::Replace { overwritten: false }),
            Conflict::Overwrite => Ok(ConflictAction::Replace { overwritten: true }),
            Conflict::Skip => Ok(ConflictAction::Leave),
            Conflict::Fail => Err(MigrateError::Conflict(format!(
                "{} exists at {} and differs from {} at the source ({what}); to continue, run the same command with \
                 --conflict skip or overwrite",
                display_key(&item.route.key),
                self.plan.to[item.route.target].name,
                display_key(&item.in_flight_key.key),
            ))
            .into()),
        }
    }

    /// Overwrites the value at the target. The inner error concerns only this key.
    async fn replace(&mut self, item: &KeyItem, dump: &Dump) -> Result<Result<(), String>, Error> {
        let call = self.restore_command(item, dump).arg("REPLACE");
        let target = &mut self.endpoints.targets[item.route.target];
        let replaced: Result<(), Error> = match target.supports("RESTORE") {
            true => target.query_one(call).await,
            false => Err(Error::Key(format!("{} does not support RESTORE", target.name()))),
        };
        match replaced {
            Ok(()) => Ok(Ok(())),
            Err(Error::Key(cause)) => match self.copy(item, dump.expiry, true).await {
                Ok(_) => Ok(Ok(())),
                Err(Error::Key(other)) => Ok(Err(format!("{cause}; in chunks: {other}"))),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    /// Copies values in chunks; `cause` is the reason if it is not their size. Returns items that changed meanwhile.
    pub(super) async fn copy_chunked(
        &mut self,
        items: Vec<KeyItem>,
        done: &mut Vec<(KeyItem, KeyResult)>,
        cause: Option<String>,
    ) -> Result<Vec<KeyItem>, Error> {
        let mut again = Vec::new();
        for item in items {
            if self.plan.delete {
                self.watch(&item.in_flight_key.key).await?;
            }
            let ended = Box::pin(self.copy_one_chunked(&item)).await;
            if self.plan.delete && !matches!(ended, Ok(KeyOutcome::Moved { .. } | KeyOutcome::Already)) {
                self.unwatch(&item.in_flight_key.key).await?;
            }
            match ended {
                Ok(KeyOutcome::Expired) => {
                    done.push((item, KeyResult::not_deleted(KeyOutcome::Expired)));
                }
                Ok(ending @ (KeyOutcome::Moved { .. } | KeyOutcome::Already)) if self.plan.delete => {
                    again.extend(self.delete_watched(item, ending, done).await?);
                }
                Ok(ending) => done.push((item, KeyResult::not_deleted(ending))),
                Err(Error::Key(what)) => {
                    let what =
                        cause.as_ref().map_or(what.clone(), |cause| format!("{cause}; in chunks: {what}"));
                    done.push((item, KeyResult::failed(what)));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(again)
    }

    async fn copy_one_chunked(&mut self, item: &KeyItem) -> Result<KeyOutcome, Error> {
        let call = self.endpoints.source.expiry(&item.in_flight_key.key);
        let expiry = Expiry::read(self.endpoints.source.query_one(call).await?);
        if expiry == Expiry::Gone {
            return Ok(KeyOutcome::Expired);
        }
        let has_ttl = expiry != Expiry::Never;
        let moved = |overwritten| KeyOutcome::Moved { bytes: item.info.bytes, has_ttl, overwritten };
        let target = &mut self.endpoints.targets[item.route.target];
        let there: i64 = target.query_one(KeyCommand::new("EXISTS", &item.route.key)).await?;
        let copied = if there == 1 { CopyStatus::Exists } else { self.copy(item, expiry, false).await? };
        match copied {
            CopyStatus::Expired => return Ok(KeyOutcome::Expired),
            CopyStatus::Done => return Ok(moved(false)),
            CopyStatus::Exists => {}
        }
        let written_by_this_run = item.written_by_this_run || item.was_started();
        match self.endpoints.chunked_difference(item.pair(), self.stop).await? {
            None if written_by_this_run => Ok(moved(false)),
            None => Ok(KeyOutcome::Already),
            Some(what) => match self.resolve_conflict(item, item.written_by_this_run, &what)? {
                ConflictAction::Leave => Ok(KeyOutcome::Skipped),
                ConflictAction::Replace { overwritten } => match self.copy(item, expiry, true).await? {
                    CopyStatus::Expired => Ok(KeyOutcome::Expired),
                    CopyStatus::Done | CopyStatus::Exists => Ok(moved(overwritten)),
                },
            },
        }
    }

    /// Copies one value in chunks.
    async fn copy(&mut self, item: &KeyItem, expiry: Expiry, replace: bool) -> Result<CopyStatus, Error> {
        let key = &item.in_flight_key.key;
        let there = self.endpoints.target_expiry(key, &item.route, expiry);
        let target = &mut self.endpoints.targets[item.route.target];
        let (kind, bytes) = (&item.info.kind, item.info.bytes);
        let mut whole = ChunkedValue { space: &mut self.endpoints.source, key, kind, bytes, stop: self.stop };
        Box::pin(whole.copy(target, &item.route.key, there, replace)).await
    }
}

enum ConflictAction {
    Replace { overwritten: bool },
    Leave,
}
