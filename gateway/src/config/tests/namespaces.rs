//! Namespaces: history, replay and slow consumers; valid and invalid files.

use std::time::Duration;

use super::super::*;
use super::bad_files::assert_errors;
use super::{ON_REDIS, load, load_with, only_namespace};
use crate::node::backpressure_policy::{BackpressurePolicy, TerminalStates};
use crate::node::history_rules::HistoryRules;

fn only(keys: &str) -> NamespaceConfig {
    only_namespace(&format!("{ON_REDIS}{keys}"))
}

#[test]
fn each_source_has_its_default_history() {
    let seconds = Duration::from_secs;
    let pubsub = HistoryRules { size: 64, ttl: seconds(60), bytes: 1 << 20 };
    let stream = HistoryRules { size: 1000, ttl: seconds(3600), bytes: 4 << 20 };
    assert_eq!(load("").unwrap().namespaces[0].history, pubsub);
    assert_eq!(only("").history, pubsub);
    let namespace = only(r#"source = "stream""#);
    assert_eq!((namespace.source, namespace.history), (Source::Stream, stream));
    // Omitted keys have the defaults of the source, regardless of the order.
    let keys = "history = { ttl = \"7h\" }\nsource = \"stream\"";
    assert_eq!(only(keys).history, HistoryRules { ttl: seconds(7 * 3600), ..stream });
    let keys = "[namespace.history]\nsize = 0\nbytes = \"16KiB\"";
    assert_eq!(only(keys).history, HistoryRules { size: 0, bytes: 16 << 10, ..pubsub });
    assert_eq!(only("source = \"stream\"\nhistory = { size = 1 }").history.size, 1);
}

#[test]
fn slow_consumers_are_disconnected_by_default() {
    let silent = only("");
    assert_eq!(silent.slow_consumer, None);
    assert_eq!(
        only(r#"slow_consumer.policy = "drop-oldest""#).slow_consumer,
        Some(BackpressurePolicy::DropOldest)
    );
    let latest = BackpressurePolicy::Latest { key: None, terminal: None };
    assert_eq!(only(r#"slow_consumer.policy = "latest""#).slow_consumer, Some(latest));
    let latest = only(
        r#"
        slow_consumer.policy = "latest"
        slow_consumer.conflation_key = "/job/id"
        slow_consumer.terminal = { key = "", values = ["done", "a\nb"] }
        "#,
    )
    .slow_consumer;
    let values = vec!["done".to_owned(), "a\nb".to_owned()];
    let terminal = Some(TerminalStates { key: String::new(), values });
    assert_eq!(latest, Some(BackpressurePolicy::Latest { key: Some("/job/id".to_owned()), terminal }));
    let single = only(
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/s\", values = \"done\" }",
    )
    .slow_consumer;
    let terminal = Some(TerminalStates { key: "/s".to_owned(), values: vec!["done".to_owned()] });
    assert_eq!(single, Some(BackpressurePolicy::Latest { key: None, terminal }));
}

#[test]
fn a_stream_can_use_the_default_redis() {
    let text = "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"stream\"";
    let config = load_with(text, &[("REDIS_URL", "redis://h")], &[]).unwrap();
    assert_eq!(config.namespaces[0].redis.as_deref(), Some("default"));
}

#[test]
fn replay_last_requires_a_history() {
    assert_eq!((only("").replay, only(r#"replay = "none""#).replay), (Replay::None, Replay::None));
    assert_eq!(only(r#"replay = "last""#).replay, Replay::Last);
    assert_eq!(only("replay = \"last\"\nhistory = { size = 1 }").replay, Replay::Last);
}

#[test]
fn the_dump_of_a_namespace_loads_as_the_same() {
    for keys in [
        "",
        r#"source = "stream""#,
        "source = \"stream\"\nhistory = { size = 7 }\nreplay = \"last\"",
        "history = { size = 0, ttl = \"168h\", bytes = 1025 }\nslow_consumer.policy = \"drop-oldest\"",
        "slow_consumer.policy = \"latest\"\nslow_consumer.conflation_key = \"\"",
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/~0 ' \\\" \\\\ é\", values = \"\" }",
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/a\\nb\", values = [\"a\\n\\u0000\", \"''' \\\"\\\"\\\"\\n\"] }",
    ] {
        let config = load(&format!("{ON_REDIS}{keys}")).unwrap();
        let shown = config.to_toml();
        let again = load(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
        assert_eq!(again.namespaces, config.namespaces, "{shown}");
        assert_eq!(again.to_toml(), shown);
    }
}

#[test]
fn history_limits_are_read_and_dumped() {
    let text =
        "limits = { history_bytes = \"1TiB\", recovery_publications = 1, client_queue_age = \"none\" }";
    let config = load(text).unwrap();
    let limits = &config.limits;
    assert_eq!(
        (limits.history_bytes, limits.recovery_publications, limits.client_queue_age),
        (1 << 40, 1, None)
    );
    assert_eq!(load(&config.to_toml()).unwrap().limits, config.limits);
    let limits = Limits::default();
    assert_eq!((limits.history_bytes, limits.recovery_publications), (256 << 20, 300));
}

/// Keys of a namespace on a Redis instance, from line 7, and their errors.
const WRONG: &[(&str, &str)] = &[
    (
        "history = 64",
        "7: namespace.history: expected a section such as { size = 64, ttl = \"1m\" }, found an integer",
    ),
    ("history = { sise = 64 }", "7: namespace.history.sise: unknown key; did you mean `size`?"),
    ("ttl = \"1s\"", "7: namespace.ttl: unknown key; `ttl` belongs to [namespace.history]"),
    ("history = { size = 10001 }", "7: namespace.history.size: 10001 is out of range: 0 to 10000"),
    ("history.ttl = \"999ms\"", "7: namespace.history.ttl: \"999ms\" is out of range: 1s to 168h"),
    ("[namespace.history]\nttl = \"169h\"", "8: namespace.history.ttl: \"169h\" is out of range: 1s to 168h"),
    ("history = { bytes = 1023 }", "7: namespace.history.bytes: 1023 is out of range: 1KiB to 256MiB"),
    ("replay = \"first\"", "7: namespace.replay: expected \"none\" or \"last\", found \"first\""),
    (
        "replay = \"last\"\nhistory = { size = 0 }",
        "7: namespace.replay: no history to replay: `history.size` is 0",
    ),
    (
        "source = \"stream\"\nsubscribe_pattern = true",
        "8: namespace.subscribe_pattern: requires source = \"pubsub\"",
    ),
    (
        "source = \"stream\"\nhistory = { size = 0 }",
        "8: namespace.history.size: source = \"stream\" requires a history: set 1 or more, or use source = \"pubsub\"",
    ),
    // One error, not a second one for `replay`.
    (
        "replay = \"last\"\nsource = \"stream\"\n[namespace.history]\nttl = \"1m\"\nsize = 0",
        "11: namespace.history.size: source = \"stream\" requires a history: set 1 or more, or use source = \"pubsub\"",
    ),
    // Keys that depend on an invalid one are not checked.
    (
        "slow_consumer.policy = \"drop\"\nslow_consumer.conflation_key = \"/a\"",
        "7: namespace.slow_consumer.policy: expected \"disconnect\" or \"latest\" or \"drop-oldest\", found \"drop\"",
    ),
    (
        "slow_consumer.policy = 1",
        "7: namespace.slow_consumer.policy: expected a string in quotes, found an integer",
    ),
    (
        "slow_consumer.conflation_key = \"/a\"",
        "7: namespace.slow_consumer.conflation_key: requires policy = \"latest\"; the policy is \"disconnect\"",
    ),
    (
        "slow_consumer.policy = \"drop-oldest\"\nslow_consumer.terminal = { key = \"/a\", values = \"b\" }",
        "8: namespace.slow_consumer.terminal: requires policy = \"latest\"; the policy is \"drop-oldest\"",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.conflation_key = \"job.id\"",
        "8: namespace.slow_consumer.conflation_key: expected a JSON pointer such as \"/job/id\" (\"\" is the entire payload), found \"job.id\"",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.conflation_key = \"/a~b\"",
        "8: namespace.slow_consumer.conflation_key: invalid escape in a JSON pointer, where `~0` is `~` and `~1` is `/`: \"/a~b\"",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = \"done\"",
        "8: namespace.slow_consumer.terminal: expected a section such as { key = \"/state\", values = [\"completed\", \"failed\"] }, found a string",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { values = \"done\" }",
        "8: namespace.slow_consumer.terminal: missing `key`: set it to the JSON pointer of the state, for example \"/state\"",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"state\", values = \"done\" }",
        "8: namespace.slow_consumer.terminal.key: expected a JSON pointer such as \"/job/id\" (\"\" is the entire payload), found \"state\"",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/state\" }",
        "8: namespace.slow_consumer.terminal: missing `values`: list the terminal states, for example [\"completed\"]",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/state\", values = [] }",
        "8: namespace.slow_consumer.terminal.values: empty list: no state would be terminal",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/state\", values = [1] }",
        "8: namespace.slow_consumer.terminal.values: expected a string in quotes, found an integer",
    ),
    (
        "slow_consumer.policy = \"latest\"\nslow_consumer.terminal = { key = \"/s\", value = \"done\", values = \"done\" }",
        "8: namespace.slow_consumer.terminal.value: unknown key; did you mean `values`?",
    ),
    ("[limits]\nhistory_bytes = \"2TiB\"", "8: limits.history_bytes: \"2TiB\" is out of range: 1MiB to 1TiB"),
    ("[limits]\nrecovery_publications = 0", "8: limits.recovery_publications: 0 is out of range: 1 to 10000"),
];

#[test]
fn errors_in_namespaces() {
    let rows = WRONG.iter().map(|(keys, what)| (format!("{ON_REDIS}{keys}"), *what));
    assert_errors(rows);
}

#[test]
fn a_stream_requires_a_redis() {
    let stream = "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"stream\"\n";
    let error = "source = \"stream\" requires a Redis server: set `redis` or REDIS_URL";
    let rows = [
        ("", "", format!("4: namespace.source: {error}")),
        ("", "redis = \"memory\"", format!("5: namespace.redis: {error}")),
        ("redis.b.url = \"redis://h\"\n", "redis = \"memory\"", format!("6: namespace.redis: {error}")),
        // Another error in `redis` is the only one reported.
        ("", "redis = \"c\"", "5: namespace.redis: no [redis.c] is configured; use one of \"memory\"".into()),
        (
            "redis.b.url = \"redis://h\"\n",
            "",
            "2: namespace: missing `redis`; use one of \"b\", \"memory\"".into(),
        ),
    ];
    let files = rows.iter().map(|(head, key, what)| (format!("{head}{stream}{key}"), what.as_str()));
    assert_errors(files);
}
