//! Frames that wait to be written to one connection.
//!
//! Owns their order and the count of bytes. Frames are shared with other outboxes and never changed. An empty outbox
//! holds no memory.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::timer_wheel::Tick;

/// Maximum number of frames in one write call.
pub(super) const SLICES_MAX: usize = 64;

/// Bytes of memory that a queued frame occupies in addition to its own: a slot in a queue that grows by doubling, and the
/// header and the rounding of its allocation. Measured: about 90 bytes of requested memory.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 128;

/// Bytes of memory that an entry of a backlog occupies in addition to the bytes of its frame or [`Publication::cost`]: the
/// entry in half-filled tree nodes, the index of its key, and reference counts. Measured: 180 bytes of requested
/// memory, 240 with a key.
///
/// [`Publication::cost`]: crate::node::publication::Publication::cost
pub(super) const DEFERRED_OVERHEAD_BYTES: usize = 256;

/// Frames in order; the first may be partly written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    front_partial: bool,
    /// Bytes written so far.
    sent_total: u64,
    /// The value of `sent_total` once everything that was queued at `since` is written.
    mark: u64,
    since: Tick,
}

impl Outbox {
    /// Bytes of the frames that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Approximate memory that the frames occupy; this counts against the limit.
    pub(super) fn queued_bytes(&self) -> usize {
        self.bytes + self.frames.len() * FRAME_OVERHEAD_BYTES
    }

    /// The minimum time that the oldest byte has waited, in ticks; it may be up to twice as long.
    pub(super) fn age(&mut self, now: Tick) -> Tick {
        if self.sent_total >= self.mark {
            (self.mark, self.since) = (self.sent_total + self.bytes as u64, now);
        }
        now - self.since
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Appends a frame.
    #[inline]
    pub(super) fn push(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.frames.push_back(frame);
    }

    /// The frame that waits, if there is exactly one.
    pub(super) fn single(&self) -> Option<&[u8]> {
        (self.frames.len() == 1).then(|| &*self.frames[0])
    }

    /// Fills `slices` with the frames to write next and returns their number.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut filled = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            filled += 1;
        }
        filled
    }

    /// Removes bytes that were written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.sent_total += written as u64;
        while let Some(front) = self.frames.front_mut() {
            if written < front.len() {
                if written > 0 {
                    bytes::Buf::advance(front, written);
                    self.front_partial = true;
                }
                return;
            }
            written -= front.len();
            self.frames.pop_front();
            self.front_partial = false;
        }
        // An idle connection holds no buffer.
        self.frames = VecDeque::new();
    }

    /// Discards the frames that have not been started. The rest of a partly written frame stays, so that the stream
    /// of frames remains valid, and with it the frames that continue it.
    pub(super) fn discard_unsent(&mut self, is_continuation: impl Fn(&[u8]) -> bool) {
        let front_partial = usize::from(self.front_partial);
        let rest = self.frames.iter().skip(front_partial).take_while(|frame| is_continuation(frame)).count();
        self.frames.truncate(front_partial + rest);
        self.bytes = self.frames.iter().map(Bytes::len).sum();
        self.mark = self.mark.min(self.sent_total + self.bytes as u64);
    }

    /// Removes the next frames as one chunk of at most `limit` bytes; a longer frame is split.
    pub(super) fn take_chunk(&mut self, limit: usize) -> Bytes {
        let mut frames = self.frames.iter().scan(0, |bytes, frame| {
            *bytes += frame.len();
            (*bytes <= limit).then_some(frame)
        });
        let chunk = match (frames.next(), frames.next()) {
            (Some(first), None) => first.clone(),
            (Some(first), Some(second)) => {
                let mut chunk = [&first[..], second].concat();
                frames.for_each(|frame| chunk.extend_from_slice(frame));
                chunk.into()
            }
            (None, _) => self.frames.front().map(|front| front.slice(..limit)).unwrap_or_default(),
        };
        self.advance(chunk.len());
        chunk
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn take_chunk_returns_everything_in_bounded_chunks(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..20),
            limit in 1usize..30,
        ) {
            let mut outbox = Outbox::default();
            for frame in &frames {
                outbox.push(Bytes::from(frame.clone()));
            }
            let mut taken = Vec::new();
            while !outbox.is_empty() {
                let chunk = outbox.take_chunk(limit);
                prop_assert!((1..=limit).contains(&chunk.len()));
                taken.extend_from_slice(&chunk);
            }
            prop_assert_eq!(taken, frames.concat());
            prop_assert_eq!(outbox.bytes(), 0);
        }

        #[test]
        fn slices_return_everything_once_and_in_order(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..20),
            steps in prop::collection::vec(1usize..30, 0..60),
        ) {
            let mut outbox = Outbox::default();
            for frame in &frames {
                outbox.push(Bytes::from(frame.clone()));
            }
            let expected: Vec<u8> = frames.concat();
            let mut written = Vec::new();
            for step in steps.into_iter().chain(std::iter::repeat(30)) {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let filled = outbox.slices(&mut slices);
                let all: Vec<u8> = slices[..filled].iter().flat_map(|slice| slice.to_vec()).collect();
                if all.is_empty() {
                    break;
                }
                let step = step.min(all.len());
                written.extend_from_slice(&all[..step]);
                outbox.advance(step);
                prop_assert_eq!(outbox.bytes(), expected.len() - written.len());
            }
            prop_assert_eq!(written, expected);
            prop_assert!(outbox.is_empty());
        }

        #[test]
        fn discard_unsent_keeps_frames_whole(cut in 1usize..14) {
            let mut outbox = Outbox::default();
            for frame in ["abcde", "fghij", "klmno"] {
                outbox.push(Bytes::from_static(frame.as_bytes()));
            }
            outbox.advance(cut);
            outbox.discard_unsent(|_| false);
            prop_assert_eq!(outbox.bytes(), (5 - cut % 5) % 5);
        }

        #[test]
        fn discard_unsent_keeps_continuations(cut in 0usize..20) {
            let mut outbox = Outbox::default();
            for frame in ["abcde", "+ghij", "klmno", "+qrst"] {
                outbox.push(Bytes::from_static(frame.as_bytes()));
            }
            outbox.advance(cut);
            outbox.discard_unsent(|frame| frame.starts_with(b"+"));
            prop_assert_eq!(outbox.bytes(), (10 - cut % 10) % 10);
        }
    }
}
