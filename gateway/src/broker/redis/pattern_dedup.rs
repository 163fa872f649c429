//! Drops the repeated deliveries of one publication.
//!
//! Redis delivers a publication once for each matching subscription: by name, then by each pattern. These follow each
//! other directly, so it is enough to store the last publication and its patterns. Must never drop an equal
//! publication: the same pattern twice is a new publication.

use bytes::Bytes;

use crate::broker::BrokerMessage;

/// The last publication, and the patterns that delivered it (`None`: by name).
#[derive(Debug, Default)]
pub(super) struct PatternDedup {
    last: Option<(String, Bytes)>,
    patterns: Vec<Option<Vec<u8>>>,
}

impl PatternDedup {
    /// Whether this is another delivery of the last publication.
    pub(super) fn is_duplicate(&mut self, message: &BrokerMessage, pattern: Option<&[u8]>) -> bool {
        let same = self
            .last
            .as_ref()
            .is_some_and(|(channel, data)| *channel == message.channel && *data == message.data);
        let duplicate = same && !self.patterns.iter().any(|known| known.as_deref() == pattern);
        if !duplicate {
            self.last = Some((message.channel.clone(), message.data.clone()));
            self.patterns.clear();
        }
        self.patterns.push(pattern.map(<[u8]>::to_vec));
        duplicate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arrivals: &[(&str, &'static str, Option<&str>)]) -> Vec<bool> {
        let mut dedup = PatternDedup::default();
        let of = |(channel, data, pattern): &(&str, &'static str, Option<&str>)| {
            let message =
                BrokerMessage { channel: (*channel).to_owned(), data: Bytes::from_static(data.as_bytes()) };
            dedup.is_duplicate(&message, pattern.map(str::as_bytes))
        };
        arrivals.iter().map(of).collect()
    }

    #[test]
    fn drops_repeated_deliveries_by_patterns() {
        let arrivals = [("a", "1", None), ("a", "1", Some("a*")), ("a", "1", Some("*"))];
        assert_eq!(run(&arrivals), [false, true, true]);
    }

    #[test]
    fn keeps_equal_publications() {
        let twice = [("a", "1", None), ("a", "1", Some("*")), ("a", "1", None), ("a", "1", Some("*"))];
        assert_eq!(run(&twice), [false, true, false, true]);
        assert_eq!(run(&[("a", "1", Some("*")), ("a", "1", Some("*"))]), [false, false]);
        assert_eq!(run(&[("a", "1", None), ("b", "1", Some("*")), ("a", "1", None)]), [false, false, false]);
    }
}
