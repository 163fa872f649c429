//! The commands of one slot, in order.
//!
//! Owns the order: a command that was not executed (its slot has moved, or is moving) returns to the front and is sent
//! again, unless a later command on the same channel was executed. Must never resend a command that may have been
//! executed.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use redis::{ServerErrorKind, Value};
use tokio::time::Instant;

use super::super::command_link::{is_unknown_script, to_result};
use super::super::command_queue::{CommandResult, PIPELINE_BYTES, PIPELINE_MAX, QueuedCommand};
use super::super::local_fallback::LocalFallback;
use crate::broker::BrokerError;
use earshot_redis_link::NodeAddress;
use earshot_redis_link::parse_redirection;

/// The longest delay before a command is sent again.
const RETRY_DELAY_MAX: Duration = Duration::from_millis(200);

/// The queue of one slot.
#[derive(Debug, Default)]
pub(in crate::broker::redis) struct SlotQueue {
    queue: VecDeque<QueuedCommand>,
    /// A batch is in flight.
    pub(in crate::broker::redis) busy: bool,
    /// Consecutive batches with a command that was not executed. While there are any, commands are sent one at a time,
    /// scripts as text.
    not_executed: u32,
    /// The node that the slot is migrating to, for the next command.
    asking: Option<NodeAddress>,
    not_before: Option<Instant>,
}

/// The commands to send now.
#[derive(Debug)]
pub(in crate::broker::redis) struct SlotBatch {
    pub(in crate::broker::redis) requests: VecDeque<QueuedCommand>,
    /// The node that imports the slot.
    pub(in crate::broker::redis) asking: Option<NodeAddress>,
    pub(in crate::broker::redis) one_at_a_time: bool,
}

/// The new owner of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct Moved {
    pub(in crate::broker::redis) slot: u16,
    pub(in crate::broker::redis) node: NodeAddress,
}

/// The action after a reply.
enum ReplyAction {
    Complete(CommandResult),
    Moved(Moved),
    Ask(NodeAddress),
    /// Send the command again later.
    Retry(String),
}

impl SlotQueue {
    pub(in crate::broker::redis) fn push(&mut self, queued: QueuedCommand) {
        self.queue.push_back(queued);
    }

    pub(in crate::broker::redis) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(in crate::broker::redis) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.busy
    }

    /// Whether a batch can be sent now.
    pub(in crate::broker::redis) fn is_due(&self, now: Instant) -> bool {
        !self.busy && !self.queue.is_empty() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Drops expired commands. Returns their number.
    pub(in crate::broker::redis) fn drop_expired(&mut self) -> usize {
        let before = self.queue.len();
        self.queue.retain(|queued| !queued.is_expired());
        before - self.queue.len()
    }

    /// Delivers locally what may be. Returns the number.
    pub(in crate::broker::redis) fn deliver_local(&mut self, fallback: &LocalFallback) -> usize {
        let before = self.queue.len();
        for queued in std::mem::take(&mut self.queue) {
            if queued.allows_local() && !queued.is_expired() {
                queued.deliver_local(fallback);
            } else {
                self.queue.push_back(queued);
            }
        }
        before - self.queue.len()
    }

    /// The node that the slot is migrating to, if the last reply named one.
    pub(in crate::broker::redis) fn asking(&self) -> Option<&NodeAddress> {
        self.asking.as_ref()
    }

    /// Takes the next batch.
    pub(in crate::broker::redis) fn next_batch(&mut self) -> SlotBatch {
        let one_at_a_time = self.not_executed > 0;
        let most = if one_at_a_time { 1 } else { PIPELINE_MAX };
        let (mut requests, mut bytes) = (VecDeque::new(), 0);
        while requests.len() < most && bytes < PIPELINE_BYTES {
            let Some(queued) = self.queue.pop_front() else { break };
            bytes += queued.bytes();
            requests.push_back(queued);
        }
        self.busy = true;
        self.not_before = None;
        SlotBatch { requests, asking: self.asking.take(), one_at_a_time }
    }

    /// Handles the replies of a node. Returns the new owner of the slot, if it has moved, and whether any command was
    /// not executed.
    pub(in crate::broker::redis) fn on_replies(
        &mut self,
        requests: VecDeque<QueuedCommand>,
        values: Vec<Value>,
        node: &NodeAddress,
    ) -> (Option<Moved>, bool) {
        self.busy = false;
        let (mut moved, mut setback) = (None, false);
        let mut done: HashSet<String> = HashSet::new();
        // From the back: a command must not be sent again after a later one was executed.
        for (queued, value) in requests.into_iter().zip(values).rev() {
            let why = match reply_action(value, node) {
                ReplyAction::Complete(answer) => {
                    done.insert(queued.request.subject().to_owned());
                    queued.answer(answer);
                    continue;
                }
                ReplyAction::Moved(to) => {
                    let why = format!("slot {} has moved to {}", to.slot, to.node);
                    moved = Some(to);
                    why
                }
                ReplyAction::Ask(node) => {
                    let why = format!("the slot is moving to {node}");
                    self.asking = Some(node);
                    why
                }
                ReplyAction::Retry(why) => why,
            };
            setback = true;
            if done.contains(queued.request.subject()) {
                queued.answer(Err(BrokerError::Unavailable(why)));
            } else {
                self.queue.push_front(queued);
            }
        }
        self.schedule_retry(setback);
        (moved, setback)
    }

    /// Returns a batch that was not sent.
    pub(in crate::broker::redis) fn requeue(&mut self, requests: VecDeque<QueuedCommand>) {
        self.busy = false;
        requests.into_iter().rev().for_each(|queued| self.queue.push_front(queued));
        self.schedule_retry(true);
    }

    fn schedule_retry(&mut self, setback: bool) {
        if !setback {
            self.not_executed = 0;
            return;
        }
        self.not_executed = self.not_executed.saturating_add(1);
        // The first redirection is followed immediately.
        let longest = RETRY_DELAY_MAX.min(Duration::from_millis(5) * self.not_executed.saturating_sub(1));
        self.not_before = Some(Instant::now() + longest.mul_f64(0.5 + fastrand::f64() / 2.0));
    }
}

fn reply_action(value: Value, node: &NodeAddress) -> ReplyAction {
    let Value::ServerError(error) = &value else { return ReplyAction::Complete(to_result(value)) };
    let details = error.details().unwrap_or_default();
    let redirected = || parse_redirection(details, node);
    match error.kind() {
        _ if is_unknown_script(&value) => ReplyAction::Retry("NOSCRIPT after reload".to_owned()),
        Some(ServerErrorKind::Moved) => match redirected() {
            Some((slot, node)) => ReplyAction::Moved(Moved { slot, node }),
            None => ReplyAction::Retry(format!("MOVED {details}")),
        },
        Some(ServerErrorKind::Ask) => match redirected() {
            Some((_, node)) => ReplyAction::Ask(node),
            None => ReplyAction::Retry(format!("ASK {details}")),
        },
        Some(
            kind @ (ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown | ServerErrorKind::BusyLoading),
        ) => ReplyAction::Retry(format!("{} {details}", kind_name(kind))),
        _ => ReplyAction::Complete(to_result(value)),
    }
}

fn kind_name(kind: ServerErrorKind) -> &'static str {
    match kind {
        ServerErrorKind::TryAgain => "TRYAGAIN",
        ServerErrorKind::ClusterDown => "CLUSTERDOWN",
        _ => "LOADING",
    }
}
