//! `earshot drill`: passes if the gateway recovers, fails otherwise, breaks nothing without permission, and leaves
//! nothing behind.

use redis::Value;

use crate::harness::drill::{Drill, drill};
use crate::harness::process::free_port;
use crate::harness::{Gateway, Redis, exclusive, until};

/// URL of a test gateway.
fn url(gateway: &Gateway) -> String {
    format!("http://{}", gateway.address())
}

#[tokio::test]
async fn temporary_environment_passes_with_a_complete_report() {
    let drilled = drill(&["--only", "kill,cut,subscriber-killed", "--outage", "1s"], "").await;
    assert_eq!((drilled.code, &drilled.report["result"]), (Some(0), &"ok".into()), "{}", drilled.text);
    let names: Vec<_> =
        drilled.report["faults"].as_array().unwrap().iter().map(|one| one["fault"].clone()).collect();
    assert_eq!(names, ["baseline", "kill", "cut", "subscriber-killed"]);
    for fault in ["kill", "cut", "subscriber-killed"] {
        let outcome = drilled.outcome(fault);
        assert_eq!(outcome["verdict"], "passed", "{outcome}");
        for time in ["detected_milliseconds", "recovered_milliseconds", "recovered_by_all_milliseconds"] {
            assert!(outcome[time].is_number(), "{time}: {outcome}");
        }
        let accounts = outcome["accounts"].as_array().unwrap();
        assert_eq!(accounts.len(), 6, "three clients, two channels: {outcome}");
        for account in accounts {
            let number = |name: &str| account[name].as_u64().unwrap();
            assert_eq!(number("delivered") + number("reported"), number("published"), "{account}");
            assert!(number("published") > 0 && number("lost") == 0 && number("duplicates") == 0, "{account}");
            assert_eq!(account["channel"] == "plain", number("gaps") > 0, "only a log has no gap: {account}");
        }
        let checks = outcome["checks"].as_array().unwrap();
        let names: Vec<&str> = checks.iter().map(|check| check["check"].as_str().unwrap()).collect();
        for check in ["accounts", "recovered", "health", "clients", "metrics", "losses", "gaps"] {
            assert!(names.contains(&check), "{check} is missing: {names:?}");
        }
        let lasts = fault == "kill";
        assert_eq!(names.contains(&"ready") && names.contains(&"redis_up"), lasts, "{names:?}");
    }
    assert!(drilled.report["worst"]["recovered_milliseconds"].is_number(), "{}", drilled.text);
}

#[tokio::test]
async fn background_channels_recover() {
    let drilled = drill(&["--only", "cut", "--channels", "300"], "").await;
    assert_eq!(drilled.code, Some(0), "{}", drilled.text);
    let background = &drilled.outcome("cut")["background"];
    assert_eq!(
        (background["lost"].as_u64(), background["duplicates"].as_u64()),
        (Some(0), Some(0)),
        "{background}"
    );
    assert!(background["delivered"].as_u64() >= Some(300), "{background}");
    assert!(background["gaps"].as_u64() >= Some(300), "each was notified: {background}");
}

#[tokio::test]
async fn gateway_with_another_redis_fails() {
    let (redis, other) = (Redis::start().await, Redis::start().await);
    let gateway = Gateway::on(&redis).await;
    let arguments = ["--gateway", &url(&gateway), "--redis", &other.url(), "--allow-destructive"];
    let drilled = drill(&arguments, "").await;
    assert_eq!((drilled.code, &drilled.report["result"]), (Some(1), &"failed".into()), "{}", drilled.text);
    let baseline = drilled.outcome("baseline");
    assert!(baseline["reason"].as_str().unwrap().contains("messages do not arrive"), "{baseline}");
    assert_eq!(drilled.report["faults"].as_array().unwrap().len(), 1, "only the one fault is injected");
    assert_eq!(gateway.fetch("/ready").await.status, 200);
}

#[tokio::test]
async fn external_targets_require_allow_destructive() {
    let redis = Redis::start().await;
    let gateway = Gateway::on(&redis).await;
    let drilled = drill(&["--gateway", &url(&gateway), "--redis", &redis.url()], "").await;
    assert_eq!(drilled.code, Some(2), "{}", drilled.text);
    assert!(drilled.text.contains("use --allow-destructive"), "{}", drilled.text);
    let lost = gateway.metric("earshot_redis_link_failures_total", &[]).await;
    assert_eq!(lost, 0.0, "nothing was touched");
    for wrong in [
        &["--only", "nonsense"][..],
        &["--outage", "0s"],
        &["--gateway", "http://h:1"],
        &["--gateway", "https://h:1", "--redis", "redis://h", "--allow-destructive"],
    ] {
        assert_eq!(drill(wrong, "").await.code, Some(2), "{wrong:?}");
    }
}

/// A Redis with a user for the drill and one for the gateway.
async fn redis_with_users() -> Redis {
    let redis = Redis::start().await;
    for (user, password) in [("drill", ">s3cret"), ("gateway", ">g-s3cret")] {
        redis.run(&["ACL", "SETUSER", user, "on", password, "+@all", "~*", "&*"]).await;
    }
    redis
}

async fn users(redis: &Redis) -> Value {
    redis.run(&["ACL", "LIST"]).await
}

fn signed_in(url: &str, user: &str) -> String {
    url.replace("redis://", &format!("redis://{user}@"))
}

#[tokio::test]
async fn external_targets_skip_impossible_faults() {
    let redis = redis_with_users().await;
    let proxy = format!("127.0.0.1:{}", free_port());
    let proxy_url = redis.url().replace(&redis.address().to_string(), &proxy);
    let gateway = Gateway::settings().environment("REDIS_URL", &signed_in(&proxy_url, "gateway:g-s3cret"));
    let gateway = gateway.start_unready().await;
    let some = "kill,cut,output-buffer,gateway-killed";
    let arguments = [
        "--gateway",
        &url(&gateway),
        "--redis",
        "-",
        "--allow-destructive",
        "--proxy",
        &proxy,
        "--only",
        some,
    ];
    let drilled = drill(&arguments, &signed_in(&redis.url(), "drill:s3cret")).await;
    assert_eq!(drilled.code, Some(0), "{}", drilled.text);
    for (fault, verdict) in
        [("kill", "skipped"), ("cut", "passed"), ("output-buffer", "passed"), ("gateway-killed", "skipped")]
    {
        let outcome = drilled.outcome(fault);
        assert_eq!(outcome["verdict"], verdict, "{outcome}");
        assert_eq!(outcome["reason"].is_string(), verdict == "skipped", "missing reason: {outcome}");
    }
    assert!(!drilled.text.contains("s3cret"), "{}", drilled.text);
    let limit = redis.run(&["CONFIG", "GET", "client-output-buffer-limit"]).await;
    assert!(format!("{limit:?}").contains("pubsub 33554432 8388608 60"), "as it was: {limit:?}");
}

#[tokio::test]
async fn interrupted_drill_undoes_its_changes() {
    let redis = redis_with_users().await;
    let before = users(&redis).await;
    let gateway = Gateway::settings().environment("REDIS_URL", &signed_in(&redis.url(), "gateway:g-s3cret"));
    let gateway = gateway.start().await;
    let arguments =
        ["--gateway", &url(&gateway), "--redis", "-", "--allow-destructive", "--only", "wrong-password"];
    let drill = Drill::start(&arguments, &signed_in(&redis.url(), "drill:s3cret")).await;
    until("the password is another one", async || (users(&redis).await != before).then_some(())).await;
    drill.signal("INT").await;
    let drilled = drill.end().await;
    assert_eq!(drilled.code, Some(1), "{}", drilled.text);
    assert!(drilled.text.contains("interrupted"), "{}", drilled.text);
    assert_eq!(users(&redis).await, before);
    gateway.wait_for_ready_status(200).await;
}

#[tokio::test]
async fn interrupted_drill_leaves_no_process_and_no_directory() {
    let _exclusive = exclusive().await;
    for signal in ["INT", "TERM"] {
        let mut drill = Drill::start(&["--only", "stop"], "").await;
        drill.wait_for_output("stop …").await;
        let children = drill.children();
        assert_eq!(children.len(), 2, "a Redis server and a gateway: {children:?}");
        until("Redis hangs", async || children.iter().any(|id| state(*id) == Some('T')).then_some(())).await;
        drill.signal(signal).await;
        // `end` checks that its directory is empty.
        let drilled = drill.end().await;
        assert_eq!(drilled.code, Some(1), "{}", drilled.text);
        assert!(children.iter().all(|id| state(*id).is_none()), "{children:?}");
    }
}

/// State of a process in /proc; `None` if it has ended.
fn state(id: u32) -> Option<char> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("State:"))?.trim().chars().next()
}
