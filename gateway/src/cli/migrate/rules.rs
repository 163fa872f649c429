//! Rules, source and targets from flags and from a file.
//!
//! Owns how they are written. Must never show a line of the file: it may hold a password.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::Args;
use crate::migrate::Rule;

/// What flags and file say together.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// A server as it is written.
    pub(super) from: Option<String>,
    /// Names and servers as they are written.
    pub(super) to: Vec<(String, String)>,
    pub(super) rules: Vec<Rule>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    from: Option<String>,
    #[serde(default)]
    to: BTreeMap<String, String>,
    #[serde(default)]
    rule: Vec<RuleOfFile>,
    rest: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleOfFile {
    keys: String,
    to: String,
    prefix: Option<String>,
}

/// Reads both; what flags say comes first.
pub(super) fn read(args: &Args) -> Result<Read, String> {
    let file = args.rules.as_deref().map_or(Ok(RulesFile::default()), read_file)?;
    let mut to: Vec<(String, String)> = Vec::new();
    for target in &args.to {
        // A name alone is that of an instance in the configuration.
        let (name, server) = target.split_once('=').unwrap_or((target, target));
        if to.iter().any(|(known, _)| known == name) {
            return Err(format!("--to {name} is given twice"));
        }
        to.push((name.to_owned(), server.to_owned()));
    }
    for (name, server) in file.to {
        if !to.iter().any(|(known, _)| *known == name) {
            to.push((name, server));
        }
    }
    let mut rules = args.rule.iter().map(|text| rule(text)).collect::<Result<Vec<_>, _>>()?;
    rules.extend(file.rule.into_iter().map(|RuleOfFile { keys, to, prefix }| Rule { keys, to, prefix }));
    if let Some(rest) = args.rest.as_deref().or(file.rest.as_deref()) {
        let (to, prefix) = target(rest)?;
        rules.push(Rule { keys: "*".to_owned(), to, prefix });
    }
    Ok(Read { from: args.from.clone().or(file.from), to, rules })
}

/// Reads `PATTERN=NAME[:PREFIX]`.
fn rule(text: &str) -> Result<Rule, String> {
    let Some((keys, rest)) = text.rsplit_once('=') else {
        return Err(format!(
            "--rule {text}: expected PATTERN=NAME or PATTERN=NAME:PREFIX, such as 'room:*=express'"
        ));
    };
    let (to, prefix) = target(rest)?;
    Ok(Rule { keys: keys.to_owned(), to, prefix })
}

/// Reads `NAME[:PREFIX]`.
fn target(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once(':') {
        Some((name, "")) => Err(format!(
            "`{text}`: no prefix follows the `:`; write `{name}` for keys that keep their names, or take prefixes off \
             with `prefix = \"\"` in a file of --rules"
        )),
        Some((name, prefix)) => Ok((name.to_owned(), Some(prefix.to_owned()))),
        None => Ok((text.to_owned(), None)),
    }
}

fn read_file(path: &Path) -> Result<RulesFile, String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("--rules {shown}: cannot be read: {error}"))?;
    toml::from_str(&text).map_err(|error| {
        // Only the message: the error's own display quotes the line.
        let line = error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count());
        format!("--rules {shown}:{line}: {}", error.message())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from_file(text: &str) -> Result<RulesFile, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("rules.toml");
        std::fs::write(&path, text).unwrap();
        read_file(&path)
    }

    #[test]
    fn a_file_says_what_flags_say() {
        let file = from_file(
            "from = \"env:OLD\"\nrest = \"shared\"\n[to]\nexpress = \"redis://a\"\nshared = \"redis://b\"\n\
             [[rule]]\nkeys = \"room:*\"\nto = \"express\"\nprefix = \"express:room:\"\n",
        )
        .unwrap();
        assert_eq!(
            (file.from.as_deref(), file.rest.as_deref(), file.to.len()),
            (Some("env:OLD"), Some("shared"), 2)
        );
        assert_eq!(file.rule[0].prefix.as_deref(), Some("express:room:"));
    }

    #[test]
    fn a_bad_file_is_refused_with_its_line_and_without_its_text() {
        for (text, line) in [
            ("from = \"redis://:hunter2@a\"\nfrum = \"redis://:hunter2@a\"\n", ":2: "),
            ("[to]\nx = redis://:hunter2@a\n", ":2: "),
            ("[[rule]]\nkeys = 1\nto = \"x\"\n", ":2: "),
        ] {
            let told = from_file(text).unwrap_err();
            assert!(told.contains(line) && !told.contains("hunter2"), "{told}");
        }
    }

    #[test]
    fn a_rule_is_read() {
        let read = |text| rule(text).map(|rule| (rule.keys, rule.to, rule.prefix));
        let prefix = Some("nest:session:".to_owned());
        assert_eq!(
            read("session:*=nest:nest:session:"),
            Ok(("session:*".to_owned(), "nest".to_owned(), prefix))
        );
        assert_eq!(read("a=b*=nest"), Ok(("a=b*".to_owned(), "nest".to_owned(), None)));
        assert!(read("session:*").is_err());
        assert!(read("session:*=nest:").is_err());
    }
}
