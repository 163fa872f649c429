//! `earshot check` of a Redis server with and without TLS: problems are identified precisely.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::harness::Redis;
use crate::harness::certificates::{Authority, Day, FAR};
use crate::harness::check::{Checked, check, check_configured};
use crate::harness::process::free_port;

/// A server with an additional TLS port.
struct Secured {
    /// Keeps the server running.
    redis: Redis,
    port: u16,
    ca_file: String,
}

impl Secured {
    async fn start(authority: &Authority, names: &[&str], until: Day, more: &[&str]) -> Self {
        let issued = authority.issue(names, until);
        let (port, ca_file) = (free_port(), shown(&authority.file()));
        let (own, key) = (shown(&issued.certificate), shown(&issued.key));
        let port_text = port.to_string();
        let tls = ["--tls-port", &port_text, "--tls-cert-file", &own, "--tls-key-file", &key];
        let redis =
            Redis::start_with_arguments(&[&tls[..], &["--tls-ca-cert-file", &ca_file], more].concat()).await;
        Self { redis, port, ca_file }
    }

    fn url(&self) -> String {
        format!("rediss://localhost:{}", self.port)
    }

    /// Checks as an instance that trusts the server's CA, with additional keys.
    async fn configured(&self, keys: &str) -> Checked {
        let (url, ca_file) = (self.url(), &self.ca_file);
        check_configured(&format!("[redis.default]\nurl = {url:?}\nca_file = {ca_file:?}\n{keys}")).await
    }

    async fn unverified(&self) -> Checked {
        let url = self.url();
        check_configured(&format!("[redis.default]\nurl = {url:?}\ninsecure_skip_verify = true\n")).await
    }
}

fn shown(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The server does not request client certificates.
const ANYBODY: [&str; 2] = ["--tls-auth-clients", "no"];

#[tokio::test]
async fn tls_mismatch_is_reported() {
    let authority = Authority::new();
    let server = Secured::start(&authority, &["localhost"], FAR, &ANYBODY).await;
    let plain = check(&[&format!("redis://127.0.0.1:{}", server.port)]).await;
    assert_eq!((plain.code, plain.failed()), (1, vec!["tls"]), "{}", plain.text);
    plain.expect("tls", "failed", &["the server expects TLS, but the URL does not", "rediss://"]);
    let tls = check(&[&server.redis.url().replace("redis://", "rediss://"), "--timeout", "2"]).await;
    assert_eq!((tls.code, tls.failed()), (1, vec!["tls"]), "{}", tls.text);
    tls.expect("tls", "failed", &["the server does not on this port", "redis:// instead of rediss://"]);
}

#[tokio::test]
async fn invalid_certificate_is_reported_with_the_reason() {
    let authority = Authority::new();
    let unknown = Secured::start(&authority, &["localhost"], FAR, &ANYBODY).await;
    let checked = check(&[&unknown.url()]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["certificate"]), "{}", checked.text);
    checked.expect("tls", "ok", &["TLS 1.3 and TLS 1.2"]);
    checked.expect("certificate", "failed", &["its issuer is not trusted", "ca_file"]);
    let ended = Secured::start(&authority, &["localhost"], (2021, 3, 4), &ANYBODY).await;
    check(&[&ended.url()]).await.expect("certificate", "failed", &["expired on 2021-03-04", "renew it"]);
}

#[tokio::test]
async fn name_and_expiry_of_a_certificate_are_checked() {
    let authority = Authority::new();
    let good = Secured::start(&authority, &["localhost"], FAR, &ANYBODY).await;
    for checked in [good.configured("").await, check(&[&good.url(), "--ca-file", &good.ca_file]).await] {
        assert_eq!((checked.code, checked.warned()), (0, vec![]), "{}", checked.text);
        checked.expect("certificate", "ok", &["localhost", "until 2099-01-01"]);
        checked.expect("pubsub", "ok", &[]);
    }
    // With verification disabled, the result of the verification is still reported.
    let blind = good.unverified().await;
    assert_eq!((blind.code, blind.warned()), (0, vec!["certificate"]), "{}", blind.text);

    let other = Secured::start(&authority, &["redis.example"], FAR, &ANYBODY).await;
    let wrong = other.configured("").await;
    assert_eq!((wrong.code, wrong.failed()), (1, vec!["certificate"]), "{}", wrong.text);
    wrong.expect("certificate", "failed", &["not valid for localhost, but for redis.example", "server_name"]);
    assert_eq!(other.configured("server_name = \"redis.example\"\n").await.code, 0);
    let blind = other.unverified().await;
    assert_eq!((blind.code, blind.warned()), (0, vec!["certificate"]), "{}", blind.text);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let soon = rcgen::date_time_ymd(1970, 1, 1) + now + Duration::from_secs(9 * 86_400);
    let soon = (soon.year(), u8::from(soon.month()), soon.day());
    let ending = Secured::start(&authority, &["localhost"], soon, &ANYBODY).await.configured("").await;
    assert_eq!((ending.code, ending.warned()), (0, vec!["certificate"]), "{}", ending.text);
    ending.expect("certificate", "warning", &["expires soon", "renew it"]);
}

#[tokio::test]
async fn required_client_certificate_is_reported() {
    let authority = Authority::new();
    for more in [&[][..], &["--tls-protocols", "TLSv1.2"]] {
        let server = Secured::start(&authority, &["localhost"], FAR, more).await;
        let checked = server.configured("").await;
        assert_eq!((checked.code, checked.failed()), (1, vec!["tls"]), "{}", checked.text);
        checked.expect("tls", "failed", &["requires a client certificate", "tls-auth-clients", "cert_file"]);
        let client_certificate = |authority: &Authority, name: &str| {
            let own = authority.issue(&[name], FAR);
            format!("cert_file = {:?}\nkey_file = {:?}\n", shown(&own.certificate), shown(&own.key))
        };
        let known = server.configured(&client_certificate(&authority, "a gateway")).await;
        assert_eq!(known.code, 0, "{}", known.text);
        let foreign = server.configured(&client_certificate(&Authority::new(), "a stranger")).await;
        assert_eq!((foreign.code, foreign.failed()), (1, vec!["tls"]), "{}", foreign.text);
        foreign.expect("tls", "failed", &["the client certificate"]);
    }
}
