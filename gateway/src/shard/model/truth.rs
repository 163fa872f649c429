//! What was really published, and the account that each client keeps of a channel.
//!
//! Owns the verdict: strictly increasing, nothing twice, and every hole announced. Must never look into the gateway
//! but for the name of a channel's top.

use std::collections::HashMap;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};

use super::rules::Slow;
use crate::node::registry::ChannelRegistry;

/// The result of a check; the error says what a client would complain about.
pub(super) type Verdict<T = ()> = Result<T, String>;

/// Every channel's publications, numbered from 1 on in the order of their publishing.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) names: Vec<ChannelName>,
    tops: Vec<u64>,
    /// How much had been published when the gateway stood at a position.
    places: HashMap<(usize, StreamPosition), u64>,
}

impl Truth {
    pub(super) fn new(names: Vec<ChannelName>) -> Self {
        let tops = vec![0; names.len()];
        Self { names, tops, places: HashMap::new() }
    }

    /// One more publication; its number.
    pub(super) fn publish(&mut self, channel: usize) -> u64 {
        self.tops[channel] += 1;
        self.tops[channel]
    }

    /// The newest publication's number.
    pub(super) fn top(&self, channel: usize) -> u64 {
        self.tops[channel]
    }

    /// Notes where the gateway's sequences stand; to be called after each step that may move one.
    pub(super) fn learn(&mut self, registry: &ChannelRegistry) {
        for (channel, name) in self.names.iter().enumerate() {
            if let Some(top) = registry.top(name) {
                self.places.entry((channel, top)).or_insert(self.tops[channel]);
            }
        }
    }

    /// How much had been published at a position that the gateway names.
    pub(super) fn number(&self, channel: usize, position: StreamPosition) -> Verdict<u64> {
        let number = self.places.get(&(channel, position)).copied();
        number.ok_or_else(|| format!("channel {channel} never stood at {position:?}"))
    }

    pub(super) fn channel(&self, name: &str) -> Verdict<usize> {
        let found = self.names.iter().position(|own| own.as_str() == name);
        found.ok_or_else(|| format!("a channel that nobody asked for: {name:?}"))
    }
}

/// The payload that carries a number, with so much padding.
pub(super) fn payload(number: u64, padding: usize) -> Bytes {
    let (key, last, pad) = (key(number), is_terminal(number), "x".repeat(padding));
    format!("{{\"n\":{number},\"key\":{key},\"last\":{last},\"pad\":\"{pad}\"}}").into()
}

/// What a publication is about.
fn key(number: u64) -> u64 {
    number % 3
}

/// Whether nothing may take the place of a publication.
fn is_terminal(number: u64) -> bool {
    number.is_multiple_of(5)
}

/// The number in a payload.
pub(super) fn number_in(payload: &[u8]) -> Verdict<u64> {
    let digits = payload.strip_prefix(b"{\"n\":").unwrap_or_default();
    let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
    let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    if number == 0 {
        return Err(format!("a payload that nobody published: {:?}", String::from_utf8_lossy(payload)));
    }
    Ok(number)
}

/// What one client was given of one channel.
#[derive(Debug, Default)]
pub(super) struct Account {
    last: u64,
    /// The client was told that it may miss publications up to this one.
    excused: u64,
    /// It was told that only the newest matters, and that it will have it.
    skipped: u64,
    /// What gave way to a successor that it has not been given yet.
    owed: Vec<u64>,
    /// The client does not know where it began: the first publication that comes says so.
    began_anywhere: bool,
}

impl Account {
    /// The client hears from this publication on, and asks for nothing before it.
    pub(super) fn begin(&mut self, number: u64) {
        *self = Self { last: number, excused: number, ..Self::default() };
    }

    /// The client hears from some publication on, of a channel that has no positions.
    pub(super) fn begin_anywhere(&mut self) {
        *self = Self { began_anywhere: true, ..Self::default() };
    }

    /// The client was told that publications up to this one may be missing.
    pub(super) fn excuse(&mut self, number: u64) {
        self.excused = self.excused.max(number);
        self.owed.retain(|owed| *owed > number);
    }

    /// The client was told that it gets the newest, which is behind this one.
    pub(super) fn skip(&mut self, number: u64) {
        self.skipped = self.skipped.max(number);
    }

    /// A publication was delivered of a channel in which publications may give way to others.
    pub(super) fn deliver_latest(&mut self, number: u64, slow: Slow) -> Verdict {
        if self.began_anywhere {
            return self.deliver(number);
        }
        let of_kind = |other: u64| slow == Slow::Latest || key(other) == key(number);
        self.owed.retain(|owed| !of_kind(*owed));
        let excused = self.excused.max(self.skipped);
        for missing in self.last.max(excused) + 1..number {
            if is_terminal(missing) {
                return Err(format!("{missing} must not give way"));
            }
            if !of_kind(missing) {
                self.owed.push(missing);
            }
            self.skipped = missing;
        }
        self.deliver(number)
    }

    /// A publication was delivered.
    pub(super) fn deliver(&mut self, number: u64) -> Verdict {
        let last = self.last;
        if number <= last {
            return Err(format!("{number} was delivered after {last}: twice, or out of order"));
        }
        let began_anywhere = std::mem::take(&mut self.began_anywhere);
        if !began_anywhere && number > last + 1 && number - 1 > self.excused.max(self.skipped) {
            let (excused, from, to) = (self.excused, last + 1, number - 1);
            return Err(format!("{from} to {to} were lost in silence (announced up to {excused})"));
        }
        self.last = number;
        Ok(())
    }

    /// All is quiet: what was not delivered must have been announced, or, where nothing excuses it, delivered.
    pub(super) fn at_rest(&self, top: u64, strictly: bool) -> Verdict {
        if !self.owed.is_empty() {
            return Err(format!("no successor came for {:?}", self.owed));
        }
        if self.last == top || self.began_anywhere || (!strictly && self.excused >= top) {
            return Ok(());
        }
        let Self { last, excused, .. } = self;
        Err(format!("{} to {top} never came (announced up to {excused})", last + 1))
    }
}
