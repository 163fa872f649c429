//! What the subscribers of one worker heard. A [`Subscriber`] enters what arrives; the numbers are added up when the
//! run is over. Never does I/O; its lock is shared by the tasks of one thread and by nobody else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::client::{ClientError, Transport};
use crate::ledger::{Arrival, Ledger};
use crate::stamp::Stamp;

/// Latencies are kept in microseconds, up to a minute, with three significant digits.
const MAX_LATENCY_MICROS: u64 = 60_000_000;

/// What all threads of one run share.
#[derive(Debug)]
pub(crate) struct Run {
    /// Tells this run's messages from those of another.
    pub(crate) id: u32,
    /// What the stamps count from.
    pub(crate) epoch: Instant,
    /// The size of each message.
    pub(crate) size: usize,
    delivered: AtomicU64,
}

impl Run {
    /// A run that begins now.
    pub(crate) fn new(size: usize) -> Self {
        Self { id: fastrand::u32(1..), epoch: Instant::now(), size, delivered: AtomicU64::new(0) }
    }

    /// Different messages delivered so far, over all subscribers.
    pub(crate) fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Microseconds from the epoch to a moment.
    pub(crate) fn micros(&self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.epoch).as_micros()).unwrap_or(u64::MAX)
    }
}

/// Latencies in microseconds.
pub(crate) fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1, MAX_LATENCY_MICROS, 3)
        .unwrap_or_else(|_| unreachable!("the bounds are constant"))
}

/// The account of one worker's subscribers.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Each subscriber's channel and ledger.
    pub(crate) ledgers: Vec<(u32, Ledger)>,
    /// From due to heard, over SSE.
    pub(crate) sse: Histogram<u64>,
    /// From due to heard, over WebSocket.
    pub(crate) websocket: Histogram<u64>,
    /// Messages of a channel that was not subscribed to.
    pub(crate) misrouted: u64,
    /// Payloads that are not as they were published.
    pub(crate) altered: u64,
    /// Messages of another run.
    pub(crate) foreign: u64,
    /// Notices that something may have been missed.
    pub(crate) gaps: u64,
    /// Connections that ended early, by the reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            ledgers: Vec::new(),
            sse: latencies(),
            websocket: latencies(),
            misrouted: 0,
            altered: 0,
            foreign: 0,
            gaps: 0,
            closed: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// Adds another worker's account.
    pub(crate) fn add(&mut self, other: &Self) {
        self.ledgers.extend_from_slice(&other.ledgers);
        self.sse += &other.sse;
        self.websocket += &other.websocket;
        self.misrouted += other.misrouted;
        self.altered += other.altered;
        self.foreign += other.foreign;
        self.gaps += other.gaps;
        for (reason, count) in &other.closed {
            *self.closed.entry(reason.clone()).or_default() += count;
        }
    }
}

/// One subscriber's hand on the tally.
#[derive(Debug)]
pub(crate) struct Subscriber {
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
    index: usize,
    channel: u32,
    transport: Transport,
}

impl Subscriber {
    /// Opens an account.
    pub(crate) fn new(run: Arc<Run>, tally: Arc<Mutex<Tally>>, channel: u32, transport: Transport) -> Self {
        let mut account = tally.lock().unwrap_or_else(PoisonError::into_inner);
        let index = account.ledgers.len();
        account.ledgers.push((channel, Ledger::default()));
        drop(account);
        Self { run, tally, index, channel, transport }
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a payload that was heard.
    pub(crate) fn heard(&self, payload: &[u8], now: Instant) {
        let stamp = Stamp::parse(payload);
        let mut tally = self.tally();
        let Some(stamp) = stamp else { return tally.altered += 1 };
        if stamp.run != self.run.id {
            return tally.foreign += 1;
        }
        if payload.len() != self.run.size {
            return tally.altered += 1;
        }
        if stamp.channel != self.channel {
            return tally.misrouted += 1;
        }
        if tally.ledgers[self.index].1.record(stamp.sequence) == Arrival::Duplicate {
            return;
        }
        let latency = self.run.micros(now).saturating_sub(stamp.due_micros);
        match self.transport {
            Transport::Sse => tally.sse.saturating_record(latency),
            Transport::WebSocket(_) => tally.websocket.saturating_record(latency),
        }
        self.run.delivered.fetch_add(1, Ordering::Relaxed);
    }

    /// Enters a message that came under another channel's name.
    pub(crate) fn misrouted(&self) {
        self.tally().misrouted += 1;
    }

    /// Enters a notice that something may have been missed.
    pub(crate) fn gap(&self) {
        self.tally().gaps += 1;
    }

    /// Enters the early end of the connection.
    pub(crate) fn ended(&self, reason: &ClientError) {
        *self.tally().closed.entry(reason.to_string()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(run: u32, channel: u32, sequence: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        Stamp { run, channel, sequence, due_micros: 5 }.write(128, &mut payload);
        payload
    }

    fn subscriber() -> Subscriber {
        let (run, tally) = (Arc::new(Run::new(128)), Arc::default());
        Subscriber::new(run, tally, 3, Transport::Sse)
    }

    #[test]
    fn each_payload_is_entered_where_it_belongs() {
        let subscriber = subscriber();
        let run = subscriber.run.id;
        let now = Instant::now();
        for sequence in [1, 2, 2, 4] {
            subscriber.heard(&payload(run, 3, sequence), now);
        }
        subscriber.heard(&payload(run, 4, 3), now);
        subscriber.heard(&payload(run.wrapping_add(1), 3, 3), now);
        subscriber.heard(&payload(run, 3, 3)[..127], now);
        let mut longer = Vec::new();
        Stamp { run, channel: 3, sequence: 3, due_micros: 5 }.write(129, &mut longer);
        subscriber.heard(&longer, now);
        let tally = subscriber.tally();
        let (_, ledger) = &tally.ledgers[0];
        assert_eq!((ledger.delivered(), ledger.duplicates(), ledger.lost(4)), (3, 1, 1));
        assert_eq!((tally.misrouted, tally.foreign, tally.altered), (1, 1, 2));
        assert_eq!((subscriber.run.delivered(), tally.sse.len(), tally.websocket.len()), (3, 3, 0));
    }
}
