//! `earshot check --path`: a deployed gateway from a client's side. A real nginx is configured with each mistake that
//! affects streams or WebSockets, and the check must identify it.

use crate::harness::Gateway;
use crate::harness::certificates::{Authority, FAR};
use crate::harness::check::{Checked, check};
use crate::harness::nginx::Nginx;

/// nginx settings that WebSockets and same-origin pages need.
const VALID_PROXY: &str = "proxy_http_version 1.1; proxy_set_header Host $http_host; proxy_set_header Upgrade $http_upgrade; \
                    proxy_set_header Connection upgrade;";

/// Heartbeats and pings every second or two.
const SHORT_INTERVALS: &str =
    "[sse]\nheartbeat = \"1s\"\n[websocket]\nping_interval = \"2s\"\npong_timeout = \"1900ms\"\n";

/// All checks without TLS, in order.
const CHECKS: [&str; 13] = [
    "dns",
    "tcp",
    "health",
    "http",
    "origin",
    "origin",
    "sse",
    "headers",
    "websocket",
    "cookies",
    "delivery",
    "idle",
    "idle",
];

#[tokio::test]
async fn gateway_without_a_proxy_passes() {
    let gateway = Gateway::settings().config(SHORT_INTERVALS).start().await;
    let checked = check_gateway(&format!("http://{}", gateway.address()), &["--idle", "4"]).await;
    assert_eq!((checked.code, checked.failed(), checked.warned()), (0, vec![], vec![]), "{}", checked.text);
    let findings = checked.report["sections"][0]["findings"].as_array().unwrap();
    let names: Vec<&str> = findings.iter().map(|finding| finding["check"].as_str().unwrap()).collect();
    assert_eq!(names, CHECKS);
    checked.expect("health", "ok", &[env!("CARGO_PKG_VERSION"), "directly"]);
    checked.expect("headers", "ok", &["X-Accel-Buffering is present"]);
    for idle in checked.findings("idle") {
        assert!(idle["facts"]["signs_of_life"].as_u64().unwrap() > 0, "{idle}");
    }
}

#[tokio::test]
async fn documented_nginx_configuration_passes() {
    let gateway = Gateway::settings().config(SHORT_INTERVALS).start().await;
    let nginx = Nginx::serving(&documented(&gateway)).await;
    let checked = check_gateway(&nginx.url(), &["--idle", "4"]).await;
    assert_eq!((checked.code, checked.warned()), (0, vec![]), "{}", checked.text);
    checked.expect("health", "ok", &["through nginx"]);
    checked.expect("headers", "ok", &["X-Accel-Buffering is removed"]);
    checked.expect("delivery", "ok", &[]);
    checked.expect("idle", "ok", &["the stream is still open"]);
    checked.expect("idle", "ok", &["the WebSocket is still open"]);
}

#[tokio::test]
async fn buffering_proxy_is_reported() {
    let gateway = Gateway::start().await;
    // With HTTP/1.0 nginx waits for a full buffer.
    let collecting = "proxy_set_header Host $http_host; proxy_ignore_headers X-Accel-Buffering;";
    for (more, text) in [("", "the stream does not start"), ("postpone_output 0;", "but no data within 1s")] {
        let nginx = Nginx::before(gateway.address(), &format!("{collecting} {more}")).await;
        let checked = check_gateway(&nginx.url(), &["--timeout", "1"]).await;
        assert_eq!((checked.code, checked.failed()), (1, vec!["sse", "websocket"]), "{}", checked.text);
        checked.expect("sse", "failed", &[text, "proxy_buffering off"]);
    }
}

#[tokio::test]
async fn compressing_proxy_is_reported() {
    let gateway = Gateway::start().await;
    let packing = format!("{VALID_PROXY} gzip on; gzip_min_length 0; gzip_types text/event-stream;");
    let nginx = Nginx::before(gateway.address(), &packing).await;
    let checked = check_gateway(&nginx.url(), &[]).await;
    assert_eq!((checked.code, checked.warned()), (0, vec!["compression"]), "{}", checked.text);
    checked.expect("compression", "warning", &["gzip", "gzip_types"]);
    checked.expect("delivery", "ok", &[]);
    // With buffering as well, browsers receive nothing, while clients without gzip do.
    let nginx =
        Nginx::before(gateway.address(), &format!("{packing} proxy_ignore_headers X-Accel-Buffering;")).await;
    let checked = check_gateway(&nginx.url(), &["--timeout", "1"]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["compression"]), "{}", checked.text);
    checked.expect("compression", "failed", &["does not start", "gzip_types"]);
}

#[tokio::test]
async fn idle_timeout_of_a_proxy_is_measured() {
    let gateway = Gateway::start().await;
    let nginx = Nginx::before(gateway.address(), &format!("{VALID_PROXY} proxy_read_timeout 1s;")).await;
    let checked = check_gateway(&nginx.url(), &["--idle", "5"]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["idle"]), "{}", checked.text);
    checked.expect("idle", "failed", &["the stream was closed after", "proxy_read_timeout"]);
    checked.expect("idle", "failed", &["the WebSocket was closed after", "proxy_read_timeout"]);
    for idle in checked.findings("idle") {
        let seconds = idle["facts"]["seconds"].as_f64().unwrap();
        assert!((0.1..5.0).contains(&seconds), "{idle}");
    }
}

#[tokio::test]
async fn proxy_without_websocket_upgrade_is_reported() {
    let gateway = Gateway::start().await;
    // HTTP/1.0 without Upgrade: the nginx default.
    let nginx = Nginx::before(gateway.address(), "proxy_set_header Host $http_host;").await;
    let checked = check_gateway(&nginx.url(), &[]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["websocket"]), "{}", checked.text);
    checked.expect("websocket", "failed", &["426 instead of 101", "uses HTTP/1.0", "proxy_http_version 1.1"]);
    checked.expect("sse", "ok", &[]);
    checked.expect("delivery", "skipped", &["both"]);
}

#[tokio::test]
async fn changed_host_header_rejects_same_origin_pages() {
    let open = "[[namespace]]\nname = \"all\"\nchannels = [\"*\"]\nsubscribe = \"anyone\"\npublish = \"subscribers\"\n";
    let gateway = Gateway::settings().production().config(open).start().await;
    let without_host = VALID_PROXY.replace("proxy_set_header Host $http_host;", "");
    let nginx = Nginx::before(gateway.address(), &without_host).await;
    let checked = check_gateway(&nginx.url(), &[]).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["origin"]), "{}", checked.text);
    checked.expect("origin", "failed", &["rejected (403)", "proxy_set_header Host $http_host"]);
    // The other checks still run.
    checked.expect("delivery", "ok", &[]);
}

#[tokio::test]
async fn allowed_origin_is_accepted_once() {
    let gateway = Gateway::settings().config("allowed_origins = [\"https://app.example\"]\n").start().await;
    let own = format!("http://{}", gateway.address());
    let from = |origin: &'static str| ["--origin", origin];
    let accepted = check_gateway(&own, &from("https://app.example")).await;
    assert_eq!((accepted.code, accepted.warned()), (0, vec![]), "{}", accepted.text);
    accepted.expect("origin", "ok", &["with cookies"]);
    let rejected = check_gateway(&own, &from("https://evil.example")).await;
    assert_eq!(rejected.failed(), ["origin"], "{}", rejected.text);
    rejected.expect("origin", "failed", &["https://evil.example", "allowed_origins"]);

    for (meddling, level, text) in [
        ("add_header Access-Control-Allow-Origin *;", "failed", "https://app.example and *"),
        ("proxy_hide_header Access-Control-Allow-Origin;", "failed", "is missing"),
        ("proxy_hide_header Access-Control-Allow-Credentials;", "warning", "not with cookies"),
    ] {
        let nginx = Nginx::before(gateway.address(), &format!("{VALID_PROXY} {meddling}")).await;
        check_gateway(&nginx.url(), &from("https://app.example")).await.expect("origin", level, &[text]);
    }
}

#[tokio::test]
async fn open_origins_cause_a_warning() {
    let gateway = Gateway::settings().config("allowed_origins = [\"*\"]\n").start().await;
    let checked = check_gateway(&format!("http://{}", gateway.address()), &[]).await;
    assert_eq!((checked.code, checked.warned()), (0, vec!["origin"]), "{}", checked.text);
}

#[tokio::test]
async fn changed_headers_and_cookies_are_reported_without_values() {
    let gateway = Gateway::start().await;
    let meddling = "proxy_hide_header Cache-Control; add_header Cache-Control max-age=60; \
                    add_header Set-Cookie 'route=s3cret; Path=/; SameSite=None; Secure';";
    let nginx = Nginx::before(gateway.address(), &format!("{VALID_PROXY} {meddling}")).await;
    let checked = check_gateway(&nginx.url(), &[]).await;
    checked.expect("headers", "warning", &["max-age=60"]);
    checked.expect("cookies", "ok", &["route SameSite=None Secure"]);
    assert!(!checked.text.contains("s3cret"), "{}", checked.text);

    let narrow = format!(
        "large_client_header_buffers 4 1k; server {{ listen 127.0.0.1:{{port}}; \
         location / {{ proxy_pass http://{}; {VALID_PROXY} }} }}",
        gateway.address()
    );
    let nginx = Nginx::serving(&narrow).await;
    check_gateway(&nginx.url(), &[]).await.expect(
        "cookies",
        "warning",
        &["4096 bytes", "large_client_header_buffers"],
    );
}

#[tokio::test]
async fn other_servers_are_recognised() {
    let mut gateway = Gateway::start().await;
    let nginx = Nginx::before(gateway.address(), VALID_PROXY).await;
    gateway.process.kill();
    check_gateway(&nginx.url(), &[]).await.expect(
        "health",
        "failed",
        &["by nginx", "502", "cannot connect to a gateway"],
    );
    for (answer, text) in [
        ("return 301 https://$host$request_uri;", "redirects clients"),
        ("return 200 '<html>a shop</html>';", "another site responds"),
        ("return 403;", "requires authentication"),
    ] {
        let nginx = Nginx::serving(&format!("server {{ listen 127.0.0.1:{{port}}; {answer} }}")).await;
        let checked = check_gateway(&nginx.url(), &[]).await;
        assert_eq!((checked.code, checked.failed()), (1, vec!["health"]), "{}", checked.text);
        checked.expect("health", "failed", &[text]);
    }
}

#[tokio::test]
async fn gateway_under_a_path_prefix_is_found() {
    let gateway = Gateway::start().await;
    let under = format!(
        "server {{ listen 127.0.0.1:{{port}}; location /push/ {{ proxy_pass http://{}/; {VALID_PROXY} }} }}",
        gateway.address()
    );
    let nginx = Nginx::serving(&under).await;
    check_gateway(&nginx.url(), &[]).await.expect("health", "failed", &["404", "prefix"]);
    let checked = check_gateway(&format!("{}/push", nginx.url()), &[]).await;
    assert_eq!((checked.code, checked.warned()), (0, vec![]), "{}", checked.text);
}

#[tokio::test]
async fn channels_are_client_channels() {
    let config = "[[namespace]]\nname = \"web\"\nchannels = [\"web-*\"]\nsubscribe = \"anyone\"\n\
                  [[namespace]]\nname = \"own\"\nchannels = [\"own\"]\nsubscribe = \"nobody\"\n";
    let gateway = Gateway::settings().config(config).start().await;
    let url = format!("http://{}", gateway.address());
    check_gateway(&url, &[]).await.expect("sse", "failed", &["404", "--channel"]);
    check_gateway(&url, &["--channel", "own"]).await.expect("sse", "failed", &["403", "--channel"]);
    let checked = check_gateway(&url, &["--channel", "web-*"]).await;
    assert_eq!(checked.code, 0, "{}", checked.text);
    checked.expect("delivery", "skipped", &["clients may not publish"]);
    check_gateway(&url, &["--channel", "web-signals"]).await.expect(
        "delivery",
        "skipped",
        &["others may receive"],
    );
}

#[tokio::test]
async fn unavailable_redis_of_a_gateway_is_reported() {
    let unreachable = format!("redis://127.0.0.1:{}", crate::harness::process::free_port());
    let config = "[redis.default]\nurl = \"redis://127.0.0.1:1\"\ncommand_timeout = \"500ms\"\n";
    let gateway =
        Gateway::settings().config(config).environment("REDIS_URL", &unreachable).start_unready().await;
    let checked = check_gateway(&format!("http://{}", gateway.address()), &[]).await;
    checked.expect("health", "warning", &["degraded"]);
    checked.expect("sse", "failed", &["the gateway ended the stream", "Redis is down"]);
}

#[tokio::test]
async fn certificate_and_http_version_are_checked_over_tls() {
    let (gateway, authority) = (Gateway::start().await, Authority::new());
    let file = authority.file();
    let known = ["--ca-file", file.to_str().unwrap()];
    let names = ["localhost", "127.0.0.1"];
    let nginx = async |names: &[&str], until, more: &str| {
        let issued = authority.issue(names, until);
        let (certificate, key) = (issued.certificate.display(), issued.key.display());
        let at = gateway.address();
        let http = format!(
            "server {{ listen 127.0.0.1:{{port}} ssl{more}; ssl_certificate {certificate}; \
             ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; location / {{ proxy_pass http://{at}; {VALID_PROXY} }} }}"
        );
        Nginx::serving(&http).await
    };
    let url = |nginx: &Nginx| format!("https://localhost:{}", nginx.port);

    let good = nginx(&names, FAR, " http2").await;
    let checked = check_gateway(&url(&good), &known).await;
    assert_eq!((checked.code, checked.warned()), (0, vec![]), "{}", checked.text);
    checked.expect("tls", "ok", &["TLS 1.3 and TLS 1.2"]);
    checked.expect("certificate", "ok", &["until 2099-01-01"]);
    checked.expect("http", "ok", &["HTTP/2"]);
    checked.expect("delivery", "ok", &[]);
    check_gateway(&url(&good), &[]).await.expect(
        "certificate",
        "failed",
        &["its issuer is not trusted", "--ca-file"],
    );

    let old = nginx(&names, FAR, "").await;
    check_gateway(&url(&old), &known).await.expect("http", "warning", &["six streams", "http2"]);
    let other = nginx(&["other.example"], FAR, "").await;
    check_gateway(&url(&other), &known).await.expect(
        "certificate",
        "failed",
        &["not valid for localhost, but for other.example"],
    );
    let ended = nginx(&names, (2021, 3, 4), "").await;
    check_gateway(&url(&ended), &known).await.expect(
        "certificate",
        "failed",
        &["expired on 2021-03-04", "renew it"],
    );

    let plain = format!("https://{}", gateway.address());
    check_gateway(&plain, &known).await.expect("tls", "failed", &["no TLS"]);
}

#[tokio::test]
async fn invalid_path_arguments_are_exit_code_2() {
    for (arguments, text) in [
        (&["--path", "localhost:8000"][..], "expected http(s)://"),
        (&["--path", "http://u:hunter2@h"][..], "remove them"),
        (&["--path", "http://h", "--origin", "app.example"][..], "--origin"),
        (&["--path", "https://h", "--ca-file", "/nowhere.pem"][..], "/nowhere.pem"),
        (&["--origin", "https://app.example"][..], "--path"),
        (&["--path", "http://h", "redis://h"][..], "cannot be used with"),
    ] {
        let rejected = check(arguments).await;
        assert_eq!(rejected.code, 2, "{arguments:?}: {}", rejected.text);
        assert!(rejected.text.contains(text) && !rejected.text.contains("hunter2"), "{}", rejected.text);
    }
}

/// Checks a path, without the idle test unless `more` sets it.
async fn check_gateway(url: &str, more: &[&str]) -> Checked {
    let brief = if more.contains(&"--idle") { &[][..] } else { &["--idle", "0"] };
    check(&[&["--path", url], brief, more].concat()).await
}

/// The nginx configuration from `docs/operations.md`, with one gateway.
fn documented(gateway: &Gateway) -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let block = text.split("```nginx\n").nth(1).unwrap().split("\n```").next().unwrap();
    let servers = block.lines().filter(|line| line.trim_start().starts_with("server 10.0.0."));
    let first = servers.clone().next().unwrap().to_owned();
    let kept =
        block.lines().filter(|line| !line.trim_start().starts_with("server 10.0.0.") || *line == first);
    let block = kept.collect::<Vec<_>>().join("\n");
    block
        .replace("10.0.0.11:8000", &gateway.address().to_string())
        .replace("listen 8080", "listen 127.0.0.1:{port}")
}
