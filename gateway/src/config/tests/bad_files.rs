//! Errors of invalid files: file, line, key and expected value.

use super::{load, load_with};

/// Invalid files and their errors.
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
        "2: sse.log: unknown key; `log` is a top-level key: move it before the first [section]",
    ),
    ("[sse]\ncolour = 1", "2: sse.colour: unknown key; valid keys: `heartbeat`, `retry`, `max_age`"),
    ("api.keys = \"k\"", "1: api.keys: unknown key; did you mean `key`?"),
    (
        "redis.a = { url = \"redis://h\", ur = 1 }\nnamespace = [{ name = \"a\", channels = \"a\", redis = \"a\" }]",
        "1: redis.a.ur: unknown key; did you mean `url`?",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npubish = \"anyone\"",
        "4: namespace.pubish: unknown key; did you mean `publish`?",
    ),
    // Invalid sections
    ("limits = 3", "1: limits: expected a section [limits], found an integer"),
    ("redis = \"redis://h\"", "1: redis: expected a section [redis], found a string"),
    ("[redis]\nurl = \"redis://h\"", "2: redis.url: expected a section [redis.NAME], found a string"),
    (
        "[namespace]\nname = \"a\"",
        "1: namespace: expected a list of sections, written with two brackets: [[namespace]]",
    ),
    ("namespace = []", "1: namespace: empty list: every channel would be rejected"),
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
        "2: websocket.ping_interval: the protocol announces it in whole seconds: use whole seconds",
    ),
    (
        "[websocket]\npong_timeout = \"30s\"",
        "2: websocket.pong_timeout: 30s is not shorter than `ping_interval` (25s)",
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
        "2: limits.request_header_bytes: expected a size such as \"64KiB\" or a number of bytes, found a float",
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
        "2: limits.client_queue_bytes: 64KiB is less than `publication_bytes` (1MiB)",
    ),
    (
        "[limits]\napi_buffer_bytes = \"1MiB\"",
        "2: limits.api_buffer_bytes: 1MiB is less than `api_body_bytes` (2MiB)",
    ),
    ("[gateway]\nshards = 5000", "2: gateway.shards: 5000 is out of range: 1 to 128"),
    // Top-level keys
    ("listen = \"localhost\"", "1: listen: expected host:port, found \"localhost\""),
    (
        "listen = [\":1\",\n\"8000\"]",
        "2: listen: expected host:port, found \"8000\"; did you mean \":8000\"?",
    ),
    ("listen = 8000", "1: listen: expected a string in quotes, found an integer"),
    ("listen = []", "1: listen: empty list; without this key, the default is \"localhost:8000\""),
    ("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "1: listen: duplicate address 127.0.0.1:1"),
    ("log = \"inof\"", "1: log: unknown level \"inof\"; did you mean \"info\"?"),
    ("log = \"é\"", "1: log: expected ASCII characters only"),
    (
        "log = \"earshot=loud\"",
        "1: log: invalid log filter: error parsing level filter: expected one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a number 0-5",
    ),
    (
        "allowed_origins = \"app.example.com\"",
        "1: allowed_origins: expected an origin such as \"https://app.example.com\" or \"*\", found \"app.example.com\"",
    ),
    (
        "allowed_origins = \"https://a.example/\"",
        "1: allowed_origins: an origin has no path: write \"https://a.example\"",
    ),
    (
        "allowed_origins = \"https://a.example:443\"",
        "1: allowed_origins: browsers omit the default port: write \"https://a.example\"",
    ),
    (
        "allowed_origins = \"https://*.example\"",
        "1: allowed_origins: \"https://*.example\" has no valid host name; wildcards are not supported, except \"*\" for all origins",
    ),
    ("api.key = \"\"", "1: api.key: the key is empty"),
    ("api.key = \"***\"", "1: api.key: `***` is a placeholder for a hidden key; set the actual key"),
    ("api.key = 7", "1: api.key: expected a string in quotes, found an integer"),
    // Redis
    (
        "[redis.default]\nretry_max = \"1s\"",
        "1: redis.default: missing `url`, such as url = \"redis://127.0.0.1:6379/0\"",
    ),
    (
        "[redis.default]\nurl = \"localhost:6379\"",
        "2: redis.default.url: expected redis://host:port/database, rediss:// for TLS, or unix:///path for a Unix socket",
    ),
    (
        "[redis.default]\nurl = \"redis://h\"\nretry_min = \"3s\"\nretry_max = \"2s\"",
        "3: redis.default.retry_min: must not be greater than `retry_max`",
    ),
    (
        "[redis.\"a b\"]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"a b\"",
        "1: redis.a b: expected a name of 1 to 64 characters: letters (a-z, A-Z), digits, `-` and `_`",
    ),
    (
        "[redis.memory]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"memory\"",
        "1: redis.memory: `memory` is reserved: choose another name",
    ),
    (
        "[redis.shared]\nurl = \"redis://h\"",
        "1: redis: no namespace uses it: add a [[namespace]], or name the instance `default`",
    ),
    // Namespaces
    ("[[namespace]]\nchannels = \"a\"", "1: namespace: missing `name`"),
    (
        "[[namespace]]\nname = \"\"\nchannels = \"a\"",
        "2: namespace.name: expected a name of 1 to 64 characters: letters (a-z, A-Z), digits, `-` and `_`",
    ),
    ("[[namespace]]\nname = \"a\"", "1: namespace: missing `channels`, such as channels = [\"web-*\"]"),
    (
        "[[namespace]]\nname = \"a\"\nchannels = []",
        "3: namespace.channels: empty list; for every channel use \"*\"",
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
        "4: namespace.redis: no [redis.b] is configured; use one of \"memory\"",
    ),
    (
        "[redis.b]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"\nredis = \"c\"",
        "6: namespace.redis: no [redis.c] is configured; use one of \"b\", \"memory\"",
    ),
    (
        "[redis.b]\nurl = \"redis://h\"\n[[namespace]]\nname = \"a\"\nchannels = \"a\"",
        "3: namespace: missing `redis`; use one of \"b\", \"memory\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"bullmq\"",
        "4: namespace.source: \"bullmq\" is not available in this version: use \"pubsub\" or \"stream\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsource = \"kafka\"",
        "4: namespace.source: expected \"pubsub\" or \"stream\", found \"kafka\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsubscribe = \"subscribers\"",
        "4: namespace.subscribe: expected \"nobody\" or \"anyone\" or \"authenticated\" or \"owner\" or \"token\" or \"hook\", found \"subscribers\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npublish = \"all\"",
        "4: namespace.publish: expected \"nobody\" or \"anyone\" or \"authenticated\" or \"subscribers\" or \"owner\" or \"token\" or \"hook\", found \"all\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a:{nest}\"\npublish = \"owner\"",
        "4: namespace.publish: \"owner\" requires a placeholder in `channels`, such as channels = [\"user:{user}\"]",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npublish = []",
        "4: namespace.publish: empty list; for no client use \"nobody\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\npublish = [\"nobody\", \"anyone\"]",
        "4: namespace.publish: \"nobody\" cannot be combined with other words",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nrequire = { roles = [] }",
        "4: namespace.require: `roles` has no value, so no client could meet it",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nrequire = { roles = 7 }",
        "4: namespace.require.roles: expected a string in quotes, found an integer",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsubscribe_pattern = \"yes\"",
        "4: namespace.subscribe_pattern: expected true or false, found a string",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nkey_prefix = \"a b\"",
        "4: namespace.key_prefix: expected at most 128 visible ASCII characters without spaces, such as \"express:\"",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"a\"\n[[namespace]]\nname = \"a\"\nchannels = \"b\"",
        "5: namespace.name: duplicate namespace `a`, first defined on line 2",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"x\"\n[[namespace]]\nname = \"b\"\nchannels = \"x\"",
        "6: namespace.channels: duplicate pattern `x`, also in namespace `a` (line 3)",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"*\"\n[[namespace]]\nname = \"b\"\nchannels = \"web-*\"",
        "6: namespace.channels: `web-*` never matches: `*` in namespace `a` (line 3) covers it; put the narrower pattern first",
    ),
    (
        "[[namespace]]\nname = \"a\"\nchannels = \"web-*\"\n[[namespace]]\nname = \"b\"\nchannels = \"web-1\"",
        "6: namespace.channels: `web-1` never matches: `web-*` in namespace `a` (line 3) covers it; put the narrower pattern first",
    ),
    // Not TOML
    ("listen = ", "1: not valid TOML: string values must be quoted, expected literal string"),
    ("log = \"info\"\nlog = \"warn\"", "2: not valid TOML: duplicate key"),
];

#[test]
fn errors_contain_line_key_and_expected_value() {
    assert_errors(ROWS.iter().copied());
}

/// Checks the error of each file, and reports all differences together.
pub(super) fn assert_errors<'t>(files: impl IntoIterator<Item = (impl AsRef<str>, &'t str)>) {
    let mut wrong = Vec::new();
    for (text, what) in files {
        let text = text.as_ref();
        let (expected, error) = (format!("earshot.toml:{what}"), load(text).map(|_| ()).unwrap_err());
        if error != expected {
            wrong.push(format!("{text}\n  expected {expected}\n  found {error}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n\n"));
}

#[test]
fn all_errors_are_reported_in_the_order_of_their_lines() {
    let text = "[sse]\nretri = \"1s\"\n[limits]\nrequest_header_bytes = 0\n[drain]\nshutdown_timeout = 5\n";
    let variables = [("REDIS_URL", "redis://"), ("EARSHOT_LISTEN", ":1,x"), ("EARSHOT_LOG", "eror")];
    assert_eq!(
        load_with(text, &variables, &[]).unwrap_err(),
        "earshot.toml:2: sse.retri: unknown key; did you mean `retry`?\n\
         earshot.toml:4: limits.request_header_bytes: 0 is out of range: 1KiB to 1MiB\n\
         earshot.toml:6: drain.shutdown_timeout: expected a duration such as \"25s\" or \"100ms\", found 5\n\
         REDIS_URL: has no host; expected redis://host:port/database\n\
         EARSHOT_LISTEN: expected host:port, found \"x\"\n\
         EARSHOT_LOG: unknown level \"eror\"; did you mean \"error\"?"
    );
}

#[test]
fn an_error_contains_the_flag_or_variable() {
    let error = load_with("", &[], &["nowhere:80"]).unwrap_err();
    assert_eq!(error, "--listen: cannot resolve \"nowhere:80\": no such host");
    let error = load_with("", &[("REDIS_PUBSUB_URL", "redis://h")], &[]).unwrap_err();
    assert_eq!(
        error,
        "REDIS_PUBSUB_URL: no Redis instance is configured: set REDIS_URL, or add [redis.default]"
    );
}

#[test]
fn errors_contain_no_secret() {
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
        let error = load(text).map(|_| ()).unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
    }
}

#[test]
fn values_in_errors_are_truncated_and_escaped() {
    let error = load(&format!(
        "log = \"{}\\u001b\"\nlimits.request_header_bytes = \"\\n{}\"",
        "x".repeat(10),
        "y".repeat(900)
    ));
    let error = error.map(|_| ()).unwrap_err();
    assert!(error.lines().count() <= 2 && error.len() < 300 && !error.contains('\u{1b}'), "{error}");
}
