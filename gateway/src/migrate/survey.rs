//! Looking at everything before anything is moved: which keys no rule matches, which would become one, which would be
//! moved again and again; and, for a dry run, what there is and what is there already.
//!
//! Must never change anything.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::clock::Expiry;
use super::counts::{Lines, shown};
use super::journal::Walked;
use super::keyspace::{Call, read};
use super::pace::Pace;
use super::pieces::is_building;
use super::rules::Route;
use super::session::Session;
use super::trouble::{MigrateError, Trouble};
use super::value::measure;
use super::walk::Walk;
use super::{Observer, Plan};

/// What a rule would move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSurvey {
    /// Keys.
    pub keys: u64,
    /// The memory they take at the source, as it estimates that.
    pub bytes: u64,
    /// How many of them have a TTL.
    pub with_ttl: u64,
    /// How many of them are of which type.
    pub kinds: BTreeMap<String, u64>,
    /// Keys whose name is taken at the target.
    pub taken: u64,
    /// Keys that are where they belong.
    pub stayed: u64,
    /// A key, and the name that it would get.
    pub example: Option<(String, String)>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// By rule, in the order of the rules.
    pub rules: Vec<RuleSurvey>,
    /// Keys that no rule matches.
    pub unmatched: Lines,
    /// Keys that two rules would give the same name, or that a rule would rename again each time.
    pub contradictions: Lines,
    /// Keys whose names are taken at the target.
    pub taken: Lines,
}

impl Survey {
    /// Whether a move may begin.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn judge(&self) -> Result<(), MigrateError> {
        let (what, lines, advice) = if self.contradictions.count > 0 {
            ("the rules contradict each other", &self.contradictions, "change the rules")
        } else if self.unmatched.count > 0 {
            let advice = "add rules, or send the rest somewhere with --rest NAME";
            ("no rule says where these keys go", &self.unmatched, advice)
        } else {
            return Ok(());
        };
        let some: Vec<&str> = lines.first.iter().take(5).map(String::as_str).collect();
        let more = if lines.count > some.len() as u64 { ", …" } else { "" };
        Err(MigrateError::Refused(format!(
            "nothing was moved: {what} ({} keys): {}{more}; {advice}",
            lines.count,
            some.join(", ")
        )))
    }
}

/// A walk over everything.
#[derive(Debug)]
pub(super) struct Surveyor<'p> {
    pub(super) plan: &'p Plan,
    pub(super) session: Session,
    /// Whether types, sizes and targets are looked at, too.
    pub(super) thorough: bool,
}

impl Surveyor<'_> {
    pub(super) async fn run(
        &mut self,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<Survey, Trouble> {
        let rules = self.plan.rules.texts().count();
        let mut survey = Survey { rules: vec![RuleSurvey::default(); rules], ..Survey::default() };
        let mut pace = Pace::new(if self.thorough { self.plan.rate } else { None });
        let (mut nodes, mut slots): (Vec<Walked>, String) = (Vec::new(), String::new());
        let mut walk = Walk { nodes: &mut nodes, slots: &mut slots };
        while let Some(mut keys) = walk.next(&mut self.session.source, pace.batch()).await? {
            if stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            keys.retain(|key| !is_building(key));
            let found = keys.len();
            self.look(keys, &mut survey).await?;
            pace.wait(found, stop).await;
            observer.advance(found as u64);
        }
        Ok(survey)
    }

    async fn look(&mut self, keys: Vec<Vec<u8>>, survey: &mut Survey) -> Result<(), Trouble> {
        let mut routed = Vec::with_capacity(keys.len());
        for key in keys {
            match self.plan.rules.route(&key) {
                None => survey.unmatched.add(|| shown(&key)),
                Some(route) if self.session.stays(&key, &route) => survey.rules[route.rule].stayed += 1,
                Some(route) => routed.push((key, route)),
            }
        }
        self.contradictions(&routed, &mut survey.contradictions).await?;
        if self.thorough { self.measure(&routed, survey).await } else { Ok(()) }
    }

    async fn contradictions(
        &mut self,
        routed: &[(Vec<u8>, Route)],
        found: &mut Lines,
    ) -> Result<(), Trouble> {
        let mut asked = Vec::new();
        for (key, route) in routed {
            let again = self.plan.rules.route(&route.key);
            if self.session.is_at_home(route)
                && !again.is_some_and(|again| self.session.stays(&route.key, &again))
            {
                found.add(|| {
                    format!("{} becomes {}, which would be moved again", shown(key), shown(&route.key))
                });
            }
            if self.plan.rules.keep_names() {
                continue;
            }
            for (rival, there) in self.plan.rules.rivals(key, route) {
                // What is in its place already is no rival but perhaps a conflict.
                if self.session.meet(route, &there) && !self.session.stays(&rival, &there) {
                    asked.push((key, rival, &route.key));
                }
            }
        }
        let calls = asked.iter().map(|(_, rival, _)| Call::new("EXISTS", rival)).collect();
        let answers = self.session.source.ask(calls).await?;
        for ((key, rival, name), answer) in asked.into_iter().zip(answers) {
            if read::<i64>(self.session.source.name(), answer)? == 1 {
                found.add(|| format!("{} and {} both become {}", shown(key), shown(&rival), shown(name)));
            }
        }
        Ok(())
    }

    async fn measure(&mut self, routed: &[(Vec<u8>, Route)], survey: &mut Survey) -> Result<(), Trouble> {
        let source = &mut self.session.source;
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let measures = measure(source, &keys).await?;
        let ends = source.ask(keys.iter().map(|key| source.expiry(key)).collect()).await?;
        for (((key, route), measure), end) in routed.iter().zip(measures).zip(ends) {
            let (Some(measure), expiry) = (measure, self.session.source.read_expiry(end)?) else { continue };
            let rule = &mut survey.rules[route.rule];
            rule.keys += 1;
            rule.bytes += measure.bytes;
            rule.with_ttl += u64::from(matches!(expiry, Expiry::At(_)));
            *rule.kinds.entry(measure.kind.as_str().to_owned()).or_default() += 1;
            if rule.example.is_none() {
                rule.example = Some((shown(key), shown(&route.key)));
            }
        }
        self.taken(routed, survey).await
    }

    async fn taken(&mut self, routed: &[(Vec<u8>, Route)], survey: &mut Survey) -> Result<(), Trouble> {
        for (place, target) in self.session.targets.iter_mut().enumerate() {
            let there: Vec<&Route> =
                routed.iter().map(|(_, route)| route).filter(|route| route.place == place).collect();
            let calls = there.iter().map(|route| Call::new("EXISTS", &route.key)).collect();
            let answers = target.ask(calls).await?;
            for (route, answer) in there.into_iter().zip(answers) {
                if read::<i64>(target.name(), answer)? == 1 {
                    survey.rules[route.rule].taken += 1;
                    survey.taken.add(|| format!("{} at {}", shown(&route.key), target.name()));
                }
            }
        }
        Ok(())
    }
}
