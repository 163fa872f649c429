//! Revocations of one node.

use bytes::Bytes;

use super::*;
use crate::auth::identity::LoginResult;
use crate::auth::revocation::{ClientAction, ClientSelector};

fn revocations(entries_max: usize) -> (Arc<Revocations>, Arc<Identities>) {
    let identities = Arc::<Identities>::default();
    let settings = RevocationSettings {
        key: "revocations".to_owned(),
        entries_max,
        default_ttl: Duration::from_secs(60),
        unavailable: None,
    };
    (Revocations::new(settings, Arc::clone(&identities)), identities)
}

fn user(user: &str) -> RevokedLogin {
    RevokedLogin::User(user.into())
}

#[tokio::test]
async fn ends_the_logins_of_one_user() {
    let (revocations, identities) = revocations(2);
    let login = |user: &str| {
        identities.of_token(
            LoginResult { user: user.to_owned(), issued_at: Some(5), ..LoginResult::default() },
            None,
        )
    };
    let (first, second, other) = (login("42"), login("42"), login("43"));
    revocations.revoke(&[user("42")], Duration::from_secs(60)).await.unwrap();
    assert!(first.has_ended() && second.has_ended() && !other.has_ended());
    assert_eq!(revocations.is_revoked(&login("42")), Some(true));
    assert_eq!(revocations.is_revoked(&other), Some(false));
    let later =
        LoginResult { user: "42".to_owned(), issued_at: Some(unix_now() + 5), ..LoginResult::default() };
    assert_eq!(revocations.is_revoked(&identities.of_token(later, None)), Some(false));
}

#[tokio::test]
async fn refuses_more_than_the_limit() {
    let (revocations, _identities) = revocations(2);
    let ttl = Duration::from_secs(60);
    revocations.revoke(&[user("1"), user("2")], ttl).await.unwrap();
    assert_eq!(revocations.revoke(&[user("3")], ttl).await, Err(RevocationError::Full(2)));
    assert_eq!(revocations.len(), 2);
}

#[tokio::test]
async fn passes_a_command_on_once() {
    let (revocations, _identities) = revocations(2);
    let selector = ClientSelector { user: Some("42".to_owned()), client: None };
    let action = ClientAction::Unsubscribe { channel: "a".to_owned() };
    let command = ClientCommand { selector, action };
    revocations.command(command.clone()).await.unwrap();
    assert_eq!(revocations.next_commands().await, [command]);
}

#[tokio::test]
async fn commands_before_the_start_are_not_executed() {
    let (revocations, _identities) = revocations(2);
    revocations.is_loaded.store(false, Ordering::Release);
    assert_eq!(revocations.is_token_revoked("42", None, None), None, "the hash was not read yet");
    let selector = ClientSelector { user: Some("42".to_owned()), client: None };
    let action = ClientAction::Refresh { expire_at: 1 };
    let record = |command| Bytes::from(Record { until: unix_now() + 60, at: 5, command }.to_json());
    let command = record(Some(ClientCommand { selector, action }));
    let fields =
        vec![(Bytes::from(command_field("1")), command), (Bytes::from(user("42").field()), record(None))];
    revocations.on_change(b"other", Some(&KeyValue::Hash(fields.clone())));
    assert_eq!(revocations.len(), 0);
    revocations.on_change(b"revocations", Some(&KeyValue::Hash(fields)));
    assert_eq!(revocations.is_token_revoked("42", None, None), Some(true));
    assert!(revocations.commands.lock().unwrap().is_empty());
}
