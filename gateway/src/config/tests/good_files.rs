//! Valid files and their meaning.

use std::time::Duration;

use super::super::*;
use super::{load, load_with};
use crate::auth::access::Access;

const REDIS: (&str, &str) = ("REDIS_URL", "redis://:hunter2@env:6379/0");

#[test]
fn defaults_are_the_memory_broker_on_loopback() {
    let config = load("").unwrap();
    assert_eq!(config.listen, [Listen::default()]);
    assert!(config.is_loopback_only() && config.redis.is_empty() && config.api_key.is_none());
    assert_eq!(config.namespaces, [NamespaceConfig::closed(None)]);
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.sources.to_string(), "defaults");
    assert_eq!(Config::default().to_toml(), config.to_toml());
}

#[test]
fn redis_url_is_sufficient() {
    let config = load_with("", &[REDIS], &[]).unwrap();
    assert_eq!(config.redis.len(), 1);
    assert_eq!(config.redis[0].url.expose(), "redis://:hunter2@env:6379/0");
    assert_eq!(config.namespaces, [NamespaceConfig::closed(Some("default".into()))]);
    assert_eq!(config.sources.to_string(), "REDIS_URL");
    assert!(!format!("{config:?}{}", config.to_toml()).contains("hunter2"));
}

#[test]
fn redis_url_overrides_the_default_instance_of_the_file() {
    let text =
        "redis.default = { url = \"redis://file\", command_timeout = \"1s\", pubsub_url = \"redis://p\" }";
    let config = load_with(text, &[REDIS], &[]).unwrap();
    assert_eq!(config.redis[0].url.to_string(), "redis://***@env:6379/0");
    assert_eq!(config.redis[0].pubsub_url.as_ref().unwrap().to_string(), "redis://p:6379/0");
    assert_eq!(config.redis[0].times.command_timeout, Duration::from_secs(1));
    let config =
        load_with("[redis.default]\nretry_max = \"1s\"\n", &[REDIS, ("REDIS_PUBSUB_URL", "redis://q")], &[]);
    assert_eq!(config.unwrap().redis[0].pubsub_url.as_ref().unwrap().to_string(), "redis://q:6379/0");
}

#[test]
fn redis_url_adds_an_instance_to_those_of_the_file() {
    let text = r#"
        redis.shared.url = "redis://shared"
        [[namespace]]
        name = "web"
        channels = ["web-*"]
        redis = "shared"
        [[namespace]]
        name = "rest"
        channels = ["*"]
    "#;
    let config = load_with(text, &[REDIS], &[]).unwrap();
    let on: Vec<_> = config.namespaces.iter().map(|namespace| namespace.redis.as_deref().unwrap()).collect();
    assert_eq!(on, ["shared", "default"]);
    let urls: Vec<_> = config.redis.iter().map(|instance| instance.url.to_string()).collect();
    assert_eq!(urls, ["redis://shared:6379/0", "redis://***@env:6379/0"]);
}

#[test]
fn flags_override_the_environment_which_overrides_the_file() {
    let text = "listen = [\":1\", \"127.0.0.1:2\"]\nlog = \"warn\"\napi.key = \"file\"\n";
    let listen = |config: Config| config.listen.into_iter().map(|listen| listen.text).collect::<Vec<_>>();
    let env = [("EARSHOT_LISTEN", ":3, 127.0.0.1:4"), ("EARSHOT_API_KEY", "env"), ("EARSHOT_LOG", "debug")];
    assert_eq!(listen(load(text).unwrap()), [":1", "127.0.0.1:2"]);
    assert_eq!(listen(load_with(text, &env, &[]).unwrap()), [":3", "127.0.0.1:4"]);
    assert_eq!(listen(load_with(text, &env, &[":5"]).unwrap()), [":5"]);
    let config = load_with(text, &env, &[":5"]).unwrap();
    assert_eq!((config.api_key.unwrap().expose(), config.log.as_str()), ("env", "debug"));
    assert_eq!(
        config.sources.to_string(),
        "earshot.toml, EARSHOT_LISTEN, EARSHOT_LOG, EARSHOT_API_KEY, --listen"
    );
    let config = load(text).unwrap();
    assert_eq!((config.api_key.unwrap().expose(), config.log.as_str()), ("file", "warn"));
}

#[test]
fn a_namespace_of_the_file_is_closed_for_publishing() {
    let config = load("[[namespace]]\nname = \"a\"\nchannels = \"a\"\n").unwrap();
    let namespace = &config.namespaces[0];
    assert_eq!((namespace.access.subscribe, namespace.access.publish), (Access::NOBODY, Access::NOBODY));
    assert_eq!((namespace.source, namespace.subscribe_pattern), (Source::PubSub, false));
    assert_eq!((&namespace.redis, namespace.key_prefix.as_str()), (&None, ""));
}

#[test]
fn a_namespace_can_use_memory_although_redis_is_configured() {
    let config =
        load_with("[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"memory\"\n", &[REDIS], &[])
            .unwrap();
    assert_eq!(config.namespaces[0].redis, None);
    assert!(config.redis.is_empty());
    assert_eq!(config.warnings, ["redis `default` is unused: no namespace and no login uses it"]);
}

#[test]
fn defaults_adapt_to_other_keys() {
    let text = "limits.publication_bytes = \"8MiB\"\nwebsocket.ping_interval = \"4s\"\ndrain.shutdown_timeout = \"2s\"\n";
    let config = load(text).unwrap();
    let limits = config.limits;
    assert_eq!(
        (limits.client_queue_bytes, limits.api_body_bytes, limits.shard_queue_bytes),
        (32 << 20, 8 << 20, 64 << 20)
    );
    assert_eq!(
        (config.websocket.pong_timeout, config.drain.disconnect_window),
        (Duration::from_secs(2), Duration::from_secs(1))
    );
    let config = load_with("[redis.default]\nretry_max = \"20ms\"", &[REDIS], &[]).unwrap();
    assert_eq!(config.redis[0].times.retry_min, Duration::from_millis(20));
    let config = load_with("[redis.default]\nretry_min = \"3s\"", &[REDIS], &[]).unwrap();
    assert_eq!(config.redis[0].times.retry_max, Duration::from_secs(3));
}

#[test]
fn zero_and_none_mean_unlimited() {
    let config = load("limits.connections = 0\nsse.max_age = \"none\"\ngateway.shards = 0\n").unwrap();
    assert_eq!((config.limits.connections, config.sse.max_age), (None, None));
    assert_eq!(config.gateway, GatewayConfig::default());
    let config = load("limits.connections = 10\nsse.max_age = \"10m\"\ngateway.shards = 3\n").unwrap();
    assert_eq!((config.limits.connections, config.gateway.shards), (Some(10), 3));
    assert_eq!(config.sse.max_age, Some(Duration::from_secs(600)));
}

#[test]
fn sizes_are_numbers_or_strings() {
    let config = load("limits.request_header_bytes = 4096\nlimits.message_bytes = \"16KiB\"\n").unwrap();
    assert_eq!((config.limits.request_header_bytes, config.limits.message_bytes), (4096, 16_384));
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let config =
        load("allowed_origins = [\"https://App.Example.com\", \"http://localhost:3000\", \"*\"]").unwrap();
    assert_eq!(config.allowed_origins, ["https://app.example.com", "http://localhost:3000", "*"]);
}

#[test]
fn log_filters_are_levels_and_modules() {
    for filter in ["info", "WARN", "off", "earshot=debug", "warn,earshot::broker=debug,hyper=off", "earshot"]
    {
        assert_eq!(load(&format!("log = \"{filter}\"")).unwrap().log, filter);
    }
}
