//! The rules of permissions, as docs/configuration.md states them. Slow and simple on purpose.

/// A word of a permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    Anyone,
    Authenticated,
    Subscribers,
    Owner,
    Token,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Operation {
    Subscribe,
    Publish,
    ReadHistory,
}

/// A client: what its token says. Without a user there is no token.
#[derive(Clone, Debug)]
pub(crate) struct Person {
    pub(crate) user: Option<String>,
    pub(crate) tenant: Option<String>,
    pub(crate) roles: Vec<String>,
    pub(crate) claim: Vec<String>,
}

#[derive(Clone, Debug)]
pub(crate) struct Space {
    pub(crate) patterns: Vec<&'static str>,
    pub(crate) subscribe: Vec<Word>,
    pub(crate) publish: Vec<Word>,
    pub(crate) read_history: Vec<Word>,
    pub(crate) requires_editor: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) lets_in_guests: bool,
    pub(crate) namespaces: Vec<Space>,
}

impl Word {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Authenticated => "authenticated",
            Self::Subscribers => "subscribers",
            Self::Owner => "owner",
            Self::Token => "token",
        }
    }
}

impl Rules {
    /// Whether a client may use an operation of a channel.
    pub(crate) fn permits(
        &self,
        person: &Person,
        operation: Operation,
        channel: &str,
        is_subscribed: bool,
    ) -> bool {
        let open = |pattern: &&&str| {
            let glob = pattern.replace("{user}", "*").replace("{tenant}", "*");
            is_match(&glob, channel)
        };
        let Some(space) =
            self.namespaces.iter().find(|space| space.patterns.iter().any(|pattern| open(&pattern)))
        else {
            return false;
        };
        if space.requires_editor && !person.roles.iter().any(|role| role == "editor") {
            return false;
        }
        let words = match operation {
            Operation::Subscribe => &space.subscribe,
            Operation::Publish => &space.publish,
            Operation::ReadHistory => &space.read_history,
        };
        words.iter().any(|word| match word {
            Word::Anyone => self.lets_in_guests || person.user.is_some(),
            Word::Authenticated => person.user.as_ref().is_some_and(|user| !user.is_empty()),
            Word::Subscribers => is_subscribed,
            Word::Owner => space.patterns.iter().any(|pattern| owns(pattern, person, channel)),
            Word::Token => person.user.is_some() && person.claim.iter().any(|glob| is_match(glob, channel)),
        })
    }
}

/// Whether a pattern with the values of a client is the name of the channel.
fn owns(pattern: &str, person: &Person, channel: &str) -> bool {
    let mut filled = pattern.to_owned();
    let mut has_placeholder = false;
    for (placeholder, value) in [("{user}", &person.user), ("{tenant}", &person.tenant)] {
        if !pattern.contains(placeholder) {
            continue;
        }
        has_placeholder = true;
        match value {
            Some(value) if !value.is_empty() && !value.contains([':', '*', '?']) => {
                filled = filled.replace(placeholder, value);
            }
            _ => return false,
        }
    }
    has_placeholder && is_match(&filled, channel)
}

/// Matches a glob with `*`.
fn is_match(glob: &str, name: &str) -> bool {
    match glob.split_once('*') {
        None => glob == name,
        Some((start, rest)) => match name.strip_prefix(start) {
            Some(tail) => (0..=tail.len()).any(|at| tail.is_char_boundary(at) && is_match(rest, &tail[at..])),
            None => false,
        },
    }
}
