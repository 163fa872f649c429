//! What the subscribers of one worker heard. A connection enters what arrives through its [`Account`]; the numbers are
//! added up when the run is over. Never does I/O; belongs to one thread.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use crate::client::Plan;
use crate::ledger::{Arrival, Ledger};
use crate::run::{Run, coarse_latencies, latencies};
use crate::stamp::Stamp;

/// Subscribers that are judged together.
#[derive(Clone, Debug)]
pub(crate) struct Cohort {
    /// What they have in common, such as `WebSocket`.
    pub(crate) name: &'static str,
    /// Whether what they miss counts as lost. Who does not read cannot complain.
    pub(crate) judged: bool,
    /// From due to heard, in microseconds.
    pub(crate) latency: Histogram<u64>,
    /// From sent to heard: what a meter sees that waits for its own publisher.
    pub(crate) uncorrected: Histogram<u64>,
    /// Connections that ended early, by the reason.
    pub(crate) closed: BTreeMap<String, u64>,
}

impl Cohort {
    /// Nothing heard yet.
    pub(crate) fn new(name: &'static str, judged: bool) -> Self {
        let (latency, uncorrected) = (latencies(), latencies());
        Self { name, judged, latency, uncorrected, closed: BTreeMap::new() }
    }
}

/// One subscriber's line.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The index of its channel.
    pub(crate) channel: u32,
    /// The index of its cohort.
    pub(crate) cohort: u8,
    /// What it got.
    pub(crate) ledger: Ledger,
}

/// Counts of what happened to subscribers, whichever it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Messages of a channel that was not subscribed to.
    pub(crate) misrouted: u64,
    /// Payloads that are not as they were published.
    pub(crate) altered: u64,
    /// Messages of another run.
    pub(crate) foreign: u64,
    /// Notices that something may have been missed.
    pub(crate) gaps: u64,
    /// Publications whose offset did not follow on the one before, without a notice.
    pub(crate) skipped: u64,
    /// Subscriptions that were continued where they stood.
    pub(crate) recovered: u64,
    /// Subscriptions that were to be continued and could not be.
    pub(crate) unrecovered: u64,
    /// Attempts to connect that failed and were made again.
    pub(crate) retries: u64,
}

impl Counts {
    fn add(&mut self, other: &Self) {
        let Self { misrouted, altered, foreign, gaps, skipped, recovered, unrecovered, retries } = *other;
        self.misrouted += misrouted;
        self.altered += altered;
        self.foreign += foreign;
        self.gaps += gaps;
        self.skipped += skipped;
        self.recovered += recovered;
        self.unrecovered += unrecovered;
        self.retries += retries;
    }
}

/// What has not been added to the run's counters yet.
#[derive(Clone, Copy, Debug, Default)]
struct Fresh {
    delivered: u64,
    holes: i64,
    disorder: u64,
}

impl Fresh {
    fn count(&mut self, arrival: Arrival) {
        match arrival {
            Arrival::InOrder(skipped) => self.holes += i64::try_from(skipped).unwrap_or(i64::MAX),
            Arrival::Late => {
                self.holes -= 1;
                self.disorder += 1;
            }
            Arrival::Duplicate => return self.disorder += 1,
        }
        self.delivered += 1;
    }
}

/// The account of one worker's subscribers.
#[derive(Debug)]
pub(crate) struct Tally {
    /// One for each subscriber.
    pub(crate) entries: Vec<Entry>,
    /// By index.
    pub(crate) cohorts: Vec<Cohort>,
    /// From due to subscribed, in microseconds, before the time that is judged.
    pub(crate) opening: Histogram<u64>,
    /// The same within it: those who came back.
    pub(crate) returning: Histogram<u64>,
    /// Everything else.
    pub(crate) counts: Counts,
    recent: Histogram<u64>,
    fresh: Fresh,
}

impl Tally {
    /// Empty accounts.
    pub(crate) fn new(cohorts: Vec<Cohort>) -> Self {
        Self {
            entries: Vec::new(),
            cohorts,
            opening: latencies(),
            returning: latencies(),
            counts: Counts::default(),
            recent: coarse_latencies(),
            fresh: Fresh::default(),
        }
    }

    /// Opens a line for each plan.
    pub(crate) fn seat(&mut self, plans: &[Plan]) {
        let entry =
            |plan: &Plan| Entry { channel: plan.channel, cohort: plan.cohort, ledger: Ledger::default() };
        self.entries.extend(plans.iter().map(entry));
    }

    /// Adds another worker's account.
    pub(crate) fn add(&mut self, other: Self) {
        self.entries.extend(other.entries);
        for (own, other) in self.cohorts.iter_mut().zip(other.cohorts) {
            own.latency += &other.latency;
            own.uncorrected += &other.uncorrected;
            for (reason, count) in other.closed {
                *own.closed.entry(reason).or_default() += count;
            }
        }
        self.opening += &other.opening;
        self.returning += &other.returning;
        self.counts.add(&other.counts);
    }

    /// Enters a subscription that has begun, so many microseconds after it was due.
    pub(crate) fn opened(&mut self, micros: u64, returned: bool) {
        let histogram = if returned { &mut self.returning } else { &mut self.opening };
        histogram.saturating_record(micros);
    }

    /// Enters the early end of a connection.
    pub(crate) fn ended(&mut self, seat: usize, reason: String) {
        let cohort = usize::from(self.entries[seat].cohort);
        *self.cohorts[cohort].closed.entry(reason).or_default() += 1;
    }

    /// Adds what is new to the run's counters.
    pub(crate) fn flush(&mut self, run: &Run) {
        let Fresh { delivered, holes, disorder } = std::mem::take(&mut self.fresh);
        if delivered + disorder > 0 || holes != 0 {
            run.counters.delivered.fetch_add(delivered, Ordering::Relaxed);
            run.counters.holes.fetch_add(holes, Ordering::Relaxed);
            run.counters.disorder.fetch_add(disorder, Ordering::Relaxed);
        }
    }

    /// Gives the latencies since the last time to whoever watches.
    pub(crate) fn lend_recent(&mut self, run: &Run) {
        if !self.recent.is_empty() {
            run.lend(&mut self.recent);
        }
    }
}

/// One subscriber's hand on the tally while bytes of one read are worked off.
#[derive(Debug)]
pub(crate) struct Account<'a> {
    /// The run.
    pub(crate) run: &'a Run,
    /// The worker's tally.
    pub(crate) tally: &'a mut Tally,
    /// Which subscriber.
    pub(crate) seat: usize,
    /// When the bytes were read.
    pub(crate) now: Instant,
}

impl Account<'_> {
    /// The name of the subscriber's channel.
    pub(crate) fn channel(&self) -> &str {
        &self.run.channels[self.tally.entries[self.seat].channel as usize]
    }

    /// Enters a payload that was heard.
    pub(crate) fn heard(&mut self, payload: &[u8]) {
        let Some(stamp) = Stamp::parse(payload) else { return self.tally.counts.altered += 1 };
        if stamp.run != self.run.id {
            return self.tally.counts.foreign += 1;
        }
        if payload.len() != self.run.size {
            return self.tally.counts.altered += 1;
        }
        let Tally { entries, cohorts, fresh, counts, .. } = &mut *self.tally;
        let entry = &mut entries[self.seat];
        if stamp.channel != entry.channel {
            return counts.misrouted += 1;
        }
        let arrival = entry.ledger.record(stamp.sequence);
        if cohorts[usize::from(entry.cohort)].judged {
            fresh.count(arrival);
        }
        if arrival != Arrival::Duplicate {
            self.time(&stamp);
        }
    }

    fn time(&mut self, stamp: &Stamp) {
        let latency = self.run.micros(self.now).saturating_sub(stamp.due_micros);
        let cohort = &mut self.tally.cohorts[usize::from(self.tally.entries[self.seat].cohort)];
        cohort.latency.saturating_record(latency);
        cohort.uncorrected.saturating_record(latency.saturating_sub(u64::from(stamp.late_micros)));
        if cohort.judged {
            self.tally.recent.saturating_record(latency);
        }
    }

    /// Enters a message that came under another channel's name.
    pub(crate) fn misrouted(&mut self) {
        self.tally.counts.misrouted += 1;
    }

    /// Enters a notice that something may have been missed.
    pub(crate) fn gap(&mut self) {
        self.tally.counts.gaps += 1;
    }

    /// Enters a publication whose offset does not follow on the one before.
    pub(crate) fn skipped(&mut self) {
        self.tally.counts.skipped += 1;
    }

    /// Enters how a subscription that was to be continued began.
    pub(crate) fn continued(&mut self, recovered: bool) {
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
        let mut tally = Tally::new(vec![Cohort::new("SSE", true)]);
        tally.entries.push(Entry { channel: 3, cohort: 0, ledger: Ledger::default() });
        (run, tally)
    }

    #[test]
    fn each_payload_is_entered_where_it_belongs() {
        let (run, mut tally) = fixture();
        let mut account = Account { run: &run, tally: &mut tally, seat: 0, now: Instant::now() };
        for sequence in [1, 2, 2, 4] {
            account.heard(&payload(run.id, 3, sequence));
        }
        account.heard(&payload(run.id, 4, 3));
        account.heard(&payload(run.id.wrapping_add(1), 3, 3));
        account.heard(&payload(run.id, 3, 3)[..127]);
        let mut longer = Vec::new();
        let stamp = Stamp { run: run.id, channel: 3, sequence: 3, due_micros: 5, late_micros: 0 };
        stamp.write(129, &mut longer);
        account.heard(&longer);
        tally.flush(&run);
        let ledger = &tally.entries[0].ledger;
        assert_eq!((ledger.delivered(), ledger.duplicates(), ledger.lost(4)), (3, 1, 1));
        let counts = tally.counts;
        assert_eq!((counts.misrouted, counts.foreign, counts.altered), (1, 1, 2));
        assert_eq!((run.delivered(), tally.cohorts[0].latency.len()), (3, 3));
        assert_eq!(run.counters.holes.load(Ordering::Relaxed), 1);
        assert_eq!(run.counters.disorder.load(Ordering::Relaxed), 1);
    }

    /// Messages are due every 10 ms. The publisher is held up for a second by the server: what was due meanwhile goes
    /// out at once afterwards. A meter that counts from sending sees one slow message; the schedule sees a hundred.
    #[test]
    fn a_publisher_that_was_held_up_does_not_hide_it() {
        let (run, mut tally) = fixture();
        let mut plain = latencies();
        let ms = |count: u64| Duration::from_millis(count);
        for sequence in 1..=500u64 {
            let due = ms(10 * sequence);
            let stalled = (100..200).contains(&sequence);
            let sent = if stalled && sequence > 100 { ms(2000) } else { due };
            let heard = if stalled { ms(2000) } else { due } + ms(1);
            let late_micros = u32::try_from((sent - due).as_micros()).unwrap();
            let due_micros = u64::try_from(due.as_micros()).unwrap();
            let mut message = Vec::new();
            Stamp { run: run.id, channel: 3, sequence, due_micros, late_micros }.write(128, &mut message);
            let now = run.epoch + heard;
            Account { run: &run, tally: &mut tally, seat: 0, now }.heard(&message);
            plain.saturating_record(u64::try_from((heard - sent).as_micros()).unwrap());
        }
        let cohort = &tally.cohorts[0];
        assert_eq!(cohort.uncorrected, plain);
        assert!(cohort.uncorrected.value_at_percentile(99.0) < 2_000);
        assert!(cohort.latency.value_at_percentile(99.0) > 900_000);
        // HdrHistogram's own correction, which only knows the expected interval, comes to the same.
        let corrected = plain.clone_correct(10_000);
        for percentile in [50.0, 90.0, 95.0, 99.0, 100.0] {
            let (own, its) =
                (cohort.latency.value_at_percentile(percentile), corrected.value_at_percentile(percentile));
            // It adds the hundred to the count, where the schedule has them already.
            assert!(own.abs_diff(its) <= 200_000, "{percentile}: {own} {its}");
        }
        assert!(cohort.latency.max().abs_diff(corrected.max()) < 2_000);
    }
}
