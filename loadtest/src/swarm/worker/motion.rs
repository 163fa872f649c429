//! What a worker does to its subscribers beside hearing them: some read slowly, some are set in motion.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::{SCRATCH_BYTES, Worker};
use crate::client::{Pace, Place};
use crate::swarm::Churning;
use crate::swarm::seat::Stage;
use crate::swarm::timers::Timer;
use crate::tally;

/// Subscribers in motion.
#[derive(Debug)]
pub(super) struct Churn {
    kind: Churning,
    per_second: f64,
    start: Instant,
    done: u64,
    next: usize,
}

impl Worker {
    /// What the slow ones have left in their sockets is read now.
    pub(super) fn catch_up(&mut self) {
        self.paced = false;
        for index in 0..self.seats.len() {
            if self.seats[index].is_slow() {
                self.work_seat(index, true, false);
            }
        }
    }

    pub(super) fn read_slowly(&mut self) {
        for index in 0..self.seats.len() {
            let seat = &mut self.seats[index];
            let (Pace::Slow(bytes), Some(connection)) = (seat.plan.pace, &mut seat.connection) else {
                continue;
            };
            let share = (bytes as usize / 10).clamp(1, SCRATCH_BYTES);
            let mut account =
                tally::Account { run: &self.run, tally: &mut self.tally, seat: index, now: seat.since };
            match connection.read_once(&mut self.scratch[..share], &mut account) {
                Ok(_) => self.advance(index),
                Err(error) => self.fail(index, error),
            }
        }
    }

    pub(super) fn begin_churn(&mut self, kind: Churning, per_second: f64) {
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
        for index in 0..self.seats.len() {
            if self.seats[index].plan.churns && matches!(self.seats[index].stage, Stage::Out | Stage::Away) {
                self.come_back(index, Instant::now());
            }
        }
    }

    /// Sets in motion whoever is due.
    pub(super) fn churn_on(&mut self, now: Instant) {
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
            if let Some(index) = self.next_in_motion() {
                self.set_in_motion(index, kind, at);
            }
        }
    }

    /// The next one that is settled: where everybody is under way, nobody is.
    fn next_in_motion(&mut self) -> Option<usize> {
        let churn = self.churn.as_mut()?;
        for _ in 0..self.seats.len() {
            let index = churn.next;
            churn.next = (churn.next + 1) % self.seats.len();
            let seat = &self.seats[index];
            if seat.plan.churns && matches!(seat.stage, Stage::Subscribed | Stage::Out | Stage::Away) {
                return Some(index);
            }
        }
        None
    }

    fn set_in_motion(&mut self, index: usize, kind: Churning, due: Instant) {
        if kind == Churning::Reconnect {
            self.hang_up(index);
            return self.come_back(index, due);
        }
        if self.seats[index].stage != Stage::Subscribed {
            return self.come_back(index, due);
        }
        let seat = &mut self.seats[index];
        let channel = &self.run.channels[seat.plan.channel as usize];
        let Some(connection) = &mut seat.connection else { return };
        match connection.toggle(false, channel) {
            Ok(true) => {
                seat.stage = Stage::Leaving;
                self.run.counters.subscribed.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(false) => {
                self.hang_up(index);
                self.seats[index].place = Place::Fresh;
                self.tally.entries[index].ledger.rejoin();
            }
            Err(error) => self.fail(index, error),
        }
    }

    fn come_back(&mut self, index: usize, due: Instant) {
        let seat = &mut self.seats[index];
        seat.since = due;
        let Some(connection) = &mut seat.connection else {
            seat.stage = Stage::Opening;
            self.queue.under_way += 1;
            if let Err(error) = self.dial(index) {
                self.fail(index, error.into());
            }
            return;
        };
        seat.stage = Stage::Rejoining;
        if let Err(error) = connection.toggle(true, &self.run.channels[seat.plan.channel as usize]) {
            self.fail(index, error);
        }
    }
}
