//! What waits for one slot, in order.
//!
//! Owns the order: a request that certainly did not run (its slot has moved, or is moving) goes back to the front and
//! is sent again, unless something about the same channel was done after it. Must never send again what may have run.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use redis::{ServerErrorKind, Value};
use tokio::time::Instant;

use super::super::alone::Alone;
use super::super::commands::{is_unknown_script, judge};
use super::super::outbox::{Answer, BATCH, BATCH_BYTES, Waiting};
use super::topology::redirection;
use crate::broker::BrokerError;
use earshot_redis_link::NodeAddress;

/// The longest wait before something that did not run is sent again.
const PATIENCE_MAX: Duration = Duration::from_millis(200);

/// The requests of one slot.
#[derive(Debug, Default)]
pub(in crate::broker::redis) struct Lane {
    queue: VecDeque<Waiting>,
    /// A batch is on its way.
    pub(in crate::broker::redis) busy: bool,
    /// Times in a row that something did not run. While there are any, requests go one by one, scripts as text.
    setbacks: u32,
    /// Where the slot is moving to: the next request is to be asked for there.
    asking: Option<NodeAddress>,
    not_before: Option<Instant>,
}

/// What is to be sent now.
#[derive(Debug)]
pub(in crate::broker::redis) struct Batch {
    pub(in crate::broker::redis) requests: VecDeque<Waiting>,
    /// It is sent to this node, which does not own the slot yet.
    pub(in crate::broker::redis) asking: Option<NodeAddress>,
    pub(in crate::broker::redis) careful: bool,
}

/// What the node said that something is elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::broker::redis) struct Moved {
    pub(in crate::broker::redis) slot: u16,
    pub(in crate::broker::redis) node: NodeAddress,
}

/// What came of one request.
enum Verdict {
    Done(Answer),
    Moved(Moved),
    Asked(NodeAddress),
    /// Not now, or not like this.
    Later(String),
}

impl Lane {
    pub(in crate::broker::redis) fn push(&mut self, waiting: Waiting) {
        self.queue.push_back(waiting);
    }

    pub(in crate::broker::redis) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(in crate::broker::redis) fn is_idle(&self) -> bool {
        self.queue.is_empty() && !self.busy
    }

    /// Whether something could be sent now.
    pub(in crate::broker::redis) fn is_due(&self, now: Instant) -> bool {
        !self.busy && !self.queue.is_empty() && self.not_before.is_none_or(|at| at <= now)
    }

    /// Drops what its caller has given up; gives how many they were.
    pub(in crate::broker::redis) fn drop_late(&mut self) -> usize {
        let before = self.queue.len();
        self.queue.retain(|waiting| !waiting.is_late());
        before - self.queue.len()
    }

    /// Hands on what can do without Redis; gives how many they were.
    pub(in crate::broker::redis) fn hand_on(&mut self, alone: &Alone) -> usize {
        let before = self.queue.len();
        for waiting in std::mem::take(&mut self.queue) {
            if waiting.can_do_alone() && !waiting.is_late() {
                alone.hand_on(waiting);
            } else {
                self.queue.push_back(waiting);
            }
        }
        before - self.queue.len()
    }

    /// Where the slot is moving to, if the last answer said so.
    pub(in crate::broker::redis) fn asking(&self) -> Option<&NodeAddress> {
        self.asking.as_ref()
    }

    /// Takes what is to be sent now.
    pub(in crate::broker::redis) fn take(&mut self) -> Batch {
        let careful = self.setbacks > 0;
        let most = if careful { 1 } else { BATCH };
        let (mut requests, mut bytes) = (VecDeque::new(), 0);
        while requests.len() < most && bytes < BATCH_BYTES {
            let Some(waiting) = self.queue.pop_front() else { break };
            bytes += waiting.bytes();
            requests.push_back(waiting);
        }
        self.busy = true;
        self.not_before = None;
        Batch { requests, asking: self.asking.take(), careful }
    }

    /// Enters what a node answered. Tells where the slot has moved, if it has, and whether anything did not run.
    pub(in crate::broker::redis) fn settle(
        &mut self,
        requests: VecDeque<Waiting>,
        values: Vec<Value>,
        node: &NodeAddress,
    ) -> (Option<Moved>, bool) {
        self.busy = false;
        let (mut moved, mut setback) = (None, false);
        let mut done: HashSet<String> = HashSet::new();
        // From the back: what was done must not be overtaken by what was not.
        for (waiting, value) in requests.into_iter().zip(values).rev() {
            let why = match verdict(value, node) {
                Verdict::Done(answer) => {
                    done.insert(waiting.request.subject().to_owned());
                    waiting.answer(answer);
                    continue;
                }
                Verdict::Moved(to) => {
                    let why = format!("slot {} has moved to {}", to.slot, to.node);
                    moved = Some(to);
                    why
                }
                Verdict::Asked(node) => {
                    let why = format!("the slot is moving to {node}");
                    self.asking = Some(node);
                    why
                }
                Verdict::Later(why) => why,
            };
            setback = true;
            if done.contains(waiting.request.subject()) {
                waiting.answer(Err(BrokerError::Unavailable(why)));
            } else {
                self.queue.push_front(waiting);
            }
        }
        self.set_back(setback);
        (moved, setback)
    }

    /// Nothing of a batch was sent.
    pub(in crate::broker::redis) fn give_back(&mut self, requests: VecDeque<Waiting>) {
        self.busy = false;
        requests.into_iter().rev().for_each(|waiting| self.queue.push_front(waiting));
        self.set_back(true);
    }

    fn set_back(&mut self, setback: bool) {
        if !setback {
            self.setbacks = 0;
            return;
        }
        self.setbacks = self.setbacks.saturating_add(1);
        // The first time, whoever said so knows better, and is followed at once.
        let longest = PATIENCE_MAX.min(Duration::from_millis(5) * self.setbacks.saturating_sub(1));
        self.not_before = Some(Instant::now() + longest.mul_f64(0.5 + fastrand::f64() / 2.0));
    }
}

fn verdict(value: Value, node: &NodeAddress) -> Verdict {
    let Value::ServerError(error) = &value else { return Verdict::Done(judge(value)) };
    let details = error.details().unwrap_or_default();
    let redirected = || redirection(details, node);
    match error.kind() {
        _ if is_unknown_script(&value) => Verdict::Later("Redis knows no script".to_owned()),
        Some(ServerErrorKind::Moved) => match redirected() {
            Some((slot, node)) => Verdict::Moved(Moved { slot, node }),
            None => Verdict::Later(format!("MOVED {details}")),
        },
        Some(ServerErrorKind::Ask) => match redirected() {
            Some((_, node)) => Verdict::Asked(node),
            None => Verdict::Later(format!("ASK {details}")),
        },
        Some(
            kind @ (ServerErrorKind::TryAgain | ServerErrorKind::ClusterDown | ServerErrorKind::BusyLoading),
        ) => Verdict::Later(format!("{} {details}", kind_name(kind))),
        _ => Verdict::Done(judge(value)),
    }
}

fn kind_name(kind: ServerErrorKind) -> &'static str {
    match kind {
        ServerErrorKind::TryAgain => "TRYAGAIN",
        ServerErrorKind::ClusterDown => "CLUSTERDOWN",
        _ => "LOADING",
    }
}
