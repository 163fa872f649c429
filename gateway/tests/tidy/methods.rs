//! How many inherent methods a type has. All `impl` blocks of one type name in a crate count together.

use std::collections::BTreeMap;

use crate::source::{CRATES, sources};

/// The most inherent methods a type may have, constructors included.
const METHODS_MAX: usize = 30;

/// The type that an `impl` line is for; `None` for an implementation of a trait. The text is formatted by rustfmt.
fn inherent_type(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix("impl")?;
    let rest = match rest.strip_prefix('<') {
        Some(generic) => after_generics(generic)?,
        None => rest.strip_prefix(' ')?,
    };
    let is_trait = rest.contains(" for ");
    let name: String =
        rest.trim_start().chars().take_while(|next| next.is_alphanumeric() || *next == '_').collect();
    (!is_trait && !name.is_empty()).then_some(name)
}

/// The text after the `>` that closes generics.
fn after_generics(text: &str) -> Option<&str> {
    let mut depth = 1;
    for (at, next) in text.char_indices() {
        match next {
            '<' => depth += 1,
            '>' if !text[..at].ends_with('-') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&text[at + 1..]);
        }
    }
    None
}

/// Counts the inherent methods in one file.
fn count(code: &str, methods: &mut BTreeMap<String, usize>) {
    let mut open: Option<(String, usize)> = None;
    let lines: Vec<&str> = code.lines().collect();
    for (number, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        if let Some((name, outer)) = &open {
            if indent == *outer && line.trim_start().starts_with('}') {
                open = None;
            } else if indent == outer + 4 && is_function(line) {
                *methods.entry(name.clone()).or_default() += 1;
            }
            continue;
        }
        // A header of several lines ends with `{`.
        let header: Vec<&str> = lines[number..]
            .iter()
            .scan(false, |done, line| {
                let take = !*done;
                *done |= line.contains('{');
                take.then_some(line.trim())
            })
            .collect();
        if let Some(name) = inherent_type(line).and_then(|_| inherent_type(&header.join(" "))) {
            open = (!header.concat().ends_with("{}")).then_some((name, indent));
        }
    }
}

fn is_function(line: &str) -> bool {
    let words = line.split_whitespace().take_while(|word| {
        matches!(*word, "fn" | "const" | "async" | "unsafe" | "extern")
            || word.starts_with("pub")
            || (word.ends_with(')') && !word.contains("fn"))
    });
    words.into_iter().any(|word| word == "fn")
}

#[test]
fn no_type_has_too_many_methods() {
    let mut wrong = Vec::new();
    for crate_ in CRATES {
        let mut methods = BTreeMap::new();
        for (_, code) in sources(crate_) {
            count(&code, &mut methods);
        }
        let large = methods.into_iter().filter(|(_, count)| *count > METHODS_MAX);
        wrong.extend(
            large.map(|(name, count)| {
                format!("{crate_}: {name} has {count} methods, more than {METHODS_MAX}")
            }),
        );
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn methods_are_counted() {
    let code = "impl<T: Into<X>> Foo<T>\nwhere\n    T: Copy,\n{\n    pub fn a() {\n        fn inner() {}\n    }\n    pub(super) async fn b() {}\n}\nimpl Foo {\n    const fn c() {}\n}\nimpl Bar for Foo {\n    fn d() {}\n}\n";
    let mut methods = BTreeMap::new();
    count(code, &mut methods);
    assert_eq!(methods, BTreeMap::from([("Foo".to_owned(), 3)]));
}
