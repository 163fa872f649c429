//! Subscribers: follow channels as an SDK or an `EventSource` does, reconnect, resume from their position, and count
//! messages.
//!
//! Owns the ledgers of each subscriber. Must never repair received data, nor disconnect by itself.
//!
//! - `socket`: WebSocket, in both encodings.
//! - `stream`: SSE.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use earshot_client::ledger::{Arrival, Ledger, LedgerCounts};
use tokio::time::Instant;

use super::http::HttpTarget;

mod socket;
mod stream;

/// Transport of a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DrillTransport {
    Json,
    Protobuf,
    Sse,
}

impl DrillTransport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "websocket-json",
            Self::Protobuf => "websocket-protobuf",
            Self::Sse => "sse",
        }
    }
}

/// A running subscriber.
#[derive(Debug)]
pub(super) struct DrillSubscriber {
    transport: DrillTransport,
    pub(super) channels: Vec<String>,
    state: Mutex<SubscriberState>,
}

#[derive(Debug)]
struct SubscriberState {
    /// One for each channel.
    ledgers: Vec<Ledger>,
    arrivals: Vec<AwaitedArrival>,
    /// All channels are subscribed.
    is_subscribed: bool,
    /// Number of disconnects.
    disconnects: u64,
    /// Reason of the last disconnect.
    disconnect_reason: String,
}

/// The first arrival of a number or a later one.
#[derive(Clone, Debug, Default)]
struct AwaitedArrival {
    number: Option<u64>,
    at: Option<Instant>,
}

impl DrillSubscriber {
    /// Starts a subscriber, which runs until the tasks are stopped.
    pub(super) fn start(target: &HttpTarget, transport: DrillTransport, channels: Vec<String>) -> Arc<Self> {
        let state = SubscriberState {
            ledgers: vec![Ledger::default(); channels.len()],
            arrivals: vec![AwaitedArrival::default(); channels.len()],
            is_subscribed: false,
            disconnects: 0,
            disconnect_reason: String::new(),
        };
        let subscriber = Arc::new(Self { transport, channels, state: Mutex::new(state) });
        let (task, tasks) = (run(Arc::clone(&subscriber), target.clone()), target.tasks.clone());
        target.tasks.spawn(async move {
            tokio::select! {
                () = task => {}
                () = tasks.stopped() => {}
            }
        });
        subscriber
    }

    /// Name in reports.
    pub(super) fn name(&self) -> &'static str {
        self.transport.as_str()
    }

    /// Whether all channels are subscribed.
    pub(super) fn is_subscribed(&self) -> bool {
        self.state().is_subscribed
    }

    /// Number of disconnects, and the reason of the last one.
    pub(super) fn disconnects(&self) -> (u64, String) {
        let state = self.state();
        (state.disconnects, state.disconnect_reason.clone())
    }

    /// Counts of a channel.
    pub(super) fn count(&self, channel: usize) -> LedgerCounts {
        self.state().ledgers[channel].counts()
    }

    /// Whether every channel in the range has received a number.
    pub(super) fn has_received(&self, channels: std::ops::Range<usize>, number: u64) -> bool {
        self.state().ledgers[channels].iter().all(|ledger| ledger.last() >= number)
    }

    /// Counts what a channel has not received as missing.
    pub(super) fn close(&self, channel: usize, published: u64) {
        self.state().ledgers[channel].close(published);
    }

    /// Records the first arrival of this number or a later one.
    pub(super) fn expect_from(&self, channel: usize, number: u64) {
        self.state().arrivals[channel] = AwaitedArrival { number: Some(number), at: None };
    }

    /// When that arrival was.
    pub(super) fn first_arrival(&self, channel: usize) -> Option<Instant> {
        self.state().arrivals[channel].at
    }

    /// A message was received. Anything but a number was not published by the drill.
    fn received(&self, channel: usize, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        let Some(number) = number else { return };
        let mut state = self.state();
        let SubscriberState { ledgers, arrivals, .. } = &mut *state;
        let arrival = &mut arrivals[channel];
        if matches!(ledgers[channel].record(number), Arrival::InOrder(_))
            && arrival.at.is_none()
            && arrival.number.is_some_and(|expected| number >= expected)
        {
            arrival.at = Some(Instant::now());
        }
    }

    fn gap(&self, channel: usize) {
        self.state().ledgers[channel].record_gap();
    }

    fn subscribed_all(&self) {
        self.state().is_subscribed = true;
    }

    fn disconnected(&self, reason: String) {
        let mut state = self.state();
        // A failed first connect is not a disconnect.
        state.disconnects += u64::from(state.is_subscribed);
        (state.is_subscribed, state.disconnect_reason) = (false, reason);
    }

    fn channel_index(&self, channel: &str) -> Option<usize> {
        // With at most fifty channels a linear search uses less memory than a map.
        self.channels.iter().position(|own| own == channel)
    }

    fn state(&self) -> MutexGuard<'_, SubscriberState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection ended, and the delay before the next.
#[derive(Debug)]
struct Disconnection {
    reason: String,
    delay: Duration,
}

async fn run(subscriber: Arc<DrillSubscriber>, target: HttpTarget) {
    match subscriber.transport {
        DrillTransport::Sse => {
            let mut stream = stream::StreamSubscriber::new(&subscriber, &target);
            loop {
                let Disconnection { reason, delay } = Box::pin(stream.follow()).await;
                subscriber.disconnected(reason);
                tokio::time::sleep(delay).await;
            }
        }
        DrillTransport::Json | DrillTransport::Protobuf => {
            let mut socket = socket::SocketSubscriber::new(&subscriber, &target);
            loop {
                let Disconnection { reason, delay } = Box::pin(socket.follow()).await;
                subscriber.disconnected(reason);
                tokio::time::sleep(delay).await;
            }
        }
    }
}
