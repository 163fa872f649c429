//! Keys that are at the target already: the same, ours from an earlier run, or in conflict; and values in pieces.
//!
//! Owns the rule of conflicts. Must never replace what is not ours, unless told.

use super::carrying::Carrier;
use super::clock::Expiry;
use super::comparing::Sides;
use super::counts::shown;
use super::item::{Ending, Item, Outcome, moved};
use super::pieces::{Copied, Whole};
use super::rules::Route;
use super::trouble::{MigrateError, Trouble};
use super::value::{Dump, Found};
use super::{Conflict, keyspace::Call};

impl Carrier<'_> {
    /// Looks at what stands in the way; what comes back is at the target as it should be.
    pub(super) async fn settle(
        &mut self,
        busy: Vec<(Item, Dump)>,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<(Item, Dump, Ending)>, Trouble> {
        let routes: Vec<&Route> = busy.iter().map(|(item, _)| &item.route).collect();
        let found = self.session.dumps_there(&routes).await?;
        let whole: Vec<(Item, Found)> =
            busy.into_iter().map(|(item, dump)| (item, Found::Dump(dump))).collect();
        let differences = self.differences(&whole, &found).await?;
        let mut there = Vec::with_capacity(whole.len());
        for (((item, here), found), differs) in whole.into_iter().zip(found).zip(differences) {
            let Found::Dump(dump) = here else { continue };
            let ours = item.wrote(&found);
            match differs {
                None if item.was_begun() || item.is_ours => {
                    let ending = moved(&dump, false);
                    there.push((item, dump, ending));
                }
                None => there.push((item, dump, Ending::Already)),
                Some(what) => match self.decide(&item, ours, &what)? {
                    Decision::Replace { overwritten } => match self.replace(&item, &dump).await? {
                        Ok(()) => {
                            let ending = moved(&dump, overwritten);
                            there.push((item, dump, ending));
                        }
                        Err(cause) => done.push((item, Outcome::failed(cause))),
                    },
                    Decision::Leave => done.push((item, Outcome::kept(Ending::Skipped))),
                },
            }
        }
        Ok(there)
    }

    /// What differs between values that were read and what was found in their places.
    pub(super) async fn differences(
        &mut self,
        whole: &[(Item, Found)],
        found: &[Found],
    ) -> Result<Vec<Option<String>>, Trouble> {
        let sides = |((item, here), there)| Sides { pair: Item::pair(item), here, there };
        let sides: Vec<Sides<'_>> =
            whole.iter().map(|(item, here)| (item, here)).zip(found).map(sides).collect();
        self.session.differences(&sides, self.stop).await
    }

    /// What to do about a key that is at the target and differs.
    fn decide(&self, item: &Item, ours: bool, what: &str) -> Result<Decision, Trouble> {
        match self.plan.conflict {
            _ if ours => Ok(Decision::Replace { overwritten: false }),
            Conflict::Overwrite => Ok(Decision::Replace { overwritten: true }),
            Conflict::Skip => Ok(Decision::Leave),
            Conflict::Fail => Err(MigrateError::Conflict(format!(
                "{} is at {} already and differs from {} of the source ({what}); run the same command with --conflict \
                 skip or overwrite to go on from here",
                shown(&item.route.key),
                self.plan.to[item.route.place].name,
                shown(&item.flight.key),
            ))
            .into()),
        }
    }

    /// Puts a value in the place of what is there; the inner error concerns this key alone.
    async fn replace(&mut self, item: &Item, dump: &Dump) -> Result<Result<(), String>, Trouble> {
        let call = self.restoring(item, dump).arg("REPLACE");
        let target = &mut self.session.targets[item.route.place];
        let replaced: Result<(), Trouble> = match target.knows("RESTORE") {
            true => target.ask_one(call).await,
            false => Err(Trouble::Key(format!("{} does not know RESTORE", target.name()))),
        };
        match replaced {
            Ok(()) => Ok(Ok(())),
            Err(Trouble::Key(cause)) => match self.copy(item, dump.expiry, true).await {
                Ok(_) => Ok(Ok(())),
                Err(Trouble::Key(other)) => Ok(Err(format!("{cause}; in pieces: {other}"))),
                Err(trouble) => Err(trouble),
            },
            Err(trouble) => Err(trouble),
        }
    }

    /// Moves one value in pieces, for a cause if it is not its size; what comes back has changed meanwhile.
    pub(super) async fn in_pieces(
        &mut self,
        items: Vec<Item>,
        done: &mut Vec<(Item, Outcome)>,
        cause: Option<String>,
    ) -> Result<Vec<Item>, Trouble> {
        let mut again = Vec::new();
        for item in items {
            if self.plan.delete {
                self.watch(&item.flight.key).await?;
            }
            let ended = Box::pin(self.one_in_pieces(&item)).await;
            if self.plan.delete && !matches!(ended, Ok(Ending::Moved { .. } | Ending::Already)) {
                self.unwatch(&item.flight.key).await?;
            }
            match ended {
                Ok(Ending::Expired) => {
                    done.push((item, Outcome::kept(Ending::Expired)));
                }
                Ok(ending @ (Ending::Moved { .. } | Ending::Already)) if self.plan.delete => {
                    again.extend(self.remove_watched(item, ending, done).await?);
                }
                Ok(ending) => done.push((item, Outcome::kept(ending))),
                Err(Trouble::Key(what)) => {
                    let what =
                        cause.as_ref().map_or(what.clone(), |cause| format!("{cause}; in pieces: {what}"));
                    done.push((item, Outcome::failed(what)));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(again)
    }

    async fn one_in_pieces(&mut self, item: &Item) -> Result<Ending, Trouble> {
        let call = self.session.source.expiry(&item.flight.key);
        let expiry = Expiry::read(self.session.source.ask_one(call).await?);
        if expiry == Expiry::Gone {
            return Ok(Ending::Expired);
        }
        let has_ttl = expiry != Expiry::Never;
        let moved = |overwritten| Ending::Moved { bytes: item.measure.bytes, has_ttl, overwritten };
        let target = &mut self.session.targets[item.route.place];
        let there: i64 = target.ask_one(Call::new("EXISTS", &item.route.key)).await?;
        let copied = if there == 1 { Copied::Exists } else { self.copy(item, expiry, false).await? };
        match copied {
            Copied::Expired => return Ok(Ending::Expired),
            Copied::Done => return Ok(moved(false)),
            Copied::Exists => {}
        }
        let is_ours = item.is_ours || item.was_begun();
        match self.session.whole_difference(item.pair(), self.stop).await? {
            None if is_ours => Ok(moved(false)),
            None => Ok(Ending::Already),
            Some(what) => match self.decide(item, item.is_ours, &what)? {
                Decision::Leave => Ok(Ending::Skipped),
                Decision::Replace { overwritten } => match self.copy(item, expiry, true).await? {
                    Copied::Expired => Ok(Ending::Expired),
                    Copied::Done | Copied::Exists => Ok(moved(overwritten)),
                },
            },
        }
    }

    /// Copies a value in pieces.
    async fn copy(&mut self, item: &Item, expiry: Expiry, replace: bool) -> Result<Copied, Trouble> {
        let key = &item.flight.key;
        let there = self.session.expiry_there(key, &item.route, expiry);
        let target = &mut self.session.targets[item.route.place];
        let (kind, bytes) = (&item.measure.kind, item.measure.bytes);
        let mut whole = Whole { space: &mut self.session.source, key, kind, bytes, stop: self.stop };
        Box::pin(whole.copy(target, &item.route.key, there, replace)).await
    }
}

enum Decision {
    Replace { overwritten: bool },
    Leave,
}
