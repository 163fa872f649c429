//! Looking at everything before anything is moved: which keys no rule matches, which would become one, which would be
//! moved again and again; and, for a dry run, what there is and what is there identical.
//!
//! Must never change anything.

use std::collections::BTreeMap;

use tokio_util::sync::CancellationToken;

use super::chunked::is_temp_key;
use super::clock::Expiry;
use super::counts::{Lines, display_key};
use super::endpoints::Endpoints;
use super::error::{Error, MigrateError};
use super::journal::ScanCursor;
use super::keyspace::{KeyCommand, read};
use super::rate_limit::RateLimit;
use super::rules::Route;
use super::scan::Scan;
use super::value::key_info;
use super::{Observer, Plan};

/// What a rule would move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePreflight {
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
    pub in_place: u64,
    /// A key, and the name that it would get.
    pub example: Option<(String, String)>,
}

/// What there is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// By rule, in the order of the rules.
    pub rules: Vec<RulePreflight>,
    /// Keys that no rule matches.
    pub unmatched: Lines,
    /// Keys that two rules would give the same name, or that a rule would rename again each time.
    pub contradictions: Lines,
    /// Keys whose names are taken at the target.
    pub taken: Lines,
}

impl Preflight {
    /// Whether a move may begin.
    ///
    /// # Errors
    /// What speaks against it.
    pub fn check(&self) -> Result<(), MigrateError> {
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
pub(super) struct PreflightScan<'p> {
    pub(super) plan: &'p Plan,
    pub(super) endpoints: Endpoints,
    /// Whether types, sizes and targets are looked at, too.
    pub(super) is_dry_run: bool,
}

impl PreflightScan<'_> {
    pub(super) async fn run(
        &mut self,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<Preflight, Error> {
        let rules = self.plan.rules.texts().count();
        let mut survey = Preflight { rules: vec![RulePreflight::default(); rules], ..Preflight::default() };
        let mut pace = RateLimit::new(if self.is_dry_run { self.plan.rate } else { None });
        let (mut nodes, mut slots): (Vec<ScanCursor>, String) = (Vec::new(), String::new());
        let mut walk = Scan { nodes: &mut nodes, slots: &mut slots };
        while let Some(mut keys) = walk.next(&mut self.endpoints.source, pace.batch()).await? {
            if stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            keys.retain(|key| !is_temp_key(key));
            let found = keys.len();
            self.process_batch(keys, &mut survey).await?;
            pace.wait(found, stop).await;
            observer.advance(found as u64);
        }
        Ok(survey)
    }

    async fn process_batch(&mut self, keys: Vec<Vec<u8>>, survey: &mut Preflight) -> Result<(), Error> {
        let mut routed = Vec::with_capacity(keys.len());
        for key in keys {
            match self.plan.rules.route(&key) {
                None => survey.unmatched.add(|| display_key(&key)),
                Some(route) if self.endpoints.is_in_place(&key, &route) => {
                    survey.rules[route.rule].in_place += 1
                }
                Some(route) => routed.push((key, route)),
            }
        }
        self.contradictions(&routed, &mut survey.contradictions).await?;
        if self.is_dry_run { self.count_keys(&routed, survey).await } else { Ok(()) }
    }

    async fn contradictions(&mut self, routed: &[(Vec<u8>, Route)], found: &mut Lines) -> Result<(), Error> {
        let mut asked = Vec::new();
        for (key, route) in routed {
            let again = self.plan.rules.route(&route.key);
            if self.endpoints.targets_source(route)
                && !again.is_some_and(|again| self.endpoints.is_in_place(&route.key, &again))
            {
                found.add(|| {
                    format!(
                        "{} becomes {}, which would be moved again",
                        display_key(key),
                        display_key(&route.key)
                    )
                });
            }
            if self.plan.rules.keeps_all_names() {
                continue;
            }
            for (other, there) in self.plan.rules.collisions(key, route) {
                // What is in its place identical is no other but perhaps a conflict.
                if self.endpoints.same_keyspace(route, &there) && !self.endpoints.is_in_place(&other, &there)
                {
                    asked.push((key, other, &route.key));
                }
            }
        }
        let calls = asked.iter().map(|(_, other, _)| KeyCommand::new("EXISTS", other)).collect();
        let answers = self.endpoints.source.query(calls).await?;
        for ((key, other, name), answer) in asked.into_iter().zip(answers) {
            if read::<i64>(self.endpoints.source.name(), answer)? == 1 {
                found.add(|| {
                    format!(
                        "{} and {} both become {}",
                        display_key(key),
                        display_key(&other),
                        display_key(name)
                    )
                });
            }
        }
        Ok(())
    }

    async fn count_keys(&mut self, routed: &[(Vec<u8>, Route)], survey: &mut Preflight) -> Result<(), Error> {
        let source = &mut self.endpoints.source;
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let infos = key_info(source, &keys).await?;
        let ends = source.query(keys.iter().map(|key| source.expiry(key)).collect()).await?;
        for (((key, route), info), end) in routed.iter().zip(infos).zip(ends) {
            let (Some(info), expiry) = (info, self.endpoints.source.read_expiry(end)?) else { continue };
            let rule = &mut survey.rules[route.rule];
            rule.keys += 1;
            rule.bytes += info.bytes;
            rule.with_ttl += u64::from(matches!(expiry, Expiry::At(_)));
            *rule.kinds.entry(info.kind.as_str().to_owned()).or_default() += 1;
            if rule.example.is_none() {
                rule.example = Some((display_key(key), display_key(&route.key)));
            }
        }
        self.taken(routed, survey).await
    }

    async fn taken(&mut self, routed: &[(Vec<u8>, Route)], survey: &mut Preflight) -> Result<(), Error> {
        for (place, target) in self.endpoints.targets.iter_mut().enumerate() {
            let there: Vec<&Route> =
                routed.iter().map(|(_, route)| route).filter(|route| route.target == place).collect();
            let calls = there.iter().map(|route| KeyCommand::new("EXISTS", &route.key)).collect();
            let answers = target.query(calls).await?;
            for (route, answer) in there.into_iter().zip(answers) {
                if read::<i64>(target.name(), answer)? == 1 {
                    survey.rules[route.rule].taken += 1;
                    survey.taken.add(|| format!("{} at {}", display_key(&route.key), target.name()));
                }
            }
        }
        Ok(())
    }
}
