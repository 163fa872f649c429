//! What the gateway is to do with a server.
//!
//! Owns the names under which things are tried: they fit what is planned, and nobody else's are touched. Must never
//! give out the name of a real channel for anything that somebody could hear.

use std::time::Duration;

/// What is planned on one server.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The channels, in the order of the configuration.
    pub channels: Vec<PlannedChannel>,
    /// The logs that are kept there.
    pub logs: Vec<PlannedLog>,
    /// The largest publication.
    pub publication_bytes: usize,
    /// How often each link asks whether the server lives.
    pub ping_interval: Duration,
    /// Nobody has said what is planned: everything may be, and nothing must.
    pub assumed: bool,
}

impl Default for Plan {
    /// Of a server of which only the URL is known.
    fn default() -> Self {
        Self {
            channels: vec![PlannedChannel { name: "*".to_owned(), pattern: None }],
            logs: vec![PlannedLog { key_prefix: String::new(), channel: "*".to_owned() }],
            publication_bytes: 1024 * 1024,
            ping_interval: Duration::from_secs(1),
            assumed: true,
        }
    }
}

/// A channel, or the glob of many.
#[derive(Clone, Debug)]
pub struct PlannedChannel {
    /// An exact name, or a glob with `*` and `?`.
    pub name: String,
    /// The pattern that is subscribed in its place, as Redis writes it.
    pub pattern: Option<String>,
}

/// Logs that are kept in Redis.
#[derive(Clone, Debug)]
pub struct PlannedLog {
    /// What stands before its keys.
    pub key_prefix: String,
    /// The channel, or the glob of many.
    pub channel: String,
}

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
