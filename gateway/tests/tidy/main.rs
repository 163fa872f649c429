//! The style is a test: sizes of files and types, the module ladder, cycles of sibling files, who may use what, refused
//! words, and links in documents. Change `ARCHITECTURE.md` and the tables here together.

#![allow(clippy::unwrap_used, reason = "a test ends where it cannot go on")]

mod cycles;
mod documents;
mod ladder;
mod methods;
mod source;
mod words;

use std::fs;

use crate::source::{CRATES, root, rust_files};

/// The most lines a source file may have.
const LINES_MAX: usize = 400;

#[test]
fn files_describe_themselves_and_stay_short() {
    let mut wrong = Vec::new();
    for crate_ in CRATES {
        for path in rust_files(&root().join(crate_)) {
            let text = fs::read_to_string(&path).unwrap();
            let shown = path.strip_prefix(root()).unwrap().display().to_string();
            if !text.starts_with("//!") {
                wrong.push(format!("{shown}: does not start with a //! comment"));
            }
            let lines = text.lines().count();
            if lines > LINES_MAX {
                wrong.push(format!("{shown}: {lines} lines, more than {LINES_MAX}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Endings of files that programs leave behind: process ids, logs, core dumps, editor swap files.
const JUNK: [&str; 8] = [".pid", "/pid", ".log", ".swp", ".swo", ".rdb", ".orig", "/core"];

#[test]
fn no_junk_is_tracked() {
    let tracked = source::tracked_files();
    let junk: Vec<&String> = tracked
        .iter()
        .filter(|file| JUNK.iter().any(|ending| format!("/{file}").ends_with(ending)))
        .collect();
    assert!(junk.is_empty(), "tracked, but left behind by a program: {junk:?}");
}
