//! Tests of answers and of the decision cache. The requests are tested with real gateways and servers.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use earshot_protocol::ChannelName;
use tokio::time::Instant;

use super::cache::{DecisionCache, DecisionKey};
use super::protocol::{self, ChannelsAnswer, PayloadAnswer};
use super::{ChannelQuestion, HookDisconnect, HookFailure, HookReply, HookedClient};
use crate::auth::Identity;
use crate::auth::identity::{Fields, LoginResult, LoginSource};

const TTL: Duration = Duration::from_secs(5);

fn client(identity: &Arc<Identity>) -> HookedClient {
    HookedClient {
        id: "1".to_owned(),
        transport: "websocket",
        is_binary: false,
        identity: Arc::clone(identity),
        forwarded: HeaderMap::new(),
    }
}

fn login(user: &str, field: &str, session: &[u8]) -> Arc<Identity> {
    Arc::new(Identity::verified(LoginResult {
        user: user.to_owned(),
        fields: Fields::from_iter([("tenant".to_owned(), vec![field.to_owned()])]),
        source: Some(LoginSource::Session { method: 0, key: session.into() }),
        ..LoginResult::default()
    }))
}

fn question(channel: &str, token: &str) -> ChannelQuestion {
    ChannelQuestion { channel: ChannelName::parse(channel).unwrap(), token: token.to_owned(), data: None }
}

#[test]
fn everything_that_a_backend_can_decide_by_is_in_the_key() {
    let key = |client: &HookedClient, question: &ChannelQuestion| DecisionKey::new(client, question);
    let anna = client(&login("anna", "a", b"s1"));
    let mut with_cookie = anna.clone();
    with_cookie.forwarded.insert("cookie", "sid=1".parse().unwrap());
    let mut other_cookie = anna.clone();
    other_cookie.forwarded.insert("cookie", "sid=2".parse().unwrap());
    let with_data = |data: &'static str| ChannelQuestion { data: Some(data.into()), ..question("a", "") };
    let keys = [
        key(&anna, &question("a", "")),
        key(&anna, &question("b", "")),
        key(&anna, &question("a", "t")),
        key(&anna, &question("at", "")),
        key(&anna, &with_data("")),
        key(&anna, &with_data("1")),
        key(&with_cookie, &question("a", "")),
        key(&other_cookie, &question("a", "")),
        key(&HookedClient { transport: "sse", ..anna.clone() }, &question("a", "")),
        key(&client(&login("bob", "a", b"s1")), &question("a", "")),
        key(&client(&login("anna", "b", b"s1")), &question("a", "")),
        key(&client(&login("anna", "a", b"s2")), &question("a", "")),
        key(&client(&Arc::new(Identity::guest(true))), &question("a", "")),
        key(&client(&Arc::new(Identity::guest(false))), &question("a", "")),
    ];
    for (index, one) in keys.iter().enumerate() {
        assert!(keys[index + 1..].iter().all(|other| other != one), "{index}");
    }
    // The same login in another connection.
    let again = HookedClient { id: "2".to_owned(), ..client(&login("anna", "a", b"s1")) };
    assert_eq!(key(&again, &question("a", "")), keys[0]);
}

/// A cache with one decision for an identity.
fn decided(identity: &Arc<Identity>, reply: HookReply<()>, now: Instant) -> (DecisionCache, DecisionKey) {
    let mut cache = DecisionCache::new(TTL);
    let key = DecisionKey::new(&client(identity), &question("a", ""));
    let (flight, _) = cache.begin(key.clone());
    cache.finish(flight, reply, identity, now);
    (cache, key)
}

#[tokio::test(start_paused = true)]
async fn decisions_expire() {
    let (now, anna) = (Instant::now(), login("anna", "a", b"s"));
    let (mut cache, key) = decided(&anna, HookReply::Result(()), now);
    assert_eq!(cache.find(&key, now + TTL / 2), Some(HookReply::Result(())));
    assert_eq!((cache.find(&key, now + TTL), cache.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_identity_ends_its_decisions() {
    let (now, anna) = (Instant::now(), login("anna", "a", b"s"));
    let (mut cache, key) = decided(&anna, HookReply::Result(()), now);
    anna.end();
    assert_eq!((cache.find(&key, now), cache.len()), (None, 0));
    // Even if it ended while the request was in flight.
    let (mut cache, key) = decided(&anna, HookReply::Result(()), now);
    assert_eq!((cache.find(&key, now), cache.len()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn only_decisions_are_kept() {
    let (now, anna) = (Instant::now(), login("anna", "a", b"s"));
    let failure = |is_temporary| HookFailure { code: 1000, message: "no".to_owned(), is_temporary };
    for (reply, is_kept) in [
        (HookReply::Result(()), true),
        (HookReply::Denied, true),
        (HookReply::Failed(failure(false)), true),
        (HookReply::Failed(failure(true)), false),
        (HookReply::Disconnect(HookDisconnect { code: 4000, reason: "no".to_owned() }), false),
        (HookReply::Unavailable, false),
    ] {
        let (mut cache, key) = decided(&anna, reply.clone(), now);
        assert_eq!(cache.find(&key, now), is_kept.then_some(reply));
    }
}

#[tokio::test(start_paused = true)]
async fn equal_questions_in_flight_share_the_reply() {
    let (now, anna) = (Instant::now(), login("anna", "a", b"s"));
    let mut cache = DecisionCache::new(Duration::ZERO);
    let key = DecisionKey::new(&client(&anna), &question("a", ""));
    assert!(cache.waiting(&key).is_none());
    let (flight, _first) = cache.begin(key.clone());
    let second = cache.waiting(&key).unwrap();
    cache.finish(flight, HookReply::Denied, &anna, now);
    assert_eq!(*second.borrow(), Some(HookReply::Denied));
    assert!(cache.waiting(&key).is_none() && cache.find(&key, now).is_none());
    // A task that ended without a reply is replaced.
    let (flight, _first) = cache.begin(key.clone());
    drop(flight);
    assert!(cache.waiting(&key).is_none());
}

#[test]
fn reads_payloads() {
    let read = |text: &str, is_binary| protocol::read::<PayloadAnswer>(text.as_bytes(), is_binary);
    let data = |text: &'static str| Ok(HookReply::Result(Some(text.into())));
    assert_eq!(
        read(r#"{"result":{"data":{"a":1.00000000000000000001}}}"#, false),
        data(r#"{"a":1.00000000000000000001}"#)
    );
    assert_eq!(read("{\"result\":{\"data\":[\n1,\r\n2]}}", false), data("[ 1,  2]"));
    assert_eq!(
        read(r#"{"result":{"b64data":"AP8="}}"#, true).unwrap(),
        HookReply::Result(Some((&[0, 255][..]).into()))
    );
    assert_eq!(read(r#"{"result":{"b64data":"e30="}}"#, false), data("{}"));
    assert_eq!(read(r#"{"result":{}}"#, false), Ok(HookReply::Result(None)));
    for text in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"result":null}"#,
        r#"{"result":{"b64data":"AP8="}}"#,
        r#"{"result":{"b64data":"%"}}"#,
        r#"{"result":{"data":1,"b64data":"e30="}}"#,
        r#"{"result":{}}{}"#,
        r#"{"error":{}}"#,
        r#"{"error":{"code":-1}}"#,
        r#"{"error":{"code":99}}"#,
        r#"{"error":{"code":2000}}"#,
        r#"{"disconnect":{"code":1000}}"#,
        r#"{"disconnect":{"code":70000}}"#,
        r#"{"result":{},"disconnect":{"code":4000}}"#,
    ] {
        assert!(read(text, false).is_err(), "{text}");
    }
}

#[test]
fn shortens_texts_for_clients() {
    let read = |text: &str| protocol::read::<ChannelsAnswer>(text.as_bytes(), false).unwrap();
    let reason = "ä".repeat(100);
    let text = format!(r#"{{"disconnect":{{"code":4000,"reason":"{reason}\n"}}}}"#);
    let HookReply::Disconnect(disconnect) = read(&text) else { panic!("no disconnect") };
    assert_eq!(disconnect.reason, "ä".repeat(61));
    let HookReply::Disconnect(disconnect) = read(r#"{"disconnect":{"code":4000}}"#) else { panic!() };
    assert!(!disconnect.reason.is_empty());
    let failure = HookFailure { code: 103, message: "permission denied".to_owned(), is_temporary: false };
    assert_eq!(read(r#"{"error":{"code":103}}"#), HookReply::Failed(failure));
}
