//! Compares the table of revocations with a naive model.

use std::collections::{BTreeMap, HashSet};

use proptest::prelude::*;

use super::super::identity::{Identity, LoginResult, LoginSource};
use super::*;

fn by_token(user: &str, id: Option<&str>, issued_at: Option<u64>) -> Identity {
    let source = id.map(|id| LoginSource::Token { id: id.into() });
    Identity::verified(LoginResult { user: user.to_owned(), source, issued_at, ..LoginResult::default() })
}

fn by_session(user: &str, key: &str) -> Identity {
    let source = Some(LoginSource::Session { method: 0, key: key.as_bytes().into() });
    Identity::verified(LoginResult { user: user.to_owned(), source, ..LoginResult::default() })
}

fn merge(table: &mut RevocationTable, entries: &[(Vec<u8>, Record)], now: u64) -> MergeResult {
    let fields: Vec<_> = entries.iter().map(|(field, record)| (field.clone(), record.to_json())).collect();
    table.merge(fields.iter().map(|(field, value)| (&field[..], &value[..])), now)
}

fn revocation(login: &RevokedLogin, at: u64, until: u64) -> (Vec<u8>, Record) {
    (login.field(), Record { until, at: at * 1000, command: None })
}

fn command(number: &str, user: &str) -> (Vec<u8>, Record) {
    let selector = ClientSelector { user: Some(user.to_owned()), client: None };
    let action = ClientAction::Disconnect { code: 3503, reason: "force".to_owned(), whitelist: Vec::new() };
    let command = Some(ClientCommand { selector, action });
    (command_field(number), Record { until: 60, at: 1000, command })
}

#[test]
fn a_user_may_log_in_again_with_a_later_token() {
    let mut table = RevocationTable::default();
    merge(&mut table, &[revocation(&RevokedLogin::User("42".into()), 10, 100)], 10);
    for (user, issued_at, revoked) in [
        ("42", Some(9), true),
        ("42", Some(10), true),
        ("42", Some(11), false),
        ("42", None, true),
        ("4", Some(9), false),
        ("", None, false),
    ] {
        assert_eq!(table.is_revoked(&by_token(user, None, issued_at), 20), revoked, "{user} {issued_at:?}");
    }
    assert!(!table.is_revoked(&by_token("42", None, None), 100), "the revocation has expired");
}

#[test]
fn a_user_is_not_a_token_or_a_session() {
    let mut table = RevocationTable::default();
    let session = RevokedLogin::session(b"sess:a");
    merge(
        &mut table,
        &[revocation(&RevokedLogin::Token("t".into()), 10, 100), revocation(&session, 10, 100)],
        10,
    );
    assert!(table.is_revoked(&by_token("42", Some("t"), Some(50)), 50));
    assert!(!table.is_revoked(&by_token("t", Some("u"), None), 50));
    assert!(table.is_revoked(&by_session("42", "sess:a"), 50));
    assert!(!table.is_revoked(&by_session("42", "sess:b"), 50));
    assert!(!format!("{table:?}").contains("sess:a"));
}

#[test]
fn the_sessions_of_a_user_end_once() {
    let mut table = RevocationTable::default();
    let entries = [revocation(&RevokedLogin::User("42".into()), 10, 100)];
    let first = merge(&mut table, &entries, 10);
    assert!(
        first.ends_session(&by_session("42", "sess:a")) && !first.ends_session(&by_session("43", "sess:b"))
    );
    assert!(!first.ends_session(&by_token("42", None, None)));
    assert!(!table.is_revoked(&by_session("42", "sess:a"), 11));
    assert!(merge(&mut table, &entries, 11).is_empty());
    let later = merge(&mut table, &[revocation(&RevokedLogin::User("42".into()), 12, 100)], 12);
    assert!(later.ends_session(&by_session("42", "sess:a")));
}

#[test]
fn a_command_is_found_once() {
    let mut table = RevocationTable::default();
    let entries = [command("1", "42"), command("2", "43")];
    assert_eq!(merge(&mut table, &entries[..1], 1).commands.len(), 1);
    let second = merge(&mut table, &entries, 2);
    assert_eq!(second.commands.iter().map(|c| c.selector.user.as_deref()).collect::<Vec<_>>(), [Some("43")]);
    assert!(merge(&mut table, &entries, 59).is_empty());
    assert!(merge(&mut table, &entries, 61).is_empty(), "it has expired");
    assert!(table.is_empty());
}

#[test]
fn values_of_other_versions_are_ignored() {
    let mut table = RevocationTable::default();
    let fields: [(&[u8], &[u8]); 4] = [
        (b"user:42", b"not json"),
        (b"other:42", br#"{"until":100,"at":1}"#),
        (b"command:1", br#"{"until":100,"at":1,"command":{"user":"42","jump":{}}}"#),
        (b"user:43", br#"{"until":100,"at":10000,"reason":"new"}"#),
    ];
    let found = table.merge(fields.into_iter(), 1);
    assert_eq!(found.revoked, HashSet::from([RevokedLogin::User("43".into())]));
    assert!(found.commands.is_empty());
}

#[test]
fn selects_clients_that_match_all_conditions() {
    let selector = |user: Option<&str>, client: Option<&str>| ClientSelector {
        user: user.map(str::to_owned),
        client: client.map(str::to_owned),
    };
    for (selector, expected) in [
        (selector(Some("42"), None), true),
        (selector(None, Some("c")), true),
        (selector(Some("42"), Some("c")), true),
        (selector(Some("43"), Some("c")), false),
        (selector(Some("42"), Some("d")), false),
        (selector(None, None), false),
    ] {
        assert_eq!(selector.selects("42", "c"), expected, "{selector:?}");
    }
    assert!(!selector(Some(""), None).selects("", "c") && !selector(None, Some("")).selects("42", ""));
}

proptest! {
    /// A login is revoked exactly if one of the merged revocations that have not expired names it.
    #[test]
    fn a_login_is_revoked_exactly_if_a_revocation_names_it(
        batches in prop::collection::vec(
            prop::collection::vec((0..3usize, 0..3usize, 0..20u64, 1..30u64), 0..5), 0..5),
        logins in prop::collection::vec((0..3usize, prop::option::of(0..3usize), prop::option::of(0..20u64)), 1..8),
        now in 0..30u64,
    ) {
        let names = ["a", "b", "a:b"];
        let mut table = RevocationTable::default();
        let mut model: BTreeMap<(usize, usize), (u64, u64)> = BTreeMap::new();
        for batch in &batches {
            let entries: Vec<_> = batch.iter().map(|(kind, name, at, until)| {
                let login = match kind {
                    0 => RevokedLogin::User(names[*name].into()),
                    1 => RevokedLogin::Token(names[*name].into()),
                    _ => RevokedLogin::session(names[*name].as_bytes()),
                };
                let known = model.entry((*kind, *name)).or_insert((*at, *until));
                *known = (known.0.max(*at), known.1.max(*until));
                revocation(&login, *at, *until)
            }).collect();
            merge(&mut table, &entries, 0);
        }
        let in_effect = |kind, name| model.get(&(kind, name)).filter(|(_, until)| *until > now);
        for (user, id, issued_at) in logins {
            let identity = by_token(names[user], id.map(|id| names[id]), issued_at);
            let by_user = in_effect(0, user).is_some_and(|(at, _)| issued_at.is_none_or(|issued| issued <= *at));
            let by_id = id.is_some_and(|id| in_effect(1, id).is_some());
            prop_assert_eq!(table.is_revoked(&identity, now), by_user || by_id);
            let session = by_session(names[user], names[user]);
            prop_assert_eq!(table.is_revoked(&session, now), in_effect(2, user).is_some());
        }
    }
}
