//! Names under which things are tried.
//!
//! They fit what is planned, and are nobody else's. Must never call a name its own that somebody else may have.

/// A name that fits a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) name: String,
    /// Nobody else has it: it was made up just now.
    pub(super) is_own: bool,
}

impl Sample {
    /// A name that a glob lets through. An exact name is its only sample, and somebody else's.
    pub(super) fn of(glob: &str) -> Self {
        let Some((before, after)) = glob.split_once('*') else {
            return Self { name: glob.replace('?', "x"), is_own: false };
        };
        let rest = after.replace('*', "").replace('?', "x");
        Self { name: format!("{}{}{rest}", before.replace('?', "x"), random()), is_own: true }
    }
}

/// A name that nobody else has.
pub(super) fn random() -> String {
    format!("earshot-check:{:012x}", fastrand::u64(..1 << 48))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_fit_their_globs_and_are_nobody_elses() {
        for glob in ["*", "web-*", "a*b", "*:x", "a*b*c", "j?b:*"] {
            let sample = Sample::of(glob);
            assert!(
                sample.is_own && wildmatch::WildMatch::new(glob).matches(&sample.name),
                "{glob}: {sample:?}"
            );
            assert_ne!(sample, Sample::of(glob));
        }
        assert_eq!(Sample::of("web-signals"), Sample { name: "web-signals".to_owned(), is_own: false });
        assert!(!Sample::of("web-?").is_own);
    }
}
