//! What a client that comes back asks for, and what it is given.
//!
//! Owns the position that a client names, and the size of a page. Must never read a log or a ring.

use std::sync::Arc;

use earshot_protocol::{Epoch, StreamPosition};

use super::publication::Publication;
use crate::broker::log::{LogOrigin, LogPage};

/// Where a client stood. An empty epoch fits every one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Since {
    /// The epoch, as far as it could be read; `None`: any.
    pub epoch: Option<Result<Epoch, ()>>,
    /// The offset of the last publication it has.
    pub offset: u64,
}

/// What a client that comes back asks for.
#[derive(Clone, Debug)]
pub struct RecoveryRequest {
    /// Where it stood; `None`: it was not here before.
    pub since: Option<Since>,
    /// The newest publication is wanted in any case.
    pub last: bool,
    /// How much one page may hold.
    pub page: PageLimit,
    /// It asks for the next page: at least one publication, and nothing that must be read from a log.
    pub goes_on: bool,
}

/// What a client that comes back is given.
#[derive(Clone, Debug)]
pub struct Recovery {
    /// Where the channel stood at that moment: when this is all, live publications follow on it.
    pub top: StreamPosition,
    /// Where the client stands before it is given what it missed.
    pub start: StreamPosition,
    /// What was missed, in order and without a hole, as much as one page holds.
    pub publications: Vec<Arc<Publication>>,
    /// Whether nothing was missed but what follows `start`.
    pub recovered: bool,
    /// Whether the publications reach the top; otherwise there are more pages.
    pub is_complete: bool,
}

/// What one page of a recovery may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageLimit {
    /// Publications.
    pub publications: usize,
    /// Bytes, by [`Publication::cost`].
    pub bytes: usize,
}

impl Since {
    /// A position as the SSE cursor holds it.
    pub fn exactly(position: StreamPosition) -> Self {
        // Nowhere is before the first of every log.
        let epoch = (position.epoch.as_u64() != 0).then_some(Ok(position.epoch));
        Self { epoch, offset: position.offset }
    }

    /// A position as a WebSocket client writes it.
    pub fn read(epoch: &str, offset: u64) -> Self {
        let epoch = (!epoch.is_empty()).then(|| epoch.parse().map_err(|_| ()));
        Self { epoch, offset }
    }

    /// The moment that it names, if it is a position of before the first publication of a log. A client that has
    /// received a publication since names one of a log that it cannot identify: its position is never accepted.
    pub(super) fn provisional(&self) -> Option<LogOrigin> {
        let epoch = self.epoch?.ok().filter(|_| self.offset == 0)?;
        LogOrigin::of_epoch(epoch)
    }

    /// Whether it belongs to a log as a page of it shows it, or is a position of before its first publication.
    pub(super) fn fits_log(&self, page: &LogPage) -> bool {
        let absent = self.provisional().zip(page.origin);
        match page.top {
            Some(top) => {
                self.fits(top.epoch) || absent.is_some_and(|(absent, origin)| origin.is_first_since(absent))
            }
            None => self.epoch.is_none() || absent.is_some_and(|(absent, now)| now.is_same_absence(absent)),
        }
    }

    /// Whether it belongs to this sequence.
    pub fn fits(&self, epoch: Epoch) -> bool {
        self.epoch.as_ref().is_none_or(|own| *own == Ok(epoch))
    }
}

impl Recovery {
    /// Nothing was missed, or nothing of it can be recovered.
    pub fn nothing(top: StreamPosition, recovered: bool) -> Self {
        Self { top, start: top, publications: Vec::new(), recovered, is_complete: true }
    }

    /// Where the client stands after it was given these publications.
    pub fn end(&self) -> StreamPosition {
        self.publications.last().map_or(self.start, |last| last.position)
    }
}

impl PageLimit {
    /// What each of several pages may hold that are written together.
    #[must_use]
    pub fn shared_by(self, pages: usize) -> Self {
        let pages = pages.max(1);
        Self { publications: self.publications / pages, bytes: self.bytes / pages }
    }

    /// How many publications of these costs fit; at least one, if that is asked for.
    pub fn fitting(self, costs: impl Iterator<Item = usize>, at_least_one: bool) -> usize {
        let mut bytes = 0;
        let fits = |cost: &usize| {
            bytes += cost;
            bytes <= self.bytes
        };
        costs.take(self.publications).take_while(fits).count().max(usize::from(at_least_one))
    }
}
