//! Instances of several servers: good files and bad ones.

use super::super::*;
use super::bad_files::assert_told;
use super::{load, load_with};

const REDIS: (&str, &str) = ("REDIS_URL", "redis://env");

/// A cluster with a namespace on it; its further keys begin on line 8.
const ON_CLUSTER: &str = r#"[redis.a]
url = "redis://h"
cluster = true
[[namespace]]
name = "a"
channels = ["a", "b*"]
redis = "a"
"#;

fn only(keys: &str) -> Namespace {
    let mut config = load(&format!("{ON_CLUSTER}{keys}")).unwrap();
    config.namespaces.remove(0)
}

#[test]
fn a_cluster_needs_one_node_and_may_have_more() {
    let servers = |text: &str| load(text).unwrap().redis.remove(0).servers;
    let Servers::Cluster(seeds) = servers(ON_CLUSTER) else { panic!() };
    assert_eq!(seeds, []);
    let more = ON_CLUSTER.replace("true", r#"["b:1", "[::1]:2"]"#);
    let Servers::Cluster(seeds) = servers(&more) else { panic!() };
    let seeds: Vec<_> = seeds.iter().map(ToString::to_string).collect();
    assert_eq!(seeds, ["b:1", "[::1]:2"]);
    assert!(matches!(servers(&ON_CLUSTER.replace("true", "false")), Servers::One));
    let config = load_with("redis.default.cluster = true", &[REDIS], &[]).unwrap();
    assert!(matches!(config.redis[0].servers, Servers::Cluster(_)));
    assert!(load(&config.show()).is_ok(), "{}", config.show());
}

#[test]
fn logs_in_a_cluster_have_a_slot_each_unless_the_prefix_has_a_tag() {
    assert!(only("").spread);
    assert!(only(r#"key_prefix = "express:""#).spread);
    assert!(!only(r#"key_prefix = "{express}:""#).spread);
    assert!(!load(&ON_CLUSTER.replace("true", "false")).unwrap().namespaces[0].spread);
    assert!(only("sharded_pubsub = true\nsource = \"stream\"").sharded_pubsub);
}

#[test]
fn several_servers_are_shown_without_their_secrets() {
    let text = ON_CLUSTER
        .replace("cluster = true\n", "")
        .replace("url = \"redis://h\"", "urls = [\"redis://:hunter2@h\", \"redis://:hunter2@i\"]");
    let config = load(&text).unwrap();
    let Servers::Spread(urls) = &config.redis[0].servers else { panic!() };
    assert_eq!(urls[1].expose(), "redis://:hunter2@i");
    let shown = config.show();
    assert!(!shown.contains("hunter2") && shown.contains("redis://***@i:6379/0"), "{shown}");
}

#[test]
fn each_mistake_in_servers_is_told() {
    let on_cluster = |keys: &str| format!("{ON_CLUSTER}{keys}");
    let instance = |keys: &str| format!("redis.default = {{ {keys} }}");
    assert_told([
        (
            on_cluster("sharded_pubsub = 1"),
            "8: namespace.sharded_pubsub: expected true or false, found an integer",
        ),
        (
            on_cluster("sharded_pubsub = true\nkey_prefix = \"{a}\"\nsource = \"stream\""),
            "8: namespace.sharded_pubsub: the hash tag in `key_prefix` keeps all logs in one slot, away from their channels: \
             leave it out",
        ),
        (
            on_cluster("sharded_pubsub = true\nsubscribe_pattern = true"),
            "9: namespace.subscribe_pattern: shard channels have no patterns",
        ),
        (
            on_cluster("sharded_pubsub = true").replace("cluster = true", ""),
            "8: namespace.sharded_pubsub: requires a cluster: the `redis` of this namespace has no `cluster`",
        ),
        (
            on_cluster("key_prefix = \"{a\""),
            "8: namespace.key_prefix: a `{` without a hash tag, such as \"{express}:\"; without any, each channel is \
             its own",
        ),
        (
            instance(r#"url = "redis://h/1", cluster = true"#),
            "1: redis.default.url: a cluster has no databases but 0",
        ),
        (
            instance(r#"url = "redis://h", cluster = ["b"]"#),
            "1: redis.default.cluster: expected host:port, found \"b\"; password and TLS are those of `url`",
        ),
        (
            instance(r#"url = "redis://h", cluster = 1"#),
            "1: redis.default.cluster: expected true, or more nodes such as [\"redis-2:6379\"], found an integer",
        ),
        (
            instance(r#"url = "redis://h", pubsub_url = "redis://p", cluster = true"#),
            "1: redis.default.pubsub_url: each node of a cluster carries pub/sub: leave it out",
        ),
        (
            instance(r#"url = "redis://h", urls = ["redis://i", "redis://j"]"#),
            "1: redis.default.url: not together with `urls`",
        ),
        (instance(r#"urls = ["redis://i"]"#), "1: redis.default.urls: 2 to 64 servers; one is written `url`"),
        (
            instance(r#"urls = ["redis://i", "redis://j", "redis://:p@i"]"#),
            "1: redis.default.urls: redis://***@i:6379/0 stands there twice",
        ),
        (
            instance(r#"urls = ["redis://i", "rediss://j"]"#),
            "1: redis.default.urls: either all of them speak TLS or none",
        ),
        (
            instance(r#"urls = ["redis://i", "redis://j"], cluster = true"#),
            "1: redis.default.urls: not together with `cluster`, which finds its nodes by itself",
        ),
    ]);
    let told = |text: &str, name| load_with(text, &[REDIS, (name, "redis://p")], &[]).unwrap_err();
    assert_eq!(
        told(&instance(r#"urls = ["redis://i", "redis://j"]"#), "OTHER"),
        "REDIS_URL: it is for one server, and the file has `urls`: unset it"
    );
    assert_eq!(
        told(&instance("cluster = true"), "REDIS_PUBSUB_URL"),
        "REDIS_PUBSUB_URL: each node of a cluster carries pub/sub: unset it"
    );
}
