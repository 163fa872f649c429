//! What the probes of one connection show, and what follows from it.
//!
//! Owns when a probe is published and the judgement of its outcome; what an outcome proves is the probe's: see
//! [`super::super::probe`].

use tokio::time::Instant;

use super::super::probe::{MISSES_MAX, MISSES_WHILE_BEHIND_MAX, MISSES_WHILE_RECEIVING_MAX, Proof};
use super::super::status::LinkConnection;
use super::Listening;
use crate::broker::{AffectedTopics, GapCause, TopicGap};
use earshot_redis_link::LinkError;

/// Checks that may be under way at one time; each ends by itself.
const CHECKS_MAX: usize = 16;

/// A command connection to a server that does not have the subscription.
#[derive(Debug)]
pub(super) struct StaleCommands {
    connection: LinkConnection,
    /// Everything published until this moment was received.
    from: Instant,
}

impl Listening<'_> {
    pub(super) fn start_probe(&mut self) {
        self.probe = Some(match self.shard_prober.clone() {
            Some(prober) => Box::pin(prober.round()),
            None => Box::pin(self.prober.clone().round(self.is_replicated())),
        });
    }

    pub(super) fn start_first_probe(&mut self) {
        self.probe = Some(match self.shard_prober.clone() {
            Some(prober) => Box::pin(prober.first_round()),
            None => Box::pin(self.prober.clone().first_round(self.is_replicated())),
        });
    }

    /// Whether publications may reach the server of the subscription from another one.
    fn is_replicated(&self) -> bool {
        self.bus.is_some() || self.shard_line.is_some() || self.link.wishes.state().is_replica()
    }

    /// Publishes one more probe, where it can prove anything at once: in a cluster, the rounds have to do.
    pub(super) fn start_check(&mut self) {
        let is_cluster = self.bus.is_some() || self.shard_line.is_some();
        if self.receives && self.provable && !is_cluster && self.checks.len() < CHECKS_MAX {
            self.checks.push(Box::pin(self.prober.clone().check(self.is_replicated())));
        }
    }

    /// Verifies at once that publications still arrive here.
    pub(super) fn verify(&mut self) {
        self.start_check();
        if self.probe.is_none() && self.provable {
            self.start_probe();
        }
    }

    /// A probe that was skipped is a loss of everything since the one before it.
    pub(super) fn find_skipped(&mut self) {
        if let Some(skipped) = self.prober.echoes.take_skipped(self.is_replicated()) {
            self.link.wishes.state().skipped(skipped.count);
            self.tell_lost_from(skipped.from);
        }
    }

    /// Judges what a probe has shown to be lost for certain.
    pub(super) fn judge_loss(&mut self, proof: &Proof) -> Result<(), LinkError> {
        match proof {
            Proof::Dropped => self.judge_dropped(),
            Proof::OtherServer(commands) => self.judge_other_server(*commands),
            _ => Ok(()),
        }
    }

    /// The server published a probe on this connection, and it was lost on the way. What is lost once is a gap, and the
    /// connection goes on.
    fn judge_dropped(&mut self) -> Result<(), LinkError> {
        let from = self.prober.echoes.verified();
        self.proven = self.proven.min(from);
        self.drops += 1;
        if self.drops >= MISSES_MAX {
            let cause = "probes were acknowledged and did not arrive, although PING is answered";
            return Err(LinkError::NotReceiving(cause.to_owned()));
        }
        self.link.wishes.state().skipped(1);
        self.discard_probes();
        self.tell_lost_from(from);
        if self.probe.is_none() {
            self.start_probe();
        }
        Ok(())
    }

    /// The two links are on different servers. The one that was connected first is the stale one, and reconnects.
    fn judge_other_server(&mut self, commands: LinkConnection) -> Result<(), LinkError> {
        let from = self.prober.echoes.verified();
        self.proven = self.proven.min(from);
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

    /// Reports the loss after the stale command connection has ended: until then, what it publishes is lost.
    pub(super) fn report_stale_commands(&mut self) {
        let commands = &self.link.commands;
        if let Some(stale) = self.stale_commands.take_if(|stale| commands.has_ended(stale.connection)) {
            self.tell_lost_from(stale.from);
        }
    }

    /// Until when everything published was received, for a connection that has failed.
    pub(super) fn lost_from(&self) -> Instant {
        self.stale_commands.as_ref().map_or(self.proven, |stale| self.proven.min(stale.from))
    }

    /// The probes under way prove nothing any more.
    fn discard_probes(&mut self) {
        self.checks.clear();
        self.prober.echoes.clear();
    }

    fn tell_lost_from(&self, from: Instant) {
        self.link.tell_loss(TopicGap { topics: AffectedTopics::All, cause: GapCause::LinkDown, from });
    }

    /// Probes that the command link published do not arrive on this connection, which was connected later: nothing shows
    /// which of the two leads to the wrong server, so the command link reconnects, too.
    fn reconnect_older_commands(&self) {
        let commands = self.link.commands.connection();
        if !self.is_replicated() && self.prober.echoes.has_missing() && commands.since < self.since {
            self.link.commands.request_reconnect(commands);
        }
    }

    pub(super) fn judge(&mut self, proof: Proof) -> Result<(), LinkError> {
        self.probe = None;
        let state = self.link.wishes.state();
        match proof {
            Proof::Heard(until, lag) => {
                (self.misses, self.drops) = (0, 0);
                self.receives = true;
                state.proven(until, lag);
                self.heard_until(until);
            }
            Proof::Forbidden(reason) => {
                self.provable = false;
                state.unproven(&reason);
                self.start_ping();
            }
            Proof::Dropped | Proof::OtherServer(_) => return self.judge_loss(&proof),
            Proof::Inconclusive => self.start_probe(),
            Proof::Rejected(reason) => {
                self.misses += 1;
                if self.misses >= MISSES_MAX {
                    return Err(LinkError::Unreachable(format!(
                        "a probe is answered with an error: {reason}"
                    )));
                }
            }
            Proof::Missed { heard_others, behind } => {
                self.misses += 1;
                let most = match (heard_others, behind) {
                    (false, _) => MISSES_MAX,
                    (true, false) => MISSES_WHILE_RECEIVING_MAX,
                    (true, true) => MISSES_WHILE_BEHIND_MAX,
                };
                if self.misses >= most {
                    self.reconnect_older_commands();
                    return Err(LinkError::NotReceiving(format!(
                        "{} probes in a row were published and not heard on the subscription",
                        self.misses
                    )));
                }
                // In haste, since the next one decides.
                self.start_probe();
            }
        }
        Ok(())
    }
}
