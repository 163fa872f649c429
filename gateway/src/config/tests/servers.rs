//! Instances with several servers: valid and invalid files.

use super::super::*;
use super::bad_files::assert_errors;
use super::{ON_REDIS, load, load_with, only_namespace};

const REDIS: (&str, &str) = ("REDIS_URL", "redis://env");

/// A cluster with a namespace; these further keys start on line 8.
fn on_cluster(keys: &str) -> String {
    let text = ON_REDIS.replace("[[namespace]]", "cluster = true\n[[namespace]]");
    format!("{text}{keys}")
}

fn only(keys: &str) -> NamespaceConfig {
    only_namespace(&on_cluster(keys))
}

#[test]
fn a_cluster_has_one_or_more_nodes() {
    let servers = |text: &str| load(text).unwrap().redis.remove(0).servers;
    let Servers::Cluster(seeds) = servers(&on_cluster("")) else { panic!() };
    assert_eq!(seeds, []);
    let more = on_cluster("").replace("true", r#"["b:1", "[::1]:2"]"#);
    let Servers::Cluster(seeds) = servers(&more) else { panic!() };
    let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["b:1", "[::1]:2"]);
    assert!(matches!(servers(&on_cluster("").replace("true", "false")), Servers::One));
    let config = load_with("redis.default.cluster = true", &[REDIS], &[]).unwrap();
    assert!(matches!(config.redis[0].servers, Servers::Cluster(_)));
    assert!(load(&config.to_toml()).is_ok(), "{}", config.to_toml());
}

#[test]
fn each_log_of_a_cluster_has_its_own_slot_without_a_hash_tag() {
    assert!(only("").spread);
    assert!(only(r#"key_prefix = "express:""#).spread);
    assert!(!only(r#"key_prefix = "{express}:""#).spread);
    assert!(!load(&on_cluster("").replace("true", "false")).unwrap().namespaces[0].spread);
    assert!(only("sharded_pubsub = true\nsource = \"stream\"").sharded_pubsub);
}

#[test]
fn the_dump_of_several_servers_contains_no_secret() {
    let text = on_cluster("")
        .replace("cluster = true\n", "")
        .replace("url = \"redis://h\"", "urls = [\"redis://:hunter2@h\", \"redis://:hunter2@i\"]");
    let config = load(&text).unwrap();
    let Servers::ClientSharded(urls) = &config.redis[0].servers else { panic!() };
    assert_eq!(urls[1].expose(), "redis://:hunter2@i");
    let shown = config.to_toml();
    assert!(!shown.contains("hunter2") && shown.contains("redis://***@i:6379/0"), "{shown}");
}

#[test]
fn errors_in_servers() {
    let instance = |keys: &str| format!("redis.default = {{ {keys} }}");
    assert_errors([
        (
            on_cluster("sharded_pubsub = 1"),
            "8: namespace.sharded_pubsub: expected true or false, found an integer",
        ),
        (
            on_cluster("sharded_pubsub = true\nkey_prefix = \"{a}\"\nsource = \"stream\""),
            "8: namespace.sharded_pubsub: conflicts with the hash tag in `key_prefix`, which keeps all logs in one slot: \
             remove the hash tag",
        ),
        (
            on_cluster("sharded_pubsub = true\nsubscribe_pattern = true"),
            "9: namespace.subscribe_pattern: cannot be combined with `sharded_pubsub`: sharded pub/sub has no patterns",
        ),
        (
            on_cluster("sharded_pubsub = true").replace("cluster = true", ""),
            "8: namespace.sharded_pubsub: requires a cluster: the `redis` of this namespace has no `cluster`",
        ),
        (
            on_cluster("key_prefix = \"{a\""),
            "8: namespace.key_prefix: contains a `{` but no hash tag; a hash tag is written as in \"{express}:\"",
        ),
        (
            instance(r#"url = "redis://h/1", cluster = true"#),
            "1: redis.default.url: a cluster supports only database 0",
        ),
        (
            instance(r#"url = "redis://h", cluster = ["b"]"#),
            "1: redis.default.cluster: expected host:port, found \"b\"; password and TLS are taken from `url`",
        ),
        (
            instance(r#"url = "redis://h", cluster = 1"#),
            "1: redis.default.cluster: expected true or a list of nodes such as [\"redis-2:6379\"], found an integer",
        ),
        (
            instance(r#"url = "redis://h", pubsub_url = "redis://p", cluster = true"#),
            "1: redis.default.pubsub_url: conflicts with `cluster`, in which every node carries pub/sub: remove it",
        ),
        (
            instance(r#"url = "redis://h", urls = ["redis://i", "redis://j"]"#),
            "1: redis.default.url: conflicts with `urls`: remove one of them",
        ),
        (
            instance(r#"urls = ["redis://i"]"#),
            "1: redis.default.urls: expected 2 to 64 servers; for one server use `url`",
        ),
        (
            instance(r#"urls = ["redis://i", "redis://j", "redis://:p@i"]"#),
            "1: redis.default.urls: duplicate server redis://***@i:6379/0",
        ),
        (
            instance(r#"urls = ["redis://i", "rediss://j"]"#),
            "1: redis.default.urls: expected TLS for all servers or for none",
        ),
        (
            instance(r#"urls = ["redis://i", "redis://j"], cluster = true"#),
            "1: redis.default.urls: conflicts with `cluster`, which discovers its nodes: remove it",
        ),
    ]);
    let error = |text: &str, name| load_with(text, &[REDIS, (name, "redis://p")], &[]).unwrap_err();
    assert_eq!(
        error(&instance(r#"urls = ["redis://i", "redis://j"]"#), "OTHER"),
        "REDIS_URL: conflicts with `urls` in the file: unset it"
    );
    assert_eq!(
        error(&instance("cluster = true"), "REDIS_PUBSUB_URL"),
        "REDIS_PUBSUB_URL: conflicts with `cluster`, in which every node carries pub/sub: unset it"
    );
}
