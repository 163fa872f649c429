//! The key that denies a token, in a list that an application keeps.

/// The placeholder for the id of the token (`jti`).
const JTI: &str = "{jti}";
/// The placeholder for the user of the token.
const SUB: &str = "{sub}";
/// Maximum number of bytes that a token may insert.
const VALUE_BYTES_MAX: usize = 512;

/// A key with exactly one placeholder. Other braces, such as those of hash tags, are literal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeniedKeyTemplate {
    prefix: Box<str>,
    placeholder: Placeholder,
    suffix: Box<str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Placeholder {
    TokenId,
    User,
}

impl DeniedKeyTemplate {
    /// Parses a template such as `jwt:blacklist:{jti}`.
    ///
    /// # Errors
    /// It does not have exactly one placeholder, or no text before it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (placeholder, name) =
            if text.contains(JTI) { (Placeholder::TokenId, JTI) } else { (Placeholder::User, SUB) };
        let count = text.matches(JTI).count() + text.matches(SUB).count();
        let parts = text.split_once(name).filter(|_| count == 1);
        let (prefix, suffix) = parts.ok_or("expected exactly one of the placeholders {jti} and {sub}")?;
        if prefix.is_empty() {
            return Err(
                "starts with the placeholder, so the gateway would watch every key of the server: put a \
                        text before it, such as \"jwt:blacklist:{jti}\""
                    .to_owned(),
            );
        }
        Ok(Self { prefix: prefix.into(), placeholder, suffix: suffix.into() })
    }

    /// The common prefix of all keys.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Whether the key depends on the id of the token, not on its user.
    pub fn names_token(&self) -> bool {
        self.placeholder == Placeholder::TokenId
    }

    /// The key for a token; its bytes are literal. `None` if the token lacks the required value, or the value is too
    /// long.
    pub fn key(&self, user: &str, token_id: Option<&str>) -> Option<Vec<u8>> {
        let value = match self.placeholder {
            Placeholder::TokenId => token_id?,
            Placeholder::User => user,
        };
        let is_valid = (1..=VALUE_BYTES_MAX).contains(&value.len());
        is_valid.then(|| [&*self.prefix, value, &*self.suffix].concat().into_bytes())
    }
}

/// The template as it was parsed.
impl std::fmt::Display for DeniedKeyTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let placeholder = if self.names_token() { JTI } else { SUB };
        write!(f, "{}{placeholder}{}", self.prefix, self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(template: &str, user: &str, id: Option<&str>) -> Option<String> {
        let key = DeniedKeyTemplate::parse(template).unwrap().key(user, id)?;
        Some(String::from_utf8(key).unwrap())
    }

    #[test]
    fn fills_values_in_literally() {
        assert_eq!(key("jwt:blacklist:{jti}", "42", Some("a:*?{sub}")).unwrap(), "jwt:blacklist:a:*?{sub}");
        assert_eq!(key("{app}:denied:{sub}:v1", "42", None).unwrap(), "{app}:denied:42:v1");
        assert_eq!(DeniedKeyTemplate::parse("a:{jti}:b").unwrap().to_string(), "a:{jti}:b");
    }

    #[test]
    fn a_token_without_the_value_has_no_key() {
        assert_eq!(key("a:{jti}", "42", None), None);
        assert_eq!(key("a:{jti}", "42", Some("")), None);
        assert_eq!(key("a:{jti}", "42", Some(&"x".repeat(513))), None);
        assert_eq!(key("a:{sub}", "", Some("id")), None);
    }

    #[test]
    fn rejects_templates_without_exactly_one_placeholder() {
        for template in ["", "a", "{jti}", "{sub}:a", "a:{jti}{jti}", "a:{jti}{sub}", "a:{id}"] {
            assert!(DeniedKeyTemplate::parse(template).is_err(), "{template}");
        }
    }
}
