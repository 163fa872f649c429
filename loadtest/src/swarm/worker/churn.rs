//! Operations that change subscribers during a run: throttled reads and churn.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{READ_BUFFER_BYTES, Worker};
use crate::client::ResumePoint;
use crate::subscriber_plan::ReadRate;
use crate::swarm::ChurnKind;
use crate::swarm::subscriber::SwarmSubscriberState;
use crate::swarm::timers::Timer;
use crate::tally;

/// State of the churn.
#[derive(Debug)]
pub(super) struct Churn {
    kind: ChurnKind,
    per_second: f64,
    start: Instant,
    done: u64,
    next: usize,
}

impl Worker {
    /// Reads the data that throttled subscribers have left in their sockets.
    pub(super) fn drain_slow_readers(&mut self) {
        self.throttled = false;
        for index in 0..self.subscribers.len() {
            if self.subscribers[index].is_slow() {
                self.handle_subscriber(index, true, false);
            }
        }
    }

    pub(super) fn read_throttled(&mut self) {
        for index in 0..self.subscribers.len() {
            let subscriber = &mut self.subscribers[index];
            let (ReadRate::BytesPerSecond(bytes), Some(connection)) =
                (subscriber.plan.read_rate, &mut subscriber.connection)
            else {
                continue;
            };
            let share = (bytes as usize / 10).clamp(1, READ_BUFFER_BYTES);
            let mut recorder = tally::TallyRecorder {
                run: &self.run,
                tally: &mut self.tally,
                subscriber: index,
                now: subscriber.since,
            };
            match connection.read_once(&mut self.read_buffer[..share], &mut recorder) {
                Ok(_) => self.update_state(index),
                Err(error) => self.on_error(index, error),
            }
        }
    }

    pub(super) fn begin_churn(&mut self, kind: ChurnKind, per_second: f64) {
        let running = self.churn.is_some();
        if per_second > 0.0 {
            let start = Instant::now();
            self.churn = Some(Churn { kind, per_second, start, done: 0, next: 0 });
            if !running {
                self.timers.set(start, Timer::Churn);
            }
            return;
        }
        self.churn = None;
        for index in 0..self.subscribers.len() {
            if self.subscribers[index].plan.churns
                && matches!(
                    self.subscribers[index].state,
                    SwarmSubscriberState::Unsubscribed | SwarmSubscriberState::Disconnected
                )
            {
                self.rejoin(index, Instant::now());
            }
        }
    }

    /// Churns all subscribers that are due.
    pub(super) fn run_churn(&mut self, now: Instant) {
        let Some(churn) = &mut self.churn else { return };
        let (mut due, kind) = (Vec::new(), churn.kind);
        loop {
            let at = churn.start + Duration::from_secs_f64(churn.done as f64 / churn.per_second);
            if at > now {
                self.timers.set(at, Timer::Churn);
                break;
            }
            churn.done += 1;
            due.push(at);
        }
        for at in due {
            if let Some(index) = self.next_to_churn() {
                self.churn_subscriber(index, kind, at);
            }
        }
    }

    /// Next subscriber in a settled state. `None` if all are in transition.
    fn next_to_churn(&mut self) -> Option<usize> {
        let churn = self.churn.as_mut()?;
        for _ in 0..self.subscribers.len() {
            let index = churn.next;
            churn.next = (churn.next + 1) % self.subscribers.len();
            let subscriber = &self.subscribers[index];
            if subscriber.plan.churns
                && matches!(
                    subscriber.state,
                    SwarmSubscriberState::Subscribed
                        | SwarmSubscriberState::Unsubscribed
                        | SwarmSubscriberState::Disconnected
                )
            {
                return Some(index);
            }
        }
        None
    }

    fn churn_subscriber(&mut self, index: usize, kind: ChurnKind, due: Instant) {
        if kind == ChurnKind::Reconnect {
            self.disconnect(index);
            return self.rejoin(index, due);
        }
        if self.subscribers[index].state != SwarmSubscriberState::Subscribed {
            return self.rejoin(index, due);
        }
        let subscriber = &mut self.subscribers[index];
        let channel = &self.run.channels[subscriber.plan.channel as usize];
        let Some(connection) = &mut subscriber.connection else { return };
        match connection.toggle(false, channel) {
            Ok(true) => {
                subscriber.state = SwarmSubscriberState::Unsubscribing;
                self.run.counters.subscribed.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(false) => {
                self.disconnect(index);
                self.subscribers[index].resume_point = ResumePoint::Live;
                self.tally.entries[index].ledger.allow_gap();
            }
            Err(error) => self.on_error(index, error),
        }
    }

    fn rejoin(&mut self, index: usize, due: Instant) {
        let subscriber = &mut self.subscribers[index];
        subscriber.since = due;
        let Some(connection) = &mut subscriber.connection else {
            subscriber.state = SwarmSubscriberState::Connecting;
            self.queue.in_progress += 1;
            if let Err(error) = self.dial(index) {
                self.on_error(index, error.into());
            }
            return;
        };
        subscriber.state = SwarmSubscriberState::Resubscribing;
        if let Err(error) = connection.toggle(true, &self.run.channels[subscriber.plan.channel as usize]) {
            self.on_error(index, error);
        }
    }
}
