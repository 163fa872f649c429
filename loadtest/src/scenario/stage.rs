//! What all scenarios are played on: the subscribers, the publisher, somebody who watches, and the marks between which
//! processor time is counted. A scenario says what happens when; here is how. Judges nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

use super::RunError;
use crate::client::{ReadRate, SubscriberPlan, Transport};
use crate::interrupt;
use crate::options::{Rate, Setup};
use crate::publisher::{Link, LinkSettings, PublishError, Published, Publisher, Schedule};
use crate::record::Record;
use crate::report::{self, Marks};
use crate::resources::cores::Fullness;
use crate::resources::process::{Process, ProcessName, Usage};
use crate::resources::thread::CpuShare;
use crate::run::{Run, latencies};
use crate::swarm::{ConnectMode, Swarm, SwarmCommand, SwarmConfig, SwarmResult};
use crate::watch::Watch;

/// How often the run is looked at.
const GLANCE: Duration = Duration::from_millis(5);
/// How long a duplicate may come after everything has arrived.
const AFTERMATH: Duration = Duration::from_millis(200);
/// How long it may take until everybody is subscribed, from the last one who was.
const OPEN_PATIENCE: Duration = Duration::from_secs(60);
/// Deliveries have ceased when none has come for this long.
const QUIET: Duration = Duration::from_millis(300);

/// Who is judged apart.
pub(crate) const SSE: u8 = 0;
/// See there.
pub(crate) const WEBSOCKET: u8 = 1;
/// See there.
pub(crate) const APART: u8 = 2;

/// A run under way.
#[derive(Debug)]
pub(crate) struct Stage {
    setup: Setup,
    /// What is shared with the threads.
    pub(crate) run: Arc<Run>,
    /// The subscribers.
    pub(crate) swarm: Swarm,
    /// Who watches.
    pub(crate) watch: Watch,
    publisher: Option<(Publisher, Schedule)>,
    /// How many messages each channel has got.
    channels: Vec<u64>,
    publishing: Publishing,
    marks: Marks,
    own_cores: Option<Fullness>,
    /// Those of each named process.
    cores: Vec<Option<Fullness>>,
    plans: Vec<SubscriberPlan>,
    judges_apart: bool,
    connecting: Duration,
}

/// The sum of all publishing.
#[derive(Debug)]
pub(crate) struct Publishing {
    /// Messages.
    pub(crate) count: u64,
    /// Messages of the schedule, without those that prove that everybody hears.
    pub(crate) scheduled: u64,
    /// How long the schedule took.
    pub(crate) elapsed: Duration,
    /// How late messages were sent, in microseconds.
    pub(crate) lag: Histogram<u64>,
    /// The busiest publisher.
    pub(crate) cpu: Option<CpuShare>,
    /// What ended it early.
    pub(crate) error: Option<PublishError>,
}

impl Default for Publishing {
    fn default() -> Self {
        let (elapsed, lag) = (Duration::ZERO, latencies());
        Self { count: 0, scheduled: 0, elapsed, lag, cpu: None, error: None }
    }
}

impl Stage {
    /// Looks for the processes, tries the publisher's way, starts the threads. `alter` makes some plans different.
    pub(crate) fn set(
        setup: Setup,
        faithful: bool,
        apart: (&'static str, bool),
        alter: impl Fn(u32, &mut SubscriberPlan),
    ) -> Result<Self, RunError> {
        let processes = find(&setup.processes)?;
        if setup.publish.is_open_to_all() {
            Link::open(&setup.publish, &setup.target, setup.api_key.as_deref())?;
        }
        let plans: Vec<SubscriberPlan> =
            (0..setup.subscribers).map(|index| plan(&setup, index, &alter)).collect();
        let run = Arc::new(Run::new(setup.size, setup.channel_names()));
        interrupt::install_handler(&run);
        let config = SwarmConfig {
            target: setup.target.clone(),
            plans: plans.clone(),
            cohorts: vec![("SSE", true), ("WebSocket", true), apart],
            threads: setup.threads,
            at_once: setup.at_once.div_ceil(setup.threads),
            slow_buffer: 16 * 1024,
            faithful,
        };
        // Several processes of one name run on the same cores, or nobody could say what they are to be judged by.
        let cores =
            processes.iter().map(|process| Fullness::of_process(&process.numbers.first()?.to_string()));
        let cores = cores.collect();
        let watch = Watch::new(Arc::clone(&run), processes, setup.progress);
        let mut stage = Self {
            swarm: Swarm::start(&config, &run)?,
            channels: vec![0; setup.channels as usize],
            publisher: None,
            publishing: Publishing::default(),
            marks: Marks::default(),
            own_cores: Fullness::of_process("self"),
            cores,
            connecting: Duration::ZERO,
            setup,
            run,
            watch,
            plans,
            judges_apart: apart.1,
        };
        stage.marks.before = stage.usage();
        Ok(stage)
    }

    /// Whether nothing has been published yet.
    fn is_connecting(&self) -> bool {
        self.publisher.is_none() && self.publishing.count == 0
    }

    /// Looks at the named processes, at all of their memory.
    fn usage(&self) -> Vec<Usage> {
        self.watch.processes.iter().map(Process::usage_in_full).collect()
    }

    /// Looks at their processor time: to walk their pages would take some of the time that is judged.
    fn processor_time(&self) -> Vec<Usage> {
        self.watch.processes.iter().map(Process::usage).collect()
    }

    /// How many are subscribed now.
    pub(crate) fn subscribed(&self) -> u64 {
        self.run.counters.subscribed.load(Ordering::Relaxed)
    }

    /// Messages so far.
    fn published(&self) -> u64 {
        let now = self.publisher.as_ref().map_or(0, |(publisher, _)| publisher.count());
        self.publishing.count + now
    }

    /// Whether the operator wants the result now.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.run.is_interrupted()
    }

    /// Waits until `done`, or the operator wants the result: for what may be cut short without harm.
    pub(crate) fn go_on_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<(), RunError> {
        self.wait_until(|stage| stage.is_interrupted() || done(stage))
    }

    /// Waits until `done`, or a failure that ends the run.
    pub(crate) fn wait_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<(), RunError> {
        while !done(self) {
            if let Some(error) = self.swarm.take_error() {
                return Err(error.into());
            }
            thread::park_timeout(GLANCE);
            self.watch.glance(self.published());
            self.fullness().for_each(Fullness::look);
        }
        Ok(())
    }

    /// Lets it go on for a while.
    pub(crate) fn pass(&mut self, span: Duration) -> Result<(), RunError> {
        let end = Instant::now() + span;
        self.go_on_until(|_| Instant::now() >= end)
    }

    /// Opens everybody who is not connected, and waits until all are subscribed. If processor time is counted, that is
    /// where it ceases to be.
    pub(crate) fn open(&mut self, mode: ConnectMode) -> Result<(), RunError> {
        self.watch.progress.begin("connecting", self.swarm.size());
        let start = Instant::now();
        self.swarm.send(SwarmCommand::Connect(mode));
        self.wait_until_open()?;
        self.connecting += start.elapsed();
        self.end_measure();
        self.watch.sample(self.published());
        self.marks.connected = self.usage();
        Ok(())
    }

    /// Waits until all are subscribed. Who makes no progress for long is given up.
    pub(crate) fn wait_until_open(&mut self) -> Result<(), RunError> {
        let mut last = (u64::MAX, Instant::now());
        let mut stuck = false;
        self.wait_until(|stage| {
            let now = stage.subscribed();
            stage.watch.progress.set(now);
            if now != last.0 {
                last = (now, Instant::now());
            }
            stuck = last.1.elapsed() > OPEN_PATIENCE;
            stage.swarm.is_open() || stuck || (stage.is_interrupted() && stage.is_connecting())
        })?;
        if self.is_interrupted() && !self.swarm.is_open() {
            return Err(RunError::Interrupted);
        }
        if stuck {
            return Err(RunError::Stuck { subscribed: last.0, of: self.swarm.size() });
        }
        Ok(())
    }

    fn fullness(&mut self) -> impl Iterator<Item = &mut Fullness> {
        self.own_cores.iter_mut().chain(self.cores.iter_mut().flatten())
    }

    /// From here on processor time is counted.
    pub(crate) fn measure(&mut self) {
        self.swarm.send(SwarmCommand::StartMeasuring);
        self.marks.begin(self.processor_time(), self.run.delivered());
        self.fullness().for_each(Fullness::begin);
    }

    /// Up to here processor time is counted. It may begin anew; what counts is the sum.
    pub(crate) fn end_measure(&mut self) {
        if !self.marks.is_open() {
            return;
        }
        self.fullness().for_each(Fullness::end);
        self.marks.end(self.processor_time(), self.run.delivered());
        self.swarm.send(SwarmCommand::StopMeasuring);
    }

    /// Begins to publish by the schedule of the options.
    pub(crate) fn begin(&mut self) -> Result<(), RunError> {
        let schedule = self.setup.schedule(self.channels.clone());
        self.begin_with(schedule)
    }

    fn begin_with(&mut self, schedule: Schedule) -> Result<(), RunError> {
        let steps = if self.setup.rate == Rate::Max { 0 } else { schedule.total };
        self.watch.progress.begin("publishing", steps);
        let link = Link::open(&self.setup.publish, &self.setup.target, self.setup.api_key.as_deref())?;
        let publisher = Publisher::start(link, schedule.clone(), Arc::clone(&self.run))?;
        self.publisher = Some((publisher, schedule));
        Ok(())
    }

    /// Waits until everything is published.
    pub(crate) fn end(&mut self) -> Result<(), RunError> {
        self.go_on_until(|stage| {
            let Some((publisher, _)) = &stage.publisher else { return true };
            stage.watch.progress.set(publisher.count());
            publisher.is_finished()
        })?;
        self.join(true)
    }

    fn join(&mut self, scheduled: bool) -> Result<(), RunError> {
        let Some((publisher, schedule)) = self.publisher.take() else { return Ok(()) };
        publisher.stop();
        let Published { count, elapsed, lag, cpu, error } = publisher.join()?;
        self.channels = schedule.per_channel(count);
        let publishing = &mut self.publishing;
        publishing.count += count;
        publishing.error = publishing.error.take().or(error);
        if scheduled {
            publishing.scheduled += count;
            publishing.elapsed += elapsed;
            publishing.lag += lag;
            publishing.cpu = CpuShare::worst_of(publishing.cpu, cpu);
        }
        Ok(())
    }

    fn judged(&self) -> impl Iterator<Item = &SubscriberPlan> {
        self.plans.iter().filter(|plan| plan.cohort != APART || self.judges_apart)
    }

    /// Deliveries that are due to those who never leave of their own will.
    fn expected(&self) -> u64 {
        self.judged().map(|plan| self.channels[plan.channel as usize]).sum()
    }

    /// Waits until everything has arrived or nothing arrives any more. There processor time ceases to be counted.
    pub(crate) fn settle(&mut self) -> Result<(), RunError> {
        let expected = self.expected();
        self.wait_for(expected)?;
        self.end_measure();
        self.pass(AFTERMATH)
    }

    fn wait_for(&mut self, expected: u64) -> Result<(), RunError> {
        let patience = self.setup.settle;
        let mut last = (self.run.delivered(), Instant::now());
        self.wait_until(|stage| {
            let now = stage.run.delivered();
            if now != last.0 {
                last = (now, Instant::now());
            }
            now >= expected || last.1.elapsed() >= patience
        })
    }

    /// Waits until deliveries have ceased.
    pub(crate) fn quiet(&mut self) -> Result<(), RunError> {
        let mut last = (self.run.delivered(), Instant::now());
        self.wait_until(|stage| {
            let now = stage.run.delivered();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() >= QUIET
        })
    }

    /// One message on each channel, which everybody must hear: who is silent is not merely idle.
    pub(crate) fn prove(&mut self) -> Result<(), RunError> {
        let due = self.run.delivered() + self.judged().count() as u64;
        self.begin_with(Schedule::proof(self.channels.clone()))?;
        self.wait_until(|stage| {
            stage.publisher.as_ref().is_none_or(|(publisher, _)| publisher.is_finished())
        })?;
        self.join(false)?;
        self.wait_for(due)?;
        self.pass(AFTERMATH)
    }

    /// Closes everything and makes the record.
    pub(crate) fn finish(mut self) -> Result<Record, RunError> {
        self.join(true)?;
        self.watch.sample(self.published());
        self.marks.after = self.usage();
        self.end_measure();
        let interrupted = self.is_interrupted();
        let Self { setup, swarm, watch, channels, publishing, marks, connecting, own_cores, cores, .. } =
            self;
        let SwarmResult { tally, cost } = swarm.finish()?;
        let parts = report::Parts {
            setup: &setup,
            tally: &tally,
            cost: &cost,
            channels: &channels,
            publishing: &publishing,
            marks: &marks,
            own_cores: own_cores.as_ref(),
            cores: &cores,
            connecting,
            interrupted,
        };
        Ok(report::record(&parts, watch))
    }
}

fn find(names: &[ProcessName]) -> Result<Vec<Process>, RunError> {
    names.iter().map(|name| Process::find(name).map_err(RunError::Usage)).collect()
}

fn plan(setup: &Setup, subscriber: u32, alter: &impl Fn(u32, &mut SubscriberPlan)) -> SubscriberPlan {
    let transport = setup.transport_of(subscriber);
    let cohort = if transport == Transport::Sse { SSE } else { WEBSOCKET };
    let channel = subscriber % setup.channels;
    let mut plan =
        SubscriberPlan { transport, channel, cohort, read_rate: ReadRate::Unlimited, churns: false };
    alter(subscriber, &mut plan);
    plan
}

impl LinkSettings {
    /// Whether a connection may be tried before it is needed.
    fn is_open_to_all(&self) -> bool {
        !matches!(self, Self::BareLoop)
    }
}
