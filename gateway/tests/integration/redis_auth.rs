//! Redis passwords and permissions: problems are reported and the gateway recovers once they are fixed. No client is
//! disconnected meanwhile, and every gap is reported.

use serde_json::json;

use crate::harness::outage_subscribers::OutageSubscribers;
use crate::harness::publisher::Publisher;
use crate::harness::subscriber::NUMBERS;
use crate::harness::{Gateway, Redis, WsClient, until};

/// A Redis with a separate user for the gateway, so that the test can use the default one.
async fn redis_with(password: &str) -> Redis {
    let redis = Redis::start().await;
    redis.run(&["ACL", "SETUSER", "gateway", "on", &format!(">{password}"), "+@all", "~*", "&*"]).await;
    redis
}

/// A gateway with its password in a file.
async fn gateway_with(redis: &Redis, file: &std::path::Path) -> Gateway {
    let (url, file) = (redis.url(), file.display().to_string());
    let config =
        format!("[redis.default]\nurl = {url:?}\nusername = \"gateway\"\npassword_file = {file:?}\n");
    Gateway::settings().config(&config).start().await
}

/// A rejected connection is retried after 2 to 10 seconds, so these tests wait concurrently.
#[tokio::test]
async fn authentication_problems_are_reported_and_recovered() {
    tokio::join!(
        Box::pin(rotated_password_is_read_from_its_file()),
        Box::pin(wrong_password_is_accepted_once_the_server_has_it()),
        Box::pin(revoked_channel_permission_affects_only_that_channel()),
        Box::pin(missing_database_is_reported()),
        Box::pin(connection_limit_of_the_server_is_reported()),
        Box::pin(server_without_hello_is_reported_without_the_password()),
    );
}

async fn rotated_password_is_read_from_its_file() {
    let first = r#"a1#?%&^$!<>{}|~`';:,.-_+=()[]*-and-a-tail-that-makes-it-as-long-as-tokens-are-0123456789"#;
    let redis = redis_with(first).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("password");
    std::fs::write(&file, format!("{first}\n")).unwrap();
    let gateway = gateway_with(&redis, &file).await;
    let mut subscribers = OutageSubscribers::on(&gateway, &redis).await;
    subscribers.wait_until_receiving().await;

    redis.run(&["ACL", "SETUSER", "gateway", "resetpass", ">second-s3cret"]).await;
    redis.run(&["CLIENT", "KILL", "USER", "gateway"]).await;
    gateway.wait_for_cause(&format!("WRONGPASS invalid username-password pair or user is disabled. (the user or password is wrong, or the user is disabled; the password is from {}", file.display())).await;
    std::fs::write(&file, "second-s3cret\n").unwrap();
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
    gateway.wait_for_log(&["Redis rejected the connection"]).await;
    let log = gateway.process.log();
    assert!(!log.contains("s3cret") && !log.contains("a1#"), "{log}");
}

async fn wrong_password_is_accepted_once_the_server_has_it() {
    let redis = redis_with("other").await;
    let url = redis.url().replace("redis://", "redis://gateway:right-s3cret@");
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
    gateway.wait_for_cause("the password is from the URL").await;
    redis.run(&["ACL", "SETUSER", "gateway", "off", ">right-s3cret"]).await;
    gateway.wait_for_cause("WRONGPASS").await;
    redis.run(&["ACL", "SETUSER", "gateway", "on"]).await;
    gateway.wait_for_ready_status(200).await;
    assert!(!gateway.process.log().contains("s3cret"));
}

async fn revoked_channel_permission_affects_only_that_channel() {
    let redis = redis_with("pw").await;
    let url = redis.url().replace("redis://", "redis://gateway:pw@");
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start().await;
    let mut subscribers = OutageSubscribers::start(&gateway, || Publisher::steady(&redis, &[NUMBERS])).await;
    let mut control = WsClient::open(gateway.address(), &["kept"]).await;
    let mut revoked = WsClient::open(gateway.address(), &["taken"]).await;
    subscribers.wait_until_receiving().await;

    // Redis disconnects clients that are subscribed to channels that their user may no longer access.
    redis.run(&["ACL", "SETUSER", "gateway", "resetchannels", "&kept"]).await;
    gateway.wait_for_cause("2 topics that were active before are rejected now").await;
    gateway.wait_for_ready_status(503).await;
    control.resubscribe_after_gaps(1).await;
    redis.publish("kept", b"1").await;
    assert_eq!(control.publication().await.data, "1", "a permitted channel is still received");
    let rejected = control.request("subscribe", json!({"channel": "another"})).await;
    assert_eq!(rejected["error"]["code"], 103, "{rejected}");
    revoked.wait_for_gaps(1).await;
    let rejected = revoked.request("subscribe", json!({"channel": "taken"})).await;
    assert_eq!(rejected["error"]["temporary"], true, "a temporary error, so that an SDK retries: {rejected}");
    redis.run(&["ACL", "SETUSER", "gateway", "allchannels"]).await;
    gateway.wait_for_ready_status(200).await;
    subscribers.verify(1).await;
    redis.publish("kept", b"2").await;
    assert_eq!(control.publication().await.data, "2");
}

async fn missing_database_is_reported() {
    let redis = Redis::start_with_arguments(&["--databases", "2"]).await;
    let url = redis.url().replace("/0", "/2");
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
    gateway.wait_for_cause("DB index is out of range").await;
}

async fn connection_limit_of_the_server_is_reported() {
    let redis = Redis::start().await;
    let mut held = redis.connection().await;
    let mut set = async |most: &str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg("maxclients").arg(most).exec_async(&mut held).await.unwrap();
    };
    set("1").await;
    let gateway = Gateway::settings().redis(&redis).start_unready().await;
    gateway.wait_for_cause("ERR max number of clients reached (`maxclients` of the server is reached").await;
    set("100").await;
    gateway.wait_for_ready_status(200).await;
}

async fn server_without_hello_is_reported_without_the_password() {
    let redis = Redis::start_with_arguments(&["--rename-command", "HELLO", ""]).await;
    let url = redis.url().replace("redis://", "redis://:s3cret@");
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start_unready().await;
    gateway.wait_for_cause("does not support HELLO 3").await;
    let text = gateway.fetch("/health").await.text() + &gateway.fetch("/ready").await.text();
    assert!(!text.contains("s3cret") && !gateway.process.log().contains("s3cret"), "{text}");
}

#[tokio::test]
async fn unix_socket_is_supported() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("redis.sock");
    let mut redis =
        Redis::start_with_arguments(&["--unixsocket", path.to_str().unwrap(), "--requirepass", ""]).await;
    redis.run(&["ACL", "SETUSER", "gateway", "on", ">p@ss", "+@all", "~*", "&*"]).await;
    let url = format!("unix://gateway:p%40ss@{}?db=3", path.display());
    let gateway = Gateway::settings().environment("REDIS_URL", &url).start().await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");

    redis.kill();
    gateway.wait_for_ready_status(503).await;
    redis.restart().await;
    redis.run(&["ACL", "SETUSER", "gateway", "on", ">p@ss", "+@all", "~*", "&*"]).await;
    gateway.wait_for_ready_status(200).await;
    socket.resubscribe_after_gaps(1).await;
    redis.publish("a", b"2").await;
    assert_eq!(socket.publication().await.data, "2");
}

#[tokio::test]
async fn separate_redis_variables_are_supported() {
    let redis = redis_with("a@b/c#%41 d").await;
    let gateway = Gateway::settings()
        .environment("REDIS_HOST", "127.0.0.1")
        .environment("REDIS_PORT", &redis.address().port().to_string())
        .environment("REDIS_USERNAME", "gateway")
        .environment("REDIS_PASSWORD", "a@b/c#%41 d")
        .environment("REDIS_DB", "1")
        .start()
        .await;
    until("both links use the database", async || {
        let text: String = redis::from_redis_value(redis.run(&["CLIENT", "LIST"]).await).unwrap();
        (text.lines().filter(|line| line.contains("user=gateway") && line.contains(" db=1 ")).count() == 2)
            .then_some(())
    })
    .await;
    let mut socket = WsClient::open(gateway.address(), &["a"]).await;
    redis.publish("a", b"1").await;
    assert_eq!(socket.publication().await.data, "1");
}
