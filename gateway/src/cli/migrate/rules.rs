//! Reads rules, source and targets from flags and a file.
//!
//! Owns their syntax. Must never show a line of the file: it may contain a password.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

use super::MigrateArgs;
use earshot_ops::migrate::Rule;

/// Combined flags and file.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The source, unparsed.
    pub(super) from: Option<String>,
    /// Names and unparsed servers of the targets.
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

/// Reads flags and file; flags come first.
pub(super) fn read(args: &MigrateArgs) -> Result<Read, String> {
    let file = args.rules.as_deref().map_or(Ok(RulesFile::default()), read_file)?;
    let mut to: Vec<(String, String)> = Vec::new();
    for target in &args.to {
        // Only a name refers to an instance of the configuration.
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

/// Parses `PATTERN=NAME[:PREFIX]`.
fn rule(text: &str) -> Result<Rule, String> {
    let Some((keys, rest)) = text.rsplit_once('=') else {
        return Err(format!(
            "--rule {text}: expected PATTERN=NAME or PATTERN=NAME:PREFIX, such as 'room:*=express'"
        ));
    };
    let (to, prefix) = target(rest)?;
    Ok(Rule { keys: keys.to_owned(), to, prefix })
}

/// Parses `NAME[:PREFIX]`.
fn target(text: &str) -> Result<(String, Option<String>), String> {
    match text.split_once(':') {
        Some((name, "")) => Err(format!(
            "`{text}`: no prefix after `:`; write `{name}` to keep the names of keys, or remove prefixes with \
             `prefix = \"\"` in a --rules file"
        )),
        Some((name, prefix)) => Ok((name.to_owned(), Some(prefix.to_owned()))),
        None => Ok((text.to_owned(), None)),
    }
}

fn read_file(path: &Path) -> Result<RulesFile, String> {
    let shown = path.display();
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("--rules: cannot read {shown}: {error}"))?;
    toml::from_str(&text).map_err(|error| {
        // Only the message: the display of the error quotes the line.
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
    fn rules_file_is_parsed() {
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
    fn invalid_file_is_reported_with_its_line_only() {
        for (text, line) in [
            ("from = \"redis://:hunter2@a\"\nfrum = \"redis://:hunter2@a\"\n", ":2: "),
            ("[to]\nx = redis://:hunter2@a\n", ":2: "),
            ("[[rule]]\nkeys = 1\nto = \"x\"\n", ":2: "),
        ] {
            let message = from_file(text).unwrap_err();
            assert!(message.contains(line) && !message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn rule_is_parsed() {
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
