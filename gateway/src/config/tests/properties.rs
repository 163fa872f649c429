//! No file, however broken, makes the loading panic; what is shown loads again.

use proptest::prelude::*;

use super::{load, load_with};

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

proptest! {
    #[test]
    fn any_text_is_loaded_or_refused(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn any_bytes_in_a_value_are_loaded_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let text = String::from_utf8_lossy(&bytes);
        for key in ["listen", "log", "allowed_origins", "api.key", "redis.default.url", "limits.head_bytes", "sse.retry"] {
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
