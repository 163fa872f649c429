//! Isolation: with random permissions, identities and commands, each client receives what an independent model of the
//! rules permits, and nothing else.
//!
//! The model ([`model`]) is written from docs/configuration.md and shares no code with the gateway. One shard delivers in
//! the order of publication, so a client that receives the last publication of a case has received all others before it.

mod model;
mod strategies;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::sse::Next;
use crate::harness::ws::{Incoming, WsClient};
use crate::harness::{Gateway, SseClient};
use model::{Operation, Person, Rules};
use strategies::{Case, Step};

const SECRET: &str = "a secret of at least thirty-two bytes";

/// A channel of its own namespace, which every client that is let in may subscribe to.
const BARRIER: &str = "barrier";

/// Channels of the cases. Backends publish on each.
pub(crate) const CHANNELS: [&str; 13] = [
    "user:alice",
    "user:bob",
    "user:a:b",
    "user:",
    "tenant:acme:x",
    "tenant:bmce:x",
    "tenant:acme:y:z",
    "room:1",
    "room:22",
    "hall",
    "x:log",
    "{nest}:x",
    "elsewhere",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn clients_receive_only_what_the_rules_permit(case in strategies::case()) {
        tokio::runtime::Runtime::new().unwrap().block_on(run(&case));
    }
}

/// The signed token of a person; empty for a client without a login.
fn token(person: &Person) -> String {
    let Some(user) = &person.user else { return String::new() };
    let claims = json!({
        "sub": user, "tenant": person.tenant, "roles": person.roles, "channels": person.claim,
    });
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "HS256", "typ": "JWT" })), part(&claims));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = ring::hmac::sign(&key, signed.as_bytes());
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(tag))
}

fn config(rules: &Rules) -> String {
    let mut text = format!(
        "[gateway]\nshards = 1\n[[login]]\nkind = \"jwt\"\nhmac_secret = \"{SECRET}\"\n\
         fields = {{ tenant = \"/tenant\", roles = \"/roles\" }}\n"
    );
    if rules.lets_in_guests {
        text += "[[login]]\nkind = \"anonymous\"\n";
    }
    for (index, space) in rules.namespaces.iter().enumerate() {
        let words = |words: &[model::Word]| {
            let words: Vec<_> = words.iter().map(|word| word.as_str()).collect();
            if words.is_empty() { json!("nobody") } else { json!(words) }
        };
        text += &format!(
            "[[namespace]]\nname = \"n{index}\"\nchannels = {}\nsubscribe = {}\npublish = {}\nread_history = {}\n",
            json!(space.patterns),
            words(&space.subscribe),
            words(&space.publish),
            words(&space.read_history),
        );
        if space.requires_editor {
            text += "require = { roles = \"editor\" }\n";
        }
    }
    text + &format!(
        "[[namespace]]\nname = \"{BARRIER}\"\nchannels = [\"{BARRIER}\"]\nsubscribe = \"anyone\"\n"
    )
}

/// A WebSocket client and what the model knows of it.
struct Client<'c> {
    person: &'c Person,
    socket: WsClient,
    subscribed: BTreeSet<String>,
    /// Channels from which it may have received publications.
    permitted: BTreeSet<String>,
}

async fn run(case: &Case) {
    let rules = &case.rules;
    let gateway = Gateway::settings().config(&config(rules)).start().await;
    let mut clients = Vec::new();
    for person in &case.people {
        clients.push(connect(&gateway, rules, person).await);
    }
    let mut streams = Vec::new();
    for (person, channels) in case.people.iter().zip(&case.streams) {
        streams.extend(open_stream(&gateway, rules, person, channels).await);
    }
    for (number, (client, step)) in case.steps.iter().enumerate() {
        let client = &mut clients[client % case.people.len()];
        execute(client, rules, step, number).await;
    }
    for channel in CHANNELS {
        let body = json!({ "channel": channel, "data": { "on": channel } }).to_string();
        gateway.api("publish", &body).await;
    }
    gateway.publish(BARRIER, "{\"on\":\"barrier\"}").await;
    for client in &mut clients {
        check_received(client).await;
    }
    for (mut stream, permitted) in streams {
        loop {
            let Next::Event(event) = stream.next().await else { panic!("a stream ended") };
            if event.name == BARRIER {
                break;
            }
            let data: Value = serde_json::from_str(&event.data).unwrap();
            assert!(
                permitted.contains(&event.name) && data["on"] == event.name,
                "{event:?} of {permitted:?}"
            );
        }
    }
}

async fn connect<'c>(gateway: &Gateway, rules: &Rules, person: &'c Person) -> Client<'c> {
    let mut socket = WsClient::handshake_only(gateway.address(), Encoding::Json).await;
    let reply = socket.request("connect", json!({ "token": token(person) })).await;
    let named: BTreeSet<String> =
        reply["connect"]["subs"].as_object().into_iter().flat_map(|subs| subs.keys().cloned()).collect();
    let expected = person.claim.iter().filter(|name| !name.contains('*'));
    let expected: BTreeSet<String> =
        expected.filter(|name| rules.permits(person, Operation::Subscribe, name, false)).cloned().collect();
    assert_eq!(named, expected, "subscriptions that the token names: {person:?}");
    let mut client = Client { person, socket, subscribed: named.clone(), permitted: named };
    subscribe(&mut client, BARRIER, person.user.is_some() || rules.lets_in_guests).await;
    client
}

async fn subscribe(client: &mut Client<'_>, channel: &str, is_permitted: bool) {
    let reply = client.socket.request("subscribe", json!({ "channel": channel })).await;
    let is_new = !client.subscribed.contains(channel);
    assert_eq!(
        reply["subscribe"].is_object(),
        is_permitted && is_new,
        "{channel}: {:?}: {reply}",
        client.person
    );
    if is_permitted {
        client.subscribed.insert(channel.to_owned());
        client.permitted.insert(channel.to_owned());
    }
}

async fn execute(client: &mut Client<'_>, rules: &Rules, step: &Step, number: usize) {
    let is_subscribed = |channel: &str| client.subscribed.contains(channel);
    let permits =
        |operation, channel: &str| rules.permits(client.person, operation, channel, is_subscribed(channel));
    match step {
        Step::Subscribe(channel) => {
            let is_permitted = permits(Operation::Subscribe, channel);
            subscribe(client, channel, is_permitted).await;
        }
        Step::Unsubscribe(channel) => {
            client.socket.request("unsubscribe", json!({ "channel": channel })).await;
            client.subscribed.remove(*channel);
        }
        Step::Publish(channel) => {
            let is_permitted = permits(Operation::Publish, channel);
            let body = json!({ "channel": channel, "data": { "on": channel, "by": number } });
            let reply = client.socket.request("publish", body).await;
            assert_eq!(reply["publish"].is_object(), is_permitted, "{step:?}: {:?}: {reply}", client.person);
        }
        Step::History(channel) => {
            let is_permitted = permits(Operation::ReadHistory, channel);
            let reply = client.socket.request("history", json!({ "channel": channel, "limit": -1 })).await;
            // 108: permitted, but this node has no subscriber of the channel, and so no history.
            let is_granted = reply["history"].is_object() || reply["error"]["code"] == 108;
            assert_eq!(is_granted, is_permitted, "{step:?}: {:?}: {reply}", client.person);
            for publication in reply["history"]["publications"].as_array().into_iter().flatten() {
                assert_eq!(publication["data"]["on"], *channel, "{reply}");
            }
        }
    }
}

/// Reads everything that a client has received.
async fn check_received(client: &mut Client<'_>) {
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    // A client that is not let in receives nothing: the reply to a command follows what it was sent.
    let reaches_barrier = client.subscribed.contains(BARRIER);
    if !reaches_barrier {
        client.socket.request("subscribe", json!({ "channel": "elsewhere" })).await;
    }
    while reaches_barrier || !client.socket.pending_pushes().is_empty() {
        match client.socket.next().await {
            Incoming::Publication(publication) if publication.channel == BARRIER => break,
            Incoming::Publication(publication) => {
                let data: Value = serde_json::from_str(&publication.data).unwrap();
                assert_eq!(data["on"], publication.channel.as_str(), "{publication:?}");
                assert!(
                    client.permitted.contains(&publication.channel),
                    "{:?} received {publication:?}, and may subscribe to {:?}",
                    client.person,
                    client.permitted
                );
                *received.entry(publication.channel).or_default() += 1;
            }
            Incoming::Closed(reason) => panic!("closed: {reason:?}"),
            _ => {}
        }
    }
    for channel in client.subscribed.iter().filter(|channel| *channel != BARRIER) {
        assert!(received.contains_key(channel), "{:?} received nothing on {channel}", client.person);
    }
}

/// Opens a stream of these channels if the model permits all of them; otherwise it must be rejected.
async fn open_stream(
    gateway: &Gateway,
    rules: &Rules,
    person: &Person,
    channels: &[&'static str],
) -> Option<(SseClient, BTreeSet<String>)> {
    let is_in = person.user.is_some() || rules.lets_in_guests;
    let permits = |channel: &&str| rules.permits(person, Operation::Subscribe, channel, false);
    let is_permitted = is_in && channels.iter().all(permits);
    let names = channels.iter().copied().chain([BARRIER]);
    let query: Vec<String> =
        names.map(|name| format!("channel={}", utf8_percent_encode(name, NON_ALPHANUMERIC))).collect();
    let path = format!("/sse?{}", query.join("&"));
    let line = match token(person) {
        token if token.is_empty() => String::new(),
        token => format!("Authorization: Bearer {token}\r\n"),
    };
    let mut raw = Raw::connect(gateway.address()).await;
    if is_permitted {
        let permitted = channels.iter().map(|channel| (*channel).to_owned()).collect();
        return Some((SseClient::open_with(raw, &path, &line).await, permitted));
    }
    raw.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{line}\r\n")).await;
    let status = raw.head().await.unwrap().status;
    assert!((400..500).contains(&status), "{path}: {person:?}: {status}");
    None
}
