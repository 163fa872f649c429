//! TLS to Redis: what is right is heard, what is wrong is named, and heals by itself once it is right. In between nobody
//! is disconnected, and every hole is announced.

use std::path::Path;

use serde_json::json;

use crate::harness::certificates::{Authority, Day, FAR, Issued};
use crate::harness::outage_subscribers::OutageSubscribers;
use crate::harness::process::free_port;
use crate::harness::{Gateway, Redis, WsClient};

/// Long before any test.
const PAST: Day = (2001, 1, 1);

/// A Redis that speaks TLS to the gateway, and plainly to the test beside it.
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
            &shown(&own.certificate),
            "--tls-key-file",
            &shown(&own.key),
            "--tls-ca-cert-file",
            &shown(&authority.file()),
            "--tls-auth-clients",
            "no",
        ])
        .await;
        Self { authority, redis, port }
    }

    /// A gateway that trusts the server's authority.
    async fn gateway(&self, keys: &str) -> Gateway {
        self.gateway_trusting(&self.authority.file(), keys).await
    }

    async fn gateway_trusting(&self, ca_file: &Path, keys: &str) -> Gateway {
        let (port, ca_file) = (self.port, shown(ca_file));
        let config =
            format!("[redis.default]\nurl = \"rediss://127.0.0.1:{port}\"\nca_file = {ca_file:?}\n{keys}");
        Gateway::settings().config(&config).start().await
    }

    /// Gives the server another certificate, and cuts every connection, so that all have to come again.
    async fn show(&self, issued: &Issued) {
        let (certificate, key) = (shown(&issued.certificate), shown(&issued.key));
        self.redis.run(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key]).await;
        self.redis.disconnect_all().await;
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// What is published on either side is heard on the other.
async fn carries_both_ways(gateway: &Gateway, redis: &Redis) {
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
    let reply = socket.request("publish", json!({"channel": "a", "data": 2})).await;
    assert!(reply.get("error").is_none(), "{reply}");
    assert_eq!(socket.publication().await.data, "2");
}

#[tokio::test]
async fn a_private_authority_is_trusted_by_its_file() {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    carries_both_ways(&gateway, &server.redis).await;
}

#[tokio::test]
async fn the_environment_alone_is_enough_where_the_system_trusts_the_authority() {
    let server = Secure::start().await;
    let gateway = Gateway::settings()
        .environment("REDIS_URL", &format!("redis://localhost:{}?ssl_cert_reqs=required", server.port))
        .environment("REDIS_TLS", "true")
        .environment("SSL_CERT_FILE", &shown(&server.authority.file()))
        .start()
        .await;
    carries_both_ways(&gateway, &server.redis).await;
}

#[tokio::test]
async fn a_certificate_may_be_for_another_name_that_was_said() {
    let server = Secure::start().await;
    server.show(&server.authority.issue(&["redis.internal"], FAR)).await;
    let gateway = server.gateway("server_name = \"redis.internal\"\n").await;
    carries_both_ways(&gateway, &server.redis).await;
}

#[tokio::test]
async fn verification_is_switched_off_by_the_insecure_key_alone_and_loudly() {
    let server = Secure::start().await;
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let config = format!("[redis.default]\nurl = {url:?}\ninsecure_skip_verify = true\n");
    let gateway = Gateway::settings().config(&config).start().await;
    carries_both_ways(&gateway, &server.redis).await;
    assert!(gateway.process.log().contains("no certificate is verified (insecure_skip_verify)"));
}

async fn a_client_certificate_is_shown_where_the_server_wants_one() {
    let server = Secure::start().await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "yes"]).await;
    let own = server.authority.issue(&["gateway"], FAR);
    let (certificate, key) = (shown(&own.certificate), shown(&own.key));
    let gateway = server.gateway(&format!("cert_file = {certificate:?}\nkey_file = {key:?}\n")).await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;

    // Ours is replaced by one that the server does not know, then by none at all, then it is right again.
    let right = (std::fs::read(&own.certificate).unwrap(), std::fs::read(&own.key).unwrap());
    let stranger = Authority::new();
    let foreign = stranger.issue(&["gateway"], FAR);
    std::fs::copy(&foreign.certificate, &own.certificate).unwrap();
    std::fs::copy(&foreign.key, &own.key).unwrap();
    server.redis.disconnect_all().await;
    gateway.wait_for_cause("does not trust the authority of our client certificate").await;
    std::fs::write(&own.certificate, right.0).unwrap();
    std::fs::write(&own.key, right.1).unwrap();
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

/// A refusal is tried again after 2 to 10 seconds: waiting is best done together.
#[tokio::test]
async fn whatever_is_wrong_with_tls_is_named_and_heals_once_it_is_right() {
    tokio::join!(
        Box::pin(a_certificate_for_another_name_is_refused_until_it_is_right()),
        Box::pin(an_expired_certificate_is_refused_until_it_is_renewed()),
        Box::pin(an_authority_that_is_not_trusted_is_refused_until_its_file_is_right()),
        Box::pin(a_missing_client_certificate_is_named_as_the_cause()),
        Box::pin(a_client_certificate_is_shown_where_the_server_wants_one()),
        Box::pin(tls_to_a_plain_port_and_plain_to_a_tls_port_are_told_apart_from_an_outage()),
    );
}

/// The server's certificate goes bad while everybody is connected, and is put right.
async fn heals_from(names: &[&str], until: Day, words: &str) {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    server.show(&server.authority.issue(names, until)).await;
    gateway.wait_for_cause(words).await;
    gateway.wait_for_ready_status(503).await;
    server.show(&server.authority.issue(&["127.0.0.1"], FAR)).await;
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn a_certificate_for_another_name_is_refused_until_it_is_right() {
    heals_from(&["elsewhere.example"], FAR, "is for elsewhere.example, not for 127.0.0.1").await;
}

async fn an_expired_certificate_is_refused_until_it_is_renewed() {
    heals_from(&["127.0.0.1"], PAST, "has expired: renew it at the server").await;
}

async fn an_authority_that_is_not_trusted_is_refused_until_its_file_is_right() {
    let server = Secure::start().await;
    let directory = tempfile::tempdir().unwrap();
    let trusted = directory.path().join("ca.pem");
    std::fs::copy(server.authority.file(), &trusted).unwrap();
    let gateway = server.gateway_trusting(&trusted, "").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    std::fs::copy(Authority::new().file(), &trusted).unwrap();
    server.redis.disconnect_all().await;
    gateway
        .wait_for_cause(&format!(
            "signed by none of the authorities that are trusted (`ca_file` {}",
            shown(&trusted)
        ))
        .await;
    std::fs::remove_file(&trusted).unwrap();
    gateway.wait_for_cause("ca.pem cannot be read: No such file").await;
    std::fs::copy(server.authority.file(), &trusted).unwrap();
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn a_missing_client_certificate_is_named_as_the_cause() {
    let server = Secure::start().await;
    let gateway = server.gateway("").await;
    let mut subscribers = OutageSubscribers::on(&gateway, &server.redis).await;
    subscribers.wait_until_receiving().await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "yes"]).await;
    server.redis.disconnect_all().await;
    gateway
        .wait_for_cause("most likely because it wants a client certificate: `cert_file` and `key_file`")
        .await;
    server.redis.run(&["CONFIG", "SET", "tls-auth-clients", "no"]).await;
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
}

async fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_told_apart_from_an_outage() {
    let server = Secure::start().await;
    let plain = server.redis.address().port();
    for (url, words) in [
        (format!("rediss://127.0.0.1:{plain}"), "does not speak TLS: the URL begins with redis://"),
        (format!("redis://127.0.0.1:{}", server.port), "speaks TLS: the URL begins with rediss://"),
    ] {
        let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
        gateway.wait_for_cause(words).await;
        assert!(gateway.process.log().contains("Redis refuses us"), "loudly");
    }
}
