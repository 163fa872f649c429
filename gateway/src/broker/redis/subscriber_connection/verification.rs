//! The outcomes of the probes of one connection, and their consequences.
//!
//! Owns the schedule of probes and the handling of their outcomes; for what they prove, see [`super::super::probe`].

use tokio::time::Instant;

use super::super::probe::{MISSES_MAX, MISSES_WHILE_BEHIND_MAX, MISSES_WHILE_RECEIVING_MAX, ProbeOutcome};
use super::super::status::LinkConnection;
use super::SubscriberConnection;
use crate::broker::{AffectedTopics, GapCause, TopicGap};
use earshot_redis_link::LinkError;

/// Maximum number of checks in flight.
const CHECKS_MAX: usize = 16;

/// A command connection to a server that does not have the subscription.
#[derive(Debug)]
pub(super) struct StaleCommands {
    connection: LinkConnection,
    /// Everything published until this moment was received.
    from: Instant,
}

impl SubscriberConnection<'_> {
    pub(super) fn start_probe(&mut self) {
        self.probe = Some(match self.sharded_prober.clone() {
            Some(prober) => Box::pin(prober.round()),
            None => Box::pin(self.prober.clone().round(self.is_replicated())),
        });
    }

    pub(super) fn start_first_probe(&mut self) {
        self.probe = Some(match self.sharded_prober.clone() {
            Some(prober) => Box::pin(prober.first_round()),
            None => Box::pin(self.prober.clone().first_round(self.is_replicated())),
        });
    }

    /// Whether publications may reach the server of the subscription from another one.
    fn is_replicated(&self) -> bool {
        self.bus.is_some()
            || self.sharded_connection.is_some()
            || self.link.subscriptions.state().is_replica()
    }

    /// Publishes one more probe, unless in a cluster, where only rounds are conclusive.
    pub(super) fn start_check(&mut self) {
        let is_cluster = self.bus.is_some() || self.sharded_connection.is_some();
        if self.has_received_probe && self.can_probe && !is_cluster && self.checks.len() < CHECKS_MAX {
            self.checks.push(Box::pin(self.prober.clone().check(self.is_replicated())));
        }
    }

    /// Checks immediately that publications still arrive.
    pub(super) fn verify(&mut self) {
        self.start_check();
        if self.probe.is_none() && self.can_probe {
            self.start_probe();
        }
    }

    /// A skipped probe means that everything since the previous probe may be lost.
    pub(super) fn report_skipped_probes(&mut self) {
        if let Some(skipped) = self.prober.probe_replies.take_skipped(self.is_replicated()) {
            self.link.subscriptions.state().probes_skipped(skipped.count);
            self.report_gap_from(skipped.from);
        }
    }

    /// Handles a probe that is lost for certain.
    pub(super) fn on_lost_probe(&mut self, proof: &ProbeOutcome) -> Result<(), LinkError> {
        match proof {
            ProbeOutcome::Dropped => self.on_dropped_probe(),
            ProbeOutcome::OtherServer(commands) => self.on_other_server(*commands),
            _ => Ok(()),
        }
    }

    /// The server published a probe on this connection, and it was lost in transit. A single loss is a gap, and the
    /// connection continues.
    fn on_dropped_probe(&mut self) -> Result<(), LinkError> {
        let from = self.prober.probe_replies.verified();
        self.verified_until = self.verified_until.min(from);
        self.dropped_probes += 1;
        if self.dropped_probes >= MISSES_MAX {
            let cause = "probes were acknowledged and did not arrive, although PING is answered";
            return Err(LinkError::NotReceiving(cause.to_owned()));
        }
        self.link.subscriptions.state().probes_skipped(1);
        self.discard_probes();
        self.report_gap_from(from);
        if self.probe.is_none() {
            self.start_probe();
        }
        Ok(())
    }

    /// The two links are connected to different servers. The one that was connected first is stale, and reconnects.
    fn on_other_server(&mut self, commands: LinkConnection) -> Result<(), LinkError> {
        let from = self.prober.probe_replies.verified();
        self.verified_until = self.verified_until.min(from);
        if self.since <= commands.since {
            let cause = "the server that publications go to does not have the subscription";
            return Err(LinkError::NotReceiving(cause.to_owned()));
        }
        self.discard_probes();
        self.link.commands.request_reconnect(commands);
        self.stale_commands.get_or_insert(StaleCommands { connection: commands, from });
        self.report_stale_commands();
        Ok(())
    }

    /// Reports the gap after the stale command connection has ended: until then, what it publishes is lost.
    pub(super) fn report_stale_commands(&mut self) {
        let commands = &self.link.commands;
        if let Some(stale) = self.stale_commands.take_if(|stale| commands.has_ended(stale.connection)) {
            self.report_gap_from(stale.from);
        }
    }

    /// Everything published until this moment was received, for a connection that has failed.
    pub(super) fn gap_from(&self) -> Instant {
        self.stale_commands.as_ref().map_or(self.verified_until, |stale| self.verified_until.min(stale.from))
    }

    /// Discards the probes in flight.
    fn discard_probes(&mut self) {
        self.checks.clear();
        self.prober.probe_replies.clear();
    }

    fn report_gap_from(&self, from: Instant) {
        self.link.report_gap(TopicGap { topics: AffectedTopics::All, cause: GapCause::LinkDown, from });
    }

    /// Probes of the command link do not arrive on this connection, which was connected later. It is unknown which of
    /// the two is connected to the wrong server, so the command link also reconnects.
    fn reconnect_older_commands(&self) {
        let commands = self.link.commands.connection();
        if !self.is_replicated() && self.prober.probe_replies.has_missing() && commands.since < self.since {
            self.link.commands.request_reconnect(commands);
        }
    }

    pub(super) fn on_probe(&mut self, proof: ProbeOutcome) -> Result<(), LinkError> {
        self.probe = None;
        let state = self.link.subscriptions.state();
        match proof {
            ProbeOutcome::Received(until, lag) => {
                (self.misses, self.dropped_probes) = (0, 0);
                self.has_received_probe = true;
                state.probe_verified(until, lag);
                self.mark_verified_until(until);
            }
            ProbeOutcome::Forbidden(reason) => {
                self.can_probe = false;
                state.probe_unavailable(&reason);
                self.start_ping();
            }
            ProbeOutcome::Dropped | ProbeOutcome::OtherServer(_) => return self.on_lost_probe(&proof),
            ProbeOutcome::Inconclusive => self.start_probe(),
            ProbeOutcome::Rejected(reason) => {
                self.misses += 1;
                if self.misses >= MISSES_MAX {
                    return Err(LinkError::Unreachable(format!(
                        "a probe is answered with an error: {reason}"
                    )));
                }
            }
            ProbeOutcome::Missed { received_others, behind } => {
                self.misses += 1;
                let most = match (received_others, behind) {
                    (false, _) => MISSES_MAX,
                    (true, false) => MISSES_WHILE_RECEIVING_MAX,
                    (true, true) => MISSES_WHILE_BEHIND_MAX,
                };
                if self.misses >= most {
                    self.reconnect_older_commands();
                    return Err(LinkError::NotReceiving(format!(
                        "{} consecutive probes did not arrive on the subscription",
                        self.misses
                    )));
                }
                // Probe again immediately; the next miss decides.
                self.start_probe();
            }
        }
        Ok(())
    }
}
