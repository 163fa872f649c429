//! Checks all keys before a migration: keys that no rule matches, keys that would be renamed to the same name, and keys
//! that would be migrated repeatedly. For a dry run also counts keys and finds those that exist at the targets.
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
use super::rate_limit::WriteRateLimit;
use super::rules::MigrationRoute;
use super::scan::Scan;
use super::value::key_info;
use super::{MigrationPlan, Observer};

/// Counters of one rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulePreflight {
    /// Keys.
    pub keys: u64,
    /// Memory of the keys at the source, as estimated by it.
    pub bytes: u64,
    /// Keys with a TTL.
    pub with_ttl: u64,
    /// Keys by type.
    pub kinds: BTreeMap<String, u64>,
    /// Keys that exist at the target.
    pub taken: u64,
    /// Keys whose source and target are the same key of the same keyspace.
    pub in_place: u64,
    /// A key and its new name.
    pub example: Option<(String, String)>,
}

/// Result of the check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preflight {
    /// By rule, in order.
    pub rules: Vec<RulePreflight>,
    /// Keys that no rule matches.
    pub unmatched: Lines,
    /// Keys that two rules rename to the same name, or that a rule would rename repeatedly.
    pub contradictions: Lines,
    /// Keys that exist at the target.
    pub taken: Lines,
}

impl Preflight {
    /// Checks whether a migration can start.
    ///
    /// # Errors
    /// Why it cannot.
    pub fn check(&self) -> Result<(), MigrateError> {
        let (what, lines, advice) = if self.contradictions.count > 0 {
            ("the rules conflict", &self.contradictions, "change the rules")
        } else if self.unmatched.count > 0 {
            let advice = "add rules, or set a target for other keys with --rest NAME";
            ("no rule matches some keys", &self.unmatched, advice)
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

/// A scan over all keys.
#[derive(Debug)]
pub(super) struct PreflightScan<'p> {
    pub(super) plan: &'p MigrationPlan,
    pub(super) endpoints: Endpoints,
    /// Whether to collect types and sizes and to query the targets.
    pub(super) is_dry_run: bool,
}

impl PreflightScan<'_> {
    pub(super) async fn run(
        &mut self,
        observer: &dyn Observer,
        stop: &CancellationToken,
    ) -> Result<Preflight, Error> {
        let rules = self.plan.rules.texts().count();
        let mut preflight =
            Preflight { rules: vec![RulePreflight::default(); rules], ..Preflight::default() };
        let mut rate_limit = WriteRateLimit::new(if self.is_dry_run { self.plan.rate } else { None });
        let (mut nodes, mut slots): (Vec<ScanCursor>, String) = (Vec::new(), String::new());
        let mut scan = Scan { nodes: &mut nodes, slots: &mut slots };
        while let Some(mut keys) = scan.next(&mut self.endpoints.source, rate_limit.batch()).await? {
            if stop.is_cancelled() {
                return Err(MigrateError::Stopped.into());
            }
            keys.retain(|key| !is_temp_key(key));
            let found = keys.len();
            self.process_batch(keys, &mut preflight).await?;
            rate_limit.wait(found, stop).await;
            observer.advance(found as u64);
        }
        Ok(preflight)
    }

    async fn process_batch(&mut self, keys: Vec<Vec<u8>>, preflight: &mut Preflight) -> Result<(), Error> {
        let mut routed = Vec::with_capacity(keys.len());
        for key in keys {
            match self.plan.rules.route(&key) {
                None => preflight.unmatched.add(|| display_key(&key)),
                Some(route) if self.endpoints.is_in_place(&key, &route) => {
                    preflight.rules[route.rule].in_place += 1
                }
                Some(route) => routed.push((key, route)),
            }
        }
        self.contradictions(&routed, &mut preflight.contradictions).await?;
        if self.is_dry_run { self.count_keys(&routed, preflight).await } else { Ok(()) }
    }

    async fn contradictions(
        &mut self,
        routed: &[(Vec<u8>, MigrationRoute)],
        found: &mut Lines,
    ) -> Result<(), Error> {
        let mut queried = Vec::new();
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
                // A key that stays in place is not a collision, at most a conflict.
                if self.endpoints.same_keyspace(route, &there) && !self.endpoints.is_in_place(&other, &there)
                {
                    queried.push((key, other, &route.key));
                }
            }
        }
        let calls = queried.iter().map(|(_, other, _)| KeyCommand::new("EXISTS", other)).collect();
        let answers = self.endpoints.source.query(calls).await?;
        for ((key, other, name), answer) in queried.into_iter().zip(answers) {
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

    async fn count_keys(
        &mut self,
        routed: &[(Vec<u8>, MigrationRoute)],
        preflight: &mut Preflight,
    ) -> Result<(), Error> {
        let source = &mut self.endpoints.source;
        let keys: Vec<&[u8]> = routed.iter().map(|(key, _)| key.as_slice()).collect();
        let infos = key_info(source, &keys).await?;
        let ends = source.query(keys.iter().map(|key| source.expiry(key)).collect()).await?;
        for (((key, route), info), end) in routed.iter().zip(infos).zip(ends) {
            let (Some(info), expiry) = (info, self.endpoints.source.read_expiry(end)?) else { continue };
            let rule = &mut preflight.rules[route.rule];
            rule.keys += 1;
            rule.bytes += info.bytes;
            rule.with_ttl += u64::from(matches!(expiry, Expiry::At(_)));
            *rule.kinds.entry(info.kind.as_str().to_owned()).or_default() += 1;
            if rule.example.is_none() {
                rule.example = Some((display_key(key), display_key(&route.key)));
            }
        }
        self.taken(routed, preflight).await
    }

    async fn taken(
        &mut self,
        routed: &[(Vec<u8>, MigrationRoute)],
        preflight: &mut Preflight,
    ) -> Result<(), Error> {
        for (place, target) in self.endpoints.targets.iter_mut().enumerate() {
            let there: Vec<&MigrationRoute> =
                routed.iter().map(|(_, route)| route).filter(|route| route.target == place).collect();
            let calls = there.iter().map(|route| KeyCommand::new("EXISTS", &route.key)).collect();
            let answers = target.query(calls).await?;
            for (route, answer) in there.into_iter().zip(answers) {
                if read::<i64>(target.name(), answer)? == 1 {
                    preflight.rules[route.rule].taken += 1;
                    preflight.taken.add(|| format!("{} at {}", display_key(&route.key), target.name()));
                }
            }
        }
        Ok(())
    }
}
