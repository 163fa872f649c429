//! Words that the project does not use, because readers would have to learn them. `docs/glossary.md` has the terms that
//! it uses instead.

use std::fs;

use crate::source::{root, tracked_files};

/// Refused words, and what to write instead. They are matched as whole words, without regard to case.
const REFUSED: [(&str, &str); 11] = [
    ("deaf", "not receiving, link down"),
    ("hearing", "receiving"),
    ("heard", "received"),
    ("hears", "receives"),
    ("ears", "brokers, links"),
    ("told", "notified, reported"),
    ("whoever", "a client that"),
    ("in the place of", "instead of"),
    ("that is none", "that is invalid"),
    ("dialled anew", "reconnected"),
    ("for want of", "without"),
];

/// Files that quote these words: this list, what has changed, and recorded data.
const EXCEPT: [&str; 3] = ["CHANGELOG.md", "gateway/tests/tidy/words.rs", "loadtest/bench/results/"];
const ENDINGS: [&str; 16] = [
    ".rs", ".md", ".toml", ".yml", ".yaml", ".json", ".html", ".css", ".js", ".mjs", ".ts", ".py", ".go",
    ".lua", ".sh", "Makefile",
];

#[test]
fn refused_words_are_not_used() {
    let mut wrong = Vec::new();
    for file in tracked_files() {
        let is_text = ENDINGS.iter().any(|ending| file.ends_with(ending)) || file.starts_with(".ci/");
        if !is_text || EXCEPT.iter().any(|path| file.starts_with(path)) || file.ends_with("package-lock.json")
        {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&file)) else { continue };
        for (number, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, instead) in REFUSED {
                if contains_word(&line, word) {
                    wrong.push(format!("{file}:{}: `{word}`; write: {instead}", number + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Identifiers count: `_` separates words.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
    })
}
