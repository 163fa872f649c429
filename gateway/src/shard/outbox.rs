//! What waits to be written onto one connection.
//!
//! Owns the order and the count of bytes. Frames are shared with other outboxes and never changed. Must never do I/O
//! and never keep memory while it is empty.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;

use super::wheel::Tick;

/// The most frames given to one write call.
pub(super) const SLICES_MAX: usize = 64;

/// Bytes that a waiting frame occupies beside its own: a slot in a queue that grows by doubling, and the header and the
/// rounding of its allocation. Measured: about 90 bytes of requested memory.
pub(super) const FRAME_OVERHEAD_BYTES: usize = 128;

/// Bytes that an entry of a backlog occupies beside what [`Publication::cost`] counts or the bytes of its frame: the
/// entry in half-filled tree nodes, the index of its key, and reference counts. Measured: 180 bytes of requested memory,
/// 240 with a key.
///
/// [`Publication::cost`]: crate::node::publication::Publication::cost
pub(super) const DEFERRED_OVERHEAD_BYTES: usize = 256;

/// Frames in order, the first of them perhaps half written.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    frames: VecDeque<Bytes>,
    bytes: usize,
    cut: bool,
    /// Bytes that have left so far.
    left: u64,
    /// What will have left when everything has that waited at `since`.
    mark: u64,
    since: Tick,
}

impl Outbox {
    /// Bytes that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of memory that what waits occupies, about. This counts against a bound.
    pub(super) fn weight(&self) -> usize {
        self.bytes + self.frames.len() * FRAME_OVERHEAD_BYTES
    }

    /// How long the oldest byte has waited at the least, in ticks; it may be up to twice as long.
    pub(super) fn age(&mut self, now: Tick) -> Tick {
        if self.left >= self.mark {
            (self.mark, self.since) = (self.left + self.bytes as u64, now);
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

    /// The only frame that waits, if it is the only one.
    pub(super) fn single(&self) -> Option<&[u8]> {
        (self.frames.len() == 1).then(|| &*self.frames[0])
    }

    /// Fills `slices` with the frames to write next, and says how many were filled.
    pub(super) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut filled = 0;
        for (slice, frame) in slices.iter_mut().zip(&self.frames) {
            *slice = IoSlice::new(frame);
            filled += 1;
        }
        filled
    }

    /// Takes away what was written.
    pub(super) fn advance(&mut self, mut written: usize) {
        self.bytes -= written;
        self.left += written as u64;
        while let Some(front) = self.frames.front_mut() {
            if written < front.len() {
                if written > 0 {
                    bytes::Buf::advance(front, written);
                    self.cut = true;
                }
                return;
            }
            written -= front.len();
            self.frames.pop_front();
            self.cut = false;
        }
        // An idle connection owns no buffer.
        self.frames = VecDeque::new();
    }

    /// Drops what no byte of was written yet; the rest of a half-written frame stays, so that the stream of frames
    /// remains whole, and with it those that `belong` to the frame before them.
    pub(super) fn drop_unsent(&mut self, belongs: impl Fn(&[u8]) -> bool) {
        let cut = usize::from(self.cut);
        let rest = self.frames.iter().skip(cut).take_while(|frame| belongs(frame)).count();
        self.frames.truncate(cut + rest);
        self.bytes = self.frames.iter().map(Bytes::len).sum();
        self.mark = self.mark.min(self.left + self.bytes as u64);
    }

    /// Takes the next frames as one piece of at most `limit` bytes; a longer frame is cut.
    pub(super) fn take(&mut self, limit: usize) -> Bytes {
        let mut frames = self.frames.iter().scan(0, |bytes, frame| {
            *bytes += frame.len();
            (*bytes <= limit).then_some(frame)
        });
        let piece = match (frames.next(), frames.next()) {
            (Some(first), None) => first.clone(),
            (Some(first), Some(second)) => {
                let mut piece = [&first[..], second].concat();
                frames.for_each(|frame| piece.extend_from_slice(frame));
                piece.into()
            }
            (None, _) => self.frames.front().map(|front| front.slice(..limit)).unwrap_or_default(),
        };
        self.advance(piece.len());
        piece
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_is_pushed_comes_out_in_pieces_of_a_bounded_size(
            frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..20), 0..20),
            limit in 1usize..30,
        ) {
            let mut outbox = Outbox::default();
            for frame in &frames {
                outbox.push(Bytes::from(frame.clone()));
            }
            let mut taken = Vec::new();
            while !outbox.is_empty() {
                let piece = outbox.take(limit);
                prop_assert!((1..=limit).contains(&piece.len()));
                taken.extend_from_slice(&piece);
            }
            prop_assert_eq!(taken, frames.concat());
            prop_assert_eq!(outbox.bytes(), 0);
        }

        #[test]
        fn whatever_is_pushed_comes_out_once_and_in_order(
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
        fn dropping_the_unsent_keeps_frames_whole(cut in 1usize..14) {
            let mut outbox = Outbox::default();
            for frame in ["abcde", "fghij", "klmno"] {
                outbox.push(Bytes::from_static(frame.as_bytes()));
            }
            outbox.advance(cut);
            outbox.drop_unsent(|_| false);
            prop_assert_eq!(outbox.bytes(), (5 - cut % 5) % 5);
        }

        #[test]
        fn dropping_the_unsent_keeps_what_belongs_together(cut in 0usize..20) {
            let mut outbox = Outbox::default();
            for frame in ["abcde", "+ghij", "klmno", "+qrst"] {
                outbox.push(Bytes::from_static(frame.as_bytes()));
            }
            outbox.advance(cut);
            outbox.drop_unsent(|frame| frame.starts_with(b"+"));
            prop_assert_eq!(outbox.bytes(), (10 - cut % 10) % 10);
        }
    }
}
