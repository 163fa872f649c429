//! Logins while the Redis of the sessions or the server of a key set fails: no client is let in unchecked, no login ends
//! because of the failure, and logins work again afterwards.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use crate::harness::encoding::Encoding;
use crate::harness::http::Raw;
use crate::harness::process::free_port;
use crate::harness::sentinel::Group;
use crate::harness::sse::Next;
use crate::harness::ws::WsClient;
use crate::harness::{Gateway, Redis, SseClient, until};

const NAMESPACES: &str = r#"
[[namespace]]
name = "user"
channels = ["user:{user}"]
redis = "default"
subscribe = "owner"
"#;

const KEY: &str = "sess:sNqXFhpiCirG34VhOk5z0MaXJlGqRekN";
const COOKIE: &str = "Cookie: connect.sid=s%3AsNqXFhpiCirG34VhOk5z0MaXJlGqRekN.\
                      j3CIuqX%2BVEl8cjr0UgCtxrmBLl9cGFvrV4858vd%2BeG0\r\n";
const SESSION: &str = r#"{"cookie":{"originalMaxAge":null},"passport":{"user":42}}"#;

/// Sessions in their own Redis, with these keys of its section.
fn sessions_in(section: &str) -> String {
    format!(
        "[redis.sessions]\n{section}\ncommand_timeout = \"1s\"\naffects_readiness = false\n\
         [[login]]\nkind = \"express\"\nsecret = \"keyboard cat\"\nredis = \"sessions\"\n{NAMESPACES}"
    )
}

async fn open(address: SocketAddr, channel: &str) -> SseClient {
    SseClient::open_with(Raw::connect(address).await, &format!("/sse/{channel}"), COOKIE).await
}

/// What a client with the cookie experiences: `in`, `temporary`, or the status of a rejection.
async fn attempt(address: SocketAddr) -> String {
    let mut raw = Raw::connect(address).await;
    raw.send(format!("GET /sse/user:42 HTTP/1.1\r\nHost: localhost\r\n{COOKIE}\r\n")).await;
    let status = raw.head().await.unwrap().status;
    if status != 200 {
        return status.to_string();
    }
    let event = String::from_utf8(raw.chunk().await.unwrap()).unwrap();
    if event.contains("event: error") { "temporary" } else { "in" }.to_owned()
}

#[tokio::test]
async fn logins_survive_a_crash_of_the_redis_of_the_sessions() {
    let redis = Redis::start().await;
    let mut sessions = Redis::start_durable().await;
    let config = sessions_in(&format!("url = {:?}", sessions.url()));
    let gateway = Gateway::settings().config(&config).redis(&redis).start().await;
    let address = gateway.address();
    sessions.run(&["SET", KEY, SESSION, "EX", "600"]).await;
    let mut stream = open(address, "user:42").await;
    let running = Arc::new(AtomicUsize::new(1));
    let logins: Vec<_> = (0..8)
        .map(|_| {
            let running = Arc::clone(&running);
            tokio::spawn(async move {
                let mut results = Vec::new();
                while running.load(Ordering::Relaxed) == 1 {
                    results.push(attempt(address).await);
                }
                results
            })
        })
        .collect();
    until("a login succeeds", async || (attempt(address).await == "in").then_some(())).await;
    sessions.kill();
    until("a login cannot be checked", async || (attempt(address).await == "temporary").then_some(())).await;
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1", "a login does not end because its Redis is gone");
    sessions.restart().await;
    until("logins succeed again", async || (attempt(address).await == "in").then_some(())).await;
    running.store(0, Ordering::Relaxed);
    for login in logins {
        for result in login.await.unwrap() {
            assert!(result == "in" || result == "temporary", "{result}");
        }
    }
    redis.publish("user:42", b"2").await;
    assert_eq!(stream.data("message").await, "2", "the session exists, so its login goes on");
    sessions.run(&["DEL", KEY]).await;
    assert_ends(&mut stream).await;
    assert_eq!(attempt(address).await, "401");
}

#[tokio::test]
async fn logins_follow_a_failover_of_the_redis_of_the_sessions() {
    let redis = Redis::start().await;
    let group = Group::start().await;
    let gateway = Gateway::settings().config(&sessions_in(&group.settings())).redis(&redis).start().await;
    let address = gateway.address();
    group.servers[0].run(&["SET", KEY, SESSION, "EX", "600"]).await;
    let mut stream = open(address, "user:42").await;
    until("the session is replicated", async || {
        let found = group.servers[1].run(&["EXISTS", KEY]).await;
        (found == redis::Value::Int(1)).then_some(())
    })
    .await;
    let before = group.servers[0].address().port();
    group.fail_over().await;
    let after = group.wait_for_failover_from(before).await;
    let primary = group.servers.iter().find(|server| server.address().port() == after).unwrap();
    until("a login succeeds", async || {
        let result = attempt(address).await;
        assert!(result == "in" || result == "temporary", "{result}");
        (result == "in").then_some(())
    })
    .await;
    redis.publish("user:42", b"1").await;
    assert_eq!(stream.data("message").await, "1");
    until("the session is deleted on the new primary", async || {
        // A server that was just promoted may still reject writes.
        matches!(primary.run(&["DEL", KEY]).await, redis::Value::Int(_)).then_some(())
    })
    .await;
    assert_ends(&mut stream).await;
}

async fn assert_ends(stream: &mut SseClient) {
    loop {
        match stream.next().await {
            Next::Event(event) if event.name == "error" => {
                assert!(event.data.contains("3005"), "{event:?}");
                return;
            }
            Next::Event(_) => {}
            end => panic!("no reason: {end:?}"),
        }
    }
}

/// The server of a key set.
struct KeyServer {
    set: Arc<Mutex<Value>>,
    reads: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

impl KeyServer {
    async fn start(port: u16, set: Value) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let (set, reads) = (Arc::new(Mutex::new(set)), Arc::<AtomicUsize>::default());
        let (served, counted) = (Arc::clone(&set), Arc::clone(&reads));
        let task = tokio::spawn(async move {
            loop {
                let (mut socket, _) = listener.accept().await.unwrap();
                counted.fetch_add(1, Ordering::Relaxed);
                let body = served.lock().unwrap().to_string();
                let mut head = [0; 4096];
                let _ = socket.read(&mut head).await;
                let length = body.len();
                let response = format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
                     Connection: close\r\n\r\n{body}"
                );
                let _ = socket.write_all(response.as_bytes()).await;
            }
        });
        Self { set, reads, task }
    }
}

/// A key pair with its id.
struct Signer {
    id: &'static str,
    pair: Ed25519KeyPair,
}

impl Signer {
    fn new(id: &'static str) -> Self {
        let document = Ed25519KeyPair::generate_pkcs8(&ring::rand::SystemRandom::new()).unwrap();
        Self { id, pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).unwrap() }
    }

    fn jwk(&self) -> Value {
        let x = BASE64_URL_SAFE_NO_PAD.encode(self.pair.public_key().as_ref());
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.id, "alg": "EdDSA", "use": "sig", "x": x })
    }

    fn token(&self) -> String {
        let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = part(json!({ "alg": "EdDSA", "typ": "JWT", "kid": self.id }));
        let signed = format!("{header}.{}", part(json!({ "sub": "42", "iss": "test" })));
        let signature = BASE64_URL_SAFE_NO_PAD.encode(self.pair.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// The code of a connect command with a token: 0 if it succeeds, else of its error or of the close frame.
async fn connect(address: SocketAddr, token: &str) -> u64 {
    let mut client = WsClient::handshake_only(address, Encoding::Json).await;
    match client.try_request("connect", json!({ "token": token })).await {
        Some(reply) => reply["error"]["code"].as_u64().unwrap_or(0),
        None => 3500,
    }
}

#[tokio::test]
async fn tokens_are_verified_as_soon_as_the_key_set_can_be_read() {
    let (port, first, second) = (free_port(), Signer::new("first"), Signer::new("second"));
    let config = format!(
        "[[login]]\nkind = \"jwt\"\njwks_url = \"http://127.0.0.1:{port}/keys\"\nissuer = \"test\"\n{}",
        NAMESPACES.replace("redis = \"default\"\n", "")
    );
    let gateway = Gateway::settings().config(&config).start().await;
    let address = gateway.address();
    assert_eq!(connect(address, &first.token()).await, 100, "the key server is down: temporary");
    let server = KeyServer::start(port, json!({ "keys": [first.jwk()] })).await;
    until("the key set is read", async || (connect(address, &first.token()).await == 0).then_some(())).await;
    assert_eq!(connect(address, &Signer::new("first").token()).await, 3500, "signed with another key");
    // Rotation: a token with a key that is not known yet causes a read.
    *server.set.lock().unwrap() = json!({ "keys": [second.jwk(), first.jwk()] });
    until("the new key is read", async || (connect(address, &second.token()).await == 0).then_some(())).await;
    assert_eq!(connect(address, &first.token()).await, 0, "the old key is still published");
    // Guesses of key ids do not reach the server each time.
    let before = server.reads.load(Ordering::Relaxed);
    for _ in 0..50 {
        assert_ne!(connect(address, &Signer::new("guessed").token()).await, 0);
    }
    assert!(server.reads.load(Ordering::Relaxed) <= before + 2, "{before} reads before");
    server.task.abort();
    assert_eq!(connect(address, &second.token()).await, 0, "the last set is used while the server is down");
}
