//! What a configuration is told when something is wrong with it: file, line, key, and what would be right.

use super::{load, load_with};

/// A file of one section, and what it is told.
const ROWS: &[(&str, &str)] = &[
    // Unknown keys
    ("lisen = \":1\"", "1: lisen: unknown key; did you mean `listen`?"),
    ("allowed-origins = \"*\"", "1: allowed-origins: unknown key; did you mean `allowed_origins`?"),
    ("\n[limit]\nrequest_header_bytes = 1", "2: limit: unknown key; did you mean `limits`?"),
    (
        "[limits]\nrequest_header_byte = 1",
        "2: limits.request_header_byte: unknown key; did you mean `request_header_bytes`?",
    ),
    ("[limits]\nheartbeat = \"3s\"", "2: limits.heartbeat: unknown key; `heartbeat` belongs to [sse]"),
    (
        "[sse]\nlog = \"info\"",
        "2: sse.log: unknown key; `log` stands at the top of the file, before any [section]",
    ),
    ("[sse]\ncolour = 1", "2: sse.colour: unknown key; known here: `heartbeat`, `retry`, `max_age`"),
    ("api.keys = \"k\"", "1: api.keys: unknown key; did you mean `key`?"),
    (
        "redis.a = { url = \"redis://h\", ur = 1 }\nnamespace = [{ name = \"a\", channels = \"a\", redis = \"a\" }]",
        "1: redis.a.ur: unknown key; did you mean `url`?",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npubish = \"anyone\"",
        "4: namespace.pubish: unknown key; did you mean `publish`?",
    ),
    // Sections that are none
    ("limits = 3", "1: limits: expected a section [limits], found an integer"),
    ("redis = \"redis://h\"", "1: redis: expected a section [redis], found a text"),
    ("[redis]\nurl = \"redis://h\"", "2: redis.url: expected a section [redis.NAME], found a text"),
    (
        "[namespace]\nname = \"a\"",
        "1: namespace: a list of sections is written with two brackets: [[namespace]]",
    ),
    ("namespace = []", "1: namespace: no namespace at all: every channel would be refused"),
    ("namespace = [1]", "1: namespace: expected a section [[namespace]], found an integer"),
    // Numbers
    (
        "[websocket]\nping_interval = 25",
        "2: websocket.ping_interval: expected a duration such as \"25s\" or \"100ms\", found 25",
    ),
    (
        "[websocket]\nping_interval = \"25\"",
        "2: websocket.ping_interval: expected a duration such as \"25s\" or \"100ms\", found \"25\"",
    ),
    ("[websocket]\nping_interval = \"0s\"", "2: websocket.ping_interval: \"0s\" is out of range: 1s to 1h"),
    (
        "[websocket]\nping_interval = \"1500ms\"",
        "2: websocket.ping_interval: clients are told in whole seconds: write whole seconds",
    ),
    (
        "[websocket]\npong_timeout = \"30s\"",
        "2: websocket.pong_timeout: a pong is due before the next ping: less than `ping_interval` (25s)",
    ),
    (
        "[drain]\nshutdown_timeout = \"5s\"\ndisconnect_window = \"5s\"",
        "3: drain.disconnect_window: 5s is not shorter than `shutdown_timeout` (5s)",
    ),
    ("[limits]\nrequest_header_bytes = 0", "2: limits.request_header_bytes: 0 is out of range: 1KiB to 1MiB"),
    (
        "[limits]\nrequest_header_bytes = -1",
        "2: limits.request_header_bytes: expected a size such as \"64KiB\" or a number of bytes, found -1",
    ),
    (
        "[limits]\nrequest_header_bytes = 1.5",
        "2: limits.request_header_bytes: expected a size such as \"64KiB\" or a number of bytes, found a number with a point",
    ),
    (
        "[limits]\nrequest_header_bytes = \"64KB\"",
        "2: limits.request_header_bytes: expected a size such as \"64KiB\" or a number of bytes, found \"64KB\"",
    ),
    (
        "[limits]\nchannels_per_connection = 0",
        "2: limits.channels_per_connection: 0 is out of range: 1 to 100000",
    ),
    (
        "[limits]\nchannels_per_connection = \"9\"",
        "2: limits.channels_per_connection: expected a whole number, found \"9\"",
    ),
    (
        "[limits]\nconnections = 99999999999999999999999",
        "2: limits.connections: expected a whole number, found 99999999999999999999999",
    ),
    (
        "[limits]\nclient_queue_bytes = \"64KiB\"",
        "2: limits.client_queue_bytes: 64KiB holds no publication of `publication_bytes` (1MiB): raise this or lower that",
    ),
    (
        "[limits]\napi_buffer_bytes = \"1MiB\"",
        "2: limits.api_buffer_bytes: 1MiB holds no body of `api_body_bytes` (2MiB): raise this or lower that",
    ),
    ("[gateway]\nshards = 5000", "2: gateway.shards: 5000 is out of range: 1 to 128"),
    // Texts at the top
    ("listen = \"localhost\"", "1: listen: expected host:port, found \"localhost\""),
    (
        "listen = [\":1\",\n\"8000\"]",
        "2: listen: expected host:port, found \"8000\"; did you mean \":8000\"?",
    ),
    ("listen = 8000", "1: listen: expected a text in quotes, found an integer"),
    ("listen = []", "1: listen: no address at all; without this key it is \"localhost:8000\""),
    ("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "1: listen: 127.0.0.1:1 is listened on already"),
    ("log = \"inof\"", "1: log: \"inof\" is no level; did you mean \"info\"?"),
    ("log = \"é\"", "1: log: a log filter is made of ASCII characters"),
    (
        "log = \"earshot=loud\"",
        "1: log: not a log filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
    ),
    (
        "allowed_origins = \"app.example.com\"",
        "1: allowed_origins: expected an origin such as \"https://app.example.com\" or \"*\", found \"app.example.com\"",
    ),
    (
        "allowed_origins = \"https://a.example/\"",
        "1: allowed_origins: an origin ends with its host: write \"https://a.example\"",
    ),
    (
        "allowed_origins = \"https://a.example:443\"",
        "1: allowed_origins: browsers leave the usual port out: write \"https://a.example\"",
    ),
    (
        "allowed_origins = \"https://*.example\"",
        "1: allowed_origins: \"https://*.example\" holds no host name; one host each, and \"*\" alone stands for all",
    ),
    ("api.key = \"\"", "1: api.key: the key is empty"),
    ("api.key = \"***\"", "1: api.key: `***` only stands for a hidden key: give the key itself"),
    ("api.key = 7", "1: api.key: expected a text in quotes, found an integer"),
    // Redis
    (
        "[redis.default]\nretry_max = \"1s\"",
        "1: redis.default: has no `url`, such as url = \"redis://127.0.0.1:6379/0\"",
    ),
    (
        "[redis.default]\nurl = \"localhost:6379\"",
        "2: redis.default.url: expected redis://host:port/database, rediss:// for TLS, or unix:///path for a Unix socket",
    ),
    (
        "[redis.default]\nurl = \"redis://h\"\nretry_min = \"3s\"\nretry_max = \"2s\"",
        "3: redis.default.retry_min: more than `retry_max`",
    ),
    (
        "[redis.\"a b\"]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"a b\"",
        "1: redis.a b: a name has 1 to 64 letters (a-z, A-Z), digits, `-` and `_`",
    ),
    (
        "[redis.memory]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"memory\"",
        "1: redis.memory: `memory` means no Redis at all: choose another name",
    ),
    (
        "[redis.shared]\nurl = \"redis://h\"",
        "1: redis: no [[namespace]] is on it: write one, or call the instance `default`",
    ),
    // Namespaces
    ("[[namespace]]\nchannels = \"a\"", "1: namespace: has no `name`"),
    (
        "[[namespace]]\nname = \"\"\nchannels = \"a\"",
        "2: namespace.name: a name has 1 to 64 letters (a-z, A-Z), digits, `-` and `_`",
    ),
    ("[[namespace]]\nname = \"a\"", "1: namespace: has no `channels`, such as channels = [\"web-*\"]"),
    (
        "[[namespace]]\nname = \"a\"\nchannels = []",
        "3: namespace.channels: no channel at all; every channel is \"*\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = [\n\"a\",\n\"\"]",
        "5: namespace.channels: a channel name must not be empty",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\\nb\"",
        "3: namespace.channels: a channel name must not contain a control character",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"b\"",
        "4: namespace.redis: there is no [redis.b]; there is: \"memory\"",
    ),
    (
        "[redis.b]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"c\"",
        "6: namespace.redis: there is no [redis.c]; there is: \"b\", \"memory\"",
    ),
    (
        "[redis.b]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"",
        "3: namespace: does not say which `redis` it is on: \"b\", \"memory\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"bullmq\"",
        "4: namespace.source: \"bullmq\" is not available in this version; \"pubsub\" and \"stream\" are",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"kafka\"",
        "4: namespace.source: expected \"pubsub\" or \"stream\", found \"kafka\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsubscribe = \"subscribers\"",
        "4: namespace.subscribe: expected \"nobody\" or \"anyone\", found \"subscribers\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npublish = \"all\"",
        "4: namespace.publish: expected \"nobody\" or \"subscribers\" or \"anyone\", found \"all\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsubscribe_pattern = \"yes\"",
        "4: namespace.subscribe_pattern: expected true or false, found a text",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nkey_prefix = \"a b\"",
        "4: namespace.key_prefix: a prefix of keys has at most 128 visible ASCII characters, no spaces, such as \"express:\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\n[[namespace]]\nname = \"a\"\nchannels = \"b\"",
        "5: namespace.name: line 2 has a namespace `a` already",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"x\"\n[[namespace]]\nname = \"b\"\nchannels = \"x\"",
        "6: namespace.channels: `x` stands in namespace `a` (line 3) already",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"*\"\n[[namespace]]\nname = \"b\"\nchannels = \"web-*\"",
        "6: namespace.channels: `web-*` can never be reached: `*` in namespace `a` (line 3) covers it; put the narrower one first",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"web-*\"\n[[namespace]]\nname = \"b\"\nchannels = \"web-1\"",
        "6: namespace.channels: `web-1` can never be reached: `web-*` in namespace `a` (line 3) covers it; put the narrower one first",
    ),
    // Not TOML
    ("listen = ", "1: not valid TOML: string values must be quoted, expected literal string"),
    ("log = \"info\"\nlog = \"warn\"", "2: not valid TOML: duplicate key"),
];

#[test]
fn each_mistake_names_its_line_its_key_and_what_would_be_right() {
    assert_told(ROWS.iter().copied());
}

/// Says of all files at once which of them is told something else than expected.
pub(super) fn assert_told<'t>(files: impl IntoIterator<Item = (impl AsRef<str>, &'t str)>) {
    let mut wrong = Vec::new();
    for (text, what) in files {
        let text = text.as_ref();
        let (expected, told) = (format!("earshot.toml:{what}"), load(text).map(|_| ()).unwrap_err());
        if told != expected {
            wrong.push(format!("{text}\n  expected {expected}\n  was told {told}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_lines() {
    let text = "[sse]\nretri = \"1s\"\n[limits]\nrequest_header_bytes = 0\n[drain]\nshutdown_timeout = 5\n";
    let variables = [("REDIS_URL", "redis://"), ("EARSHOT_LISTEN", ":1,x"), ("EARSHOT_LOG", "eror")];
    assert_eq!(
        load_with(text, &variables, &[]).unwrap_err(),
        "earshot.toml:2: sse.retri: unknown key; did you mean `retry`?\n\
         earshot.toml:4: limits.request_header_bytes: 0 is out of range: 1KiB to 1MiB\n\
         earshot.toml:6: drain.shutdown_timeout: expected a duration such as \"25s\" or \"100ms\", found 5\n\
         REDIS_URL: has no host; expected redis://host:port/database\n\
         EARSHOT_LISTEN: expected host:port, found \"x\"\n\
         EARSHOT_LOG: \"eror\" is no level; did you mean \"error\"?"
    );
}

#[test]
fn a_flag_is_named_like_a_key() {
    let told = load_with("", &[], &["nowhere:80"]).unwrap_err();
    assert_eq!(told, "--listen: \"nowhere:80\" cannot be resolved: no such host");
    let told = load_with("", &[("REDIS_PUBSUB_URL", "redis://h")], &[]).unwrap_err();
    assert_eq!(
        told,
        "REDIS_PUBSUB_URL: there is no instance it could belong to: set REDIS_URL, too, or write [redis.default]"
    );
}

#[test]
fn no_mistake_shows_a_secret() {
    for text in [
        "[api]\nkey = hunter2",
        "[api]\nkey = \"hunter2",
        "[api]\nkey = \"hunter2\" x",
        "[api]\nkey = \"hunter2\\q\"",
        "[api]\nkey = \"hunter2 x\"",
        "[api]\nkey = [\"hunter2\"]",
        "[redis.default]\nurl = \"http://:hunter2@h\"",
        "[redis.default]\nurl = redis://:hunter2@h",
        "[redis.default]\nurl = \"redis://:hunter2@h:x\"",
        "[redis.default]\nurl = [\"redis://:hunter2@h\"]",
        "[redis.default]\nurl = \"redis://h\"\npubsub_url = \"redis://hunter2@h\"",
        "[redis]\ndefault = \"redis://:hunter2@h\"",
        "redis = \"redis://:hunter2@h\"",
    ] {
        let told = load(text).map(|_| ()).unwrap_err();
        assert!(!told.contains("hunter2"), "{told}");
    }
}

#[test]
fn what_is_shown_is_bounded_and_keeps_to_its_line() {
    let told = load(&format!(
        "log = \"{}\\u001b\"\nlimits.request_header_bytes = \"\\n{}\"",
        "x".repeat(10),
        "y".repeat(900)
    ));
    let told = told.map(|_| ()).unwrap_err();
    assert!(told.lines().count() <= 2 && told.len() < 300 && !told.contains('\u{1b}'), "{told}");
}
