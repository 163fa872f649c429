//! One channel of the node: its sequence and the shards that hear it.
//!
//! Owns the stamp. Must never hold its lock across an await or a send that can wait.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use earshot_protocol::{ChannelName, Epoch, Payload, StreamPosition};

use super::publication::Publication;

/// The most shards a node can have: one bit each in a channel's set of listeners.
pub const SHARDS_MAX: usize = 128;

/// The place of a shard in the node's list.
pub type ShardId = usize;

/// A channel that somebody here hears, or heard a moment ago.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) name: ChannelName,
    state: Mutex<State>,
}

/// What changes about a channel; only ever seen under its lock.
#[derive(Debug)]
pub(super) struct State {
    position: StreamPosition,
    shards: u128,
    /// Attaches on their way: the channel must not be let go meanwhile.
    pub(super) attaching: usize,
    /// The channel has an entry in the queue of those that may be let go.
    pub(super) lingering: bool,
    /// When its last listener left.
    pub(super) idle_since: Option<tokio::time::Instant>,
}

impl Channel {
    pub(super) fn new(name: ChannelName) -> Self {
        let position = StreamPosition { epoch: new_epoch(), offset: 0 };
        let state = State { position, shards: 0, attaching: 0, lingering: false, idle_since: None };
        Self { name, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a message its place. `None` when no shard hears the channel; the place is taken all the same.
    pub(super) fn stamp(&self, payload: Payload) -> Option<(u128, Arc<Publication>)> {
        let (shards, position) = {
            let mut state = self.state();
            state.position.offset += 1;
            (state.shards, state.position)
        };
        (shards != 0).then(|| (shards, Arc::new(Publication::new(self.name.clone(), position, payload))))
    }
}

impl State {
    pub(super) fn position(&self) -> StreamPosition {
        self.position
    }

    pub(super) fn shards(&self) -> u128 {
        self.shards
    }

    pub(super) fn attach(&mut self, shard: ShardId) {
        self.shards |= 1 << shard;
        self.idle_since = None;
    }

    pub(super) fn detach(&mut self, shard: ShardId) {
        self.shards &= !(1 << shard);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.shards == 0 && self.attaching == 0
    }

    /// What went before cannot be continued: a new sequence begins.
    pub(super) fn break_sequence(&mut self) -> StreamPosition {
        self.position = StreamPosition { epoch: new_epoch(), offset: 0 };
        self.position
    }
}

/// A name for a new sequence that no other will bear: 48 random bits, never zero.
fn new_epoch() -> Epoch {
    Epoch::from_u64(fastrand::u64(1..1 << 48))
}

/// The shards in a set.
pub(super) fn shards_of(mut set: u128) -> impl Iterator<Item = ShardId> {
    std::iter::from_fn(move || {
        if set == 0 {
            return None;
        }
        let shard = set.trailing_zeros() as usize;
        set &= set - 1;
        Some(shard)
    })
}
