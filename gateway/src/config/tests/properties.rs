//! No text makes loading panic, and the dump of a configuration loads again.

use proptest::prelude::*;

use super::super::*;
use super::{load, load_with, offline};
use crate::redact;

const EXAMPLE: &str = include_str!("../../../../docs/earshot.toml");

/// Texts that break TOML.
const PIECES: &[&str] =
    &["\"", "'", "[", "]", "[[", "=", "\n", "#", ".", "{", "}", "\u{0}", "é", "0", "-", "***", "*", "?"];

fn pieces() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((0..EXAMPLE.len(), 0..PIECES.len(), 0..8usize), 1..12)
}

/// The example with some characters replaced.
fn mutated(changes: &[(usize, usize, usize)]) -> String {
    let mut letters: Vec<char> = EXAMPLE.chars().collect();
    for (at, piece, length) in changes {
        let from = (*at).min(letters.len());
        let to = (from + length).min(letters.len());
        letters.splice(from..to, PIECES[*piece].chars());
    }
    letters.into_iter().collect()
}

/// Every section and key that is read; a section as its header.
fn every_key() -> Vec<(String, &'static str)> {
    let (document, _) = Document::parse(Path::new(""), EXAMPLE, Diagnostics::default());
    Config::read(&document, &Environment::default(), &Flags::default(), offline);
    let head = |section: &str| match section.split_once('.') {
        _ if section.is_empty() => String::new(),
        Some(("namespace", _)) => format!("[[namespace]]\n[{section}]"),
        _ if section == "namespace" => "[[namespace]]".to_owned(),
        _ if section == "login" => "[[login]]".to_owned(),
        _ => format!("[{}]", section.replace("NAME", "default")),
    };
    let keys = document.known_keys().into_iter().map(|(section, key)| (head(&section), key));
    keys.chain(LOGIN_KINDS.iter().flat_map(|kind| login_keys(kind))).collect()
}

/// Kinds of logins that together have all keys.
const LOGIN_KINDS: [&str; 4] = ["express", "plain", "exists", "jwt"];

/// Every key of a login of this kind, with the sections that it requires.
fn login_keys(kind: &str) -> Vec<(String, &'static str)> {
    let head = format!("redis.default.url = \"redis://h\"\n[[login]]\nkind = \"{kind}\"");
    login::KEYS.into_iter().map(|key| (head.clone(), key)).collect()
}

/// The variables that are read.
const VARIABLES: [&str; 16] = [
    "EARSHOT_LISTEN",
    "EARSHOT_LOG",
    "EARSHOT_OPEN_CHANNELS",
    "EARSHOT_ALLOWED_ORIGINS",
    "EARSHOT_API_KEY",
    "REDIS_URL",
    "REDIS_PUBSUB_URL",
    "REDIS_TLS",
    "REDIS_SSL",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_USERNAME",
    "REDIS_PASSWORD",
    "REDIS_DB",
    "EARSHOT_LIMITS__CONNECTIONS",
    "EARSHOT_REDIS__DEFAULT__URL",
];

/// The error or the dump of a configuration with a text at one of the possible locations; `true`: an error.
fn error_or_dump(text: &str, location: usize, form: usize) -> (bool, String) {
    let quoted = toml::Value::from(text).to_string();
    let keys = every_key();
    let loaded = match keys.get(location % (keys.len() + VARIABLES.len() + 2)) {
        Some((head, key)) => {
            let line = match form {
                0 => format!("{key} = {quoted}"),
                1 => format!("{key} = [{quoted}, {quoted}]"),
                2 => format!("{key} = {{ {quoted} = {quoted} }}"),
                _ => format!("{quoted} = 1"),
            };
            load(&format!("{head}\n{line}\n"))
        }
        None => match VARIABLES.get(location % (keys.len() + VARIABLES.len() + 2) - keys.len()) {
            Some(name) => load_with("", &[(name, text)], &[text]),
            None if form == 0 => load(text),
            None => load(&format!("[redis.{quoted}]\nurl = {quoted}\n")),
        },
    };
    match loaded {
        Ok(config) => (false, format!("{}{:?}{}", config.to_toml(), config.warnings, config.sources)),
        Err(error) => (true, error),
    }
}

#[test]
fn a_password_is_redacted_before_its_url_is_truncated() {
    let password = r"\secret##(and-more-of-it-than-is-shown";
    let error = load(&format!("[[namespace]]\nreplay = 'redis://user:{password}@host:6379'\n")).unwrap_err();
    assert!(error.contains("redis://***") && !error.contains("secret"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn no_error_contains_the_password_of_a_url(
        scheme in prop::sample::select(vec!["redis://", "rediss://", "https://", "amqp://", ""]),
        user in "[a-z]{0,5}",
        password in "[!#-~]{8,60}",
        (location, form) in (any::<usize>(), 0..4_usize),
    ) {
        // Without a scheme, only a single token is recognized.
        prop_assume!(!scheme.is_empty() || !password.contains(['\\', '\'', '`', ',', ';', '(', ')', '<', '>']));
        let (is_error, error) = error_or_dump(&format!("{scheme}{user}:{password}@host:6379"), location, form);
        // Without a scheme, it may be a channel name, which is not redacted.
        if is_error || !scheme.is_empty() {
            prop_assert!(!redact::urls(&error).contains(&password), "{}", error);
        }
        prop_assert!(!is_error || !error.contains(&password), "{}", error);
    }
}

proptest! {
    #[test]
    fn any_text_loads_or_is_an_error(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn any_bytes_in_a_value_load_or_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let text = String::from_utf8_lossy(&bytes);
        for key in ["listen", "log", "allowed_origins", "api.key", "redis.default.url", "limits.request_header_bytes", "sse.retry"] {
            let _ = load(&format!("{key} = {}", toml::Value::from(text.as_ref())));
        }
        let _ = load(&text);
        let _ = load_with("", &[("REDIS_URL", &text), ("EARSHOT_LISTEN", &text), ("EARSHOT_LOG", &text)], &[&text]);
    }

    #[test]
    fn a_mutated_example_loads_or_is_an_error(changes in pieces()) {
        if let Err(error) = load(&mutated(&changes)) {
            prop_assert!(error.lines().all(|line| line.starts_with("earshot.toml:")), "{}", error);
        }
    }

    #[test]
    fn the_dump_loads_as_the_same(changes in pieces()) {
        if let Ok(config) = load(&mutated(&changes)) {
            let shown = config.to_toml();
            let again = load(&shown).map_err(|error| TestCaseError::fail(format!("{error}\n{shown}")))?;
            prop_assert_eq!(again.to_toml(), shown);
        }
    }
}
