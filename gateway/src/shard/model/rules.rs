//! The rules of one case: how tight the gateway's bounds are, and what may happen.
//!
//! Must never depend on anything but the seed.

use std::time::Duration;

use fastrand::Rng;

use crate::node::history::HistoryRules;
use crate::node::messages::PageLimit;
use crate::node::shard_queue::ShardQueueLimits;
use crate::shard::ShardLimits;

/// What may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weather {
    /// Clients come and go; every bound is wide: nothing may be missing, nor any gap be announced.
    Calm,
    /// Queues are tight, rings suffice: whoever asks for what was missed gets all of it.
    Crowded,
    /// Anything: rings too short, deaf spells, messages too large, clients that start afresh.
    Rough,
}

/// What gives way in a channel when a client is slow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Slow {
    /// The client.
    #[default]
    Disconnect,
    /// Whatever has a successor.
    Latest,
    /// Whatever has a successor of the same key.
    LatestOfKey,
    /// The oldest.
    DropOldest,
}

/// The rules of a case.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) weather: Weather,
    pub(super) steps: usize,
    pub(super) clients: usize,
    pub(super) channels: usize,
    /// The channel whose newest publication is delivered at once.
    pub(super) last: Option<usize>,
    /// What gives way, channel by channel.
    pub(super) slow: Vec<Slow>,
    pub(super) history: HistoryRules,
    pub(super) history_bytes: usize,
    pub(super) recovery_publications: usize,
    pub(super) linger: Duration,
    pub(super) port: ShardQueueLimits,
    /// Requests that a shard may have before the node has seen them, and that the node works on at a time.
    pub(super) asks: usize,
    pub(super) lane: usize,
    pub(super) client_queue_bytes: usize,
    pub(super) pending_command_bytes: usize,
    pub(super) recovery_page: PageLimit,
    /// Clients read only one time in so many, so that what they do not read piles up.
    pub(super) lazy: u8,
    /// Of eight of their turns, those that clients, shards and the node let pass.
    pub(super) idle_clients: u8,
    pub(super) idle_shards: u8,
    pub(super) idle_node: u8,
    /// Publications that the broker hears at a time.
    pub(super) burst: usize,
    /// Bytes by which payloads are padded.
    pub(super) padding: usize,
}

/// The largest publication, unless payloads are padded to more.
pub(super) const PUBLICATION_BYTES: usize = 20_000;

impl Rules {
    pub(super) fn draw(rng: &mut Rng, weather: Weather) -> Self {
        let rough = weather == Weather::Rough;
        let calm = weather == Weather::Calm;
        // Now and then payloads that are larger than the pieces in which a stream is written.
        let large = rng.u8(..100) == 0;
        let channels = rng.usize(1..=3);
        let tight = |rng: &mut Rng, choices: &[usize]| if calm { 1 << 30 } else { pick(rng, choices) };
        let short = |rng: &mut Rng, choices: &[usize]| if rough { pick(rng, choices) } else { 1 << 30 };
        let idle = |rng: &mut Rng| [0, 0, 4, 7][rng.usize(..4)];
        let slow = |rng: &mut Rng| match rng.u8(..8) {
            0 => Slow::Latest,
            1 => Slow::LatestOfKey,
            2 | 3 => Slow::DropOldest,
            _ => Slow::Disconnect,
        };
        let items = if calm { 10_000 } else { pick(rng, &[1, 2, 4, 16]) };
        let lazy = [1, 1, 10, 40][rng.usize(..4)];
        Self {
            weather,
            steps: rng.usize(60..300) * if lazy > 1 { 2 } else { 1 },
            lazy,
            clients: rng.usize(1..=5),
            channels,
            last: (rough && rng.u8(..4) == 0).then(|| rng.usize(..channels)),
            slow: (0..channels).map(|_| slow(rng)).collect(),
            history: HistoryRules {
                size: short(rng, &[0, 1, 3, 8, 64]),
                ttl: Duration::from_secs(if rough { pick(rng, &[1, 5, 60]) as u64 } else { 1 << 20 }),
                bytes: short(rng, &[500, 2000, 1 << 20]),
            },
            history_bytes: short(rng, &[1000, 3000, 1 << 20]),
            recovery_publications: short(rng, &[2, 5, 300]),
            linger: Duration::from_secs(pick(rng, &[0, 1, 10]) as u64),
            port: ShardQueueLimits { items, bytes: tight(rng, &[300, 1000, 1 << 20]) },
            asks: if calm { 1000 } else { pick(rng, &[channels, channels, 4, 100]) },
            lane: if calm { 1000 } else { pick(rng, &[1, 2, 100]) },
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

    /// The rules of the shards.
    pub(super) fn shard(&self) -> ShardLimits {
        ShardLimits {
            message_bytes: 65_536,
            client_queue_bytes: self.client_queue_bytes,
            pending_command_bytes: self.pending_command_bytes,
            recovery_page: self.recovery_page,
            client_queue_age: (self.weather != Weather::Calm).then_some(Duration::from_secs(10)),
            channels_per_connection: 100,
            commands_per_frame: 100,
            recovery_publications: self.recovery_publications,
            inflight_requests: self.asks,
            ping_interval: Duration::from_secs(20),
            pong_timeout: Duration::from_secs(8),
            connect_timeout: Duration::from_secs(1000),
            close_timeout: Duration::from_secs(5),
            sse_heartbeat: Duration::from_secs(15),
            sse_max_age: Some(Duration::from_secs(60)),
            sse_retry: Duration::from_secs(1),
        }
    }

    /// Whether whoever asks for what it missed must get all of it.
    pub(super) fn is_lossless(&self) -> bool {
        self.weather != Weather::Rough
    }

    /// A channel's name.
    pub(super) fn name(&self, channel: usize) -> &'static str {
        if self.last == Some(channel) { "last" } else { ["a", "b", "c"][channel] }
    }

    /// Whether publications of the channel may give way to others.
    pub(super) fn supersedes(&self, channel: usize) -> bool {
        matches!(self.slow[channel], Slow::Latest | Slow::LatestOfKey)
    }

    /// Whether the channel delivers its newest publication at once.
    pub(super) fn delivers_last(&self, channel: usize) -> bool {
        self.last == Some(channel)
    }
}

fn pick(rng: &mut Rng, choices: &[usize]) -> usize {
    choices[rng.usize(..choices.len())]
}
