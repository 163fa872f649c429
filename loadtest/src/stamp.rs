//! Content of a published message: run, channel, sequence number, and when it was due and sent. The receiver uses it to
//! detect loss and to measure latency.
//!
//! A stamp is a JSON object with a fixed field order, padded to the requested size. Parsing is strict: an altered
//! payload does not parse.

use std::io::Write as _;

/// Identifies one message of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// Id of the run; messages of other runs are not counted.
    pub(crate) run: u32,
    /// Index of the channel.
    pub(crate) channel: u32,
    /// Sequence number within the channel, from 1.
    pub(crate) sequence: u64,
    /// When the message was due, in microseconds since the epoch of the run.
    pub(crate) due_micros: u64,
    /// Delay from due to sent, in microseconds.
    pub(crate) late_micros: u32,
}

impl Stamp {
    /// Size of the largest stamp without padding, in bytes.
    pub(crate) const MIN_BYTES: usize = 121;

    /// Writes exactly `size` bytes; `size` must be at least [`Stamp::MIN_BYTES`].
    pub(crate) fn write(&self, size: usize, out: &mut Vec<u8>) {
        let start = out.len();
        let Self { run, channel, sequence, due_micros, late_micros } = self;
        // Writing to a vector cannot fail.
        let _ = write!(
            out,
            r#"{{"run":{run},"channel":{channel},"sequence":{sequence},"due":{due_micros},"late":{late_micros},"pad":""#
        );
        let end = start + size.saturating_sub(2);
        out.resize(end.max(out.len()), b'x');
        out.extend_from_slice(br#""}"#);
    }

    /// Parses a message. `None` unless [`Stamp::write`] wrote it.
    pub(crate) fn parse(payload: &[u8]) -> Option<Self> {
        let (run, rest) = field(payload, br#"{"run":"#)?;
        let (channel, rest) = field(rest, br#","channel":"#)?;
        let (sequence, rest) = field(rest, br#","sequence":"#)?;
        let (due_micros, rest) = field(rest, br#","due":"#)?;
        let (late, rest) = field(rest, br#","late":"#)?;
        let pad = rest.strip_prefix(br#","pad":""#)?.strip_suffix(br#""}"#)?;
        let run = u32::try_from(run).ok()?;
        let channel = u32::try_from(channel).ok()?;
        let late_micros = u32::try_from(late).ok()?;
        let stamp = Self { run, channel, sequence, due_micros, late_micros };
        pad.iter().all(|byte| *byte == b'x').then_some(stamp)
    }
}

/// Strips a label and parses the number after it.
fn field<'a>(input: &'a [u8], label: &[u8]) -> Option<(u64, &'a [u8])> {
    let rest = input.strip_prefix(label)?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    Some((value, &rest[digits..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LARGEST: Stamp = Stamp {
        run: u32::MAX,
        channel: u32::MAX,
        sequence: (1 << 59) - 1,
        due_micros: (1 << 59) - 1,
        late_micros: u32::MAX,
    };

    proptest! {
        #[test]
        fn stamp_round_trips_at_its_exact_size(
            run: u32, channel: u32, sequence in 0..1u64 << 59, due_micros in 0..1u64 << 59, late_micros: u32,
            size in Stamp::MIN_BYTES..4096,
        ) {
            let stamp = Stamp { run, channel, sequence, due_micros, late_micros };
            let mut payload = Vec::new();
            stamp.write(size, &mut payload);
            prop_assert_eq!(payload.len(), size);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok());
            prop_assert_eq!(Stamp::parse(&payload), Some(stamp));
        }

        #[test]
        fn changed_byte_is_detected(at in 0usize..128, byte: u8) {
            let stamp = Stamp { run: 7, channel: 3, sequence: 41, due_micros: 1_000_000, late_micros: 40 };
            let mut payload = Vec::new();
            stamp.write(128, &mut payload);
            prop_assume!(payload[at] != byte);
            payload[at] = byte;
            prop_assert_ne!(Stamp::parse(&payload), Some(stamp));
        }

        #[test]
        fn no_payload_panics(payload: Vec<u8>) {
            let _ = Stamp::parse(&payload);
        }
    }

    #[test]
    fn minimum_size_holds_the_largest_stamp() {
        let mut payload = Vec::new();
        LARGEST.write(Stamp::MIN_BYTES, &mut payload);
        assert_eq!(payload.len(), Stamp::MIN_BYTES);
    }
}
