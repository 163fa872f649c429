//! Whether each namespace can be reached.
//!
//! Owns what namespaces must not be to each other: of one name, or so ordered that an earlier pattern takes every
//! channel of a later one. Must never judge a namespace alone.

use super::channel::ChannelPattern;
use super::document::{Document, Found};
use super::errors::Place;
use super::namespace::Placed;
use crate::node::namespace::is_protected;

/// Each pattern is compared with each other; more would also be too many to tell apart, for people and for Redis.
const MOST_PATTERNS: usize = 1000;

/// Says what is wrong between these namespaces.
pub(super) fn check(document: &Document<'_>, namespaces: &[Placed<'_>]) {
    check_names(document, namespaces);
    check_patterns(document, namespaces);
}

fn check_names(document: &Document<'_>, namespaces: &[Placed<'_>]) {
    for (index, Placed { name, .. }) in namespaces.iter().enumerate() {
        let same = |other: &&Placed<'_>| !name.value.is_empty() && other.name.value == name.value;
        if let Some(first) = namespaces[..index].iter().find(same) {
            let line = first.name.place.line();
            document.refuse(&name.place, format!("line {line} has a namespace `{}` already", name.value));
        }
    }
}

fn check_patterns(document: &Document<'_>, namespaces: &[Placed<'_>]) {
    let patterns: Vec<(&str, &Found<'_, ChannelPattern>)> = namespaces
        .iter()
        .flat_map(|Placed { name, channels }| channels.iter().map(|found| (name.value.as_str(), found)))
        .collect();
    if let Some((_, found)) = patterns.get(MOST_PATTERNS) {
        document
            .refuse(&found.place, format!("more than {MOST_PATTERNS} patterns; a glob takes many channels"));
        return;
    }
    for (index, (_, found)) in patterns.iter().enumerate() {
        // No glob takes a protected channel.
        let is_kept = found.value.is_exact() && is_protected(&found.value.text);
        let takes = |first: &ChannelPattern| first.covers(&found.value) && (first.is_exact() || !is_kept);
        let Some((owner, first)) = patterns[..index].iter().find(|(_, first)| takes(&first.value)) else {
            continue;
        };
        let place = first_place(owner, &first.place);
        let (pattern, cover) = (&found.value, &first.value);
        let what = if pattern.text == cover.text {
            format!("`{pattern}` stands in {place} already")
        } else {
            format!(
                "`{pattern}` can never be reached: `{cover}` in {place} covers it; put the narrower one first"
            )
        };
        document.refuse(&found.place, what);
    }
}

fn first_place(owner: &str, place: &Place<'_>) -> String {
    match place {
        Place::Variable(name) => (*name).into(),
        place => format!("namespace `{owner}` (line {})", place.line()),
    }
}
