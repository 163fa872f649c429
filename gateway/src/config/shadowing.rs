//! Checks between namespaces.
//!
//! Owns two rules: names are unique, and no pattern is shadowed by an earlier one that covers all of its channels. Must
//! never check a single namespace.

use super::namespace::NamespaceLocations;
use super::reader::diagnostics::Location;
use super::reader::{Document, Located};
use crate::node::channel_pattern::ChannelPattern;
use crate::node::namespace::is_protected;

/// Maximum number of patterns: each is compared with all others.
const PATTERNS_MAX: usize = 1000;

/// Reports duplicate names and shadowed patterns.
pub(super) fn check(document: &Document<'_>, namespaces: &[NamespaceLocations<'_>]) {
    check_names(document, namespaces);
    check_patterns(document, namespaces);
}

fn check_names(document: &Document<'_>, namespaces: &[NamespaceLocations<'_>]) {
    for (index, NamespaceLocations { name, .. }) in namespaces.iter().enumerate() {
        let same = |other: &&NamespaceLocations<'_>| !name.value.is_empty() && other.name.value == name.value;
        if let Some(first) = namespaces[..index].iter().find(same) {
            let line = first.name.location.line();
            document.error(
                &name.location,
                format!("duplicate namespace `{}`, first defined on line {line}", name.value),
            );
        }
    }
}

fn check_patterns(document: &Document<'_>, namespaces: &[NamespaceLocations<'_>]) {
    let patterns: Vec<(&str, &Located<'_, ChannelPattern>)> = namespaces
        .iter()
        .flat_map(|NamespaceLocations { name, channels }| {
            channels.iter().map(|found| (name.value.as_str(), found))
        })
        .collect();
    if let Some((_, found)) = patterns.get(PATTERNS_MAX) {
        document.error(&found.location, format!("more than {PATTERNS_MAX} patterns: use globs"));
        return;
    }
    for (index, (_, found)) in patterns.iter().enumerate() {
        // No glob matches a protected channel.
        let is_protected_name = found.value.is_exact() && is_protected(&found.value.text);
        let shadows =
            |first: &ChannelPattern| first.covers(&found.value) && (first.is_exact() || !is_protected_name);
        let Some((owner, first)) = patterns[..index].iter().find(|(_, first)| shadows(&first.value)) else {
            continue;
        };
        let location = describe_location(owner, &first.location);
        let (pattern, cover) = (&found.value, &first.value);
        let what = if pattern.text == cover.text {
            format!("duplicate pattern `{pattern}`, also in {location}")
        } else {
            format!(
                "`{pattern}` never matches: `{cover}` in {location} covers it; put the narrower pattern first"
            )
        };
        document.error(&found.location, what);
    }
}

fn describe_location(owner: &str, location: &Location<'_>) -> String {
    match location {
        Location::Variable(name) => (*name).into(),
        location => format!("namespace `{owner}` (line {})", location.line()),
    }
}
