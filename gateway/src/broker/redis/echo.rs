//! Recognises the second arrival of one publication.
//!
//! Redis delivers a publication once for each subscription that matches it: by name, then by every pattern. They come
//! one right after the other, so it is enough to remember the last one and by which ways it came. Must never take two
//! equal publications for one: the same way twice is a new publication.

use bytes::Bytes;

use crate::broker::BrokerMessage;

/// The last publication, and the ways by which it came (`None`: by name).
#[derive(Debug, Default)]
pub(super) struct Echo {
    last: Option<(String, Bytes)>,
    ways: Vec<Option<Vec<u8>>>,
}

impl Echo {
    /// Whether this arrival is one more of the publication before it.
    pub(super) fn is_echo(&mut self, message: &BrokerMessage, way: Option<&[u8]>) -> bool {
        let same = self
            .last
            .as_ref()
            .is_some_and(|(channel, data)| *channel == message.channel && *data == message.data);
        let echo = same && !self.ways.iter().any(|known| known.as_deref() == way);
        if !echo {
            self.last = Some((message.channel.clone(), message.data.clone()));
            self.ways.clear();
        }
        self.ways.push(way.map(<[u8]>::to_vec));
        echo
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(arrivals: &[(&str, &'static str, Option<&str>)]) -> Vec<bool> {
        let mut echo = Echo::default();
        let of = |(channel, data, way): &(&str, &'static str, Option<&str>)| {
            let message =
                BrokerMessage { channel: (*channel).to_owned(), data: Bytes::from_static(data.as_bytes()) };
            echo.is_echo(&message, way.map(str::as_bytes))
        };
        arrivals.iter().map(of).collect()
    }

    #[test]
    fn one_publication_by_three_ways_is_one() {
        let arrivals = [("a", "1", None), ("a", "1", Some("a*")), ("a", "1", Some("*"))];
        assert_eq!(run(&arrivals), [false, true, true]);
    }

    #[test]
    fn equal_publications_stay_two() {
        let twice = [("a", "1", None), ("a", "1", Some("*")), ("a", "1", None), ("a", "1", Some("*"))];
        assert_eq!(run(&twice), [false, true, false, true]);
        assert_eq!(run(&[("a", "1", Some("*")), ("a", "1", Some("*"))]), [false, false]);
        assert_eq!(run(&[("a", "1", None), ("b", "1", Some("*")), ("a", "1", None)]), [false, false, false]);
    }
}
