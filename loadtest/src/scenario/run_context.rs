//! Executes the steps of a scenario: owns the subscribers, the publisher, the sampler and the snapshots between which
//! processor time is counted. The scenario decides the order of the steps.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use tokio::time::Instant;

use super::RunError;
use crate::interrupt;
use crate::publisher::{
    PublishTarget, PublishTotals, Publisher, PublisherConnection, PublisherResult, Schedule,
};
use crate::record::Record;
use crate::report::{self, UsageSnapshots};
use crate::resources::cores::CoreUtilization;
use crate::resources::process::{ProcessGroup, ProcessName, ResourceUsage};
use crate::resources::thread::CpuShare;
use crate::run::Run;
use crate::run_config::{Rate, RunConfig};
use crate::sampler::Sampler;
use crate::subscriber_plan::{ReadRate, SubscriberPlan, Transport};
use crate::swarm::{ConnectMode, Swarm, SwarmCommand, SwarmConfig, SwarmResult};

/// How often the state of the run is checked.
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// How long to wait for duplicates after all messages have arrived.
const DUPLICATE_GRACE: Duration = Duration::from_millis(200);
/// How long subscribing may make no progress.
const SUBSCRIBE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// Deliveries have stopped when none arrives for this long.
const IDLE_GRACE: Duration = Duration::from_millis(300);

/// Cohort of subscribers over Server-Sent Events.
pub(crate) const SSE: u8 = 0;
/// Cohort of subscribers over WebSocket.
pub(crate) const WEBSOCKET: u8 = 1;
/// Cohort that a scenario treats differently.
pub(crate) const THIRD_COHORT: u8 = 2;

/// An active run.
#[derive(Debug)]
pub(crate) struct RunContext {
    config: RunConfig,
    /// State shared with the threads.
    pub(crate) run: Arc<Run>,
    /// The subscribers.
    pub(crate) swarm: Swarm,
    /// The sampler.
    pub(crate) sampler: Sampler,
    publisher: Option<(Publisher, Schedule)>,
    /// Messages published so far, by channel.
    channels: Vec<u64>,
    totals: PublishTotals,
    snapshots: UsageSnapshots,
    generator_cores: Option<CoreUtilization>,
    /// Core utilization of each named process.
    cores: Vec<Option<CoreUtilization>>,
    plans: Vec<SubscriberPlan>,
    verifies_third_cohort: bool,
    connecting: Duration,
}

impl RunContext {
    /// Finds the processes, tests the publisher's connection and starts the threads. `alter` adjusts individual plans.
    pub(crate) fn new(
        config: RunConfig,
        auto_reconnect: bool,
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
            auto_reconnect,
        };
        // Processes of one name are assumed to run on the same cores, so one utilization describes all of them.
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

    /// Usage of the named processes, including proportional memory.
    fn usage(&self) -> Vec<ResourceUsage> {
        self.sampler.processes.iter().map(ProcessGroup::usage_in_full).collect()
    }

    /// Usage without proportional memory: walking the page tables would take CPU time that is being measured.
    fn processor_time(&self) -> Vec<ResourceUsage> {
        self.sampler.processes.iter().map(ProcessGroup::usage).collect()
    }

    /// Subscribers that are subscribed now.
    pub(crate) fn subscribed(&self) -> u64 {
        self.run.counters.subscribed.load(Ordering::Relaxed)
    }

    /// Messages published so far.
    fn published(&self) -> u64 {
        let now = self.publisher.as_ref().map_or(0, |(publisher, _)| publisher.count());
        self.totals.count + now
    }

    /// Whether the operator has interrupted the run.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.run.is_interrupted()
    }

    /// Waits until `done` returns true or the operator interrupts the run. For steps that can be cut short.
    pub(crate) fn wait_until_or_interrupted(
        &mut self,
        mut done: impl FnMut(&Self) -> bool,
    ) -> Result<(), RunError> {
        self.wait_until(|context| context.is_interrupted() || done(context))
    }

    /// Waits until `done` returns true. Returns the first error of a subscriber.
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

    /// Keeps the run going for a time span.
    pub(crate) fn run_for(&mut self, span: Duration) -> Result<(), RunError> {
        let end = Instant::now() + span;
        self.wait_until_or_interrupted(|_| Instant::now() >= end)
    }

    /// Connects all disconnected subscribers and waits until all are subscribed. Ends the measured period if one is
    /// open.
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

    /// Waits until all are subscribed. Fails when no further subscriber subscribes for [`SUBSCRIBE_STALL_TIMEOUT`].
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
            context.swarm.is_fully_subscribed()
                || stuck
                || (context.is_interrupted() && context.is_connecting())
        })?;
        if self.is_interrupted() && !self.swarm.is_fully_subscribed() {
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

    /// Starts a measured period: processor time is counted.
    pub(crate) fn start_measuring(&mut self) {
        self.swarm.send(SwarmCommand::StartMeasuring);
        self.snapshots.begin(self.processor_time(), self.run.delivered());
        self.utilizations().for_each(CoreUtilization::begin);
    }

    /// Ends the measured period. A run can have several; their sum counts.
    pub(crate) fn stop_measuring(&mut self) {
        if !self.snapshots.is_measuring() {
            return;
        }
        self.utilizations().for_each(CoreUtilization::end);
        self.snapshots.end(self.processor_time(), self.run.delivered());
        self.swarm.send(SwarmCommand::StopMeasuring);
    }

    /// Starts publishing according to the options.
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

    /// Waits until the schedule is complete.
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
        let PublisherResult { count, elapsed, lag, cpu, error } = publisher.join()?;
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

    /// Number of deliveries that verified subscribers must receive.
    fn expected_deliveries(&self) -> u64 {
        self.verified_plans().map(|plan| self.channels[plan.channel as usize]).sum()
    }

    /// Waits until all messages have arrived or deliveries stop, then ends the measured period.
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

    /// Waits until deliveries stop.
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

    /// Publishes one message on each channel, which every subscriber must receive. Detects silent connections.
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

    /// Closes all connections and builds the record.
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
    /// Whether a connection can be tested in advance. The kernel baseline serves one publisher at a time.
    fn can_probe(&self) -> bool {
        !matches!(self, Self::KernelBaseline)
    }
}
