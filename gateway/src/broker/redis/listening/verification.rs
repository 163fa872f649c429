//! What the probes of one connection show, and what follows from it.
//!
//! Owns when a probe is published and the judgement of its outcome; what an outcome proves is the probe's: see
//! [`super::super::probe`].

use super::super::probe::{MISSES, MISSES_BEHIND, MISSES_WHILE_HEARING, Prober, Proof};
use super::Listening;
use crate::broker::{GapCause, Loss, LostTopics};
use crate::instance::Failure;

/// Checks that may be under way at one time; each ends by itself.
const CHECKS_MAX: usize = 16;

impl Listening<'_> {
    pub(super) fn start_probe(&mut self) {
        self.probe = Some(match self.shard_prober.clone() {
            Some(prober) => Box::pin(prober.round()),
            None => Box::pin(self.prober().round()),
        });
    }

    pub(super) fn start_first_probe(&mut self) {
        self.probe = Some(match self.shard_prober.clone() {
            Some(prober) => Box::pin(prober.first_round()),
            None => Box::pin(self.prober().first_round()),
        });
    }

    fn prober(&self) -> Prober {
        Prober { is_replicated: self.is_replicated(), ..self.prober.clone() }
    }

    /// Whether publications may reach the server of the subscription from another one.
    fn is_replicated(&self) -> bool {
        self.bus.is_some() || self.shard_line.is_some() || self.link.wishes.state().is_replica()
    }

    /// Publishes one more probe, where it can prove anything at once: in a cluster, the rounds have to do.
    pub(super) fn start_check(&mut self) {
        let is_cluster = self.bus.is_some() || self.shard_line.is_some();
        if self.receives && self.provable && !is_cluster && self.checks.len() < CHECKS_MAX {
            self.checks.push(Box::pin(self.prober().check()));
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
        let skipped = self.prober.echoes.take_skipped(self.is_replicated(), self.prober.limit);
        if let Some(skipped) = skipped {
            self.link.wishes.state().skipped(skipped.count);
            self.link.tell_loss(Loss { topics: LostTopics::All, cause: GapCause::Deaf, from: skipped.from });
        }
    }

    /// The two links are on different servers. The one that was connected first is the stale one, and connects again.
    pub(super) fn judge_loss(&mut self, proof: &Proof) -> Result<(), Failure> {
        let Proof::Lost(why) = proof else { return Ok(()) };
        let (echoes, commands) = (&self.prober.echoes, &self.link.commands);
        self.proven = self.proven.min(echoes.verified());
        if self.since <= commands.up_since() || !commands.is_up() {
            return Err(Failure::Deaf((*why).to_owned()));
        }
        let loss = Loss { topics: LostTopics::All, cause: GapCause::Deaf, from: echoes.verified() };
        echoes.clear();
        self.checks.clear();
        self.link.tell_loss(loss);
        commands.ask_reconnect();
        Ok(())
    }

    pub(super) fn judge(&mut self, proof: Proof) -> Result<(), Failure> {
        self.probe = None;
        let state = self.link.wishes.state();
        match proof {
            Proof::Heard(until, lag) => {
                self.misses = 0;
                self.receives = true;
                state.proven(until, lag);
                self.heard_until(until);
            }
            Proof::Forbidden(reason) => {
                self.provable = false;
                state.unproven(&reason);
                self.start_ping();
            }
            Proof::Lost(_) => return self.judge_loss(&proof),
            Proof::Rejected(reason) => {
                self.misses += 1;
                if self.misses >= MISSES {
                    return Err(Failure::Unreachable(format!("a probe is answered with an error: {reason}")));
                }
                self.start_probe();
            }
            Proof::Missed { heard_others, behind } => {
                self.misses += 1;
                let most = match (heard_others, behind) {
                    (false, _) => MISSES,
                    (true, false) => MISSES_WHILE_HEARING,
                    (true, true) => MISSES_BEHIND,
                };
                if self.misses >= most {
                    return Err(Failure::Deaf(format!(
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
