//! Names for test channels and keys.
//!
//! They match the configured globs and are not used by others. Must never treat a name as unique that others could
//! use.

/// A name that matches a glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TestName {
    pub(super) name: String,
    /// The name is random, so no other client uses it.
    pub(super) is_unique: bool,
}

impl TestName {
    /// A name that a glob matches. For an exact name this is the name itself, which is not unique.
    pub(super) fn of(glob: &str) -> Self {
        let Some((before, after)) = glob.split_once('*') else {
            return Self { name: glob.replace('?', "x"), is_unique: false };
        };
        let rest = after.replace('*', "").replace('?', "x");
        Self { name: format!("{}{}{rest}", before.replace('?', "x"), random_name()), is_unique: true }
    }
}

/// A random name.
pub(super) fn random_name() -> String {
    format!("earshot-check:{:012x}", fastrand::u64(..1 << 48))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn test_names_match_their_globs_and_are_unique() {
        for glob in ["*", "web-*", "a*b", "*:x", "a*b*c", "j?b:*"] {
            let sample = TestName::of(glob);
            assert!(
                sample.is_unique && wildmatch::WildMatch::new(glob).matches(&sample.name),
                "{glob}: {sample:?}"
            );
            assert_ne!(sample, TestName::of(glob));
        }
        assert_eq!(
            TestName::of("web-signals"),
            TestName { name: "web-signals".to_owned(), is_unique: false }
        );
        assert!(!TestName::of("web-?").is_unique);
    }
}
