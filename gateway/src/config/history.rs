//! `history` and `replay` in a namespace: which publications of a channel are kept, and which of them a new subscriber
//! receives.
//!
//! Must never know where the history is stored: that depends on the source.

use std::time::Duration;

use super::reader::Section;
use super::reader::keyword;
use super::reader::setting::settings;
use super::reader::units::{KIB, MIB};
use super::source::Source;
use crate::node::history_rules::HistoryRules;

settings! {
    impl HistoryRules {
        size: usize as CountKind = 64, in 0, 10_000;
        ttl: Duration as DurationKind = Duration::from_secs(60), in Duration::from_secs(1), Duration::from_secs(7 * 86_400);
        bytes: usize as SizeKind = MIB, in KIB, 256 * MIB;
    }
}

impl HistoryRules {
    /// The section in error messages.
    const EXAMPLE: &str = "{ size = 64, ttl = \"1m\" }";

    /// The default history of a namespace with this source.
    pub(super) fn default_for(source: Source) -> Self {
        match source {
            Source::PubSub => Self::default(),
            Source::Stream => Self { size: 1000, ttl: Duration::from_secs(3600), bytes: 4 * MIB },
        }
    }

    /// Reads the history of a namespace; omitted keys have the defaults of its source.
    pub(super) fn read(namespace: &mut Section<'_>, source: Source) -> Self {
        let mut section = namespace.inline("history", Self::EXAMPLE);
        let mut history = Self::read_settings(&mut section, Self::default_for(source));
        if let Err(what) = history.check(source) {
            section.error(&section.location_of_key("size"), what);
            // One error is enough: further checks use a valid history.
            history = Self::default_for(source);
        }
        section.finish();
        history
    }

    /// Checks that the history suits the source.
    ///
    /// # Errors
    /// If it does not.
    fn check(&self, source: Source) -> Result<(), &'static str> {
        match source {
            Source::Stream if self.size == 0 => {
                Err("source = \"stream\" requires a history: set 1 or more, or use source = \"pubsub\"")
            }
            Source::PubSub | Source::Stream => Ok(()),
        }
    }
}

/// The publications that a new subscriber receives first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// Nothing.
    #[default]
    None,
    /// The most recent publication.
    Last,
}

impl Replay {
    /// The value in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
        }
    }

    /// Reads the key of a namespace with this history.
    pub(super) fn read(section: &mut Section<'_>, history: &HistoryRules) -> Self {
        let found = keyword::read(section, "replay", &[Self::None, Self::Last], Self::as_str);
        let Some(found) = found else { return Self::default() };
        if found.value == Self::Last && history.size == 0 {
            section.error(&found.location, "no history to replay: `history.size` is 0");
        }
        found.value
    }
}
