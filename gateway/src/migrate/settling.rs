//! Keys that are at the target already: the same, ours from an earlier run, or in conflict; and values in pieces.
//!
//! Owns the rule of conflicts. Must never replace what is not ours, unless told.

use super::carrying::{Carrier, Ending, IN_PIECES, Item, Outcome, moved};
use super::clock::Expiry;
use super::comparing::Pair;
use super::counts::shown;
use super::pieces::{Copied, Whole};
use super::trouble::{MigrateError, Trouble};
use super::value::{Dump, Found, dumps};
use super::{Conflict, keyspace::Call};

impl Item {
    fn pair(&self) -> Pair<'_> {
        Pair { key: &self.flight.key, route: &self.route, measure: &self.measure }
    }
}

impl Carrier<'_> {
    /// Looks at what stands in the way; what comes back is at the target as it should be.
    pub(super) async fn settle(
        &mut self,
        busy: Vec<(Item, Dump)>,
        done: &mut Vec<(Item, Outcome)>,
    ) -> Result<Vec<(Item, Dump, Ending)>, Trouble> {
        let mut found = Vec::with_capacity(busy.len());
        for (place, target) in self.session.targets.iter_mut().enumerate() {
            let indexes: Vec<usize> =
                (0..busy.len()).filter(|index| busy[*index].0.route.place == place).collect();
            let keys: Vec<&[u8]> = indexes.iter().map(|index| busy[*index].0.route.key.as_slice()).collect();
            found.extend(indexes.into_iter().zip(dumps(target, &keys).await?));
        }
        found.sort_unstable_by_key(|(index, _)| *index);
        let mut there = Vec::with_capacity(busy.len());
        for ((item, dump), (_, found)) in busy.into_iter().zip(found) {
            let here = Found::Dump(dump);
            let differs = self.session.difference(item.pair(), &here, &found, self.stop).await?;
            let Found::Dump(dump) = here else { continue };
            let ours = item.is_ours || is_stamped(&item, &found);
            match differs {
                None if item.flight.stamp.is_some() || item.is_ours => {
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
                        Err(cause) => done.push((item, failed(cause))),
                    },
                    Decision::Leave => done.push((item, Outcome { ending: Ending::Skipped, deleted: false })),
                },
            }
        }
        Ok(there)
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
            Err(Trouble::Key(cause)) => match self.copy(item, true).await {
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
                    done.push((item, Outcome { ending: Ending::Expired, deleted: false }));
                }
                Ok(ending @ (Ending::Moved { .. } | Ending::Already)) if self.plan.delete => {
                    again.extend(self.remove_watched(item, ending, done).await?);
                }
                Ok(ending) => done.push((item, Outcome { ending, deleted: false })),
                Err(Trouble::Key(what)) => {
                    let what =
                        cause.as_ref().map_or(what.clone(), |cause| format!("{cause}; in pieces: {what}"));
                    done.push((item, failed(what)));
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(again)
    }

    async fn one_in_pieces(&mut self, item: &Item) -> Result<Ending, Trouble> {
        let target = &mut self.session.targets[item.route.place];
        let there: i64 = target.ask_one(Call::new("EXISTS", &item.route.key)).await?;
        let (copied, has_ttl) =
            if there == 1 { (Copied::Exists, false) } else { self.copy(item, false).await? };
        match copied {
            Copied::Expired => return Ok(Ending::Expired),
            Copied::Done => {
                return Ok(Ending::Moved { bytes: item.measure.bytes, has_ttl, overwritten: false });
            }
            Copied::Exists => {}
        }
        let Some(what) = self.session.whole_difference(item.pair(), self.stop).await? else {
            return Ok(match item.flight.stamp.is_some() || item.is_ours {
                true => Ending::Moved { bytes: item.measure.bytes, has_ttl, overwritten: false },
                false => Ending::Already,
            });
        };
        match self.decide(item, item.is_ours, &what)? {
            Decision::Leave => Ok(Ending::Skipped),
            Decision::Replace { overwritten } => match self.copy(item, true).await? {
                (Copied::Expired, _) => Ok(Ending::Expired),
                (_, has_ttl) => Ok(Ending::Moved { bytes: item.measure.bytes, has_ttl, overwritten }),
            },
        }
    }

    /// Copies a value in pieces, and says whether it has a TTL.
    async fn copy(&mut self, item: &Item, replace: bool) -> Result<(Copied, bool), Trouble> {
        let key = &item.flight.key;
        let call = self.session.source.expiry(key);
        let expiry = Expiry::read(self.session.source.ask_one(call).await?);
        if expiry == Expiry::Gone {
            return Ok((Copied::Expired, false));
        }
        let there = self.session.expiry_there(key, &item.route, expiry);
        let target = &mut self.session.targets[item.route.place];
        let (kind, bytes) = (&item.measure.kind, item.measure.bytes);
        let mut whole = Whole { space: &mut self.session.source, key, kind, bytes, stop: self.stop };
        let copied = Box::pin(whole.copy(target, &item.route.key, there, replace)).await?;
        Ok((copied, matches!(expiry, Expiry::At(_))))
    }
}

enum Decision {
    Replace { overwritten: bool },
    Leave,
}

/// Whether what was found is what an earlier run wrote.
fn is_stamped(item: &Item, found: &Found) -> bool {
    item.flight
        .stamp
        .is_some_and(|stamp| stamp != IN_PIECES && found.dump().and_then(Dump::stamp) == Some(stamp))
}

pub(super) fn failed(cause: String) -> Outcome {
    Outcome { ending: Ending::Failed(cause), deleted: false }
}
