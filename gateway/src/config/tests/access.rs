//! Open channels: by default, by variable, and in development mode.

use super::super::*;
use super::{load, load_dev, load_with};
use crate::auth::access::Grant;

const REDIS: (&str, &str) = ("REDIS_URL", "redis://env");

/// Whether a client may subscribe to a channel, and publish on it.
fn is_open(config: &Config, channel: &str) -> (bool, bool) {
    let matches =
        |namespace: &&NamespaceConfig| namespace.channels.iter().any(|pattern| pattern.matches(channel));
    let found = config.namespaces.iter().find(matches);
    found.map_or((false, false), |found| {
        (found.access.subscribe.contains(Grant::Anyone), !found.access.publish.is_nobody())
    })
}

#[test]
fn no_channel_is_open_by_default() {
    for config in [load(""), load_with("", &[REDIS], &[]), load_with("", &[REDIS], &["0.0.0.0:80"])] {
        let config = config.unwrap();
        assert_eq!(is_open(&config, "a"), (false, false));
        assert!(!config.has_open_channels() && !config.development);
        assert_eq!(config.warnings, Vec::<String>::new());
    }
    // The gateway still connects to the instance, and is ready when connected.
    assert_eq!(load_with("", &[REDIS], &[]).unwrap().redis.len(), 1);
}

#[test]
fn a_variable_opens_channels_for_subscribing_only() {
    let open = [REDIS, ("EARSHOT_OPEN_CHANNELS", " web-signals, jobs:* ,")];
    let config = load_with("", &open, &[]).unwrap();
    for (channel, open) in [("web-signals", true), ("jobs:1", true), ("web-signals2", false)] {
        assert_eq!(is_open(&config, channel), (open, false), "{channel}");
    }
    assert_eq!(config.namespaces[0].redis.as_deref(), Some("default"));
    let memory = load_with("", &open[1..], &[]).unwrap();
    assert_eq!((memory.namespaces[0].redis.as_deref(), memory.redis.len()), (None, 0));
    assert_eq!(load(&memory.to_toml()).unwrap().namespaces, memory.namespaces);
}

#[test]
fn namespaces_of_the_file_precede_the_one_of_the_variable() {
    let file = "[[namespace]]\nname = \"a\"\nchannels = \"web-signals\"\nsubscribe = \"nobody\"\n";
    let config = load_with(file, &[("EARSHOT_OPEN_CHANNELS", "web-*")], &[]).unwrap();
    assert_eq!(is_open(&config, "web-signals"), (false, false));
    assert_eq!(is_open(&config, "web-2"), (true, false));
    let error = load_with(file, &[("EARSHOT_OPEN_CHANNELS", "demo,web-signals")], &[]).unwrap_err();
    assert_eq!(
        error,
        "EARSHOT_OPEN_CHANNELS: duplicate pattern `web-signals`, also in namespace `a` (line 3)"
    );
    let elsewhere = format!("redis.b.url = \"redis://b\"\n{file}redis = \"b\"\n");
    let error = load_with(&elsewhere, &[("EARSHOT_OPEN_CHANNELS", "demo")], &[]).unwrap_err();
    assert_eq!(
        error,
        "EARSHOT_OPEN_CHANNELS: its channels use the redis `default`, which is not configured: add a [[namespace]] instead"
    );
}

#[test]
fn errors_in_variables() {
    for (name, value, error) in [
        ("EARSHOT_OPEN_CHANNELS", "a,a", "duplicate pattern `a`, also in EARSHOT_OPEN_CHANNELS"),
        (
            "EARSHOT_OPEN_CHANNELS",
            "*,a",
            "`a` never matches: `*` in EARSHOT_OPEN_CHANNELS covers it; put the narrower pattern first",
        ),
        (
            "EARSHOT_ALLOWED_ORIGINS",
            "https://a.example,b",
            "expected an origin such as \"https://app.example.com\" or \"*\", found \"b\"",
        ),
    ] {
        assert_eq!(load_with("", &[(name, value)], &[]).unwrap_err(), format!("{name}: {error}"));
    }
    let origins = [("EARSHOT_ALLOWED_ORIGINS", "https://A.example, http://localhost:3000")];
    let config = load_with("allowed_origins = \"https://file.example\"", &origins, &[]).unwrap();
    assert_eq!(config.allowed_origins, ["https://a.example", "http://localhost:3000"]);
}

#[test]
fn development_mode_opens_every_channel_unless_the_file_has_namespaces() {
    let config = load_dev("", &[REDIS], &[]).unwrap();
    assert_eq!((is_open(&config, "any:channel.at-all"), config.development), ((true, true), true));
    assert_eq!(config.sources.to_string(), "REDIS_URL, --dev");
    let file = "[[namespace]]\nname = \"a\"\nchannels = \"a\"\nsubscribe = \"anyone\"\n";
    let config = load_dev(file, &[("EARSHOT_OPEN_CHANNELS", "b")], &[]).unwrap();
    let open = ["a", "b", "c"].map(|channel| is_open(&config, channel));
    assert_eq!(open, [(true, false), (true, false), (false, false)]);
}

#[test]
fn development_mode_listens_on_loopback_only() {
    for listen in ["localhost:8000", "127.0.0.1:0", "[::1]:8000"] {
        assert!(load_dev("", &[], &[listen]).is_ok(), "{listen}");
    }
    let why = "not a loopback address, which development mode (--dev) requires because it has no access control: \
               listen on localhost, or omit --dev";
    for (text, variables, listen, location, shown) in [
        ("", &[][..], &[":8000"][..], "--listen", ":8000"),
        ("", &[("EARSHOT_LISTEN", "127.0.0.1:1, 0.0.0.0:2")], &[], "EARSHOT_LISTEN", "0.0.0.0:2"),
        ("listen = \"[::]:3\"", &[], &[], "earshot.toml:1: listen", "[::]:3"),
    ] {
        let error = load_dev(text, variables, listen).unwrap_err();
        assert_eq!(error, format!("{location}: \"{shown}\": {why}"));
    }
}

#[test]
fn a_protected_channel_is_opened_only_by_its_exact_name() {
    let exact = "[[namespace]]\nname = \"all\"\nchannels = \"*\"\n\n\
                 [[namespace]]\nname = \"events\"\nchannels = \"__keyevent@0__:expired\"\n";
    assert_eq!(load(exact).unwrap().namespaces.len(), 2);
    for (glob, protected) in
        [("bull:*", "bull:*"), ("__keyspace@0__:*", "__keyspace@*"), ("?.celeryev.*", "*.celeryev*")]
    {
        let error = load(&format!("[[namespace]]\nname = \"a\"\nchannels = \"{glob}\"\n")).unwrap_err();
        let what =
            format!("`{glob}` matches only protected channels (`{protected}`), which must be named exactly");
        assert_eq!(error, format!("earshot.toml:3: namespace.channels: {what}"));
        let error = load_with("", &[("EARSHOT_OPEN_CHANNELS", glob)], &[]).unwrap_err();
        assert_eq!(error, format!("EARSHOT_OPEN_CHANNELS: {what}"));
    }
}

#[test]
fn the_manual_lists_every_protected_channel() {
    let manual = include_str!("../../../../docs/configuration.md");
    for glob in crate::node::namespace::PROTECTED_CHANNELS {
        assert!(manual.contains(&format!("`{glob}`")), "{glob}");
    }
}

#[test]
fn rejects_a_log_filter_with_an_unknown_level_or_module() {
    for (filter, error) in [
        ("verbose", "unknown level \"verbose\"; did you mean \"debug\"?"),
        ("WARNING", "unknown level \"WARNING\"; did you mean \"warn\"?"),
        ("info,fatal", "unknown level \"fatal\"; did you mean \"error\"?"),
        ("erashot=debug", "unknown module \"erashot=debug\"; did you mean \"earshot\"?"),
        (
            "loud",
            "unknown level \"loud\"; use one of off, error, warn, info, debug, trace, also by module: \"info,earshot::broker=debug\"",
        ),
    ] {
        assert_eq!(
            load_with("", &[("EARSHOT_LOG", filter)], &[]).unwrap_err(),
            format!("EARSHOT_LOG: {error}")
        );
        let error = format!("earshot.toml:1: log: {error}");
        assert_eq!(load(&format!("log = \"{filter}\"")).unwrap_err(), error);
    }
    for filter in ["", "off", "Debug", "info,hyper=off", "earshot::node=trace", "warn,earshot[span]=debug"] {
        assert!(load(&format!("log = \"{filter}\"")).is_ok(), "{filter}");
    }
}
