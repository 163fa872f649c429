//! `earshot check` of a Redis server: each problem is created for real and must be reported with its cause and fix; the check
//! itself has no side effects.

use futures::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;

use crate::harness::check::{Checked, check, check_configured, output_of, run};
use crate::harness::{Gateway, Redis, until};

/// All checks on a server without authentication, in order.
const CHECKS: [&str; 16] = [
    "dns",
    "tcp",
    "auth",
    "permissions",
    "role",
    "version",
    "clients",
    "output-buffer",
    "timeout",
    "eviction",
    "memory",
    "cluster",
    "keys",
    "pubsub",
    "latency",
    "clock",
];

/// Plain channels and streams.
const CONFIG: &str = r#"
[[namespace]]
name = "web"
channels = ["web-signals", "web-*"]
subscribe = "anyone"

[[namespace]]
name = "jobs"
channels = ["job:*"]
subscribe = "anyone"
source = "stream"
key_prefix = "jobs:"
"#;

#[tokio::test]
async fn healthy_server_passes_unchanged() {
    let redis = Redis::start().await;
    let checked = check(&[&redis.url()]).await;
    assert_eq!((checked.code, checked.failed(), checked.warned()), (0, vec![], vec![]), "{}", checked.text);
    let section = &checked.report["sections"][0];
    let names: Vec<&str> = section["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| finding["check"].as_str().unwrap())
        .collect();
    assert_eq!(names, CHECKS);
    assert_eq!((&checked.report["result"], &section["kind"]), (&json!("ok"), &json!("redis")));
    for (check, fact) in
        [("latency", "p99_microseconds"), ("pubsub", "microseconds"), ("clients", "maxclients")]
    {
        assert!(checked.findings(check)[0]["facts"][fact].is_u64(), "{check}: {fact}: {}", checked.text);
    }
    assert_eq!(admin(&redis, "DBSIZE").await, redis::Value::Int(0));
    let text = output_of(&[&redis.url()]).await;
    assert!(
        text.contains("  ok       pubsub ") && text.contains("\nNo problems found.\n")
            || text.contains("\nNo failures."),
        "{text}"
    );
}

#[tokio::test]
async fn foreign_keys_and_channels_are_not_touched() {
    let redis = Redis::start().await;
    admin(&redis, "SET jobs:stream:job:1 theirs").await;
    let mut subscribers = redis::Client::open(redis.url()).unwrap().get_async_pubsub().await.unwrap();
    subscribers.psubscribe("*").await.unwrap();
    // The three ways to test permissions: a transaction, ACL DRYRUN, running the commands.
    let own =
        "+subscribe +unsubscribe +publish +ping +hello +@scripting +@stream +@hash +@string +@keyspace +time";
    let users = ["+@all".to_owned(), format!("-@all {own} +acl|dryrun +acl|whoami"), format!("-@all {own}")];
    for rights in &users {
        admin(&redis, &format!("ACL SETUSER app reset on >pw ~* &* {rights}")).await;
        let checked = check_configured(&configured(&redis, "app:pw")).await;
        assert_eq!(checked.code, 0, "{rights}: {}", checked.text);
    }
    redis.publish("over", b"").await;
    let received: Vec<String> = subscribers
        .into_on_message()
        .map(|message| message.get_channel_name().to_owned())
        .take_while(|channel| futures::future::ready(channel != "over"))
        .collect()
        .await;
    assert!(
        received.iter().all(|channel| channel.contains("earshot-check:")),
        "clients received something: {received:?}"
    );
    assert!(received.len() >= users.len(), "each test message was received");
    // Test keys have been deleted.
    assert_eq!(admin(&redis, "DBSIZE").await, redis::Value::Int(1));
    assert_eq!(admin(&redis, "GET jobs:stream:job:1").await, redis::Value::BulkString(b"theirs".into()));
}

#[tokio::test]
async fn missing_permission_is_reported_by_each_method() {
    let redis = Redis::start().await;
    let own =
        "+subscribe +unsubscribe +publish +ping +hello +@scripting +@stream +@hash +@string +@keyspace +time";
    for more in ["+multi +discard", "+acl|dryrun +acl|whoami", ""] {
        for (lack, named, advice) in [
            ("-xadd", "XADD", "+xadd"),
            ("-publish", "PUBLISH", "+publish"),
            ("-evalsha", "EVALSHA", "+evalsha"),
            ("resetchannels &web-*", "not permitted on channel job:", "& that covers job:"),
            ("resetkeys ~other:*", "not permitted on key jobs:stream:job:", "~ that covers jobs:"),
        ] {
            admin(&redis, &format!("ACL SETUSER app reset on >pw ~* &* -@all {own} {more} {lack}")).await;
            let checked = check_configured(&configured(&redis, "app:pw")).await;
            assert_eq!(checked.code, 1, "{more} {lack}: {}", checked.text);
            checked.expect("permissions", "failed", &[named, advice]);
        }
    }
}

#[tokio::test]
async fn documented_permissions_are_sufficient() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let text = std::fs::read_to_string(path).unwrap();
    let quoted = |opening: &str| {
        let rest =
            text.split(opening).nth(1).unwrap_or_else(|| panic!("{opening} is not in the documentation"));
        let quoted = rest.split('`').next().unwrap();
        quoted.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let user = quoted("`ACL SETUSER earshot on >password");
    let logs = quoted("user needs access to the keys and permission for the commands of the scripts: `");
    let redis = Redis::start().await;
    let words = ["ACL SETUSER app reset on >pw", &user.join(" "), "&job:*", &logs.join(" ")].join(" ");
    admin(&redis, &words.replace("~PREFIX*", "~jobs:*")).await;
    let checked = check_configured(&configured(&redis, "app:pw")).await;
    assert_eq!((checked.code, checked.failed()), (0, vec![]), "{words}: {}", checked.text);
}

#[tokio::test]
async fn pattern_must_be_in_the_acl_literally() {
    let redis = Redis::start().await;
    admin(&redis, "ACL SETUSER app reset on >pw ~* resetchannels &w* +@all").await;
    let space = "[[namespace]]\nname = \"web\"\nchannels = [\"web-*\"]\nsubscribe = \"anyone\"\nsubscribe_pattern = true\n";
    let config = format!("[redis.default]\nurl = \"redis://app:pw@{}\"\n{space}", redis.address());
    check_configured(&config).await.expect(
        "permissions",
        "failed",
        &["PSUBSCRIBE", "a wider one does not match"],
    );
    admin(&redis, "ACL SETUSER app &web-*").await;
    assert_eq!(check_configured(&config).await.code, 0);
}

#[tokio::test]
async fn rejected_password_is_reported_and_not_shown() {
    let redis = Redis::start().await;
    admin(&redis, "ACL SETUSER app reset on >hunter2 ~* &* +@all").await;
    admin(&redis, "CONFIG SET requirepass hunter2").await;
    let address = redis.address();
    for (url, texts) in [
        (format!("redis://app:hunter3@{address}"), ["WRONGPASS", "compare with the server's"]),
        (format!("redis://:hunter3@{address}"), ["WRONGPASS", "compare with the server's"]),
        (format!("redis://{address}"), ["requires a password", "redis://:password@host"]),
    ] {
        let checked = check(&[&url]).await;
        assert_eq!((checked.code, checked.failed()), (1, vec!["auth"]), "{}", checked.text);
        checked.expect("auth", "failed", &texts);
        checked.expect("rest", "skipped", &[]);
        assert!(!(checked.text + &output_of(&[&url]).await).contains("hunter"), "{url}");
    }
    let good = check(&[&format!("redis://app:hunter2@{address}")]).await;
    assert!(good.code == 0 && !good.text.contains("hunter"), "{}", good.text);
    good.expect("auth", "ok", &["`app`"]);
}

#[tokio::test]
async fn server_without_hello_shows_no_password() {
    let redis = Redis::start_with_arguments(&[
        "--rename-command",
        "HELLO",
        "",
        "--user",
        "app",
        "on",
        ">hunter2",
        "~*",
        "&*",
        "+@all",
    ])
    .await;
    let url = format!("redis://app:hunter2@{}", redis.address());
    let checked = check(&[&url]).await;
    checked.expect("auth", "failed", &["HELLO", "older than Redis 6"]);
    assert!(!checked.text.contains("hunter2"), "{}", checked.text);
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
    until("the rejection is reported", async || {
        gateway.fetch("/health").await.text().contains("HELLO").then_some(())
    })
    .await;
    let shown = gateway.fetch("/health").await.text() + &gateway.process.log();
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn harmful_settings_are_reported() {
    let redis =
        Redis::start_with_arguments(&["--client-output-buffer-limit", "pubsub", "1mb", "0", "0"]).await;
    for words in
        ["CONFIG SET timeout 5", "CONFIG SET maxmemory-policy allkeys-lru", "CONFIG SET maxmemory 1gb"]
    {
        admin(&redis, words).await;
    }
    let checked = check_configured(&configured(&redis, "default:any")).await;
    assert_eq!((checked.code, checked.failed()), (1, vec!["output-buffer"]), "{}", checked.text);
    assert_eq!(checked.warned(), ["timeout", "eviction"]);
    checked.expect("timeout", "warning", &["after 5 s", "backends"]);
    checked.expect("output-buffer", "failed", &["1 MiB", "CONFIG SET client-output-buffer-limit"]);
    checked.expect("eviction", "warning", &["allkeys-lru", "log-lost"]);
    // Links that are idle for longer than the server's timeout are disconnected.
    let slow = configured(&redis, "default:any").replacen("\n", "\nping_interval = \"4s\"\n", 1);
    check_configured(&slow).await.expect("timeout", "failed", &["pinged every 4s", "ping_interval"]);
}

#[tokio::test]
async fn low_memory_is_reported() {
    let redis = Redis::start().await;
    // Memory usage varies slightly; this is large in comparison.
    admin(&redis, "SETRANGE large 50000000 x").await;
    for (filled, policy, level, text) in [
        (85, "noeviction", "warning", "every write fails (OOM)"),
        (95, "noeviction", "failed", "every write fails (OOM)"),
        (95, "volatile-lru", "warning", "keys are evicted"),
    ] {
        admin(&redis, &format!("CONFIG SET maxmemory-policy {policy}")).await;
        let used = used_memory(&redis).await;
        admin(&redis, &format!("CONFIG SET maxmemory {}", used * 100 / filled)).await;
        check(&[&redis.url()]).await.expect("memory", level, &["maxmemory", text]);
    }
    admin(&redis, "CONFIG SET maxmemory-policy noeviction").await;
    admin(&redis, "CONFIG SET maxmemory 1mb").await;
    check(&[&redis.url()]).await.expect("keys", "failed", &["OOM", "memory is full"]);
}

#[tokio::test]
async fn too_few_connections_are_reported() {
    let redis = Redis::start_with_arguments(&["--maxclients", "8"]).await;
    let checked = check(&[&redis.url()]).await;
    checked.expect("clients", "failed", &["of 8", "CLIENT LIST"]);
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(TcpStream::connect(redis.address()).await.unwrap());
    }
    let full = until("connections are rejected", async || {
        let checked = check(&[&redis.url()]).await;
        (checked.failed() == ["protocol"]).then_some(checked)
    })
    .await;
    full.expect("protocol", "failed", &["max number of clients", "raise maxclients"]);
}

#[tokio::test]
async fn info_replaces_a_denied_config() {
    let redis = Redis::start_with_arguments(&["--maxclients", "8"]).await;
    admin(&redis, "ACL SETUSER app reset on >pw ~* &* +@all -config").await;
    let checked = check(&[&format!("redis://app:pw@{}", redis.address())]).await;
    checked.expect("config", "ok", &["managed services"]);
    checked.expect("clients", "failed", &["of 8"]);
    checked.expect("eviction", "ok", &["noeviction"]);
    checked.expect("output-buffer", "skipped", &["client-output-buffer-limit-pubsub"]);
}

#[tokio::test]
async fn password_is_read_from_a_file() {
    let redis = Redis::start().await;
    admin(&redis, "ACL SETUSER app reset on >hunter2 ~* &* +@all").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    let config = format!(
        "[redis.default]\nurl = \"redis://{}\"\nusername = \"app\"\npassword_file = {file:?}\n",
        redis.address()
    );
    std::fs::write(&file, "hunter2\n").unwrap();
    let good = check_configured(&config).await;
    assert_eq!(good.code, 0, "{}", good.text);
    good.expect("auth", "ok", &["`app`"]);
    std::fs::write(&file, "hunter3\n").unwrap();
    let bad = check_configured(&config).await;
    bad.expect("auth", "failed", &["WRONGPASS"]);
    assert!(!bad.text.contains("hunter"), "{}", bad.text);
}

#[tokio::test]
async fn unverifiable_delivery_causes_a_warning() {
    let redis = Redis::start().await;
    admin(&redis, "ACL SETUSER app reset on >pw ~* resetchannels &web-* &job:* +@all").await;
    let config = configured(&redis, "app:pw").replace("\"web-signals\", ", "");
    let checked = check_configured(&config).await;
    assert_eq!((checked.code, checked.warned()), (0, vec!["permissions"]), "{}", checked.text);
    checked.expect(
        "permissions",
        "warning",
        &["not permitted on channel earshot:probe:", "cannot verify that messages arrive"],
    );
    checked.expect("pubsub", "ok", &[]);
    let elsewhere = config.replacen("\n", "\nprobe_prefix = \"web-probe:\"\n", 1);
    assert_eq!(check_configured(&elsewhere).await.warned(), Vec::<&str>::new());
}

#[tokio::test]
async fn url_sources() {
    let redis = Redis::start().await;
    let url = redis.url();
    assert_eq!(run(&["-"], &[], None, &format!("{url}\n")).await.code, 0);
    assert_eq!(run(&[], &[("REDIS_URL", url.as_str())], None, "").await.code, 0);
    for (arguments, text) in [
        (&["http://:hunter2@h"][..], "expected redis://"),
        (&["-"][..], "expected redis://"),
        (&[][..], "no Redis to check"),
        (&["--timeout", "0", &url][..], "expected 0.1 to 3600"),
        (&["--config", "/nowhere.toml"][..], "/nowhere.toml"),
        (&["--config", "a.toml", &url][..], "cannot be used with"),
    ] {
        let rejected: Checked = check(arguments).await;
        assert_eq!(rejected.code, 2, "{arguments:?}: {}", rejected.text);
        assert!(rejected.text.contains(text) && !rejected.text.contains("hunter2"), "{}", rejected.text);
    }
}

/// Runs a command as administrator, with words separated by spaces.
async fn admin(redis: &Redis, words: &str) -> redis::Value {
    redis.run(&words.split(' ').collect::<Vec<_>>()).await
}

fn configured(redis: &Redis, sign_in: &str) -> String {
    format!("[redis.default]\nurl = \"redis://{sign_in}@{}\"\n{CONFIG}", redis.address())
}

async fn used_memory(redis: &Redis) -> u64 {
    let info: String = redis::from_redis_value(admin(redis, "INFO memory").await).unwrap();
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    used.parse().unwrap()
}

#[tokio::test]
async fn gateway_logs_harmful_redis_settings_at_startup() {
    let limits = ["--timeout", "5", "--client-output-buffer-limit", "pubsub", "1mb", "0", "0"];
    let redis = Redis::start_with_arguments(&limits).await;
    let is_logged = |log: &str| log.contains("output-buffer") && log.contains("timeout");
    let gateway = Gateway::settings().redis(&redis).start().await;
    until("both are logged", async || is_logged(&gateway.process.log()).then_some(())).await;
}
