//! Threads that run the subscribers. Each thread has its own poll and owns its connections, so thousands of them use
//! one core without shared state.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hdrhistogram::Histogram;
use mio::Waker;

use crate::client::ClientError;
use crate::resources::thread::CpuShare;
use crate::run::{Run, latencies};
use crate::subscriber_plan::SubscriberPlan;
use crate::tally::{CohortTally, Tally};
use crate::target::BenchTarget;

mod subscriber;
mod timers;
mod worker;

use worker::Worker;

/// Commands that can be queued for a worker.
const COMMANDS_MAX: usize = 64;

/// Configuration of a swarm.
#[derive(Clone, Debug)]
pub(crate) struct SwarmConfig {
    /// The server under test.
    pub(crate) target: BenchTarget,
    /// Plans of the subscribers.
    pub(crate) plans: Vec<SubscriberPlan>,
    /// Names of the cohorts, and whether their losses count.
    pub(crate) cohorts: Vec<(&'static str, bool)>,
    /// Number of threads.
    pub(crate) threads: usize,
    /// Connections opened concurrently.
    pub(crate) connect_concurrency: usize,
    /// Size of the kernel receive buffer for subscribers with a limited read rate, in bytes.
    pub(crate) slow_buffer: usize,
    /// Subscribers that lose their connection reconnect and resume on their own.
    pub(crate) auto_reconnect: bool,
}

/// Commands to the workers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SwarmCommand {
    /// Connects all disconnected subscribers.
    Connect(ConnectMode),
    /// Drops all connections; subscribers keep their resume points.
    Disconnect,
    /// Drops all connections and resume points.
    Reset,
    /// Subscribers read at the rate of their plan from now on.
    ThrottleReads,
    /// Subscribers read as fast as they can from now on.
    UnthrottleReads,
    /// Churns this many subscribers per second; 0 stops.
    Churn(ChurnKind, f64),
    /// Starts a measured period: processor time is counted.
    StartMeasuring,
    /// Ends the measured period; another one may follow.
    StopMeasuring,
    /// Closes all connections and ends the threads.
    Finish,
}

/// How connections are started, and from when connect latency counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConnectMode {
    /// As concurrency permits; latency counts from the start of each connection attempt.
    Unpaced,
    /// As concurrency permits; latency counts from now for all.
    Simultaneous,
    /// At a rate per thread; latency counts from when each connection was due.
    PerSecond(f64),
}

/// What a subscriber does when it churns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChurnKind {
    /// Unsubscribes, and resubscribes the next time.
    Resubscribe,
    /// Drops its connection and resumes from its last position.
    Reconnect,
}

/// All subscribers of a run.
#[derive(Debug)]
pub(crate) struct Swarm {
    run: Arc<Run>,
    workers: Vec<WorkerHandle>,
    first_error: Arc<Mutex<Option<ClientError>>>,
    size: u64,
}

#[derive(Debug)]
struct WorkerHandle {
    thread: thread::JoinHandle<io::Result<WorkerResult>>,
    commands: SyncSender<SwarmCommand>,
    waker: Arc<Waker>,
}

/// Final result of a worker.
#[derive(Debug)]
struct WorkerResult {
    tally: Tally,
    cost: GeneratorCost,
}

/// CPU and delay of the load generator itself, to detect that it was the bottleneck.
#[derive(Debug)]
pub(crate) struct GeneratorCost {
    /// CPU share of the busiest thread in a measured period; with several periods, the maximum.
    pub(crate) share: Option<CpuShare>,
    /// Busiest thread in its busiest second.
    pub(crate) worst_second: Option<CpuShare>,
    /// Delay of timers, in microseconds.
    pub(crate) timer_delay: Histogram<u64>,
    /// Time from wake-up until the last ready socket was read, in microseconds.
    pub(crate) read_delay: Histogram<u64>,
}

impl Default for GeneratorCost {
    fn default() -> Self {
        Self { share: None, worst_second: None, timer_delay: latencies(), read_delay: latencies() }
    }
}

impl GeneratorCost {
    fn add(&mut self, other: &Self) {
        self.share = CpuShare::worst_of(self.share, other.share);
        self.worst_second = CpuShare::worst_of(self.worst_second, other.worst_second);
        self.timer_delay += &other.timer_delay;
        self.read_delay += &other.read_delay;
    }
}

/// Final result of a swarm.
#[derive(Debug)]
pub(crate) struct SwarmResult {
    /// Tally of all subscribers.
    pub(crate) tally: Tally,
    /// Cost of the load generator.
    pub(crate) cost: GeneratorCost,
}

impl Swarm {
    /// Starts the threads. Connects nothing yet.
    pub(crate) fn start(config: &SwarmConfig, run: &Arc<Run>) -> io::Result<Self> {
        let first_error = Arc::new(Mutex::new(None));
        let mut swarm = Self {
            run: Arc::clone(run),
            workers: Vec::new(),
            first_error: Arc::clone(&first_error),
            size: config.plans.len() as u64,
        };
        for (index, plans) in distribute(&config.plans, config.threads).into_iter().enumerate() {
            let (commands, receiver) = mpsc::sync_channel(COMMANDS_MAX);
            swarm.workers.push(spawn_worker(index, plans, config, run, &first_error, commands, receiver)?);
        }
        Ok(swarm)
    }

    /// Number of subscribers.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Sends a command to every worker. A worker that has panicked is reported by [`Swarm::finish`].
    pub(crate) fn send(&self, command: SwarmCommand) {
        for worker in &self.workers {
            let _ = worker.commands.send(command);
            let _ = worker.waker.wake();
        }
    }

    /// Whether all subscribers are subscribed.
    pub(crate) fn is_fully_subscribed(&self) -> bool {
        self.run.counters.subscribed.load(Ordering::Relaxed) == self.size
    }

    /// Takes the first error of a subscriber.
    pub(crate) fn take_error(&self) -> Option<ClientError> {
        if self.workers.iter().any(|worker| worker.thread.is_finished()) {
            return Some(ClientError::Io(io::Error::other("a subscriber thread exited")));
        }
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes all connections and merges the results.
    pub(crate) fn finish(mut self) -> io::Result<SwarmResult> {
        self.send(SwarmCommand::Finish);
        let mut result: Option<SwarmResult> = None;
        for worker in self.workers.drain(..) {
            let WorkerResult { tally, cost } =
                worker.thread.join().map_err(|_| io::Error::other("a subscriber thread panicked"))??;
            match &mut result {
                None => result = Some(SwarmResult { tally, cost }),
                Some(result) => {
                    result.tally.add(tally);
                    result.cost.add(&cost);
                }
            }
        }
        result.ok_or_else(|| io::Error::other("there were no subscribers"))
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.send(SwarmCommand::Finish);
    }
}

fn spawn_worker(
    index: usize,
    plans: Vec<SubscriberPlan>,
    config: &SwarmConfig,
    run: &Arc<Run>,
    first_error: &Arc<Mutex<Option<ClientError>>>,
    commands: SyncSender<SwarmCommand>,
    receiver: Receiver<SwarmCommand>,
) -> io::Result<WorkerHandle> {
    let mut tally =
        Tally::new(config.cohorts.iter().map(|(name, verified)| CohortTally::new(name, *verified)).collect());
    tally.add_subscribers(&plans);
    let worker =
        Worker::new(config, index, plans, Arc::clone(run), tally, Arc::clone(first_error), receiver)?;
    let waker = worker.waker();
    let thread = thread::Builder::new().name("subscribers".to_owned()).spawn(move || worker.run())?;
    Ok(WorkerHandle { thread, commands, waker })
}

/// Distributes the plans evenly.
fn distribute(plans: &[SubscriberPlan], threads: usize) -> Vec<Vec<SubscriberPlan>> {
    let threads = threads.clamp(1, plans.len().max(1));
    let mut shares = vec![Vec::new(); threads];
    for (index, plan) in plans.iter().enumerate() {
        shares[index % threads].push(*plan);
    }
    shares
}

/// Source addresses for connections over loopback, where every address of 127/8 is local: many connections do not
/// exhaust the ports of one address or collide with sockets of the previous run in TIME_WAIT.
#[derive(Clone, Copy, Debug)]
struct SourceAddresses {
    base: Option<(u8, u8)>,
    count: u32,
}

impl SourceAddresses {
    /// Connections per source address; Linux has about 28,000 ephemeral ports.
    const PER_ADDRESS: u32 = 10_000;

    fn new(target: &BenchTarget, run: &Run, worker: usize) -> Self {
        let address = target.address();
        let loopback = address.is_ipv4() && address.ip().is_loopback();
        let [_, _, high, low] = run.id.to_be_bytes();
        // 127.0.0.0/16 is reserved for servers.
        let worker = u8::try_from(worker).unwrap_or(u8::MAX);
        Self { base: loopback.then_some((1 + high % 250, low.wrapping_add(worker))), count: 0 }
    }

    fn next(&mut self) -> Option<Ipv4Addr> {
        let (second, third) = self.base?;
        let block = u8::try_from(self.count / Self::PER_ADDRESS % 250).unwrap_or(0);
        self.count = self.count.wrapping_add(1);
        Some(Ipv4Addr::new(127, second, third, 1 + block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Paths, TargetKind};

    #[test]
    fn loopback_connections_use_several_source_addresses() {
        let source_addresses = |url: &str| {
            let target = BenchTarget::new(TargetKind::Earshot, url.parse().unwrap(), Paths::default());
            let mut source_addresses = SourceAddresses::new(&target, &Run::new(128, Vec::new()), 0);
            let mut addresses: Vec<_> = (0..25_000).map(|_| source_addresses.next()).collect();
            addresses.dedup();
            addresses
        };
        let addresses = source_addresses("http://127.0.0.1:8000");
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| address.is_some_and(|address| address.is_loopback())));
        assert_eq!(source_addresses("http://[::1]:8000"), [None]);
        assert_eq!(source_addresses("http://192.0.2.1:8000"), [None]);
    }
}
