//! TLS to Redis: problems are reported and the gateway recovers once they are fixed. No client is disconnected
//! meanwhile, and every gap is reported.

use std::path::Path;

use serde_json::json;

use crate::harness::certificates::{Authority, Day, FAR, Issued};
use crate::harness::outage_subscribers::OutageSubscribers;
use crate::harness::process::free_port;
use crate::harness::{Gateway, Redis, WsClient};

/// A date long before any test run.
const PAST: Day = (2001, 1, 1);

/// A Redis with TLS for the gateway and a plain port for the test.
struct Secure {
    authority: Authority,
    redis: Redis,
    port: u16,
}

impl Secure {
    async fn start() -> Self {
        let authority = Authority::new();
        let own = authority.issue(&["localhost", "127.0.0.1"], FAR);
        let port = free_port();
        let redis = Redis::start_with_arguments(&[
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            &text_of(&own.certificate),
            "--tls-key-file",
            &text_of(&own.key),
            "--tls-ca-cert-file",
            &text_of(&authority.file()),
            "--tls-auth-clients",
            "no",
        ])
        .await;
        Self { authority, redis, port }
    }

    /// A gateway that trusts the CA of the server.
    async fn gateway(&self, keys: &str) -> Gateway {
        self.gateway_trusting(&self.authority.file(), keys).await
    }

    async fn gateway_trusting(&self, ca_file: &Path, keys: &str) -> Gateway {
        let (port, ca_file) = (self.port, text_of(ca_file));
        let config =
            format!("[redis.default]\nurl = \"rediss://127.0.0.1:{port}\"\nca_file = {ca_file:?}\n{keys}");
        Gateway::settings().config(&config).start().await
    }

    /// Changes the certificate of the server and closes every connection, so that all reconnect.
    async fn change_certificate(&self, issued: &Issued) {
        let (certificate, key) = (text_of(&issued.certificate), text_of(&issued.key));
        self.redis.run(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]).await;
        self.redis.disconnect_all().await;
    }
}

fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// Asserts that publications pass in both directions.
async fn assert_both_directions(gateway: &Gateway, redis: &Redis) {
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
    let reply = socket.request("publish", json!({"channel": "a", "data": 2})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    assert_eq!(socket.publication().await.data, "2");
}

#[tokio::test]
async fn private_ca_is_trusted_by_its_file() {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    assert_both_directions(&gateway, &server.redis).await;
}

#[tokio::test]
async fn environment_suffices_with_a_trusted_ca() {
    let server = Secure::start().await;
    let gateway = Gateway::settings()
        .environment("REDIS_URL", &format!("redis://localhost:{}?ssl_cert_reqs=required", server.port))
        .environment("REDIS_TLS", "true")
        .environment("SSL_CERT_FILE", &text_of(&server.authority.file()))
        .start()
        .await;
    assert_both_directions(&gateway, &server.redis).await;
}

#[tokio::test]
async fn configured_server_name_is_verified() {
    let server = Secure::start().await;
    server.change_certificate(&server.authority.issue(&["redis.internal"], FAR)).await;
    let gateway = server.gateway("server_name = \"redis.internal\"\n").await;
    assert_both_directions(&gateway, &server.redis).await;
}

#[tokio::test]
async fn verification_is_disabled_only_by_its_key_with_a_warning() {
    let server = Secure::start().await;
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let config = format!("[redis.default]\nurl = {url:?}\ninsecure_skip_verify = true\n");
    let gateway = Gateway::settings().config(&config).start().await;
    assert_both_directions(&gateway, &server.redis).await;
    gateway.wait_for_log(&["certificates are not verified (insecure_skip_verify)"]).await;
}

async fn client_certificate_is_sent() {
    let server = Secure::start().await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "yes"]).await;
    let own = server.authority.issue(&["gateway"], FAR);
    let (certificate, key) = (text_of(&own.certificate), text_of(&own.key));
    let gateway = server.gateway(&format!("cert_file = {certificate:?}\nkey_file = {key:?}\n")).await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;

    // The certificate is replaced by one of an unknown CA, then restored.
    let valid = (std::fs::read(&own.certificate).unwrap(), std::fs::read(&own.key).unwrap());
    let unknown_ca = Authority::new();
    let foreign = unknown_ca.issue(&["gateway"], FAR);
    std::fs::copy(&foreign.certificate, &own.certificate).unwrap();
    std::fs::copy(&foreign.key, &own.key).unwrap();
    server.redis.disconnect_all().await;
    gateway.wait_for_cause("does not trust the CA of the client certificate").await;
    std::fs::write(&own.certificate, valid.0).unwrap();
    std::fs::write(&own.key, valid.1).unwrap();
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

/// A rejected connection is retried after 2 to 10 seconds, so these tests wait concurrently.
#[tokio::test]
async fn tls_problems_are_reported_and_recovered() {
    tokio::join!(
        Box::pin(certificate_for_another_name_is_rejected()),
        Box::pin(expired_certificate_is_rejected()),
        Box::pin(untrusted_ca_is_rejected()),
        Box::pin(missing_client_certificate_is_reported()),
        Box::pin(client_certificate_is_sent()),
        Box::pin(tls_mismatch_of_url_and_port_is_reported()),
    );
}

/// Replaces the certificate of the server by an invalid one while clients are connected, then by a valid one.
async fn assert_recovers_from(names: &[&str], until: Day, words: &str) {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    server.change_certificate(&server.authority.issue(names, until)).await;
    gateway.wait_for_cause(words).await;
    gateway.wait_for_ready_status(503).await;
    server.change_certificate(&server.authority.issue(&["127.0.0.1"], FAR)).await;
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn certificate_for_another_name_is_rejected() {
    assert_recovers_from(&["elsewhere.example"], FAR, "is for elsewhere.example, not for 127.0.0.1").await;
}

async fn expired_certificate_is_rejected() {
    assert_recovers_from(&["127.0.0.1"], PAST, "has expired: renew it on the server").await;
}

async fn untrusted_ca_is_rejected() {
    let server = Secure::start().await;
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("ca.pem");
    std::fs::copy(server.authority.file(), &trusted).unwrap();
    let gateway = server.gateway_trusting(&trusted, "").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    std::fs::copy(Authority::new().file(), &trusted).unwrap();
    server.redis.disconnect_all().await;
    gateway.wait_for_cause(&format!("is not signed by a trusted CA (`ca_file` {}", text_of(&trusted))).await;
    std::fs::remove_file(&trusted).unwrap();
    gateway.wait_for_cause("ca.pem cannot be read: No such file").await;
    std::fs::copy(server.authority.file(), &trusted).unwrap();
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn missing_client_certificate_is_reported() {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "yes"]).await;
    server.redis.disconnect_all().await;
    gateway
        .wait_for_cause(
            "most likely because it requires a client certificate: set `cert_file` and `key_file`",
        )
        .await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "no"]).await;
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn tls_mismatch_of_url_and_port_is_reported() {
    let server = Secure::start().await;
    let plain = server.redis.address().port();
    for (url, words) in [
        (format!("rediss://127.0.0.1:{plain}"), "does not speak TLS: use redis://"),
        (format!("redis://127.0.0.1:{}", server.port), "speaks TLS: use rediss://"),
    ] {
        let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
        gateway.wait_for_cause(words).await;
        gateway.wait_for_log(&["Redis rejected the connection"]).await;
    }
}
