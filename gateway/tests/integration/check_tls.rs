//! `earshot check` of a Redis that speaks TLS, or does not: what is wrong with it is named, not merely that something is.

use crate::harness::Redis;
use crate::harness::certificates::{Authority, Day, FAR};
use crate::harness::check::check;
use crate::harness::process::free_port;

/// A server that also speaks TLS, on a port of its own.
struct Secured {
    /// Kept, so that the server lives.
    redis: Redis,
    port: u16,
}

impl Secured {
    async fn start(authority: &Authority, names: &[&str], until: Day, more: &[&str]) -> Self {
        let issued = authority.issue(names, until);
        let (port, file) = (free_port(), authority.file());
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let (own, key, known) = (path(&issued.certificate), path(&issued.key), path(&file));
        let tls = ["--tls-port", &port.to_string(), "--tls-cert-file", &own, "--tls-key-file", &key]
            .map(str::to_owned);
        let tls: Vec<&str> = tls.iter().map(String::as_str).chain(["--tls-ca-cert-file", &known]).collect();
        Self { redis: Redis::start_given(&[&tls, more].concat()).await, port }
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }
}

/// The server asks nobody for a certificate.
const ANYBODY: [&str; 2] = ["--tls-auth-clients", "no"];

#[tokio::test]
async fn tls_against_plain_and_plain_against_tls_are_told_apart() {
    let authority = Authority::new();
    let server = Secured::start(&authority, &["localhost"], FAR, &ANYBODY).await;
    let plain = check(&[&format!("redis://127.0.0.1:{}", server.port)]).await;
    assert_eq!((plain.code, plain.failed()), (1, vec!["tls"]), "{}", plain.text);
    plain.expect("tls", "failed", &["the server speaks TLS, the URL does not", "rediss://"]);
    let tls = check(&[&server.redis.url().replace("redis://", "rediss://"), "--timeout", "2"]).await;
    assert_eq!((tls.code, tls.failed()), (1, vec!["tls"]), "{}", tls.text);
    tls.expect("tls", "failed", &["the server speaks plain", "redis:// in the place of rediss://"]);
}

#[tokio::test]
async fn a_certificate_that_is_worth_nothing_is_told_with_the_reason() {
    let authority = Authority::new();
    let unknown = Secured::start(&authority, &["localhost"], FAR, &ANYBODY).await;
    let checked = check(&[&unknown.url()]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["certificate"]), "{}", checked.text);
    checked.expect("tls", "ok", &["TLS 1.3 and TLS 1.2"]);
    checked.expect("certificate", "failed", &["no authority that is known", "ca_file"]);
    let ended = Secured::start(&authority, &["localhost"], (2021, 3, 4), &ANYBODY).await;
    check(&[&ended.url()]).await.expect("certificate", "failed", &["ended on 2021-03-04", "renew it"]);
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_of_ours_says_so() {
    let authority = Authority::new();
    for more in [&[][..], &["--tls-protocols", "TLSv1.2"]] {
        let server = Secured::start(&authority, &["localhost"], FAR, more).await;
        let checked = check(&[&server.url()]).await;
        checked.expect("tls", "failed", &["wants a client certificate", "tls-auth-clients", "cert_file"]);
    }
}
