//! The proof of hearing: a publication of our own, to a channel of this very link, that must come back on it.
//!
//! It is published where all publications go, over the command link, so it catches what an answered PING cannot: a
//! server that is no longer the one that others publish to, a right that was taken away, a subscription that is not
//! there. Owns one round of it, and what a missing answer means. Must never take its own trouble for deafness: where
//! the command link does not answer, the listening connection publishes to itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use earshot_protocol::ChannelName;
use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, RedisError, ServerErrorKind};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};

use super::outbox::{Outbox, Request};
use super::status::LinkState;
use crate::broker::BrokerError;
use crate::instance::said;

/// The least that a round waits for its probe, however often there is one: a moment in which a busy node or server does
/// nothing is no deafness.
pub(super) const PATIENCE_MIN: Duration = Duration::from_millis(500);

/// Rounds in a row without an answer after which the link counts as deaf.
pub(super) const MISSES: u32 = 2;

/// Rounds in a row without an answer after which it does although other publications arrive: it may be that the
/// answer stands behind very many of them.
pub(super) const MISSES_WHILE_HEARING: u32 = 10;

/// What came back, as the reading side of a connection notes it.
#[derive(Debug)]
pub(super) struct Echoes {
    channel: String,
    /// The rounds that may still be answered, the newest at the end.
    asked: Mutex<VecDeque<Asked>>,
    /// The number of the latest round whose probe came back: an older one may come after it, by another way.
    last: AtomicU64,
    /// Things that were heard, confirmations included.
    heard: AtomicU64,
    came: Notify,
}

/// A round that was begun.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// What is published. Each round has a higher one than the one before it.
    pub(super) number: u64,
    /// When.
    pub(super) at: Instant,
}

impl Echoes {
    /// For a channel that no other connection has: its name begins with `prefix`.
    pub(super) fn new(prefix: &str) -> Arc<Self> {
        let channel = format!("{prefix}{:016x}", fastrand::u64(..));
        let (last, heard, came) = (AtomicU64::new(0), AtomicU64::new(0), Notify::new());
        Arc::new(Self { channel, asked: Mutex::default(), last, heard, came })
    }

    /// Begins a round.
    pub(super) fn ask(&self) -> Asked {
        let mut rounds = self.asked();
        // A number that nobody can guess, with room above it for more rounds than there will be.
        let number = rounds.back().map_or_else(|| fastrand::u64(1..1 << 62), |asked| asked.number + 1);
        let asked = Asked { number, at: Instant::now() };
        rounds.push_back(asked);
        if rounds.len() > MISSES_WHILE_HEARING as usize {
            rounds.pop_front();
        }
        asked
    }

    /// The server has told something, whatever it is.
    pub(super) fn hears(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether a publication is a probe of ours.
    pub(super) fn takes(&self, channel: &str, data: &[u8]) -> bool {
        if !channel.starts_with(&self.channel) {
            return false;
        }
        // What somebody else publishes there proves nothing.
        let number = std::str::from_utf8(data).ok().and_then(|text| text.parse().ok());
        if let Some(number) = number
            && self.asked().iter().any(|asked| asked.number == number)
        {
            self.last.fetch_max(number, Ordering::AcqRel);
            self.came.notify_one();
        }
        true
    }

    /// What the names of its channels begin with.
    pub(super) fn channel(&self) -> &str {
        &self.channel
    }

    /// How many things were heard so far.
    pub(super) fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// The latest round whose probe has come back; 0: none.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Acquire)
    }

    /// Resolves when the probe of a round has come back.
    pub(super) async fn came_back(&self, number: u64) {
        while self.last() < number {
            self.came.notified().await;
        }
    }

    /// What a round has shown whose own probe did not come back in time. One of an earlier round may have: it comes
    /// late, but what was published before it has been heard.
    pub(super) fn late(&self, last_before: u64, heard_before: u64) -> Proof {
        let last = self.last();
        let came = self.asked().iter().find(|asked| last > last_before && asked.number == last).copied();
        match came {
            Some(Asked { at, .. }) => Proof::Heard(at, at.elapsed()),
            None => Proof::Missed { heard_others: self.heard() > heard_before },
        }
    }

    fn asked(&self) -> MutexGuard<'_, VecDeque<Asked>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a round has shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Proof {
    /// Everything published until this moment has been heard; and how long the way was.
    Heard(Instant, Duration),
    /// It did not come back. Whether anything else was heard meanwhile.
    Missed { heard_others: bool },
    /// It may not be published, or not be heard: nothing can be proven this way.
    Forbidden(String),
}

/// Carries out rounds on one connection.
#[derive(Clone, Debug)]
pub(super) struct Prober {
    pub(super) connection: MultiplexedConnection,
    pub(super) echoes: Arc<Echoes>,
    pub(super) outbox: Outbox,
    /// The state of the link that the outbox leads to.
    pub(super) commands: Arc<LinkState>,
    /// The longest that a round may take.
    pub(super) limit: Duration,
}

impl Prober {
    /// The first round: before it, the connection begins to hear what the rounds publish.
    pub(super) async fn first_round(mut self) -> Proof {
        match timeout(self.limit, self.connection.subscribe(self.echoes.channel.as_str())).await {
            Ok(Err(error)) if is_forbidden(&error) => Proof::Forbidden(said(&error)),
            // Whatever else goes wrong, the round will show.
            _ => self.round().await,
        }
    }

    /// One round.
    pub(super) async fn round(mut self) -> Proof {
        let echoes = Arc::clone(&self.echoes);
        let (last_before, heard_before) = (echoes.last(), echoes.heard());
        let Asked { number, at: asked } = echoes.ask();
        let deadline = asked + self.limit;
        let published = async {
            match self.publish(number, deadline).await {
                Some(forbidden) => forbidden,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = echoes.came_back(number) => Proof::Heard(asked, asked.elapsed()),
            forbidden = published => Proof::Forbidden(forbidden),
            () = tokio::time::sleep_until(deadline) => echoes.late(last_before, heard_before),
        }
    }

    /// Publishes over the command link, or, when that is of no use at the moment, over the listening connection
    /// itself. Says why it is forbidden.
    async fn publish(&mut self, number: u64, deadline: Instant) -> Option<String> {
        let data = number.to_string();
        if self.commands.is_up()
            && let Ok(channel) = ChannelName::parse(&self.echoes.channel)
        {
            let request = Request::Publish { channel, data: data.clone().into(), alone: false };
            match timeout(self.limit / 2, self.outbox.ask(request)).await {
                Ok(Ok(_)) => return None,
                Ok(Err(BrokerError::Refused(reason))) => return Some(reason),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.echoes.channel).arg(&data);
        match timeout_at(deadline, self.connection.send_packed_command(&publish)).await {
            Ok(Err(error)) if is_forbidden(&error) => Some(said(&error)),
            _ => None,
        }
    }
}

fn is_forbidden(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(ServerErrorKind::NoPerm | ServerErrorKind::ResponseError))
}
