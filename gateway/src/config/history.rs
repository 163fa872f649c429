//! `history` and `replay` in a namespace: what is kept of a channel, and what of it a subscriber is given unasked.
//!
//! Owns how much and how long. Must never know where it is kept: that is the source's.

use std::time::Duration;

use super::choice;
use super::document::Section;
use super::knob::knobs;
use super::quantity::{KIB, MIB};
use super::source::Source;

knobs! {
    /// What is kept of a channel, so that whoever was away gets what it missed.
    pub struct History {
        /// Publications; 0: none.
        size: usize as Count = 64, in 0, 10_000;
        /// How long a publication is kept.
        ttl: Duration as Span = Duration::from_secs(60), in Duration::from_secs(1), Duration::from_secs(7 * 86_400);
        /// Bytes that a node keeps in its memory; a log in Redis is bounded by size and time alone.
        bytes: usize as Size = MIB, in KIB, 256 * MIB;
    }
}

impl History {
    /// What a file is told that has something else in this place.
    const EXPECTED: &str = "{ size = 64, ttl = \"1m\" }";

    /// Reads the history of a namespace; what it leaves out is as its source has it.
    pub(super) fn read(namespace: &mut Section<'_>, source: Source) -> Self {
        let mut section = namespace.inline("history", Self::EXPECTED);
        let mut history = Self::read_knobs(&mut section, source.history());
        if let Err(what) = source.check(&history) {
            section.refuse(&section.place_of_key("size"), what);
            // Told once: what else goes with a history is not judged by this one.
            history = source.history();
        }
        section.finish();
        history
    }
}

/// What a subscriber is given unasked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Replay {
    /// All that is published from then on.
    #[default]
    None,
    /// The newest publication at once, and all that is published from then on.
    Last,
}

impl Replay {
    /// As the file says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Last => "last",
        }
    }

    /// Reads what a namespace delivers out of this history.
    pub(super) fn read(section: &mut Section<'_>, history: &History) -> Self {
        let found = choice::read(section, "replay", &[Self::None, Self::Last], Self::as_str);
        let Some(found) = found else { return Self::default() };
        if found.value == Self::Last && history.size == 0 {
            section.refuse(&found.place, "no history to replay: `history.size` is 0");
        }
        found.value
    }
}
