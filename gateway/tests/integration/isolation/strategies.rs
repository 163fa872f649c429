//! Random permissions, clients and commands.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::CHANNELS;
use super::model::{Person, Rules, Space, Word};

/// Patterns of namespaces. Each occurs once, narrow ones before wide ones: otherwise the configuration is invalid.
const PATTERNS: [&str; 8] = [
    "user:{user}",
    "tenant:{tenant}:x",
    "tenant:{tenant}:*",
    "room:1",
    "room:*",
    "hall",
    "{nest}:x",
    "*:log",
];

#[derive(Clone, Debug)]
pub(super) enum Step {
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    Publish(&'static str),
    History(&'static str),
}

#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) rules: Rules,
    pub(super) people: Vec<Person>,
    /// The channels of the event stream of each person.
    pub(super) streams: Vec<Vec<&'static str>>,
    /// A client and its command.
    pub(super) steps: Vec<(usize, Step)>,
}

pub(super) fn case() -> impl Strategy<Value = Case> {
    (rules(), vec(person(), 4), vec(subsequence(CHANNELS.to_vec(), 1..3), 4), vec((0usize..4, step()), 0..40))
        .prop_map(|(rules, people, streams, steps)| Case { rules, people, streams, steps })
}

fn rules() -> impl Strategy<Value = Rules> {
    (any::<bool>(), subsequence(PATTERNS.to_vec(), 1..=8)).prop_flat_map(|(lets_in_guests, patterns)| {
        let groups = vec((any::<bool>(), permissions()), patterns.len());
        groups.prop_map(move |groups| {
            // A pattern joins the namespace before it, or begins one.
            let mut namespaces: Vec<Space> = Vec::new();
            for (pattern, (joins, space)) in patterns.iter().zip(groups) {
                match namespaces.last_mut().filter(|_| joins) {
                    Some(last) => last.patterns.push(pattern),
                    None => namespaces.push(Space { patterns: vec![pattern], ..space }),
                }
            }
            for space in &mut namespaces {
                drop_owner_without_placeholder(space);
            }
            Rules { lets_in_guests, namespaces }
        })
    })
}

/// `owner` in a namespace without a placeholder is an error of the configuration.
fn drop_owner_without_placeholder(space: &mut Space) {
    if space.patterns.iter().any(|pattern| pattern.contains("{user}") || pattern.contains("{tenant}")) {
        return;
    }
    for words in [&mut space.subscribe, &mut space.publish, &mut space.read_history] {
        words.retain(|word| *word != Word::Owner);
    }
}

fn permissions() -> impl Strategy<Value = Space> {
    let of = |words: &[Word]| subsequence(words.to_vec(), 0..=words.len().min(2));
    let subscribe = of(&[Word::Anyone, Word::Authenticated, Word::Owner, Word::Token]);
    let all = [Word::Anyone, Word::Authenticated, Word::Subscribers, Word::Owner, Word::Token];
    (subscribe, of(&all), of(&all), prop::bool::weighted(0.2)).prop_map(
        |(subscribe, publish, read_history, requires_editor)| Space {
            patterns: Vec::new(),
            subscribe,
            publish,
            read_history,
            requires_editor,
        },
    )
}

fn person() -> impl Strategy<Value = Person> {
    let users = ["alice", "alice", "bob", "bob", "a:b", "*", ""];
    let tenants = ["acme", "acme", "bmce", "*", "a:b", ""];
    let claims = ["room:1", "room:*", "hall", "*", "tenant:acme:x", "user:bob"];
    (
        option::weighted(0.8, select(users.to_vec())),
        option::of(select(tenants.to_vec())),
        subsequence(vec!["editor", "author"], 0..=2),
        subsequence(claims.to_vec(), 0..=2),
    )
        .prop_map(|(user, tenant, roles, claim)| {
            let texts = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            match user {
                None => Person { user: None, tenant: None, roles: Vec::new(), claim: Vec::new() },
                Some(user) => Person {
                    user: Some(user.to_owned()),
                    tenant: tenant.map(str::to_owned),
                    roles: texts(roles),
                    claim: texts(claim),
                },
            }
        })
}

fn step() -> impl Strategy<Value = Step> {
    (0..6, select(CHANNELS.to_vec())).prop_map(|(kind, channel)| match kind {
        0..=2 => Step::Subscribe(channel),
        3 => Step::Unsubscribe(channel),
        4 => Step::Publish(channel),
        _ => Step::History(channel),
    })
}
