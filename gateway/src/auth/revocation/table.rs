//! The revocations that are in effect.

use std::collections::{HashMap, HashSet};

use super::super::UnixSeconds;
use super::super::identity::{Identity, LoginSource};
use super::{COMMAND, ClientCommand, Record, RevokedLogin};

/// All revocations that are in effect, and the commands that were seen. A revocation stays in effect until it expires,
/// even if the hash no longer contains it: data loss in Redis must not re-enable revoked logins.
#[derive(Debug, Default)]
pub struct RevocationTable {
    revoked: HashMap<RevokedLogin, Validity>,
    /// The fields of commands, with their expiry.
    commands: HashMap<Box<[u8]>, UnixSeconds>,
    has_sessions: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Validity {
    /// In milliseconds.
    at: u64,
    until: UnixSeconds,
}

/// The result of [`RevocationTable::merge`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MergeResult {
    /// Revocations that are new, or were repeated later.
    pub revoked: HashSet<RevokedLogin>,
    /// Commands that were not seen before.
    pub commands: Vec<ClientCommand>,
}

impl RevocationTable {
    /// The number of revocations and commands.
    pub fn len(&self) -> usize {
        self.revoked.len() + self.commands.len()
    }

    /// Whether it contains nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Removes what has expired, and adds the fields of the hash.
    pub fn merge<'f>(
        &mut self,
        fields: impl Iterator<Item = (&'f [u8], &'f [u8])>,
        now: UnixSeconds,
    ) -> MergeResult {
        self.revoked.retain(|_, validity| validity.until > now);
        self.commands.retain(|_, until| *until > now);
        let mut found = MergeResult::default();
        for (field, value) in fields {
            let Some(record) = Record::parse(value).filter(|record| record.until > now) else { continue };
            if field.starts_with(COMMAND.as_bytes()) {
                if self.commands.insert(field.into(), record.until).is_none() {
                    found.commands.extend(record.command);
                }
            } else if let Some(login) = RevokedLogin::from_field(field)
                && self.revoke(&login, record)
            {
                found.revoked.insert(login);
            }
        }
        self.has_sessions = self.revoked.keys().any(|login| matches!(login, RevokedLogin::Session(_)));
        found
    }

    /// Adds a revocation. Returns whether it is new, or was repeated later.
    fn revoke(&mut self, login: &RevokedLogin, Record { until, at, .. }: Record) -> bool {
        let Some(known) = self.revoked.get_mut(login) else {
            self.revoked.insert(login.clone(), Validity { at, until });
            return true;
        };
        let is_later = at > known.at;
        *known = Validity { at: known.at.max(at), until: known.until.max(until) };
        is_later
    }

    /// Whether a login is revoked at `now`.
    ///
    /// A user's tokens count as revoked if they were issued in the second of the revocation or before it, or do not
    /// state when. A user's sessions do not, because their start time is unknown and the application deletes them.
    pub fn is_revoked(&self, identity: &Identity, now: UnixSeconds) -> bool {
        if self.revoked.is_empty() {
            return false;
        }
        let in_effect =
            |login: RevokedLogin| self.revoked.get(&login).filter(|validity| validity.until > now);
        match identity.source() {
            Some(LoginSource::Session { key, .. }) => {
                self.has_sessions && in_effect(RevokedLogin::session(key)).is_some()
            }
            source => {
                let id = match source {
                    Some(LoginSource::Token { id }) => Some(&**id),
                    _ => None,
                };
                self.is_token_revoked(identity.user(), id, identity.issued_at(), now)
            }
        }
    }

    /// Whether the token of a user with this id and time of issue is revoked at `now`.
    pub fn is_token_revoked(
        &self,
        user: &str,
        id: Option<&str>,
        issued_at: Option<UnixSeconds>,
        now: UnixSeconds,
    ) -> bool {
        if self.revoked.is_empty() {
            return false;
        }
        let in_effect =
            |login: RevokedLogin| self.revoked.get(&login).filter(|validity| validity.until > now);
        let is_before = |validity: &Validity| issued_at.is_none_or(|issued| issued <= validity.at / 1000);
        id.is_some_and(|id| in_effect(RevokedLogin::Token(id.into())).is_some())
            || (!user.is_empty() && in_effect(RevokedLogin::User(user.into())).is_some_and(is_before))
    }
}

impl MergeResult {
    /// Whether it contains nothing.
    pub fn is_empty(&self) -> bool {
        self.revoked.is_empty() && self.commands.is_empty()
    }

    /// Whether a connected client that logged in by a session ends because its user is revoked now. When it connects
    /// again, its session decides.
    pub fn ends_session(&self, identity: &Identity) -> bool {
        matches!(identity.source(), Some(LoginSource::Session { .. }))
            && !identity.user().is_empty()
            && self.revoked.contains(&RevokedLogin::User(identity.user().into()))
    }
}
