//! The threads that carry the subscribers. Each has a poll of its own and owns its connections outright, so that
//! thousands of them share a core without sharing anything else. Never publishes.

use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use hdrhistogram::Histogram;
use mio::Waker;

use crate::client::{ClientError, SubscriberPlan};
use crate::resources::thread::CpuShare;
use crate::run::{Run, latencies};
use crate::tally::{CohortTally, Tally};
use crate::target::Target;

mod subscriber;
mod timers;
mod worker;

use worker::Worker;

/// Orders that may wait for a worker.
const COMMANDS_MAX: usize = 64;

/// What is known before the first connection.
#[derive(Clone, Debug)]
pub(crate) struct SwarmConfig {
    /// The server.
    pub(crate) target: Target,
    /// Who subscribes to what, and how.
    pub(crate) plans: Vec<SubscriberPlan>,
    /// The names of the cohorts, and whether they are verified.
    pub(crate) cohorts: Vec<(&'static str, bool)>,
    /// How many threads carry them.
    pub(crate) threads: usize,
    /// Connections that are opened at once.
    pub(crate) connect_concurrency: usize,
    /// Bytes of the kernel's receive buffer of those who do not read at full pace.
    pub(crate) slow_buffer: usize,
    /// Who loses a connection comes back by itself, to where it stood.
    pub(crate) faithful: bool,
}

/// What workers are told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SwarmCommand {
    /// Opens everyone who is not connected.
    Connect(ConnectMode),
    /// Lets every connection fall.
    Disconnect,
    /// Lets every connection fall, and forgets where it stood.
    Reset,
    /// From now on everyone reads at the pace of its plan.
    ThrottleReads,
    /// From now on everyone reads as fast as it can.
    UnthrottleReads,
    /// Sets so many a second in motion, one after the other; 0 ends it.
    Churn(ChurnKind, f64),
    /// The time that is verified begins: processor time is counted from here on.
    StartMeasuring,
    /// It ends; it may begin anew.
    StopMeasuring,
    /// The end.
    Finish,
}

/// In which order and from when on connections are opened, and from when on they are waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ConnectMode {
    /// One place after the other; each counts from when its place was free.
    Unpaced,
    /// Everybody counts from now.
    Simultaneous,
    /// So many a second on each thread; each counts from when it was due.
    PerSecond(f64),
}

/// What a subscriber does that is set in motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChurnKind {
    /// Gives its subscription up, and takes it up anew the next time.
    Resubscribe,
    /// Loses its connection, and comes back to where it stood.
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

/// What a worker says at its end.
#[derive(Debug)]
struct WorkerResult {
    tally: Tally,
    cost: GeneratorCost,
}

/// What it cost to hear it, so that a load test that measured itself can be told.
#[derive(Debug)]
pub(crate) struct GeneratorCost {
    /// The busiest thread finished the whole time that is verified; where there were several, in the busiest of them.
    pub(crate) share: Option<CpuShare>,
    /// The busiest thread in its busiest second.
    pub(crate) worst_second: Option<CpuShare>,
    /// How late timers ran, in microseconds.
    pub(crate) timer_delay: Histogram<u64>,
    /// How long the last of those who were ready together waited to be read, in microseconds.
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

/// What a swarm result, and what it cost.
#[derive(Debug)]
pub(crate) struct SwarmResult {
    /// The accounts of all subscribers.
    pub(crate) tally: Tally,
    /// What it cost.
    pub(crate) cost: GeneratorCost,
}

impl Swarm {
    /// Starts the threads; nobody is connected yet.
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

    /// How many subscribers there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Tells every worker. A worker that has panicked is noticed at the end.
    pub(crate) fn send(&self, command: SwarmCommand) {
        for worker in &self.workers {
            let _ = worker.commands.send(command);
            let _ = worker.waker.wake();
        }
    }

    /// Whether everybody is subscribed.
    pub(crate) fn is_open(&self) -> bool {
        self.run.counters.subscribed.load(Ordering::Relaxed) == self.size
    }

    /// Why somebody could not be had, the first time this is asked.
    pub(crate) fn take_error(&self) -> Option<ClientError> {
        if self.workers.iter().any(|worker| worker.thread.is_finished()) {
            return Some(ClientError::Io(io::Error::other("a thread of subscribers has ended")));
        }
        self.first_error.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes all connections and adds up what they result.
    pub(crate) fn finish(mut self) -> io::Result<SwarmResult> {
        self.send(SwarmCommand::Finish);
        let mut result: Option<SwarmResult> = None;
        for worker in self.workers.drain(..) {
            let WorkerResult { tally, cost } = worker
                .thread
                .join()
                .map_err(|_| io::Error::other("a thread of subscribers has panicked"))??;
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

/// Splits the plans evenly.
fn distribute(plans: &[SubscriberPlan], threads: usize) -> Vec<Vec<SubscriberPlan>> {
    let threads = threads.clamp(1, plans.len().max(1));
    let mut shares = vec![Vec::new(); threads];
    for (index, plan) in plans.iter().enumerate() {
        shares[index % threads].push(*plan);
    }
    shares
}

/// Local addresses for many connections. On loopback every address of 127/8 is ours, so that many connections need
/// not share one's ports, and those of the run before do not stand in the way of this one.
#[derive(Clone, Copy, Debug)]
struct SourceAddresses {
    base: Option<(u8, u8)>,
    count: u32,
}

impl SourceAddresses {
    /// Connections from one address; the ports of Linux suffice for about 28,000.
    const PER_ADDRESS: u32 = 10_000;

    fn new(target: &Target, run: &Run, worker: usize) -> Self {
        let address = target.address();
        let loopback = address.is_ipv4() && address.ip().is_loopback();
        let [_, _, high, low] = run.id.to_be_bytes();
        // 127.0.0.0/16 is left to the servers.
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
    fn connections_on_loopback_are_spread_over_its_addresses() {
        let source_addresses = |url: &str| {
            let target = Target::new(TargetKind::Earshot, url.parse().unwrap(), Paths::default());
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
