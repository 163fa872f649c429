//! What all scenarios are played on: the subscribers, the publisher, somebody who watches, and the snapshots between which
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
use crate::options::{Rate, RunConfig};
use crate::publisher::{
    PublishError, PublishResult, PublishTarget, Publisher, PublisherConnection, Schedule,
};
use crate::record::Record;
use crate::report::{self, UsageSnapshots};
use crate::resources::cores::CoreUtilization;
use crate::resources::process::{ProcessGroup, ProcessName, ResourceUsage};
use crate::resources::thread::CpuShare;
use crate::run::{Run, latencies};
use crate::sampler::Sampler;
use crate::swarm::{ConnectMode, Swarm, SwarmCommand, SwarmConfig, SwarmResult};

/// How often the run is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long a duplicate may come after everything has arrived.
const DUPLICATE_GRACE: Duration = Duration::from_millis(200);
/// How long it may take until everybody is subscribed, from the last one who was.
const SUBSCRIBE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Deliveries have ceased when none has come for this long.
const IDLE_GRACE: Duration = Duration::from_millis(300);

/// Who is verified third_cohort.
pub(crate) const SSE: u8 = 0;
/// See there.
pub(crate) const WEBSOCKET: u8 = 1;
/// See there.
pub(crate) const THIRD_COHORT: u8 = 2;

/// A run under way.
#[derive(Debug)]
pub(crate) struct RunContext {
    config: RunConfig,
    /// What is shared with the threads.
    pub(crate) run: Arc<Run>,
    /// The subscribers.
    pub(crate) swarm: Swarm,
    /// Who watches.
    pub(crate) sampler: Sampler,
    publisher: Option<(Publisher, Schedule)>,
    /// How many messages each channel has got.
    channels: Vec<u64>,
    totals: PublishTotals,
    snapshots: UsageSnapshots,
    generator_cores: Option<CoreUtilization>,
    /// Those of each named process.
    cores: Vec<Option<CoreUtilization>>,
    plans: Vec<SubscriberPlan>,
    verifies_third_cohort: bool,
    connecting: Duration,
}

/// The sum of all totals.
#[derive(Debug)]
pub(crate) struct PublishTotals {
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

impl Default for PublishTotals {
    fn default() -> Self {
        let (elapsed, lag) = (Duration::ZERO, latencies());
        Self { count: 0, scheduled: 0, elapsed, lag, cpu: None, error: None }
    }
}

impl RunContext {
    /// Looks for the processes, tries the publisher's way, starts the threads. `alter` makes some plans different.
    pub(crate) fn new(
        config: RunConfig,
        faithful: bool,
        third_cohort: (&'static str, bool),
        alter: impl Fn(u32, &mut SubscriberPlan),
    ) -> Result<Self, RunError> {
        let processes = find(&config.processes)?;
        if config.publish.can_probe() {
            PublisherConnection::open(&config.publish, &config.target, config.api_key.as_deref())?;
        }
        let plans: Vec<SubscriberPlan> =
            (0..config.subscribers).map(|index| plan(&config, index, &alter)).collect();
        let run = Arc::new(Run::new(config.size, config.channel_names()));
        interrupt::install_handler(&run);
        let swarm_config = SwarmConfig {
            target: config.target.clone(),
            plans: plans.clone(),
            cohorts: vec![("SSE", true), ("WebSocket", true), third_cohort],
            threads: config.threads,
            connect_concurrency: config.connect_concurrency.div_ceil(config.threads),
            slow_buffer: 16 * 1024,
            faithful,
        };
        // Several processes of one name run on the same cores, or nobody could say what they are to be verified by.
        let cores = processes
            .iter()
            .map(|process| CoreUtilization::of_process(&process.numbers.first()?.to_string()));
        let cores = cores.collect();
        let sampler = Sampler::new(Arc::clone(&run), processes, config.progress);
        let mut context = Self {
            swarm: Swarm::start(&swarm_config, &run)?,
            channels: vec![0; config.channels as usize],
            publisher: None,
            totals: PublishTotals::default(),
            snapshots: UsageSnapshots::default(),
            generator_cores: CoreUtilization::of_process("self"),
            cores,
            connecting: Duration::ZERO,
            config,
            run,
            sampler,
            plans,
            verifies_third_cohort: third_cohort.1,
        };
        context.snapshots.before = context.usage();
        Ok(context)
    }

    /// Whether nothing has been published yet.
    fn is_connecting(&self) -> bool {
        self.publisher.is_none() && self.totals.count == 0
    }

    /// Looks at the named processes, at all of their memory.
    fn usage(&self) -> Vec<ResourceUsage> {
        self.sampler.processes.iter().map(ProcessGroup::usage_in_full).collect()
    }

    /// Looks at their processor time: to walk their pages would take some of the time that is verified.
    fn processor_time(&self) -> Vec<ResourceUsage> {
        self.sampler.processes.iter().map(ProcessGroup::usage).collect()
    }

    /// How many are subscribed now.
    pub(crate) fn subscribed(&self) -> u64 {
        self.run.counters.subscribed.load(Ordering::Relaxed)
    }

    /// Messages so far.
    fn published(&self) -> u64 {
        let now = self.publisher.as_ref().map_or(0, |(publisher, _)| publisher.count());
        self.totals.count + now
    }

    /// Whether the operator wants the result now.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.run.is_interrupted()
    }

    /// Waits until `done`, or the operator wants the result: for what may be cut short without harm.
    pub(crate) fn wait_until_or_interrupted(
        &mut self,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), RunError> {
        self.wait_until(|context| context.is_interrupted() || done(context))
    }

    /// Waits until `done`, or a failure that ends the run.
    pub(crate) fn wait_until(&mut self, mut done: impl FnMut(&Self) -> bool) -> Result<(), RunError> {
        while !done(self) {
            if let Some(error) = self.swarm.take_error() {
                return Err(error.into());
            }
            thread::park_timeout(POLL_INTERVAL);
            self.sampler.sample_if_due(self.published());
            self.utilizations().for_each(CoreUtilization::poll);
        }
        Ok(())
    }

    /// Lets it go on for a while.
    pub(crate) fn run_for(&mut self, span: Duration) -> Result<(), RunError> {
        let end = Instant::now() + span;
        self.wait_until_or_interrupted(|_| Instant::now() >= end)
    }

    /// Opens everybody who is not connected, and waits until all are subscribed. If processor time is counted, that is
    /// where it ceases to be.
    pub(crate) fn connect_all(&mut self, mode: ConnectMode) -> Result<(), RunError> {
        self.sampler.progress.begin("connecting", self.swarm.size());
        let start = Instant::now();
        self.swarm.send(SwarmCommand::Connect(mode));
        self.wait_until_subscribed()?;
        self.connecting += start.elapsed();
        self.stop_measuring();
        self.sampler.sample(self.published());
        self.snapshots.connected = self.usage();
        Ok(())
    }

    /// Waits until all are subscribed. Who makes no progress for long is given up.
    pub(crate) fn wait_until_subscribed(&mut self) -> Result<(), RunError> {
        let mut last = (u64::MAX, Instant::now());
        let mut stuck = false;
        self.wait_until(|context| {
            let now = context.subscribed();
            context.sampler.progress.set(now);
            if now != last.0 {
                last = (now, Instant::now());
            }
            stuck = last.1.elapsed() > SUBSCRIBE_STALL_TIMEOUT;
            context.swarm.is_open() || stuck || (context.is_interrupted() && context.is_connecting())
        })?;
        if self.is_interrupted() && !self.swarm.is_open() {
            return Err(RunError::Interrupted);
        }
        if stuck {
            return Err(RunError::Stuck { subscribed: last.0, of: self.swarm.size() });
        }
        Ok(())
    }

    fn utilizations(&mut self) -> impl Iterator<Item = &mut CoreUtilization> {
        self.generator_cores.iter_mut().chain(self.cores.iter_mut().flatten())
    }

    /// From here on processor time is counted.
    pub(crate) fn start_measuring(&mut self) {
        self.swarm.send(SwarmCommand::StartMeasuring);
        self.snapshots.begin(self.processor_time(), self.run.delivered());
        self.utilizations().for_each(CoreUtilization::begin);
    }

    /// Up to here processor time is counted. It may begin anew; what counts is the sum.
    pub(crate) fn stop_measuring(&mut self) {
        if !self.snapshots.is_measuring() {
            return;
        }
        self.utilizations().for_each(CoreUtilization::end);
        self.snapshots.end(self.processor_time(), self.run.delivered());
        self.swarm.send(SwarmCommand::StopMeasuring);
    }

    /// Begins to publish by the schedule of the options.
    pub(crate) fn start_publishing(&mut self) -> Result<(), RunError> {
        let schedule = self.config.schedule(self.channels.clone());
        self.start_schedule(schedule)
    }

    fn start_schedule(&mut self, schedule: Schedule) -> Result<(), RunError> {
        let steps = if self.config.rate == Rate::Max { 0 } else { schedule.total };
        self.sampler.progress.begin("publishing", steps);
        let link = PublisherConnection::open(
            &self.config.publish,
            &self.config.target,
            self.config.api_key.as_deref(),
        )?;
        let publisher = Publisher::start(link, schedule.clone(), Arc::clone(&self.run))?;
        self.publisher = Some((publisher, schedule));
        Ok(())
    }

    /// Waits until everything is published.
    pub(crate) fn finish_publishing(&mut self) -> Result<(), RunError> {
        self.wait_until_or_interrupted(|context| {
            let Some((publisher, _)) = &context.publisher else { return true };
            context.sampler.progress.set(publisher.count());
            publisher.is_finished()
        })?;
        self.collect_publisher(true)
    }

    fn collect_publisher(&mut self, scheduled: bool) -> Result<(), RunError> {
        let Some((publisher, schedule)) = self.publisher.take() else { return Ok(()) };
        publisher.stop();
        let PublishResult { count, elapsed, lag, cpu, error } = publisher.join()?;
        self.channels = schedule.per_channel(count);
        let totals = &mut self.totals;
        totals.count += count;
        totals.error = totals.error.take().or(error);
        if scheduled {
            totals.scheduled += count;
            totals.elapsed += elapsed;
            totals.lag += lag;
            totals.cpu = CpuShare::worst_of(totals.cpu, cpu);
        }
        Ok(())
    }

    fn verified_plans(&self) -> impl Iterator<Item = &SubscriberPlan> {
        self.plans.iter().filter(|plan| plan.cohort != THIRD_COHORT || self.verifies_third_cohort)
    }

    /// Deliveries that are due to those who never leave of their own will.
    fn expected_deliveries(&self) -> u64 {
        self.verified_plans().map(|plan| self.channels[plan.channel as usize]).sum()
    }

    /// Waits until everything has arrived or nothing arrives any more. There processor time ceases to be counted.
    pub(crate) fn wait_for_deliveries(&mut self) -> Result<(), RunError> {
        let expected_deliveries = self.expected_deliveries();
        self.wait_for_count(expected_deliveries)?;
        self.stop_measuring();
        self.run_for(DUPLICATE_GRACE)
    }

    fn wait_for_count(&mut self, expected_deliveries: u64) -> Result<(), RunError> {
        let timeout = self.config.settle;
        let mut last = (self.run.delivered(), Instant::now());
        self.wait_until(|context| {
            let now = context.run.delivered();
            if now != last.0 {
                last = (now, Instant::now());
            }
            now >= expected_deliveries || last.1.elapsed() >= timeout
        })
    }

    /// Waits until deliveries have ceased.
    pub(crate) fn wait_until_idle(&mut self) -> Result<(), RunError> {
        let mut last = (self.run.delivered(), Instant::now());
        self.wait_until(|context| {
            let now = context.run.delivered();
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() >= IDLE_GRACE
        })
    }

    /// One message on each channel, which everybody must hear: who is silent is not merely idle.
    pub(crate) fn verify_subscribers(&mut self) -> Result<(), RunError> {
        let due = self.run.delivered() + self.verified_plans().count() as u64;
        self.start_schedule(Schedule::one_per_channel(self.channels.clone()))?;
        self.wait_until(|context| {
            context.publisher.as_ref().is_none_or(|(publisher, _)| publisher.is_finished())
        })?;
        self.collect_publisher(false)?;
        self.wait_for_count(due)?;
        self.run_for(DUPLICATE_GRACE)
    }

    /// Closes everything and makes the record.
    pub(crate) fn finish(mut self) -> Result<Record, RunError> {
        self.collect_publisher(true)?;
        self.sampler.sample(self.published());
        self.snapshots.after = self.usage();
        self.stop_measuring();
        let interrupted = self.is_interrupted();
        let Self {
            config,
            swarm,
            sampler,
            channels,
            totals,
            snapshots,
            connecting,
            generator_cores,
            cores,
            ..
        } = self;
        let SwarmResult { tally, cost } = swarm.finish()?;
        let inputs = report::RecordInputs {
            config: &config,
            tally: &tally,
            cost: &cost,
            channels: &channels,
            totals: &totals,
            snapshots: &snapshots,
            generator_cores: generator_cores.as_ref(),
            cores: &cores,
            connecting,
            interrupted,
        };
        Ok(report::record(&inputs, sampler))
    }
}

fn find(names: &[ProcessName]) -> Result<Vec<ProcessGroup>, RunError> {
    names.iter().map(|name| ProcessGroup::find(name).map_err(RunError::InvalidOptions)).collect()
}

fn plan(config: &RunConfig, subscriber: u32, alter: &impl Fn(u32, &mut SubscriberPlan)) -> SubscriberPlan {
    let transport = config.transport_of(subscriber);
    let cohort = if transport == Transport::Sse { SSE } else { WEBSOCKET };
    let channel = subscriber % config.channels;
    let mut plan =
        SubscriberPlan { transport, channel, cohort, read_rate: ReadRate::Unlimited, churns: false };
    alter(subscriber, &mut plan);
    plan
}

impl PublishTarget {
    /// Whether a connection may be tried before it is needed.
    fn can_probe(&self) -> bool {
        !matches!(self, Self::KernelBaseline)
    }
}
