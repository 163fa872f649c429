//! No file, however broken, makes the loading panic; what is shown loads again.

use proptest::prelude::*;

use super::super::*;
use super::{load, load_with, offline};
use crate::redact;

const EXAMPLE: &str = include_str!("../../../../docs/earshot.toml");

/// Pieces that tear holes into TOML.
const PIECES: &[&str] =
    &["\"", "'", "[", "]", "[[", "=", "\n", "#", ".", "{", "}", "\u{0}", "é", "0", "-", "***", "*", "?"];

fn pieces() -> impl Strategy<Value = Vec<(usize, usize, usize)>> {
    prop::collection::vec((0..EXAMPLE.len(), 0..PIECES.len(), 0..8usize), 1..12)
}

/// The example with some characters overwritten by others.
fn mutated(changes: &[(usize, usize, usize)]) -> String {
    let mut letters: Vec<char> = EXAMPLE.chars().collect();
    for (at, piece, length) in changes {
        let from = (*at).min(letters.len());
        let to = (from + length).min(letters.len());
        letters.splice(from..to, PIECES[*piece].chars());
    }
    letters.into_iter().collect()
}

/// Every section and key that is read, a section as the head that begins it.
fn every_key() -> Vec<(String, &'static str)> {
    let (document, _) = Document::parse(Path::new(""), EXAMPLE, Problems::default());
    Config::read(&document, &Environment::default(), &Flags::default(), offline);
    let head = |section: &str| match section.split_once('.') {
        _ if section.is_empty() => String::new(),
        Some(("namespace", _)) => format!("[[namespace]]\n[{section}]"),
        _ if section == "namespace" => "[[namespace]]".to_owned(),
        _ => format!("[{}]", section.replace("NAME", "default")),
    };
    document.known_keys().into_iter().map(|(section, key)| (head(&section), key)).collect()
}

/// The variables whose values are read.
const VARIABLES: [&str; 14] = [
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
];

/// What is told of a configuration with a text in one of the places that there are for one; `true`: in an error.
fn told_of(text: &str, place: usize, form: usize) -> (bool, String) {
    let quoted = toml::Value::from(text).to_string();
    let keys = every_key();
    let loaded = match keys.get(place % (keys.len() + VARIABLES.len() + 2)) {
        Some((head, key)) => {
            let line = match form {
                0 => format!("{key} = {quoted}"),
                1 => format!("{key} = [{quoted}, {quoted}]"),
                2 => format!("{key} = {{ {quoted} = {quoted} }}"),
                _ => format!("{quoted} = 1"),
            };
            load(&format!("{head}\n{line}\n"))
        }
        None => match VARIABLES.get(place % (keys.len() + VARIABLES.len() + 2) - keys.len()) {
            Some(name) => load_with("", &[(name, text)], &[text]),
            None if form == 0 => load(text),
            None => load(&format!("[redis.{quoted}]\nurl = {quoted}\n")),
        },
    };
    match loaded {
        Ok(config) => (false, format!("{}{:?}{}", config.show(), config.warnings, config.origin)),
        Err(told) => (true, told),
    }
}

#[test]
fn a_password_is_hidden_before_its_url_is_cut() {
    let password = r"\secret##(and-more-of-it-than-is-shown";
    let told = load(&format!("[[namespace]]\nreplay = 'redis://user:{password}@host:6379'\n")).unwrap_err();
    assert!(told.contains("redis://***") && !told.contains("secret"), "{told}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]
    #[test]
    fn no_password_of_a_url_is_told_wherever_it_stands(
        scheme in prop::sample::select(vec!["redis://", "rediss://", "https://", "amqp://", ""]),
        user in "[a-z]{0,5}",
        password in "[!#-~]{8,60}",
        (place, form) in (any::<usize>(), 0..4_usize),
    ) {
        // Without a scheme only a single token can be told from other text.
        prop_assume!(!scheme.is_empty() || !password.contains(['\\', '\'', '`', ',', ';', '(', ')', '<', '>']));
        let (is_error, told) = told_of(&format!("{scheme}{user}:{password}@host:6379"), place, form);
        // Without a scheme it may be the name of a channel, which is shown as any other.
        if is_error || !scheme.is_empty() {
            prop_assert!(!redact::urls(&told).contains(&password), "{}", told);
        }
        prop_assert!(!is_error || !told.contains(&password), "{}", told);
    }
}

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn any_bytes_in_a_value_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let text = String::from_utf8_lossy(&bytes);
        for key in ["listen", "log", "allowed_origins", "api.key", "redis.default.url", "limits.request_header_bytes", "sse.retry"] {
            let _ = load(&format!("{key} = {}", toml::Value::from(text.as_ref())));
        }
        let _ = load(&text);
        let _ = load_with("", &[("REDIS_URL", &text), ("EARSHOT_LISTEN", &text), ("EARSHOT_LOG", &text)], &[&text]);
    }

    #[test]
    fn a_mutated_example_is_loaded_or_refused(changes in pieces()) {
        if let Err(told) = load(&mutated(&changes)) {
            prop_assert!(told.lines().all(|line| line.starts_with("earshot.toml:")), "{}", told);
        }
    }

    #[test]
    fn what_is_shown_loads_again_as_the_same(changes in pieces()) {
        if let Ok(config) = load(&mutated(&changes)) {
            let shown = config.show();
            let again = load(&shown).map_err(|told| TestCaseError::fail(format!("{told}\n{shown}")))?;
            prop_assert_eq!(again.show(), shown);
        }
    }
}
