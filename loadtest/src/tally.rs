//! What the subscribers of one worker received. A connection records through its [`TallyRecorder`]; the tallies are merged
//! at the end of the run. No I/O; owned by one thread.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use earshot_client::ledger::{Arrival, Ledger};
use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::run::{Run, coarse_latencies, latencies};
use crate::stamp::Stamp;
use crate::subscriber_plan::SubscriberPlan;

/// Results of subscribers that are evaluated together.
#[derive(Clone, Debug)]
pub(crate) struct CohortTally {
    /// Name of the cohort, such as `WebSocket`.
    pub(crate) name: &'static str,
    /// Whether missing messages count as lost. They do not for subscribers that do not read.
    pub(crate) verified: bool,
    /// From due to received, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// From sent to received: what a load generator reports that waits for its own publisher.
    pub(crate) uncorrected: Histogram<u64>,
    /// Connections that ended early, by reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

impl CohortTally {
    /// An empty cohort.
    pub(crate) fn new(name: &'static str, verified: bool) -> Self {
        let (latency, uncorrected) = (latencies(), latencies());
        Self { name, verified, latency, uncorrected, closed: BTreeMap::new() }
    }
}

/// Results of one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct TallyEntry {
    /// Index of the channel.
    pub(crate) channel: u32,
    /// Index of the cohort.
    pub(crate) cohort: u8,
    /// Messages received.
    pub(crate) ledger: Ledger,
}

/// Event counts over all subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TallyCounts {
    /// Messages of a channel that was not subscribed to.
    pub(crate) misrouted: u64,
    /// Payloads that differ from what was published.
    pub(crate) altered: u64,
    /// Messages of another run.
    pub(crate) from_other_runs: u64,
    /// Gap notices.
    pub(crate) gaps: u64,
    /// Publications whose offset does not follow the previous one, without a gap notice.
    pub(crate) skipped: u64,
    /// Subscriptions that resumed without loss.
    pub(crate) recovered: u64,
    /// Subscriptions that could not be recovered.
    pub(crate) unrecovered: u64,
    /// Connection attempts that failed and were repeated.
    pub(crate) retries: u64,
}

impl TallyCounts {
    fn add(&mut self, other: &Self) {
        let Self { misrouted, altered, from_other_runs, gaps, skipped, recovered, unrecovered, retries } =
            *other;
        self.misrouted += misrouted;
        self.altered += altered;
        self.from_other_runs += from_other_runs;
        self.gaps += gaps;
        self.skipped += skipped;
        self.recovered += recovered;
        self.unrecovered += unrecovered;
        self.retries += retries;
    }
}

/// Counts not yet added to the counters of the run.
#[derive(Clone, Copy, Debug, Default)]
struct Unflushed {
    delivered: u64,
    missing: i64,
    disorder: u64,
}

impl Unflushed {
    fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::InOrder(skipped) => self.missing += i64::try_from(skipped).unwrap_or(i64::MAX),
            Arrival::Late => {
                self.missing -= 1;
                self.disorder += 1;
            }
            Arrival::Duplicate => return self.disorder += 1,
        }
        self.delivered += 1;
    }
}

/// Results of the subscribers of one worker.
#[derive(Debug)]
pub(crate) struct Tally {
    /// One entry per subscriber.
    pub(crate) entries: Vec<TallyEntry>,
    /// Cohorts by index.
    pub(crate) cohorts: Vec<CohortTally>,
    /// From due to subscribed outside of measured periods, in microseconds.
    pub(crate) connect_latency: Histogram<u64>,
    /// From due to subscribed within measured periods: subscribers that returned.
    pub(crate) reconnect_latency: Histogram<u64>,
    /// Event counts.
    pub(crate) counts: TallyCounts,
    recent: Histogram<u64>,
    unflushed: Unflushed,
}

impl Tally {
    /// An empty tally.
    pub(crate) fn new(cohorts: Vec<CohortTally>) -> Self {
        Self {
            entries: Vec::new(),
            cohorts,
            connect_latency: latencies(),
            reconnect_latency: latencies(),
            counts: TallyCounts::default(),
            recent: coarse_latencies(),
            unflushed: Unflushed::default(),
        }
    }

    /// Adds an entry for each plan.
    pub(crate) fn add_subscribers(&mut self, plans: &[SubscriberPlan]) {
        let entry = |plan: &SubscriberPlan| TallyEntry {
            channel: plan.channel,
            cohort: plan.cohort,
            ledger: Ledger::default(),
        };
        self.entries.extend(plans.iter().map(entry));
    }

    /// Merges the tally of another worker.
    pub(crate) fn add(&mut self, other: Self) {
        self.entries.extend(other.entries);
        for (own, other) in self.cohorts.iter_mut().zip(other.cohorts) {
            own.latency += &other.latency;
            own.uncorrected += &other.uncorrected;
            for (reason, count) in other.closed {
                *own.closed.entry(reason).or_default() += count;
            }
        }
        self.connect_latency += &other.connect_latency;
        self.reconnect_latency += &other.reconnect_latency;
        self.counts.add(&other.counts);
    }

    /// Records a confirmed subscription and its latency, measured from its scheduled time.
    pub(crate) fn record_subscribed(&mut self, micros: u64, returned: bool) {
        let histogram = if returned { &mut self.reconnect_latency } else { &mut self.connect_latency };
        histogram.saturating_record(micros);
    }

    /// Records that a connection ended early.
    pub(crate) fn record_closed(&mut self, subscriber: usize, reason: String) {
        let cohort = usize::from(self.entries[subscriber].cohort);
        *self.cohorts[cohort].closed.entry(reason).or_default() += 1;
    }

    /// Adds the new counts to the counters of the run.
    pub(crate) fn flush(&mut self, run: &Run) {
        let Unflushed { delivered, missing, disorder } = std::mem::take(&mut self.unflushed);
        if delivered + disorder > 0 || missing != 0 {
            run.counters.delivered.fetch_add(delivered, Ordering::Relaxed);
            run.counters.missing.fetch_add(missing, Ordering::Relaxed);
            run.counters.disorder.fetch_add(disorder, Ordering::Relaxed);
        }
    }

    /// Adds the latencies since the last call to those that the sampler reads.
    pub(crate) fn publish_recent(&mut self, run: &Run) {
        if !self.recent.is_empty() {
            run.add_recent(&mut self.recent);
        }
    }
}

/// Access of one subscriber to the tally while the bytes of one read are processed.
#[derive(Debug)]
pub(crate) struct TallyRecorder<'a> {
    /// The run.
    pub(crate) run: &'a Run,
    /// Tally of the worker.
    pub(crate) tally: &'a mut Tally,
    /// Index of the subscriber.
    pub(crate) subscriber: usize,
    /// When the bytes were read.
    pub(crate) now: Instant,
}

impl TallyRecorder<'_> {
    /// Name of the subscriber's channel.
    pub(crate) fn channel(&self) -> &str {
        &self.run.channels[self.tally.entries[self.subscriber].channel as usize]
    }

    /// Records a received payload.
    pub(crate) fn record_payload(&mut self, payload: &[u8]) {
        let Some(stamp) = Stamp::parse(payload) else { return self.tally.counts.altered += 1 };
        if stamp.run != self.run.id {
            return self.tally.counts.from_other_runs += 1;
        }
        if payload.len() != self.run.size {
            return self.tally.counts.altered += 1;
        }
        let Tally { entries, cohorts, unflushed, counts, .. } = &mut *self.tally;
        let entry = &mut entries[self.subscriber];
        if stamp.channel != entry.channel {
            return counts.misrouted += 1;
        }
        let arrival = entry.ledger.record(stamp.sequence);
        if cohorts[usize::from(entry.cohort)].verified {
            unflushed.count(arrival);
        }
        if arrival != Arrival::Duplicate {
            self.record_latency(&stamp);
        }
    }

    fn record_latency(&mut self, stamp: &Stamp) {
        let latency = self.run.micros(self.now).saturating_sub(stamp.due_micros);
        let cohort = &mut self.tally.cohorts[usize::from(self.tally.entries[self.subscriber].cohort)];
        cohort.latency.saturating_record(latency);
        cohort.uncorrected.saturating_record(latency.saturating_sub(u64::from(stamp.late_micros)));
        if cohort.verified {
            self.tally.recent.saturating_record(latency);
        }
    }

    /// Records a message that arrived under the name of another channel.
    pub(crate) fn record_misrouted(&mut self) {
        self.tally.counts.misrouted += 1;
    }

    /// Records a gap notice.
    pub(crate) fn record_gap(&mut self) {
        self.tally.counts.gaps += 1;
    }

    /// Records a publication whose offset does not follow the previous one.
    pub(crate) fn record_skipped(&mut self) {
        self.tally.counts.skipped += 1;
    }

    /// Records whether a resumed subscription was recovered.
    pub(crate) fn record_recovery(&mut self, recovered: bool) {
        let counts = &mut self.tally.counts;
        *(if recovered { &mut counts.recovered } else { &mut counts.unrecovered }) += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn payload(run: u32, channel: u32, sequence: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        Stamp { run, channel, sequence, due_micros: 5, late_micros: 2 }.write(128, &mut payload);
        payload
    }

    fn fixture() -> (Run, Tally) {
        let run = Run::new(128, (0..5).map(|index| format!("c{index}")).collect());
        let mut tally = Tally::new(vec![CohortTally::new("SSE", true)]);
        tally.entries.push(TallyEntry { channel: 3, cohort: 0, ledger: Ledger::default() });
        (run, tally)
    }

    #[test]
    fn payloads_are_counted_in_the_right_category() {
        let (run, mut tally) = fixture();
        let mut recorder = TallyRecorder { run: &run, tally: &mut tally, subscriber: 0, now: Instant::now() };
        for sequence in [1, 2, 2, 4] {
            recorder.record_payload(&payload(run.id, 3, sequence));
        }
        recorder.record_payload(&payload(run.id, 4, 3));
        recorder.record_payload(&payload(run.id.wrapping_add(1), 3, 3));
        recorder.record_payload(&payload(run.id, 3, 3)[..127]);
        let mut longer = Vec::new();
        let stamp = Stamp { run: run.id, channel: 3, sequence: 3, due_micros: 5, late_micros: 0 };
        stamp.write(129, &mut longer);
        recorder.record_payload(&longer);
        tally.flush(&run);
        let ledger = &tally.entries[0].ledger;
        assert_eq!((ledger.delivered(), ledger.duplicates(), ledger.lost(4)), (3, 1, 1));
        let counts = tally.counts;
        assert_eq!((counts.misrouted, counts.from_other_runs, counts.altered), (1, 1, 2));
        assert_eq!((run.delivered(), tally.cohorts[0].latency.len()), (3, 3));
        assert_eq!(run.counters.missing.load(Ordering::Relaxed), 1);
        assert_eq!(run.counters.disorder.load(Ordering::Relaxed), 1);
    }

    /// Messages are due every 10 ms. The server blocks the publisher for a second; the messages due meanwhile are sent
    /// at once afterwards. Latency from sending shows one slow message; latency from the due time shows a hundred.
    #[test]
    fn blocked_publisher_increases_latency() {
        let (run, mut tally) = fixture();
        let mut plain = latencies();
        let ms = |count: u64| Duration::from_millis(count);
        for sequence in 1..=500u64 {
            let due = ms(10 * sequence);
            let stalled = (100..200).contains(&sequence);
            let sent = if stalled && sequence > 100 { ms(2000) } else { due };
            let received = if stalled { ms(2000) } else { due } + ms(1);
            let late_micros = u32::try_from((sent - due).as_micros()).unwrap();
            let due_micros = u64::try_from(due.as_micros()).unwrap();
            let mut message = Vec::new();
            Stamp { run: run.id, channel: 3, sequence, due_micros, late_micros }.write(128, &mut message);
            let now = run.epoch + received;
            TallyRecorder { run: &run, tally: &mut tally, subscriber: 0, now }.record_payload(&message);
            plain.saturating_record(u64::try_from((received - sent).as_micros()).unwrap());
        }
        let cohort = &tally.cohorts[0];
        assert_eq!(cohort.uncorrected, plain);
        assert!(cohort.uncorrected.value_at_percentile(99.0) < 2_000);
        assert!(cohort.latency.value_at_percentile(99.0) > 900_000);
        // HdrHistogram's own correction, which only knows the expected interval, gives the same result.
        let corrected = plain.clone_correct(10_000);
        for percentile in [50.0, 90.0, 95.0, 99.0, 100.0] {
            let (own, its) =
                (cohort.latency.value_at_percentile(percentile), corrected.value_at_percentile(percentile));
            // It adds a hundred values; the schedule contains them already.
            assert!(own.abs_diff(its) <= 200_000, "{percentile}: {own} {its}");
        }
        assert!(cohort.latency.max().abs_diff(corrected.max()) < 2_000);
    }
}
