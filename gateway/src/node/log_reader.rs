//! Reads the logs of channels: when a channel is opened, after a gap, for a recovery, and for a page of history.
//!
//! Owns the order of the reads, and their number in flight. Must never decide what a page means for a channel: see
//! [`super::catch_up`] and [`super::log_sequence`].

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::{ChannelName, Payload, StreamPosition};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::Instant;

use super::BrokerBinding;
use super::channel::Channel;
use super::messages::{HistoryError, HistoryPage, HistoryQuery, HistoryResponse, RecoverFrom};
use super::publication::Publication;
use crate::broker::log::{LogConfig, LogEntry, LogPage};
use crate::broker::{BrokerError, Topic, WhenUnavailable};

/// Entries of a log in one read.
const LOG_PAGE_ENTRIES: usize = 1000;

/// Logs that are read concurrently after a gap.
const CATCH_UPS_MAX: usize = 64;

/// Interval between a failed read of a log and the next attempt.
const CATCH_UP_RETRY_INTERVAL: Duration = Duration::from_millis(250);

/// Reads the logs of the channels of one broker.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogReader<'a> {
    pub(super) binding: &'a BrokerBinding,
}

impl LogReader<'_> {
    /// Subscribes to a topic, and opens the log of the channel if it has one.
    pub(super) async fn subscribe(
        &self,
        topic: &Topic,
        channel: &Arc<Channel>,
        when_unavailable: WhenUnavailable,
    ) -> Result<(), BrokerError> {
        self.binding.broker.subscribe(topic, when_unavailable).await?;
        if let Some(log) = channel.log()
            && channel.state().follower().is_some_and(|follower| follower.is_unopened())
        {
            let page = self.binding.broker.open_log(log, &channel.name).await?;
            self.binding.registry.open_log_at(channel, &page);
        }
        Ok(())
    }

    /// Reads the log of a channel into its history, once for all clients that recover. Returns `false` when the log
    /// could not be read.
    pub(super) async fn backfill(&self, name: &ChannelName, since: Option<&RecoverFrom>, last: bool) -> bool {
        let Some(channel) = self.binding.registry.find(name) else { return true };
        let Some(log) = channel.log().cloned() else { return true };
        if channel.needs_origin(since)
            && let Ok(page) = self.binding.broker.read_log(&log, name, u64::MAX, 0).await
        {
            // A position before the first publication cannot be judged without the origin; the client then gets a gap.
            channel.state().set_origin(&page);
        }
        let max = self.binding.registry.limits.recovery_publications;
        let client_ahead = channel.is_client_ahead(since);
        if !client_ahead && !channel.needs_backfill(since, last, max) {
            return true;
        }
        let asked = Instant::now();
        let mut failed = channel.backfill.lock().await;
        if failed.is_some_and(|at| at >= asked) {
            // The attempt before this one has failed; the waiters share its result.
            return false;
        }
        // Another node has delivered a publication that this node has not received.
        if client_ahead && channel.is_client_ahead(since) {
            // Reads the top first: a false claim of a client must not suspend the channel.
            match self.binding.broker.read_log(&log, name, u64::MAX, 0).await {
                Ok(page) if channel.log_is_ahead(page.top) => {
                    if !channel.state().mark_behind() {
                        // A catch-up is under way, and until then the position of the channel is unknown.
                        return false;
                    }
                    if let Some(channel) = self.catch_up(Arc::clone(&channel)).await {
                        *failed = Some(Instant::now());
                        self.binding.registry.catch_up.push(channel);
                        return false;
                    }
                }
                Ok(_) => {}
                Err(_) => {
                    *failed = Some(Instant::now());
                    return false;
                }
            }
        }
        if !channel.needs_backfill(since, last, max) {
            return true;
        }
        let mut wanted = channel.history().size;
        let mut before = channel.state().oldest();
        while wanted > 0 {
            let page = match self
                .binding
                .broker
                .read_log_back(&log, name, before, wanted.min(LOG_PAGE_ENTRIES))
                .await
            {
                Ok(page) => page,
                // This recovery fails; the next one tries again.
                Err(error) => {
                    *failed = Some(Instant::now());
                    tracing::debug!(%error, "reading the log for a recovery failed");
                    return false;
                }
            };
            wanted -= page.entries.len().min(wanted);
            before = page.entries.last().map(|entry| entry.offset);
            if before.is_none() || !channel.prepend_page(page, &self.binding.registry.budget) {
                break;
            }
        }
        channel.finish_backfill();
        true
    }

    /// Reads the logs of channels that may have missed publications, several at a time.
    pub(super) async fn run(&self) {
        let (mut reading, mut waiting) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            let room = CATCH_UPS_MAX - reading.len();
            tokio::select! {
                channels = self.binding.registry.catch_up.pop(room), if room > 0 => {
                    reading.extend(channels.into_iter().map(|channel| self.catch_up(channel)));
                }
                Some(failed) = reading.next() => {
                    // A log that cannot be read does not occupy a slot while it waits for the retry.
                    waiting.extend(failed.map(|channel| async {
                        tokio::time::sleep(CATCH_UP_RETRY_INTERVAL).await;
                        channel
                    }));
                }
                Some(channel) = waiting.next() => self.binding.registry.catch_up.push(channel),
            }
        }
    }

    /// Reads a channel's log until the channel is in sync. Returns the channel when the log cannot be read.
    async fn catch_up(&self, channel: Arc<Channel>) -> Option<Arc<Channel>> {
        let log = channel.log().cloned()?;
        loop {
            let from = channel.state().position();
            match self.binding.broker.follow_log(&log, &channel.name, from, LOG_PAGE_ENTRIES).await {
                Ok(page) => {
                    if !self.binding.registry.on_page(&channel, from, page) {
                        return None;
                    }
                }
                Err(_) if channel.state().is_closed() => return None,
                Err(error) => {
                    tracing::debug!(%error, "reading the log after a gap failed; retrying");
                    return Some(channel);
                }
            }
        }
    }

    /// A page of the log of a channel that this node is not subscribed to.
    pub(super) async fn read_page(
        &self,
        log: &LogConfig,
        name: &ChannelName,
        page: &HistoryQuery,
    ) -> Option<HistoryResponse> {
        let since = page.since.as_ref().map(|since| since.offset);
        let read = if page.reverse {
            self.binding.broker.read_log_back(log, name, since, page.limit).await
        } else {
            self.binding.broker.read_log(log, name, since.unwrap_or(0), page.limit).await
        };
        let read = match read {
            Ok(read) => read,
            Err(error) => return Some(Err(HistoryError::Broker(error))),
        };
        if page.since.as_ref().is_some_and(|since| !since.matches_log(&read)) {
            return Some(Err(HistoryError::Unrecoverable));
        }
        let LogPage { top, entries, .. } = read;
        let top = top?;
        let publication = |entry: LogEntry| {
            let position = StreamPosition { offset: entry.offset, ..top };
            let publication = Publication::new(name.clone(), position, Payload::new(entry.payload));
            Arc::new(publication.with_attributes(entry.attributes))
        };
        Some(Ok(HistoryPage { top, publications: entries.into_iter().map(publication).collect() }))
    }
}
