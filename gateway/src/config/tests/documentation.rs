//! The example loads, and the documentation has every key with its default and range.

use tempfile::TempDir;

use super::super::*;
use super::load;
use crate::auth::jwt::JwtRules;
use crate::auth::session::SessionKind;
use crate::hooks::HookLimits;
use crate::node::history_rules::HistoryRules;

const EXAMPLE: &str = include_str!("../../../../docs/earshot.toml");
const MANUAL: &str = include_str!("../../../../docs/configuration.md");

/// The example with its commented settings (`#key = value`, `#[[section]]`; prose has a space after the `#`) switched on,
/// and the directory of the files that it names.
pub(super) fn everything() -> (String, TempDir) {
    let switch_on = |line: &str| match line.strip_prefix('#') {
        Some(setting) if setting.starts_with(|first: char| first.is_ascii_lowercase() || first == '[') => {
            setting.to_owned()
        }
        _ => line.to_owned(),
    };
    let text = EXAMPLE.lines().map(switch_on).collect::<Vec<_>>().join("\n");
    let directory = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(["redis.example.com".to_owned()]).unwrap();
    for (name, content) in [
        ("redis-password", "hunter2\n".to_owned()),
        ("sentinel-password", "hunter2\n".to_owned()),
        ("redis-ca.pem", own.cert.pem()),
        ("redis-client.pem", own.cert.pem()),
        ("redis-client.key", own.signing_key.serialize_pem()),
        ("session-secrets", "new\nold\n".to_owned()),
        ("ticket-secrets", "a-new-secret-of-tickets\nan-old-secret-of-tickets\n".to_owned()),
        ("api-keys", "a-new-secret-of-the-api\nan-old-secret-of-the-api\n".to_owned()),
        ("hook-secrets", "a new secret, 16+\nan old secret, 16+\n".to_owned()),
        ("jwt-secrets", "new\nold\n".to_owned()),
        ("jwt-public.pem", own.signing_key.public_key_pem()),
    ] {
        std::fs::write(directory.path().join(name), content).unwrap();
    }
    (text.replace("/etc/earshot/", &format!("{}/", directory.path().display())), directory)
}

#[test]
fn the_example_loads() {
    let config = load(EXAMPLE).unwrap();
    assert_eq!(config.warnings, Vec::<String>::new());
    let names: Vec<_> = config.namespaces.iter().map(|namespace| namespace.name.as_str()).collect();
    assert_eq!(names, ["nest", "web", "jobs", "own", "metrics", "demo"]);
    let kinds: Vec<_> = config.logins.iter().map(LoginMethod::kind).collect();
    assert_eq!(kinds, ["django", "anonymous"]);
    let (text, _files) = everything();
    let config = load(&text).unwrap();
    assert_eq!((config.api_keys.len(), config.warnings), (2, Vec::<String>::new()));
    assert!(config.api_key.is_some() && config.redis.iter().any(|instance| instance.pubsub_url.is_some()));
}

#[test]
fn the_example_contains_every_default() {
    let config = load(EXAMPLE).unwrap();
    assert_eq!((config.limits, config.sse), (Limits::default(), Sse::default()));
    assert_eq!((config.websocket, config.drain), (WebSocket::default(), DrainConfig::default()));
    assert_eq!(config.http, Http::default());
    assert_eq!((config.gateway, config.listen), (GatewayConfig::default(), vec![Listen::default()]));
    assert!(config.redis.iter().all(|instance| instance.times == RedisTimes::default()));
    let nest = &config.namespaces[0];
    assert_eq!((&nest.history, nest.source), (&HistoryRules::default(), Source::PubSub));
    assert_eq!(nest.replay, Replay::default());
}

#[test]
fn the_example_and_the_manual_name_every_key() {
    let (example, _files) = everything();
    let (document, _) = Document::parse(Path::new(""), &example, Diagnostics::default());
    Config::read(&document, &Environment::default(), &Flags::default(), super::offline);
    let known = document.known_keys();
    for (section, key) in &known {
        let path = if section.is_empty() { (*key).to_owned() } else { format!("{section}.{key}") };
        let is_section =
            known.iter().any(|(other, _)| *other == path || other.starts_with(&format!("{path}.")));
        let in_manual = format!("| `{key}` |");
        assert!(
            (is_section && section.is_empty()) || MANUAL.contains(&in_manual),
            "the manual has no row {in_manual} for [{section}]"
        );
        let dotted = format!("{}.{key} = ", section.rsplit('.').next().unwrap());
        let on_a_line = |line: &str| line.starts_with(&format!("{key} = ")) || line.starts_with(&dotted);
        let inline = [format!("{{ {key} = "), format!(", {key} = ")];
        let setting = example.lines().any(on_a_line) || inline.iter().any(|key| example.contains(key));
        assert!(is_section || setting, "the example does not set {key} of [{section}]");
    }
}

#[test]
fn the_dump_contains_every_key() {
    let (keys, _files) = everything();
    let shown = load(&keys).unwrap().to_toml();
    let keys = keys.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key);
    for key in keys.filter(|key| !key.starts_with('#')) {
        assert!(shown.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is not shown");
    }
}

#[test]
fn the_manual_has_the_defaults_and_ranges() {
    let tables = [
        ("gateway", GatewayConfig::table()),
        ("limits", Limits::table()),
        ("websocket", WebSocket::table()),
        ("sse", Sse::table()),
        ("http", Http::table()),
        ("drain", DrainConfig::table()),
        ("hooks", HookLimits::table()),
        ("redis.NAME", RedisTimes::table()),
        ("revocation", RevocationTimes::table()),
    ];
    for (section, rows) in tables {
        let head = format!("## `[{section}]`");
        let chapter =
            MANUAL.split("\n## ").find(|chapter| head.ends_with(chapter.lines().next().unwrap())).unwrap();
        for [key, default, least, most] in rows {
            let default = if key == "shards" { "one per core".into() } else { format!("`{default}`") };
            let row = format!("| `{key}` | {default} | {least} to {most} |");
            assert!(chapter.contains(&row), "[{section}] has no row {row}");
        }
    }
}

#[test]
fn the_manual_has_the_default_history_of_each_source() {
    let settings = |source: Source| HistoryRules::default_for(source).entries();
    let rows = HistoryRules::table().into_iter().zip(settings(Source::PubSub)).zip(settings(Source::Stream));
    for (([key, _, least, most], (_, pubsub)), (_, stream)) in rows {
        let row = format!("| `{key}` | `{pubsub}` | `{stream}` | {least} to {most} |");
        assert!(MANUAL.contains(&row), "the history of a namespace has no row {row}");
    }
}

#[test]
fn the_manual_has_the_defaults_of_each_kind_of_login() {
    for kind in SessionKind::ALL {
        let defaults = kind.defaults();
        let cell =
            |value: Option<&str>| value.map_or_else(|| "required".into(), |value| format!("`{value}`"));
        let user = match defaults.user {
            [user] => format!("`{user}`"),
            [] if kind == SessionKind::Exists => "does not apply".into(),
            [] => "required".into(),
            _ => "the name of the principal".into(),
        };
        let (cookie, key) = (cell(defaults.cookie), cell(defaults.key));
        let secrets = if kind.is_signed() { "required" } else { "none" };
        let row = format!("| `{kind}` | {cookie} | {key} | {user} | {secrets} |");
        assert!(MANUAL.contains(&row), "the manual has no row {row}");
    }
    let rules = JwtRules::default();
    for row in [
        format!("| `user_claim` | `\"{}\"` |", rules.user_claim),
        format!("| `leeway` | `\"{}s\"` |", rules.leeway),
        "| `hash` | `false` |".into(),
    ] {
        assert!(MANUAL.contains(&row), "the manual has no row {row}");
    }
}

#[test]
fn the_manual_names_every_variable() {
    for name in [
        "EARSHOT_CONFIG",
        "EARSHOT_LISTEN",
        "EARSHOT_LOG",
        "EARSHOT_OPEN_CHANNELS",
        "EARSHOT_ALLOWED_ORIGINS",
        "EARSHOT_API_KEY",
        "EARSHOT_SECTION__KEY",
        "REDIS_URL",
        "REDIS_PUBSUB_URL",
        "REDIS_TLS",
        "REDIS_SSL",
        "REDIS_HOST",
        "REDIS_PORT",
        "REDIS_USERNAME",
        "REDIS_PASSWORD",
        "REDIS_DB",
    ] {
        assert!(MANUAL.contains(&format!("| `{name}` |")), "{name}");
    }
}
