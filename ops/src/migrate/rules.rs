//! Routing of keys to targets and new names.
//!
//! Owns patterns and prefixes. Pure: must never query a server. The first rule that matches a key applies.

use super::glob::Glob;

/// A rule as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Glob for the whole key (`*`, `?`, `\` to escape). Without a wildcard it is a prefix: `room:` is `room:*`.
    pub keys: String,
    /// Name of the target.
    pub to: String,
    /// Replaces the text before the first wildcard. `None` keeps the name of the key.
    pub prefix: Option<String>,
}

/// Rules in order. Never empty.
#[derive(Clone, Debug)]
pub struct Rules {
    rules: Vec<Compiled>,
}

#[derive(Clone, Debug)]
struct Compiled {
    glob: Glob,
    prefix: Option<Vec<u8>>,
    target: usize,
    text: String,
}

/// Route of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MigrationRoute {
    /// Index of the rule.
    pub(super) rule: usize,
    /// Index of the target.
    pub(super) target: usize,
    /// Name of the key at the target.
    pub(super) key: Vec<u8>,
}

impl Rules {
    /// Creates rules for the targets with these names.
    ///
    /// # Errors
    /// Which rule is invalid, and why.
    pub fn new(rules: &[Rule], targets: &[String]) -> Result<Self, String> {
        if rules.is_empty() {
            return Err("there are no rules: set --rule 'PATTERN=NAME' or --rest NAME".to_owned());
        }
        let compiled = rules.iter().map(|rule| Compiled::new(rule, targets)).collect::<Result<_, _>>()?;
        Ok(Self { rules: compiled })
    }

    /// Route of a key; `None` if no rule matches.
    pub(super) fn route(&self, key: &[u8]) -> Option<MigrationRoute> {
        let rule = self.rules.iter().position(|rule| rule.glob.matches(key))?;
        Some(MigrationRoute { rule, target: self.rules[rule].target, key: self.rules[rule].renamed(key) })
    }

    /// Other keys that some rule would rename to the same name, whether they exist or not.
    pub(super) fn collisions(&self, key: &[u8], route: &MigrationRoute) -> Vec<(Vec<u8>, MigrationRoute)> {
        let mut collisions: Vec<(Vec<u8>, MigrationRoute)> = Vec::new();
        for rule in &self.rules {
            let Some(other) = rule.source_key(&route.key) else { continue };
            if other == key || collisions.iter().any(|(known, _)| *known == other) {
                continue;
            }
            if let Some(there) = self.route(&other).filter(|there| there.key == route.key) {
                collisions.push((other, there));
            }
        }
        collisions
    }

    /// Whether no rule renames keys.
    pub(super) fn keeps_all_names(&self) -> bool {
        self.rules.iter().all(|rule| rule.prefix.is_none())
    }

    /// The rules as text, in order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }
}

impl Compiled {
    fn new(rule: &Rule, targets: &[String]) -> Result<Self, String> {
        let Some(target) = targets.iter().position(|name| *name == rule.to) else {
            let known = targets.join(", ");
            return Err(format!(
                "rule `{}`: no target `{}` (known: {known}); define it with --to",
                rule.keys, rule.to
            ));
        };
        let glob = Glob::new(&rule.keys).map_err(|what| format!("rule `{}`: {what}", rule.keys))?;
        let renamed = rule.prefix.as_ref().map_or(String::new(), |prefix| format!(" as {prefix}…"));
        let text = format!("{} → {}{renamed}", rule.keys, rule.to);
        Ok(Self {
            glob,
            prefix: rule.prefix.as_ref().map(|prefix| prefix.clone().into_bytes()),
            target,
            text,
        })
    }

    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        match &self.prefix {
            Some(prefix) => [prefix, &key[self.glob.literal().len()..]].concat(),
            None => key.to_vec(),
        }
    }

    /// Key that this rule would rename to `name`, if any.
    fn source_key(&self, name: &[u8]) -> Option<Vec<u8>> {
        match &self.prefix {
            Some(prefix) => Some([self.glob.literal(), name.strip_prefix(prefix.as_slice())?].concat()),
            None => Some(name.to_vec()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(rules: &[(&str, &str, Option<&str>)]) -> Rules {
        let rules: Vec<Rule> = rules
            .iter()
            .map(|(keys, to, prefix)| Rule {
                keys: (*keys).to_owned(),
                to: (*to).to_owned(),
                prefix: prefix.map(str::to_owned),
            })
            .collect();
        Rules::new(&rules, &["express".to_owned(), "nest".to_owned(), "shared".to_owned()]).unwrap()
    }

    fn routed(rules: &Rules, key: &str) -> Option<(usize, String)> {
        let route = rules.route(key.as_bytes())?;
        Some((route.target, String::from_utf8(route.key).unwrap()))
    }

    #[test]
    fn first_matching_rule_applies() {
        let rules = rules(&[
            ("express:*", "express", None),
            ("room:", "express", Some("express:room:")),
            ("endpoints:*", "nest", Some("nest:endpoints:")),
            ("*", "shared", Some("shared:")),
        ]);
        for (key, target, name) in [
            ("express:user:1", 0, "express:user:1"),
            ("room:7", 0, "express:room:7"),
            ("room:", 0, "express:room:"),
            ("endpoints:a:b", 1, "nest:endpoints:a:b"),
            ("rooms:7", 2, "shared:rooms:7"),
            ("", 2, "shared:"),
        ] {
            assert_eq!(routed(&rules, key), Some((target, name.to_owned())), "{key}");
        }
    }

    #[test]
    fn unmatched_key_has_no_route() {
        assert_eq!(routed(&rules(&[("a:*", "nest", None)]), "b:1"), None);
    }

    #[test]
    fn prefix_replaces_the_literal_prefix() {
        let rules = rules(&[("user:?:status", "shared", Some("u/"))]);
        assert_eq!(routed(&rules, "user:7:status"), Some((2, "u/7:status".to_owned())));
        assert_eq!(routed(&rules, "user:77:status"), None);
    }

    #[test]
    fn name_collisions_are_found() {
        let rules = rules(&[("express:*", "express", None), ("room:*", "express", Some("express:room:"))]);
        let route = rules.route(b"room:1").unwrap();
        let collisions: Vec<Vec<u8>> =
            rules.collisions(b"room:1", &route).into_iter().map(|other| other.0).collect();
        assert_eq!(collisions, [b"express:room:1".to_vec()]);
        let route = rules.route(b"express:room:1").unwrap();
        assert_eq!(rules.collisions(b"express:room:1", &route)[0].0, b"room:1");
        let route = rules.route(b"express:other").unwrap();
        assert_eq!(rules.collisions(b"express:other", &route), []);
    }

    #[test]
    fn unknown_target_is_rejected() {
        let rule = Rule { keys: "a:*".to_owned(), to: "nets".to_owned(), prefix: None };
        let message = Rules::new(&[rule], &["nest".to_owned()]).unwrap_err();
        assert!(message.contains("nets") && message.contains("nest") && message.contains("a:*"), "{message}");
    }
}
