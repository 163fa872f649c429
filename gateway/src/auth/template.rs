//! Channel patterns that name the identity of a client: `user:{user}`, `tenant:{tenant}:*`.

use std::fmt;

use super::Identity;

/// Characters that a value must not contain: it would reach into other segments of the name, or match several channels.
const SEPARATORS: [char; 3] = [':', '*', '?'];

/// A channel pattern with at least one placeholder. `*` matches any characters, `?` matches one; a placeholder matches a
/// value without `:`, `*` and `?`. All other characters are literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChannelTemplate {
    tokens: Box<[Token]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Letter(char),
    AnyLetter,
    AnyLetters,
    Placeholder(Box<str>),
}

impl ChannelTemplate {
    /// Parses a pattern; `is_known` selects the names that are placeholders. Other text in braces is literal, such as a
    /// hash tag. `None` if the pattern has no placeholder.
    pub fn parse(text: &str, is_known: impl Fn(&str) -> bool) -> Option<Self> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(letter) = rest.chars().next() {
            let name = rest.strip_prefix('{').and_then(|inner| inner.split_once('}')).map(|(name, _)| name);
            if let Some(name) = name.filter(|name| is_known(name)) {
                tokens.push(Token::Placeholder(name.into()));
                rest = &rest[name.len() + 2..];
                continue;
            }
            tokens.push(match letter {
                '*' => Token::AnyLetters,
                '?' => Token::AnyLetter,
                letter => Token::Letter(letter),
            });
            rest = &rest[letter.len_utf8()..];
        }
        let has_placeholder = tokens.iter().any(|token| matches!(token, Token::Placeholder(_)));
        has_placeholder.then(|| Self { tokens: tokens.into() })
    }

    /// The same pattern as a glob that matches at least the same channels.
    pub fn as_glob(&self) -> String {
        let mut glob = String::new();
        for token in &self.tokens {
            match token {
                Token::Letter(letter) => glob.push(*letter),
                Token::AnyLetter => glob.push('?'),
                Token::AnyLetters | Token::Placeholder(_) => glob.push('*'),
            }
        }
        glob
    }

    /// The names of its placeholders.
    pub fn placeholders(&self) -> impl Iterator<Item = &str> {
        self.tokens.iter().filter_map(|token| match token {
            Token::Placeholder(name) => Some(&**name),
            _ => None,
        })
    }

    /// Whether a channel may belong to clients with different values. This is possible with several placeholders or a
    /// wildcard, unless each placeholder is a whole segment of the name and does not follow a wildcard. Values contain
    /// no `:`.
    pub fn is_ambiguous(&self) -> bool {
        let is_wildcard = |token: &Token| matches!(token, Token::AnyLetter | Token::AnyLetters);
        let is_end = |token: Option<&Token>| token.is_none_or(|token| *token == Token::Letter(':'));
        let is_segment = |at: usize| {
            let before = at.checked_sub(1).and_then(|before| self.tokens.get(before));
            is_end(before) && is_end(self.tokens.get(at + 1)) && !self.tokens[..at].iter().any(is_wildcard)
        };
        let is_simple = self.placeholders().count() == 1 && !self.tokens.iter().any(is_wildcard);
        let mut places = self.tokens.iter().enumerate();
        !is_simple && places.any(|(at, token)| matches!(token, Token::Placeholder(_)) && !is_segment(at))
    }

    /// Whether a channel has this form, with any values.
    #[cfg(test)]
    fn matches(&self, channel: &str) -> bool {
        self.run(channel, |_, rest, reached| {
            let value = rest.iter().take_while(|letter| !SEPARATORS.contains(letter)).count();
            (1..=value).for_each(reached);
        })
    }

    /// Whether a channel belongs to a client: each placeholder stands for a value of its identity, compared literally.
    pub fn belongs_to(&self, channel: &str, identity: &Identity) -> bool {
        self.run(channel, |name, rest, reached| {
            for value in identity.values(name) {
                let mut letters = value.chars();
                let length = letters.clone().count();
                if length > 0
                    && !value.contains(SEPARATORS)
                    && rest.len() >= length
                    && rest[..length].iter().all(|letter| letters.next() == Some(*letter))
                {
                    reached(length);
                }
            }
        })
    }

    /// Matches a channel in time proportional to the product of the lengths; `placeholder` reports each possible length
    /// of a match of the named placeholder at the start of the rest.
    fn run(&self, channel: &str, placeholder: impl Fn(&str, &[char], &mut dyn FnMut(usize))) -> bool {
        let letters: Vec<char> = channel.chars().collect();
        // reach[i]: the tokens so far match the first i letters.
        let mut reach = vec![false; letters.len() + 1];
        reach[0] = true;
        for token in &self.tokens {
            let mut next = vec![false; letters.len() + 1];
            for at in (0..reach.len()).filter(|at| reach[*at]) {
                match token {
                    Token::Letter(letter) if letters.get(at) == Some(letter) => next[at + 1] = true,
                    Token::AnyLetter if at < letters.len() => next[at + 1] = true,
                    Token::Letter(_) | Token::AnyLetter => {}
                    Token::AnyLetters => {
                        next[at..].fill(true);
                        break;
                    }
                    Token::Placeholder(name) => {
                        placeholder(name, &letters[at..], &mut |length| next[at + length] = true);
                    }
                }
            }
            reach = next;
        }
        reach[letters.len()]
    }
}

impl fmt::Display for ChannelTemplate {
    /// The pattern as in the configuration.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for token in &self.tokens {
            match token {
                Token::Letter(letter) => write!(f, "{letter}")?,
                Token::AnyLetter => f.write_str("?")?,
                Token::AnyLetters => f.write_str("*")?,
                Token::Placeholder(name) => write!(f, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::identity::{Fields, LoginResult};
    use super::*;

    fn template(text: &str) -> ChannelTemplate {
        ChannelTemplate::parse(text, |name| ["user", "tenant"].contains(&name)).unwrap()
    }

    fn identity(user: &str, tenants: &[&str]) -> Identity {
        let tenants = tenants.iter().map(ToString::to_string).collect();
        let fields = Fields::from_iter([("tenant".to_owned(), tenants)]);
        Identity::verified(LoginResult { user: user.to_owned(), fields, ..LoginResult::default() })
    }

    #[test]
    fn only_known_names_are_placeholders() {
        let parse = |text| ChannelTemplate::parse(text, |name| name == "user");
        assert_eq!(parse("{nest}:signals"), None);
        assert_eq!(parse("{}:{us er}:{user"), None);
        let nested = parse("{{user}}").unwrap();
        assert!(nested.matches("{42}") && !nested.matches("42"));
        assert_eq!(parse("{nest}:{user}").unwrap().placeholders().collect::<Vec<_>>(), ["user"]);
    }

    #[test]
    fn a_channel_belongs_to_the_client_that_it_names() {
        let client = identity("42", &["a", "b"]);
        for (text, channel, belongs) in [
            ("user:{user}", "user:42", true),
            ("user:{user}", "user:4", false),
            ("user:{user}", "user:420", false),
            ("user:{user}", "user:", false),
            ("tenant:{tenant}:*", "tenant:a:x", true),
            ("tenant:{tenant}:*", "tenant:b:", true),
            ("tenant:{tenant}:*", "tenant:c:x", false),
            ("{tenant}-{user}", "b-42", true),
            ("{user}{user}", "4242", true),
            ("*{user}", "4242", true),
            ("?{user}", "x42", true),
        ] {
            assert_eq!(template(text).belongs_to(channel, &client), belongs, "{text} and {channel}");
        }
    }

    #[test]
    fn a_value_with_separators_gains_nothing() {
        for user in ["*", "a:b", "?", "", ":", "a*"] {
            let client = identity(user, &[user]);
            for channel in [format!("user:{user}"), "user:*".to_owned(), "user:x".to_owned()] {
                assert!(!template("user:{user}").belongs_to(&channel, &client), "{user:?} {channel}");
                assert!(!template("{tenant}:{user}").belongs_to(&channel, &client), "{user:?} {channel}");
            }
        }
    }

    #[test]
    fn ambiguous_patterns_are_recognized() {
        for (text, is_ambiguous) in [
            ("user:{user}", false),
            ("user-{user}", false),
            ("{user}-inbox", false),
            ("tenant:{tenant}:*", false),
            ("{tenant}:{user}", false),
            ("user-{user}*", true),
            ("{user}?", true),
            ("{user}-*", true),
            ("{tenant}{user}", true),
            ("{tenant}-{user}", true),
            ("*:{user}:*", true),
        ] {
            assert_eq!(template(text).is_ambiguous(), is_ambiguous, "{text}");
        }
    }

    #[test]
    fn a_placeholder_matches_one_segment() {
        assert!(template("user:{user}").matches("user:42"));
        assert!(!template("user:{user}").matches("user:42:inbox"));
        assert!(template("user:{user}:inbox").matches("user:42:inbox"));
        assert!(!template("user:{user}").matches("user:*"));
        assert_eq!(template("a:{user}:*?").as_glob(), "a:*:*?");
    }

    proptest! {
        /// A channel that belongs to a client has the form of the pattern, and the pattern's glob matches it.
        #[test]
        fn a_channel_of_a_client_has_the_form_of_the_pattern(
            text in "[a:*?]{0,3}\\{user\\}[a:*?]{0,3}", user in "[a:*?]{0,3}", channel in "[a:*?]{0,8}",
        ) {
            let (template, client) = (template(&text), identity(&user, &[]));
            if template.belongs_to(&channel, &client) {
                prop_assert!(template.matches(&channel));
                prop_assert!(!user.contains(SEPARATORS));
            }
            if template.matches(&channel) {
                prop_assert!(wildmatch::WildMatch::new(&template.as_glob()).matches(&channel));
            }
        }

        /// Of two clients, only one has a channel of a pattern that is not ambiguous.
        #[test]
        fn a_channel_has_one_owner(
            text in "[ab:*?-]{0,3}\\{user\\}[ab:*?-]{0,3}", users in ("[ab-]{1,3}", "[ab-]{1,3}"),
            channel in "[ab:-]{0,8}",
        ) {
            let pattern = template(&text);
            if !pattern.is_ambiguous() && users.0 != users.1 {
                let owns = |user: &str| pattern.belongs_to(&channel, &identity(user, &[]));
                prop_assert!(!(owns(&users.0) && owns(&users.1)), "{} {}", text, channel);
            }
        }

        /// Substitution of a legal value is the same as a comparison.
        #[test]
        fn equals_the_substituted_pattern(
            text in "[ab:]{0,3}\\{user\\}[ab:]{0,3}", user in "[ab]{1,3}", channel in "[ab:]{0,8}",
        ) {
            let belongs = template(&text).belongs_to(&channel, &identity(&user, &[]));
            prop_assert_eq!(belongs, text.replace("{user}", &user) == channel);
        }
    }
}
