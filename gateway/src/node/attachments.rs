//! Attaching shards to channels, and detaching them.
//!
//! Owns the creation of channels, and protects them from removal during an attach. Must never wait.

use std::sync::Arc;

use earshot_protocol::{ChannelName, StreamPosition};

use super::channel::Channel;
use super::messages::SubscribeError;
use super::namespace::ResolvedChannel;
use super::registry::ChannelRegistry;
use super::shard_set::ShardId;
use crate::auth::ClientNetwork;

impl ChannelRegistry {
    /// Returns the channel, and protects it from removal until [`ChannelRegistry::commit_attach`] or
    /// [`ChannelRegistry::abort_attach`]. A new channel is attributed to `network`, until a client of another one
    /// attaches. At the limit, an idle channel is evicted, with a call to `release`.
    pub(super) fn acquire(
        &self,
        resolved: &ResolvedChannel,
        network: Option<ClientNetwork>,
        release: impl Fn(&Channel),
    ) -> Result<Arc<Channel>, SubscribeError> {
        let ResolvedChannel { name, rules } = resolved;
        if let Some(channel) = self.acquire_existing(name) {
            let other = channel.state().share_with(network);
            other.into_iter().for_each(|attribution| self.creators.release(attribution));
            return Ok(channel);
        }
        if !self.make_room(release) {
            return Err(SubscribeError::TooManyChannels);
        }
        // The entry is held until the channel is marked, so that it cannot be removed in between.
        let entry = self.channels.entry(name.clone()).or_insert_with(|| {
            let attribution = network.map(|network| self.creators.attribute(network));
            Arc::new(Channel::new(name.clone(), rules.clone(), attribution))
        });
        entry.state().pending_attaches += 1;
        Ok(Arc::clone(&entry))
    }

    /// Returns the channel if it exists, protected from removal.
    fn acquire_existing(&self, name: &ChannelName) -> Option<Arc<Channel>> {
        let channel = self.channels.get(name)?;
        channel.state().pending_attaches += 1;
        Some(Arc::clone(&channel))
    }

    /// Attaches the shard. Calls `announce` with the position, in order with the publications.
    pub(super) fn commit_attach(
        &self,
        channel: &Channel,
        shard: ShardId,
        announce: impl FnOnce(StreamPosition),
    ) {
        let mut state = channel.state();
        state.pending_attaches -= 1;
        state.attach(shard);
        announce(state.position());
    }

    /// Ends an attach that has failed.
    pub(super) fn abort_attach(&self, channel: &Arc<Channel>, release: impl Fn(&Channel)) {
        let mut state = channel.state();
        state.pending_attaches -= 1;
        self.schedule_unsubscribe(channel, state, release);
    }

    /// Detaches a shard. `shared`: clients of several networks were subscribed.
    pub(super) fn detach(
        &self,
        name: &ChannelName,
        shard: ShardId,
        shared: bool,
        release: impl Fn(&Channel),
    ) {
        let Some(channel) = self.find(name) else { return };
        let mut state = channel.state();
        state.detach(shard);
        let attribution = if shared { state.take_attribution() } else { None };
        self.schedule_unsubscribe(&channel, state, release);
        attribution.into_iter().for_each(|attribution| self.creators.release(attribution));
    }
}
