//! The parts of a subscriber link, as its task and its connections use them.
//!
//! Owns the reporting of the link's gaps. Must never hold the state of a connection: see
//! [`super::subscriber_connection`].

use std::sync::Arc;

use super::command_queue::CommandSender;
use super::desired_subscriptions::DesiredSubscriptions;
use super::link_target::LinkTarget;
use super::settings::RedisSettings;
use super::status::LinkState;
use crate::broker::{AffectedTopics, BrokerEventHandler, TopicGap};

/// A subscriber link.
pub(super) struct SubscriberLink {
    pub(super) settings: Arc<RedisSettings>,
    pub(super) target: LinkTarget,
    pub(super) subscriptions: Arc<DesiredSubscriptions>,
    pub(super) handler: Arc<dyn BrokerEventHandler>,
    /// Publishes probes; and the state of that link.
    pub(super) command_sender: CommandSender,
    pub(super) commands: Arc<LinkState>,
    /// The handler also receives from other links: a gap of this one does not concern all topics.
    pub(super) is_partial: bool,
}

impl SubscriberLink {
    /// Reports a gap of this link to the handler.
    pub(super) fn report_gap(&self, mut gap: TopicGap) {
        if self.is_partial && matches!(gap.topics, AffectedTopics::All) {
            gap.topics = AffectedTopics::Some(self.subscriptions.table().topics());
        }
        self.handler.on_gap(gap);
    }
}
