//! One thread of subscribers: its poll, its connections, its timers. Owns them outright. Never blocks but in its poll.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tokio::time::Instant;

use super::seat::{Queue, Rhythm, Seat, Stage};
use super::timers::{Timer, Timers};
use super::{Account, Muster, Opening, Order, Sources, Toll};
use crate::client::{ClientError, Connection, Dialling, Place, Plan};
use crate::resources::thread::{CpuClock, CpuShare};
use crate::run::Run;
use crate::tally::{self, Tally};

mod motion;

use motion::Churn;

/// What is read at once, by all connections of the thread.
const SCRATCH_BYTES: usize = 64 * 1024;
const MAX_EVENTS: usize = 1024;
const TICK: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);
/// How long connecting and subscribing may take together.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// After a failure a subscriber comes back within this and twice this, as the SDKs do.
const RETURN: Duration = Duration::from_millis(200);
const WAKER: Token = Token(usize::MAX);

/// See above.
pub(super) struct Worker {
    muster: Muster,
    run: Arc<Run>,
    poll: Poll,
    waker: Arc<Waker>,
    taking: Receiver<Order>,
    trouble: Arc<Mutex<Option<ClientError>>>,
    seats: Vec<Seat>,
    tally: Tally,
    queue: Queue,
    timers: Timers,
    sources: Sources,
    scratch: Vec<u8>,
    /// Those who are slow read at their pace.
    paced: bool,
    churn: Option<Churn>,
    toll: Toll,
    clocks: Option<Clocks>,
    over: bool,
}

/// Of the time that is judged, and of its present second.
struct Clocks {
    whole: CpuClock,
    second: CpuClock,
}

impl Worker {
    pub(super) fn new(
        muster: &Muster,
        index: usize,
        plans: Vec<Plan>,
        run: Arc<Run>,
        tally: Tally,
        trouble: Arc<Mutex<Option<ClientError>>>,
        taking: Receiver<Order>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let now = Instant::now();
        let mut timers = Timers::default();
        timers.set(now + TICK, Timer::Tick);
        timers.set(now + SECOND, Timer::Second);
        let sources = Sources::new(&muster.target, &run, index);
        Ok(Self {
            muster: Muster { plans: Vec::new(), ..muster.clone() },
            poll,
            waker,
            taking,
            trouble,
            seats: plans.into_iter().map(|plan| Seat::new(plan, now)).collect(),
            tally,
            queue: Queue::new(),
            timers,
            sources,
            scratch: vec![0; SCRATCH_BYTES],
            paced: false,
            churn: None,
            toll: Toll::default(),
            clocks: None,
            over: false,
            run,
        })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Until the end is ordered.
    pub(super) fn work(mut self) -> io::Result<Account> {
        let mut events = Events::with_capacity(MAX_EVENTS);
        while !self.over {
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            self.work_off(&events);
            while let Ok(order) = self.taking.try_recv() {
                self.obey(order);
            }
            self.run_timers();
            self.open_more();
            self.tally.flush(&self.run);
        }
        self.tally.lend_recent(&self.run);
        self.end_measure();
        Ok(Account { tally: self.tally, toll: self.toll })
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        let timer = self.timers.wait(now).unwrap_or(TICK);
        let opening = self.queue.next_due().map(|due| due.saturating_duration_since(now));
        opening.map_or(timer, |opening| opening.min(timer))
    }

    fn work_off(&mut self, events: &Events) {
        let woke = Instant::now();
        let mut any = false;
        for event in events {
            if event.token() == WAKER {
                continue;
            }
            any = true;
            let writable = event.is_writable() || event.is_error();
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            self.work_seat(event.token().0, readable, writable);
        }
        if any && self.clocks.is_some() {
            self.toll.turns.saturating_record(micros(woke.elapsed()));
        }
    }

    fn work_seat(&mut self, index: usize, readable: bool, writable: bool) {
        let seat = &mut self.seats[index];
        let held = self.paced && seat.is_slow() && seat.proven;
        let Some(connection) = &mut seat.connection else { return };
        let mut outcome = if writable { connection.writable() } else { Ok(()) };
        if outcome.is_ok() && readable && !held {
            let mut account =
                tally::Account { run: &self.run, tally: &mut self.tally, seat: index, now: seat.since };
            outcome = connection.readable(&mut self.scratch, &mut account);
        }
        match outcome {
            Ok(()) => self.advance(index),
            Err(error) => self.fail(index, error),
        }
    }

    /// Looks whether a subscriber has got what it waits for.
    fn advance(&mut self, index: usize) {
        let seat = &mut self.seats[index];
        let subscribed = seat.connection.as_ref().is_some_and(Connection::is_subscribed);
        match (seat.stage, subscribed) {
            (Stage::Opening | Stage::Rejoining, true) => {
                if seat.stage == Stage::Opening {
                    self.queue.under_way -= 1;
                }
                (seat.stage, seat.proven) = (Stage::Subscribed, true);
                let took = micros(seat.since.elapsed());
                self.tally.opened(took, self.clocks.is_some());
                self.run.counters.subscribed.fetch_add(1, Ordering::Relaxed);
                self.run.counters.opened.fetch_add(1, Ordering::Relaxed);
            }
            (Stage::Leaving, false) => {
                seat.stage = Stage::Out;
                self.tally.entries[index].ledger.rejoin();
            }
            _ => {}
        }
    }

    /// The connection is of no use any more.
    fn fail(&mut self, index: usize, error: ClientError) {
        let stage = self.hang_up(index);
        if !self.seats[index].proven {
            let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
            trouble.get_or_insert(error);
            return;
        }
        self.run.counters.broken.fetch_add(1, Ordering::Relaxed);
        if stage == Stage::Opening {
            self.tally.counts.retries += 1;
        } else {
            self.tally.ended(index, error.to_string());
        }
        if stage == Stage::Opening || self.muster.faithful {
            self.seats[index].stage = Stage::Waiting;
            let pause = RETURN + RETURN.mul_f64(fastrand::f64());
            self.timers.set(Instant::now() + pause, Timer::Return(index));
        }
    }

    /// Closes a connection; returns where it stood.
    fn hang_up(&mut self, index: usize) -> Stage {
        let seat = &mut self.seats[index];
        let stage = std::mem::replace(&mut seat.stage, Stage::Away);
        if let Some(mut connection) = seat.connection.take() {
            let place = connection.place();
            if place != Place::Fresh {
                seat.place = place;
            }
            connection.leave(self.poll.registry());
        }
        match stage {
            Stage::Opening => self.queue.under_way -= 1,
            Stage::Subscribed => drop(self.run.counters.subscribed.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
        stage
    }

    fn open_more(&mut self) {
        while let Some((index, due)) = self.queue.next(Instant::now(), self.muster.at_once) {
            let seat = &mut self.seats[index];
            (seat.stage, seat.since) = (Stage::Opening, due);
            if let Err(error) = self.dial(index) {
                self.fail(index, error.into());
            }
        }
    }

    fn dial(&mut self, index: usize) -> io::Result<()> {
        let seat = &mut self.seats[index];
        let dialling = Dialling {
            target: &self.muster.target,
            channel: &self.run.channels[seat.plan.channel as usize],
            source: self.sources.next(),
            receive_buffer: seat.is_slow().then_some(self.muster.slow_buffer),
        };
        let (place, registry) = (seat.place.clone(), self.poll.registry());
        let connection = Connection::dial(&dialling, seat.plan.transport, place, registry, Token(index))?;
        seat.connection = Some(connection);
        Ok(())
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Open(opening) => self.open_all(opening),
            Order::Drop => self.hang_up_all(false),
            Order::Leave => self.hang_up_all(true),
            Order::Pace => self.paced = true,
            Order::Catch => self.catch_up(),
            Order::Churn(kind, per_second) => self.begin_churn(kind, per_second),
            Order::Measure => {
                self.clocks = Some(Clocks { whole: CpuClock::start(), second: CpuClock::start() });
            }
            Order::EndMeasure => self.end_measure(),
            Order::Finish => self.over = true,
        }
    }

    fn end_measure(&mut self) {
        if let Some(clocks) = self.clocks.take() {
            self.toll.share = CpuShare::worst_of(self.toll.share, clocks.whole.share());
        }
    }

    fn open_all(&mut self, opening: Opening) {
        self.queue.begin(match opening {
            Opening::AsItGoes => Rhythm::Turns,
            Opening::Together => Rhythm::Together(Instant::now()),
            Opening::PerSecond(rate) => Rhythm::PerSecond(Instant::now(), rate),
        });
        for (index, seat) in self.seats.iter_mut().enumerate() {
            if seat.stage == Stage::Away {
                seat.stage = Stage::Waiting;
                self.queue.waiting.push_back(index);
            }
        }
    }

    fn hang_up_all(&mut self, forget: bool) {
        self.queue.waiting.clear();
        for index in 0..self.seats.len() {
            self.hang_up(index);
            if forget {
                self.seats[index].place = Place::Fresh;
                self.tally.entries[index].ledger.rejoin();
            }
        }
    }

    fn run_timers(&mut self) {
        let now = Instant::now();
        while let Some((due, timer)) = self.timers.due(now) {
            match timer {
                Timer::Tick => self.tick(due, now),
                Timer::Second => self.look_at_itself(now),
                Timer::Churn => self.churn_on(now),
                Timer::Return(index) if self.seats[index].stage == Stage::Waiting => self.queue.join(index),
                Timer::Return(_) => {}
            }
        }
    }

    fn tick(&mut self, due: Instant, now: Instant) {
        if self.clocks.is_some() {
            self.toll.timers.saturating_record(micros(now - due));
        }
        self.tally.lend_recent(&self.run);
        if self.paced {
            self.read_slowly();
        }
        // Not from when it ran: a thread that was held up is late more than once.
        self.timers.set(due + TICK, Timer::Tick);
    }

    fn look_at_itself(&mut self, now: Instant) {
        // The first one may have been cut short: a few milliseconds are always full.
        if let Some(clocks) = &mut self.clocks
            && clocks.second.age() >= SECOND / 2
        {
            self.toll.worst = CpuShare::worst_of(self.toll.worst, clocks.second.share());
            clocks.second = CpuClock::start();
        }
        for index in 0..self.seats.len() {
            let seat = &self.seats[index];
            let dialled = seat.stage == Stage::Opening && seat.connection.is_some();
            if dialled && seat.since + OPEN_TIMEOUT < now {
                self.fail(index, ClientError::Timeout(OPEN_TIMEOUT.as_secs()));
            }
        }
        self.timers.set(now + SECOND, Timer::Second);
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
