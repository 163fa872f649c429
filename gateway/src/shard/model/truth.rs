//! The published messages, and the record that each client keeps of a channel.
//!
//! Verifies that deliveries are strictly increasing, that nothing is delivered twice, and that every gap is reported.
//! Reads from the gateway only the top position of a channel.

use std::collections::HashMap;

use bytes::Bytes;
use earshot_protocol::{ChannelName, StreamPosition};

use super::parameters::Slow;
use crate::node::IngestSteps;
use crate::node::registry::ChannelRegistry;

/// The result of a check; the error describes what is wrong.
pub(super) type CheckResult<T = ()> = Result<T, String>;

/// The publications of every channel, numbered from 1 in the order of publishing.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) names: Vec<ChannelName>,
    tops: Vec<u64>,
    /// How many had been published when the channel was at a position.
    views: HashMap<(usize, StreamPosition), u64>,
}

impl Truth {
    pub(super) fn new(names: Vec<ChannelName>) -> Self {
        let tops = vec![0; names.len()];
        Self { names, tops, views: HashMap::new() }
    }

    /// Adds a publication and returns its number.
    pub(super) fn publish(&mut self, channel: usize) -> u64 {
        self.tops[channel] += 1;
        self.tops[channel]
    }

    /// The number of the newest publication.
    pub(super) fn top(&self, channel: usize) -> u64 {
        self.tops[channel]
    }

    /// Records the position of every channel; to be called after each step that may change one.
    pub(super) fn learn(&mut self, registry: &ChannelRegistry) {
        for (channel, name) in self.names.iter().enumerate() {
            if let Some(top) = registry.top(name) {
                self.views.entry((channel, top)).or_insert(self.tops[channel]);
            }
        }
    }

    /// How many had been published at a position that the gateway reports.
    pub(super) fn number(&self, channel: usize, position: StreamPosition) -> CheckResult<u64> {
        let number = self.views.get(&(channel, position)).copied();
        number.ok_or_else(|| format!("channel {channel} never had the position {position:?}"))
    }

    pub(super) fn channel(&self, name: &str) -> CheckResult<usize> {
        let found = self.names.iter().position(|own| own.as_str() == name);
        found.ok_or_else(|| format!("a channel that no client subscribes to: {name:?}"))
    }
}

/// A payload that contains a number and padding.
pub(super) fn payload(number: u64, padding: usize) -> Bytes {
    let (key, last, pad) = (key(number), is_terminal(number), "x".repeat(padding));
    format!("{{\"n\":{number},\"key\":{key},\"last\":{last},\"pad\":\"{pad}\"}}").into()
}

/// The conflation key of a publication.
fn key(number: u64) -> u64 {
    number % 3
}

/// Whether a publication must not be conflated.
fn is_terminal(number: u64) -> bool {
    number.is_multiple_of(5)
}

/// The number in a payload.
pub(super) fn number_in(payload: &[u8]) -> CheckResult<u64> {
    let digits = payload.strip_prefix(b"{\"n\":").unwrap_or_default();
    let digits = digits.iter().take_while(|digit| digit.is_ascii_digit());
    let number = digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    if number == 0 {
        return Err(format!("a payload that no_client published: {:?}", String::from_utf8_lossy(payload)));
    }
    Ok(number)
}

/// The publications of one channel that one client received.
#[derive(Debug, Default)]
pub(super) struct DeliveryRecord {
    last: u64,
    /// A gap up to this publication was reported.
    reported_gap: u64,
    /// Up to this publication only the newest is delivered.
    skipped: u64,
    /// Publications that were conflated and whose successor has not arrived yet.
    awaiting_successor: Vec<u64>,
    /// The client does not know its position: the first publication defines it.
    position_unknown: bool,
}

impl DeliveryRecord {
    /// The client is subscribed after this publication and recovers nothing before it.
    pub(super) fn begin(&mut self, number: u64) {
        *self = Self { last: number, reported_gap: number, ..Self::default() };
    }

    /// The client is subscribed to a channel without positions.
    pub(super) fn begin_without_position(&mut self) {
        *self = Self { position_unknown: true, ..Self::default() };
    }

    /// A gap up to this publication was reported.
    pub(super) fn report_gap(&mut self, number: u64) {
        self.reported_gap = self.reported_gap.max(number);
        self.awaiting_successor.retain(|awaiting_successor| *awaiting_successor > number);
    }

    /// Up to this publication only the newest is delivered.
    pub(super) fn skip_to(&mut self, number: u64) {
        self.skipped = self.skipped.max(number);
    }

    /// A publication was delivered on a channel whose publications may be conflated.
    pub(super) fn deliver_latest(&mut self, number: u64, slow: Slow) -> CheckResult {
        if self.position_unknown {
            return self.deliver(number);
        }
        let of_kind = |other: u64| slow == Slow::Latest || key(other) == key(number);
        self.awaiting_successor.retain(|awaiting_successor| !of_kind(*awaiting_successor));
        let reported_gap = self.reported_gap.max(self.skipped);
        for missing in self.last.max(reported_gap) + 1..number {
            if is_terminal(missing) {
                return Err(format!("{missing} must not give way"));
            }
            if !of_kind(missing) {
                self.awaiting_successor.push(missing);
            }
            self.skipped = missing;
        }
        self.deliver(number)
    }

    /// A publication was delivered.
    pub(super) fn deliver(&mut self, number: u64) -> CheckResult {
        let last = self.last;
        if number <= last {
            return Err(format!("{number} was delivered after {last}: twice, or out of order"));
        }
        let position_unknown = std::mem::take(&mut self.position_unknown);
        if !position_unknown && number > last + 1 && number - 1 > self.reported_gap.max(self.skipped) {
            let (reported_gap, from, to) = (self.reported_gap, last + 1, number - 1);
            return Err(format!("{from} to {to} were lost in silence (announced up to {reported_gap})"));
        }
        self.last = number;
        Ok(())
    }

    /// When nothing is in flight: every publication must have been delivered or, unless `strictly`, reported as
    /// missing.
    pub(super) fn check_quiescent(&self, top: u64, strictly: bool) -> CheckResult {
        if !self.awaiting_successor.is_empty() {
            return Err(format!("no successor came for {:?}", self.awaiting_successor));
        }
        if self.last == top || self.position_unknown || (!strictly && self.reported_gap >= top) {
            return Ok(());
        }
        let Self { last, reported_gap, .. } = self;
        Err(format!("{} to {top} never came (announced up to {reported_gap})", last + 1))
    }
}
