//! Patterns of channel names in the file.
//!
//! Owns the syntax of permitted patterns, and their form in Redis. Must never decide which channel matches.

use crate::auth::ChannelTemplate;
use crate::node::channel_pattern::ChannelPattern;
use crate::node::namespace::PROTECTED_CHANNELS;

/// Parses a channel pattern.
///
/// # Errors
/// If it is invalid, or a glob that matches only protected channels.
pub(super) fn channel_pattern(text: &str, placeholders: &[&str]) -> Result<ChannelPattern, String> {
    let pattern = ChannelPattern::with_placeholders(text, placeholders)?;
    if pattern.template().is_some_and(ChannelTemplate::is_ambiguous) {
        return Err(format!(
            "`{pattern}` is ambiguous: next to wildcards and other placeholders, put a `:` on each side of a placeholder, \
             and no `*` or `?` before it, as in \"tenant:{{tenant}}:*\""
        ));
    }
    let covers = |protected: &&&str| ChannelPattern::parse(protected).is_ok_and(|all| all.covers(&pattern));
    match PROTECTED_CHANNELS.iter().find(covers) {
        Some(protected) if !pattern.is_exact() => Err(format!(
            "`{pattern}` matches only protected channels (`{protected}`), which must be named exactly"
        )),
        _ => Ok(pattern),
    }
}

/// The pattern in the syntax of `PSUBSCRIBE`, where brackets and backslashes are special as well. In Redis, `?` matches
/// one byte, so it does not match characters beyond ASCII.
pub(super) fn redis_pattern(pattern: &ChannelPattern) -> String {
    let mut escaped = String::with_capacity(pattern.text.len());
    for letter in pattern.as_glob().chars() {
        if matches!(letter, '[' | ']' | '\\') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brackets_and_backslashes_are_escaped_for_redis() {
        assert_eq!(redis_pattern(&ChannelPattern::parse(r"a[1]\*?").unwrap()), r"a\[1\]\\*?");
    }
}
