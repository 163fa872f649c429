//! A thread of subscribers: owns its poll, connections and timers. Blocks only in its poll.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};
use tokio::time::Instant;

use super::subscriber::{ConnectPacing, ConnectQueue, SwarmSubscriber, SwarmSubscriberState};
use super::timers::{SwarmTimers, Timer};
use super::{ConnectMode, GeneratorCost, SourceAddresses, SwarmCommand, SwarmConfig, WorkerResult};
use crate::client::{ClientConnection, ClientError, ConnectOptions, ResumePoint};
use crate::resources::thread::{CpuClock, CpuShare};
use crate::run::Run;
use crate::subscriber_plan::SubscriberPlan;
use crate::tally::{self, Tally};

mod churn;

use churn::Churn;

/// Size of the read buffer that all connections of the thread share.
const READ_BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_MAX: usize = 1024;
const TICK_INTERVAL: Duration = Duration::from_millis(100);
const SELF_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for connecting and subscribing together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// A subscriber reconnects after a random delay between one and two times this value, as the SDKs do.
const RECONNECT_DELAY_MIN: Duration = Duration::from_millis(200);
const WAKER: Token = Token(usize::MAX);

/// State of a subscriber thread.
pub(super) struct Worker {
    config: SwarmConfig,
    run: Arc<Run>,
    poll: Poll,
    waker: Arc<Waker>,
    receiver: Receiver<SwarmCommand>,
    first_error: Arc<Mutex<Option<ClientError>>>,
    subscribers: Vec<SwarmSubscriber>,
    tally: Tally,
    queue: ConnectQueue,
    timers: SwarmTimers,
    source_addresses: SourceAddresses,
    read_buffer: Vec<u8>,
    /// Subscribers with a limited read rate are throttled.
    throttled: bool,
    churn: Option<Churn>,
    cost: GeneratorCost,
    clocks: Option<Clocks>,
    finished: bool,
}

/// CPU clocks of the measured period and of its current second.
struct Clocks {
    whole: CpuClock,
    second: CpuClock,
}

impl Worker {
    pub(super) fn new(
        config: &SwarmConfig,
        index: usize,
        plans: Vec<SubscriberPlan>,
        run: Arc<Run>,
        tally: Tally,
        first_error: Arc<Mutex<Option<ClientError>>>,
        receiver: Receiver<SwarmCommand>,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let now = Instant::now();
        let mut timers = SwarmTimers::default();
        timers.set(now + TICK_INTERVAL, Timer::Tick);
        timers.set(now + SELF_CHECK_INTERVAL, Timer::SelfCheck);
        let source_addresses = SourceAddresses::new(&config.target, &run, index);
        Ok(Self {
            config: SwarmConfig { plans: Vec::new(), ..config.clone() },
            poll,
            waker,
            receiver,
            first_error,
            subscribers: plans.into_iter().map(|plan| SwarmSubscriber::new(plan, now)).collect(),
            tally,
            queue: ConnectQueue::new(),
            timers,
            source_addresses,
            read_buffer: vec![0; READ_BUFFER_BYTES],
            throttled: false,
            churn: None,
            cost: GeneratorCost::default(),
            clocks: None,
            finished: false,
            run,
        })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Runs until the finish command.
    pub(super) fn run(mut self) -> io::Result<WorkerResult> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        while !self.finished {
            let wait = self.wait();
            match self.poll.poll(&mut events, Some(wait)) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                outcome => outcome?,
            }
            self.handle_events(&events);
            while let Ok(command) = self.receiver.try_recv() {
                self.execute(command);
            }
            self.fire_timers();
            self.connect_waiting();
            self.tally.flush(&self.run);
        }
        self.tally.publish_recent(&self.run);
        self.end_measure();
        Ok(WorkerResult { tally: self.tally, cost: self.cost })
    }

    fn wait(&self) -> Duration {
        let now = Instant::now();
        let timer = self.timers.wait(now).unwrap_or(TICK_INTERVAL);
        let connecting = self.queue.next_due().map(|due| due.saturating_duration_since(now));
        connecting.map_or(timer, |connecting| connecting.min(timer))
    }

    fn handle_events(&mut self, events: &Events) {
        let woke = Instant::now();
        let mut any = false;
        for event in events {
            if event.token() == WAKER {
                continue;
            }
            any = true;
            let writable = event.is_writable() || event.is_error();
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            self.handle_subscriber(event.token().0, readable, writable);
        }
        if any && self.clocks.is_some() {
            self.cost.read_delay.saturating_record(micros(woke.elapsed()));
        }
    }

    fn handle_subscriber(&mut self, index: usize, readable: bool, writable: bool) {
        let subscriber = &mut self.subscribers[index];
        let held = self.throttled && subscriber.is_slow() && subscriber.was_subscribed;
        let Some(connection) = &mut subscriber.connection else { return };
        let mut outcome = if writable { connection.writable() } else { Ok(()) };
        if outcome.is_ok() && readable && !held {
            let mut recorder = tally::TallyRecorder {
                run: &self.run,
                tally: &mut self.tally,
                subscriber: index,
                now: subscriber.since,
            };
            outcome = connection.readable(&mut self.read_buffer, &mut recorder);
        }
        match outcome {
            Ok(()) => self.update_state(index),
            Err(error) => self.on_error(index, error),
        }
    }

    /// Updates the state of a subscriber after its connection has made progress.
    fn update_state(&mut self, index: usize) {
        let subscriber = &mut self.subscribers[index];
        let subscribed = subscriber.connection.as_ref().is_some_and(ClientConnection::is_subscribed);
        match (subscriber.state, subscribed) {
            (SwarmSubscriberState::Connecting | SwarmSubscriberState::Resubscribing, true) => {
                if subscriber.state == SwarmSubscriberState::Connecting {
                    self.queue.in_progress -= 1;
                }
                (subscriber.state, subscriber.was_subscribed) = (SwarmSubscriberState::Subscribed, true);
                let took = micros(subscriber.since.elapsed());
                self.tally.record_subscribed(took, self.clocks.is_some());
                self.run.counters.subscribed.fetch_add(1, Ordering::Relaxed);
                self.run.counters.opened.fetch_add(1, Ordering::Relaxed);
            }
            (SwarmSubscriberState::Unsubscribing, false) => {
                subscriber.state = SwarmSubscriberState::Unsubscribed;
                self.tally.entries[index].ledger.allow_gap();
            }
            _ => {}
        }
    }

    /// Handles the failure of a connection.
    fn on_error(&mut self, index: usize, error: ClientError) {
        let state = self.disconnect(index);
        if !self.subscribers[index].was_subscribed {
            let mut first_error = self.first_error.lock().unwrap_or_else(PoisonError::into_inner);
            first_error.get_or_insert(error);
            return;
        }
        self.run.counters.broken.fetch_add(1, Ordering::Relaxed);
        if state == SwarmSubscriberState::Connecting {
            self.tally.counts.retries += 1;
        } else {
            self.tally.record_closed(index, error.to_string());
        }
        if state == SwarmSubscriberState::Connecting || self.config.auto_reconnect {
            self.subscribers[index].state = SwarmSubscriberState::Queued;
            let pause = RECONNECT_DELAY_MIN + RECONNECT_DELAY_MIN.mul_f64(fastrand::f64());
            self.timers.set(Instant::now() + pause, Timer::Reconnect(index));
        }
    }

    /// Closes a connection; returns the previous state.
    fn disconnect(&mut self, index: usize) -> SwarmSubscriberState {
        let subscriber = &mut self.subscribers[index];
        let state = std::mem::replace(&mut subscriber.state, SwarmSubscriberState::Disconnected);
        if let Some(mut connection) = subscriber.connection.take() {
            let resume_point = connection.resume_point();
            if resume_point != ResumePoint::Live {
                subscriber.resume_point = resume_point;
            }
            connection.deregister(self.poll.registry());
        }
        match state {
            SwarmSubscriberState::Connecting => self.queue.in_progress -= 1,
            SwarmSubscriberState::Subscribed => {
                self.run.counters.subscribed.fetch_sub(1, Ordering::Relaxed);
            }
            _ => {}
        }
        state
    }

    fn connect_waiting(&mut self) {
        while let Some((index, due)) = self.queue.next(Instant::now(), self.config.connect_concurrency) {
            let subscriber = &mut self.subscribers[index];
            (subscriber.state, subscriber.since) = (SwarmSubscriberState::Connecting, due);
            if let Err(error) = self.dial(index) {
                self.on_error(index, error.into());
            }
        }
    }

    fn dial(&mut self, index: usize) -> io::Result<()> {
        let subscriber = &mut self.subscribers[index];
        let options = ConnectOptions {
            target: &self.config.target,
            channel: &self.run.channels[subscriber.plan.channel as usize],
            source: self.source_addresses.next(),
            receive_buffer: subscriber.is_slow().then_some(self.config.slow_buffer),
        };
        let (resume_point, registry) = (subscriber.resume_point.clone(), self.poll.registry());
        let connection = ClientConnection::dial(
            &options,
            subscriber.plan.transport,
            resume_point,
            registry,
            Token(index),
        )?;
        subscriber.connection = Some(connection);
        Ok(())
    }

    fn execute(&mut self, command: SwarmCommand) {
        match command {
            SwarmCommand::Connect(mode) => self.connect_all(mode),
            SwarmCommand::Disconnect => self.disconnect_all(false),
            SwarmCommand::Reset => self.disconnect_all(true),
            SwarmCommand::ThrottleReads => self.throttled = true,
            SwarmCommand::UnthrottleReads => self.drain_slow_readers(),
            SwarmCommand::Churn(kind, per_second) => self.begin_churn(kind, per_second),
            SwarmCommand::StartMeasuring => {
                self.clocks = Some(Clocks { whole: CpuClock::start(), second: CpuClock::start() });
            }
            SwarmCommand::StopMeasuring => self.end_measure(),
            SwarmCommand::Finish => self.finished = true,
        }
    }

    fn end_measure(&mut self) {
        if let Some(clocks) = self.clocks.take() {
            self.cost.share = CpuShare::worst_of(self.cost.share, clocks.whole.share());
        }
    }

    fn connect_all(&mut self, mode: ConnectMode) {
        self.queue.begin(match mode {
            ConnectMode::Unpaced => ConnectPacing::Unpaced,
            ConnectMode::Simultaneous => ConnectPacing::Simultaneous(Instant::now()),
            ConnectMode::PerSecond(rate) => ConnectPacing::PerSecond(Instant::now(), rate),
        });
        for (index, subscriber) in self.subscribers.iter_mut().enumerate() {
            if subscriber.state == SwarmSubscriberState::Disconnected {
                subscriber.state = SwarmSubscriberState::Queued;
                self.queue.waiting.push_back(index);
            }
        }
    }

    fn disconnect_all(&mut self, forget: bool) {
        self.queue.waiting.clear();
        for index in 0..self.subscribers.len() {
            self.disconnect(index);
            if forget {
                self.subscribers[index].resume_point = ResumePoint::Live;
                self.tally.entries[index].ledger.allow_gap();
            }
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some((due, timer)) = self.timers.due(now) {
            match timer {
                Timer::Tick => self.tick(due, now),
                Timer::SelfCheck => self.check_self(now),
                Timer::Churn => self.run_churn(now),
                Timer::Reconnect(index) if self.subscribers[index].state == SwarmSubscriberState::Queued => {
                    self.queue.enqueue(index)
                }
                Timer::Reconnect(_) => {}
            }
        }
    }

    fn tick(&mut self, due: Instant, now: Instant) {
        if self.clocks.is_some() {
            self.cost.timer_delay.saturating_record(micros(now - due));
        }
        self.tally.publish_recent(&self.run);
        if self.throttled {
            self.read_throttled();
        }
        // Relative to the due time, so that a stalled thread records each tick that it missed.
        self.timers.set(due + TICK_INTERVAL, Timer::Tick);
    }

    fn check_self(&mut self, now: Instant) {
        // The first second may have been cut short: a few milliseconds always look fully busy.
        if let Some(clocks) = &mut self.clocks
            && clocks.second.age() >= SELF_CHECK_INTERVAL / 2
        {
            self.cost.worst_second = CpuShare::worst_of(self.cost.worst_second, clocks.second.share());
            clocks.second = CpuClock::start();
        }
        for index in 0..self.subscribers.len() {
            let subscriber = &self.subscribers[index];
            let connecting =
                subscriber.state == SwarmSubscriberState::Connecting && subscriber.connection.is_some();
            if connecting && subscriber.since + CONNECT_TIMEOUT < now {
                self.on_error(index, ClientError::Timeout(CONNECT_TIMEOUT.as_secs()));
            }
        }
        self.timers.set(now + SELF_CHECK_INTERVAL, Timer::SelfCheck);
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
