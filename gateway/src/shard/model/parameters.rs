//! The parameters of one case: the limits of the gateway, and the faults that may occur.
//!
//! They depend on the seed only.

use std::time::Duration;

use fastrand::Rng;

use crate::node::history_rules::HistoryRules;
use crate::node::messages::PageLimit;
use crate::node::shard_queue::ShardQueueLimits;
use crate::shard::ShardLimits;

/// The faults that may occur.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scenario {
    /// Clients connect and disconnect; no limit is reached: nothing may be lost and no gap reported.
    Unlimited,
    /// Queues are small, histories are large enough: every client recovers everything.
    Constrained,
    /// Short histories, link failures, messages that are too large, clients without a position.
    Faulty,
}

/// The slow-consumer policy of a channel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Slow {
    /// The client is disconnected.
    #[default]
    Disconnect,
    /// A publication that a newer one replaces.
    Latest,
    /// A publication that a newer one with the same key replaces.
    LatestOfKey,
    /// The oldest publication.
    DropOldest,
}

/// The parameters of a case.
#[derive(Clone, Debug)]
pub(super) struct Parameters {
    pub(super) scenario: Scenario,
    pub(super) steps: usize,
    pub(super) clients: usize,
    pub(super) channels: usize,
    /// The channel whose newest publication is replayed.
    pub(super) last: Option<usize>,
    /// The slow-consumer policy of each channel.
    pub(super) slow: Vec<Slow>,
    pub(super) history: HistoryRules,
    pub(super) history_bytes: usize,
    pub(super) recovery_publications: usize,
    pub(super) unsubscribe_delay: Duration,
    pub(super) port: ShardQueueLimits,
    /// Requests of a shard that may wait, and requests that the node handles at a time.
    pub(super) pending_requests: usize,
    pub(super) inflight_requests: usize,
    pub(super) client_queue_bytes: usize,
    pub(super) pending_command_bytes: usize,
    pub(super) recovery_page: PageLimit,
    /// Clients read in only one of this many turns, so that queues fill up.
    pub(super) read_interval: u8,
    /// Of eight turns, how many clients, shards and the node skip.
    pub(super) idle_clients: u8,
    pub(super) idle_shards: u8,
    pub(super) idle_node: u8,
    /// Maximum number of publications that the broker delivers at a time.
    pub(super) burst: usize,
    /// Bytes by which payloads are padded.
    pub(super) padding: usize,
}

/// The largest publication, unless payloads are padded to more.
pub(super) const PUBLICATION_BYTES: usize = 20_000;

impl Parameters {
    pub(super) fn draw(rng: &mut Rng, scenario: Scenario) -> Self {
        let faulty = scenario == Scenario::Faulty;
        let unlimited = scenario == Scenario::Unlimited;
        // Sometimes payloads are larger than the chunks of a stream.
        let large = rng.u8(..100) == 0;
        let channels = rng.usize(1..=3);
        let tight = |rng: &mut Rng, choices: &[usize]| if unlimited { 1 << 30 } else { pick(rng, choices) };
        let short = |rng: &mut Rng, choices: &[usize]| if faulty { pick(rng, choices) } else { 1 << 30 };
        let idle = |rng: &mut Rng| [0, 0, 4, 7][rng.usize(..4)];
        let slow = |rng: &mut Rng| match rng.u8(..8) {
            0 => Slow::Latest,
            1 => Slow::LatestOfKey,
            2 | 3 => Slow::DropOldest,
            _ => Slow::Disconnect,
        };
        let items = if unlimited { 10_000 } else { pick(rng, &[1, 2, 4, 16]) };
        let read_interval = [1, 1, 10, 40][rng.usize(..4)];
        Self {
            scenario,
            steps: rng.usize(60..300) * if read_interval > 1 { 2 } else { 1 },
            read_interval,
            clients: rng.usize(1..=5),
            channels,
            last: (faulty && rng.u8(..4) == 0).then(|| rng.usize(..channels)),
            slow: (0..channels).map(|_| slow(rng)).collect(),
            history: HistoryRules {
                size: short(rng, &[0, 1, 3, 8, 64]),
                ttl: Duration::from_secs(if faulty { pick(rng, &[1, 5, 60]) as u64 } else { 1 << 20 }),
                bytes: short(rng, &[500, 2000, 1 << 20]),
            },
            history_bytes: short(rng, &[1000, 3000, 1 << 20]),
            recovery_publications: short(rng, &[2, 5, 300]),
            unsubscribe_delay: Duration::from_secs(pick(rng, &[0, 1, 10]) as u64),
            port: ShardQueueLimits { items, bytes: tight(rng, &[300, 1000, 1 << 20]) },
            pending_requests: if unlimited { 1000 } else { pick(rng, &[channels, channels, 4, 100]) },
            inflight_requests: if unlimited { 1000 } else { pick(rng, &[1, 2, 100]) },
            client_queue_bytes: tight(rng, &[1000, 1000, 2400, 100_000]) + if large { 52_000 } else { 0 },
            pending_command_bytes: pick(rng, &[1, 800, 1 << 20]),
            recovery_page: PageLimit {
                publications: pick(rng, &[0, 1, 3, 512]),
                bytes: pick(rng, &[0, 300, 1000, 65_536]),
            },
            burst: pick(rng, &[1, 4, 12]),
            idle_clients: idle(rng),
            idle_shards: idle(rng),
            idle_node: idle(rng),
            padding: if large { rng.usize(16_000..17_000) } else { rng.usize(..20) },
        }
    }

    /// The limits of the shards.
    pub(super) fn shard(&self) -> ShardLimits {
        ShardLimits {
            message_bytes: 65_536,
            client_queue_bytes: self.client_queue_bytes,
            pending_command_bytes: self.pending_command_bytes,
            recovery_page: self.recovery_page,
            client_queue_age: (self.scenario != Scenario::Unlimited).then_some(Duration::from_secs(10)),
            channels_per_connection: 100,
            commands_per_frame: 100,
            recovery_publications: self.recovery_publications,
            inflight_requests: self.pending_requests,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(1000),
            close_timeout: Duration::from_secs(5),
            sse_heartbeat: Duration::from_secs(15),
            sse_max_age: Some(Duration::from_secs(60)),
            sse_retry: Duration::from_secs(1),
        }
    }

    /// Whether every client must recover everything.
    pub(super) fn is_lossless(&self) -> bool {
        self.scenario != Scenario::Faulty
    }

    /// The name of a channel.
    pub(super) fn name(&self, channel: usize) -> &'static str {
        if self.last == Some(channel) { "last" } else { ["a", "b", "c"][channel] }
    }

    /// Whether publications of the channel may be conflated.
    pub(super) fn is_conflated(&self, channel: usize) -> bool {
        matches!(self.slow[channel], Slow::Latest | Slow::LatestOfKey)
    }

    /// Whether the channel replays its newest publication.
    pub(super) fn delivers_last(&self, channel: usize) -> bool {
        self.last == Some(channel)
    }
}

fn pick(rng: &mut Rng, choices: &[usize]) -> usize {
    choices[rng.usize(..choices.len())]
}
