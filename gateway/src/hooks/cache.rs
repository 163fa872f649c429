//! Decisions about subscriptions that are valid for a while, and the questions in flight.
//!
//! Its key contains everything that a backend can base a decision on. A decision for an identity that
//! has ended is never used again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use ring::digest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::question::{ChannelQuestion, HookReply, HookedClient};
use crate::auth::Identity;

/// Maximum number of decisions; the oldest is removed for a new one.
const DECISIONS_MAX: usize = 65_536;

/// Identifies equal questions, by a hash of: user, fields, session or token, expiry and `info` of the identity; the
/// forwarded header fields and cookies; channel, token and data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct DecisionKey([u8; 32]);

impl DecisionKey {
    pub(super) fn new(client: &HookedClient, question: &ChannelQuestion) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        // The length before each part: parts cannot run into each other.
        let mut add = |part: &[u8]| {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        };
        client.identity.describe(&mut add);
        add(client.transport.as_bytes());
        add(&[u8::from(client.is_binary)]);
        for (name, value) in &client.forwarded {
            add(name.as_str().as_bytes());
            add(value.as_bytes());
        }
        // Separates the fields, whose number varies, from the question.
        add(b"");
        add(question.channel.as_str().as_bytes());
        add(question.token.as_bytes());
        add(&[u8::from(question.data.is_some())]);
        add(question.data.as_deref().unwrap_or_default());
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Self(key)
    }
}

/// A reply once it is known.
pub(super) type PendingReply = watch::Receiver<Option<HookReply<()>>>;

/// A question that is being asked. If it is dropped without a reply, all waiting requests fail.
#[derive(Debug)]
pub(super) struct Flight {
    key: DecisionKey,
    reply: watch::Sender<Option<HookReply<()>>>,
}

#[derive(Debug)]
struct Decision {
    reply: HookReply<()>,
    expires_at: Instant,
    /// Keeps the session watched, so that its end is noticed.
    identity: Arc<Identity>,
}

/// The decisions and the questions in flight.
#[derive(Debug)]
pub(super) struct DecisionCache {
    ttl: Duration,
    decisions: HashMap<DecisionKey, Decision>,
    /// All decisions in the order of their expiry, and some that were replaced.
    expiries: VecDeque<(Instant, DecisionKey)>,
    flights: HashMap<DecisionKey, PendingReply>,
}

impl DecisionCache {
    /// Keeps decisions for this time.
    pub(super) fn new(ttl: Duration) -> Self {
        Self { ttl, decisions: HashMap::new(), expiries: VecDeque::new(), flights: HashMap::new() }
    }

    /// The valid decision for a question.
    pub(super) fn find(&mut self, key: &DecisionKey, now: Instant) -> Option<HookReply<()>> {
        self.expire(now);
        let decision = self.decisions.get(key)?;
        if decision.identity.has_ended() {
            self.decisions.remove(key);
            return None;
        }
        Some(decision.reply.clone())
    }

    /// The reply of a question in flight.
    pub(super) fn waiting(&mut self, key: &DecisionKey) -> Option<PendingReply> {
        let reply = self.flights.get(key)?;
        // The task that sent the question ended without a reply.
        if reply.has_changed().is_err() {
            self.flights.remove(key);
            return None;
        }
        Some(reply.clone())
    }

    /// A question is asked.
    pub(super) fn begin(&mut self, key: DecisionKey) -> (Flight, PendingReply) {
        let (reply, receiver) = watch::channel(None);
        self.flights.insert(key.clone(), receiver.clone());
        (Flight { key, reply }, receiver)
    }

    /// A question was answered for this identity. Replies that contain a decision are kept.
    pub(super) fn finish(
        &mut self,
        flight: Flight,
        reply: HookReply<()>,
        identity: &Arc<Identity>,
        now: Instant,
    ) {
        let Flight { key, reply: sender } = flight;
        self.flights.remove(&key);
        sender.send_replace(Some(reply.clone()));
        let is_decision = match &reply {
            HookReply::Result(()) | HookReply::Denied => true,
            HookReply::Failed(failure) => !failure.is_temporary,
            HookReply::Disconnect(_) | HookReply::Unavailable => false,
        };
        if !is_decision || self.ttl.is_zero() || identity.has_ended() {
            return;
        }
        self.expire(now);
        while self.decisions.len() >= DECISIONS_MAX {
            let Some((_, oldest)) = self.expiries.pop_front() else { break };
            self.decisions.remove(&oldest);
        }
        let expires_at = now + self.ttl;
        self.expiries.push_back((expires_at, key.clone()));
        self.decisions.insert(key, Decision { reply, expires_at, identity: Arc::clone(identity) });
    }

    /// Removes the decisions that have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((expires_at, key)) = self.expiries.front()
            && *expires_at <= now
        {
            if self.decisions.get(key).is_some_and(|decision| decision.expires_at <= now) {
                self.decisions.remove(key);
            }
            self.expiries.pop_front();
        }
    }

    /// The number of decisions.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.decisions.len()
    }
}
