//! Clients of the drill's own: they follow channels as an SDK or an `EventSource` does, come back from where they
//! stand, and keep account.
//!
//! Owns what each of them heard. Must never mend what it got, and never leave its place by itself.
//!
//! - `socket`: a WebSocket, in either encoding.
//! - `stream`: an event stream; `events`: its text.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::http::Target;
use super::ledger::{Count, Ledger};

mod events;
mod socket;
mod stream;

/// Over what a client listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Json,
    Protobuf,
    Sse,
}

impl Transport {
    fn as_str(self) -> &'static str {
        match self {
            Self::Json => "websocket-json",
            Self::Protobuf => "websocket-protobuf",
            Self::Sse => "sse",
        }
    }
}

/// A client at work.
#[derive(Debug)]
pub(super) struct Listener {
    transport: Transport,
    pub(super) channels: Vec<String>,
    book: Mutex<Book>,
}

#[derive(Debug)]
struct Book {
    /// One for each channel.
    ledgers: Vec<Ledger>,
    /// Every channel is subscribed to.
    is_there: bool,
    /// How often its connection ended.
    returns: u64,
    /// How that was.
    last_end: String,
}

impl Listener {
    /// Starts; it listens until the drain stops.
    pub(super) fn start(target: &Target, transport: Transport, channels: Vec<String>) -> Arc<Self> {
        let book = Book {
            ledgers: vec![Ledger::default(); channels.len()],
            is_there: false,
            returns: 0,
            last_end: String::new(),
        };
        let listener = Arc::new(Self { transport, channels, book: Mutex::new(book) });
        let (task, drain) = (listen(Arc::clone(&listener), target.clone()), target.drain.clone());
        target.drain.spawn(async move {
            tokio::select! {
                () = task => {}
                () = drain.stopped() => {}
            }
        });
        listener
    }

    /// What reports call it.
    pub(super) fn name(&self) -> &'static str {
        self.transport.as_str()
    }

    /// Whether it hears all its channels.
    pub(super) fn is_there(&self) -> bool {
        self.book().is_there
    }

    /// How often its connection ended, and how the last time.
    pub(super) fn returns(&self) -> (u64, String) {
        let book = self.book();
        (book.returns, book.last_end.clone())
    }

    /// What became of the numbers of a channel.
    pub(super) fn count(&self, channel: usize) -> Count {
        self.book().ledgers[channel].count
    }

    /// Whether every channel in a range of places has come to a number.
    pub(super) fn has(&self, channels: std::ops::Range<usize>, number: u64) -> bool {
        self.book().ledgers[channels].iter().all(|ledger| ledger.last >= number)
    }

    /// Writes off what has not come of the numbers of a channel.
    pub(super) fn close(&self, channel: usize, published: u64) {
        self.book().ledgers[channel].close(published);
    }

    /// Looks out for the first arrival on a channel from a number on.
    pub(super) fn look_out(&self, channel: usize, number: u64) {
        self.book().ledgers[channel].look_out(number);
    }

    /// When that arrival was.
    pub(super) fn came(&self, channel: usize) -> Option<Instant> {
        self.book().ledgers[channel].came()
    }

    /// Something came on a channel; what is no number is not the drill's.
    fn heard(&self, channel: usize, payload: &[u8]) {
        let number = std::str::from_utf8(payload).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number {
            self.book().ledgers[channel].heard(number, Instant::now());
        }
    }

    fn gap(&self, channel: usize) {
        self.book().ledgers[channel].gap();
    }

    fn arrived(&self) {
        self.book().is_there = true;
    }

    fn left(&self, why: String) {
        let mut book = self.book();
        // Nobody was there yet who could have left.
        book.returns += u64::from(book.is_there);
        (book.is_there, book.last_end) = (false, why);
    }

    fn place(&self, channel: &str) -> Option<usize> {
        // A linear look costs a crowd's client of fifty channels less than a map would hold.
        self.channels.iter().position(|own| own == channel)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a connection ended, and how long to wait before the next.
#[derive(Debug)]
struct End {
    why: String,
    wait: Duration,
}

async fn listen(listener: Arc<Listener>, target: Target) {
    match listener.transport {
        Transport::Sse => {
            let mut stream = stream::Stream::new(&listener, &target);
            loop {
                let End { why, wait } = Box::pin(stream.follow()).await;
                listener.left(why);
                tokio::time::sleep(wait).await;
            }
        }
        Transport::Json | Transport::Protobuf => {
            let mut socket = socket::Socket::new(&listener, &target);
            loop {
                let End { why, wait } = Box::pin(socket.follow()).await;
                listener.left(why);
                tokio::time::sleep(wait).await;
            }
        }
    }
}
