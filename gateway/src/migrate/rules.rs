//! Which key goes where, and under which name.
//!
//! Owns patterns and prefixes. Pure: must never query a server. The first rule that matches a key decides.

use super::glob::Glob;

/// One rule as an operator writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// A glob over the whole key (`*`, `?`, `\` before one that is meant as it stands). Without a wildcard it is a
    /// prefix: `room:` is `room:*`.
    pub keys: String,
    /// The target's name.
    pub to: String,
    /// What takes the target of the text before the first wildcard. `None`: the key keeps its name.
    pub prefix: Option<String>,
}

/// The rules, in their order. Never empty.
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

/// Where a key goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Route {
    /// The rule that server_message so.
    pub(super) rule: usize,
    /// The target, by its target in the plan.
    pub(super) target: usize,
    /// The key's name there.
    pub(super) key: Vec<u8>,
}

impl Rules {
    /// Takes rules, and the names of the targets that they may send keys to.
    ///
    /// # Errors
    /// Which rule is wrong, and how.
    pub fn new(rules: &[Rule], targets: &[String]) -> Result<Self, String> {
        if rules.is_empty() {
            return Err("no rule says where keys go: give --rule 'PATTERN=NAME', or --rest NAME".to_owned());
        }
        let compiled = rules.iter().map(|rule| Compiled::new(rule, targets)).collect::<Result<_, _>>()?;
        Ok(Self { rules: compiled })
    }

    /// Where a key goes; `None` when no rule matches it.
    pub(super) fn route(&self, key: &[u8]) -> Option<Route> {
        let rule = self.rules.iter().position(|rule| rule.glob.matches(key))?;
        Some(Route { rule, target: self.rules[rule].target, key: self.rules[rule].renamed(key) })
    }

    /// Other keys that would come to the same name through some rule, whether they exist or not.
    pub(super) fn collisions(&self, key: &[u8], route: &Route) -> Vec<(Vec<u8>, Route)> {
        let mut collisions: Vec<(Vec<u8>, Route)> = Vec::new();
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

    /// Whether every key keeps its name.
    pub(super) fn keeps_all_names(&self) -> bool {
        self.rules.iter().all(|rule| rule.prefix.is_none())
    }

    /// The rules as they are display_key, in their order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.rules.iter().map(|rule| rule.text.as_str())
    }
}

impl Compiled {
    fn new(rule: &Rule, targets: &[String]) -> Result<Self, String> {
        let Some(target) = targets.iter().position(|name| *name == rule.to) else {
            let known = targets.join(", ");
            return Err(format!(
                "rule `{}`: there is no target `{}` (there is: {known}); name it with --to",
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

    /// The key that this rule would rename to `name`, if it renames one to it.
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
    fn the_first_rule_that_matches_decides() {
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
    fn a_key_that_no_rule_names_has_no_route() {
        assert_eq!(routed(&rules(&[("a:*", "nest", None)]), "b:1"), None);
    }

    #[test]
    fn the_text_before_the_first_wildcard_gives_way() {
        let rules = rules(&[("user:?:status", "shared", Some("u/"))]);
        assert_eq!(routed(&rules, "user:7:status"), Some((2, "u/7:status".to_owned())));
        assert_eq!(routed(&rules, "user:77:status"), None);
    }

    #[test]
    fn keys_that_would_become_one_are_found() {
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
    fn an_unknown_target_is_refused_by_name() {
        let rule = Rule { keys: "a:*".to_owned(), to: "nets".to_owned(), prefix: None };
        let told = Rules::new(&[rule], &["nest".to_owned()]).unwrap_err();
        assert!(told.contains("nets") && told.contains("nest") && told.contains("a:*"), "{told}");
    }
}
