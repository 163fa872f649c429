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

use crate::client::{ClientError, Plan};
use crate::resources::thread::CpuShare;
use crate::run::{Run, latencies};
use crate::tally::{Cohort, Tally};
use crate::target::Target;

mod seat;
mod timers;
mod worker;

use worker::Worker;

/// Orders that may wait for a worker.
const MAX_ORDERS: usize = 64;

/// What is known before the first connection.
#[derive(Clone, Debug)]
pub(crate) struct Muster {
    /// The server.
    pub(crate) target: Target,
    /// Who subscribes to what, and how.
    pub(crate) plans: Vec<Plan>,
    /// The names of the cohorts, and whether they are judged.
    pub(crate) cohorts: Vec<(&'static str, bool)>,
    /// How many threads carry them.
    pub(crate) threads: usize,
    /// Connections that are opened at once.
    pub(crate) at_once: usize,
    /// Bytes of the kernel's receive buffer of those who do not read at full pace.
    pub(crate) slow_buffer: usize,
    /// Who loses a connection comes back by itself, to where it stood.
    pub(crate) faithful: bool,
}

/// What workers are told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Order {
    /// Opens everyone who is not connected.
    Open(Opening),
    /// Lets every connection fall.
    Drop,
    /// Lets every connection fall, and forgets where it stood.
    Leave,
    /// From now on everyone reads at the pace of its plan.
    Pace,
    /// From now on everyone reads as fast as it can.
    Catch,
    /// Sets so many a second in motion, one after the other; 0 ends it.
    Churn(Churning, f64),
    /// The time that is judged begins: processor time is counted from here on.
    Measure,
    /// It ends; it may begin anew.
    EndMeasure,
    /// The end.
    Finish,
}

/// In which order and from when on connections are opened, and from when on they are waited for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Opening {
    /// One place after the other; each counts from when its place was free.
    AsItGoes,
    /// Everybody counts from now.
    Together,
    /// So many a second on each thread; each counts from when it was due.
    PerSecond(f64),
}

/// What a subscriber does that is set in motion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Churning {
    /// Gives its subscription up, and takes it up anew the next time.
    Toggle,
    /// Loses its connection, and comes back to where it stood.
    Reconnect,
}

/// All subscribers of a run.
#[derive(Debug)]
pub(crate) struct Swarm {
    run: Arc<Run>,
    workers: Vec<WorkerHandle>,
    trouble: Arc<Mutex<Option<ClientError>>>,
    size: u64,
}

#[derive(Debug)]
struct WorkerHandle {
    thread: thread::JoinHandle<io::Result<Account>>,
    orders: SyncSender<Order>,
    waker: Arc<Waker>,
}

/// What a worker says at its end.
#[derive(Debug)]
struct Account {
    tally: Tally,
    toll: Toll,
}

/// What it cost to hear it, so that a load test that measured itself can be told.
#[derive(Debug)]
pub(crate) struct Toll {
    /// The busiest thread over the whole time that is judged; where there were several, in the busiest of them.
    pub(crate) share: Option<CpuShare>,
    /// The busiest thread in its busiest second.
    pub(crate) worst: Option<CpuShare>,
    /// How late timers ran, in microseconds.
    pub(crate) timers: Histogram<u64>,
    /// How long the last of those who were ready together waited to be read, in microseconds.
    pub(crate) turns: Histogram<u64>,
}

impl Default for Toll {
    fn default() -> Self {
        Self { share: None, worst: None, timers: latencies(), turns: latencies() }
    }
}

impl Toll {
    fn add(&mut self, other: &Self) {
        self.share = CpuShare::worst_of(self.share, other.share);
        self.worst = CpuShare::worst_of(self.worst, other.worst);
        self.timers += &other.timers;
        self.turns += &other.turns;
    }
}

/// What a swarm heard, and what it cost.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The accounts of all subscribers.
    pub(crate) tally: Tally,
    /// What it cost.
    pub(crate) toll: Toll,
}

impl Swarm {
    /// Starts the threads; nobody is connected yet.
    pub(crate) fn start(muster: &Muster, run: &Arc<Run>) -> io::Result<Self> {
        let trouble = Arc::new(Mutex::new(None));
        let mut swarm = Self {
            run: Arc::clone(run),
            workers: Vec::new(),
            trouble: Arc::clone(&trouble),
            size: muster.plans.len() as u64,
        };
        for (index, plans) in deal(&muster.plans, muster.threads).into_iter().enumerate() {
            let (orders, taking) = mpsc::sync_channel(MAX_ORDERS);
            swarm.workers.push(start(index, plans, muster, run, &trouble, orders, taking)?);
        }
        Ok(swarm)
    }

    /// How many subscribers there are.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Tells every worker. A worker that has panicked is noticed at the end.
    pub(crate) fn order(&self, order: Order) {
        for worker in &self.workers {
            let _ = worker.orders.send(order);
            let _ = worker.waker.wake();
        }
    }

    /// Whether everybody is subscribed.
    pub(crate) fn is_open(&self) -> bool {
        self.run.counters.subscribed.load(Ordering::Relaxed) == self.size
    }

    /// Why somebody could not be had, the first time this is asked.
    pub(crate) fn trouble(&self) -> Option<ClientError> {
        if self.workers.iter().any(|worker| worker.thread.is_finished()) {
            return Some(ClientError::Io(io::Error::other("a thread of subscribers has ended")));
        }
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Closes all connections and adds up what they heard.
    pub(crate) fn finish(mut self) -> io::Result<Heard> {
        self.order(Order::Finish);
        let mut heard: Option<Heard> = None;
        for worker in self.workers.drain(..) {
            let Account { tally, toll } = worker
                .thread
                .join()
                .map_err(|_| io::Error::other("a thread of subscribers has panicked"))??;
            match &mut heard {
                None => heard = Some(Heard { tally, toll }),
                Some(heard) => {
                    heard.tally.add(tally);
                    heard.toll.add(&toll);
                }
            }
        }
        heard.ok_or_else(|| io::Error::other("there were no subscribers"))
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        self.order(Order::Finish);
    }
}

fn start(
    index: usize,
    plans: Vec<Plan>,
    muster: &Muster,
    run: &Arc<Run>,
    trouble: &Arc<Mutex<Option<ClientError>>>,
    orders: SyncSender<Order>,
    taking: Receiver<Order>,
) -> io::Result<WorkerHandle> {
    let mut tally =
        Tally::new(muster.cohorts.iter().map(|(name, judged)| Cohort::new(name, *judged)).collect());
    tally.seat(&plans);
    let worker = Worker::new(muster, index, plans, Arc::clone(run), tally, Arc::clone(trouble), taking)?;
    let waker = worker.waker();
    let thread = thread::Builder::new().name("subscribers".to_owned()).spawn(move || worker.work())?;
    Ok(WorkerHandle { thread, orders, waker })
}

/// Splits the plans evenly.
fn deal(plans: &[Plan], threads: usize) -> Vec<Vec<Plan>> {
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
struct Sources {
    base: Option<(u8, u8)>,
    dialled: u32,
}

impl Sources {
    /// Connections from one address; the ports of Linux suffice for about 28,000.
    const PER_ADDRESS: u32 = 10_000;

    fn new(target: &Target, run: &Run, worker: usize) -> Self {
        let address = target.address();
        let loopback = address.is_ipv4() && address.ip().is_loopback();
        let [_, _, high, low] = run.id.to_be_bytes();
        // 127.0.0.0/16 is left to the servers.
        let worker = u8::try_from(worker).unwrap_or(u8::MAX);
        Self { base: loopback.then_some((1 + high % 250, low.wrapping_add(worker))), dialled: 0 }
    }

    fn next(&mut self) -> Option<Ipv4Addr> {
        let (second, third) = self.base?;
        let block = u8::try_from(self.dialled / Self::PER_ADDRESS % 250).unwrap_or(0);
        self.dialled = self.dialled.wrapping_add(1);
        Some(Ipv4Addr::new(127, second, third, 1 + block))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::{Kind, Paths};

    #[test]
    fn connections_on_loopback_are_spread_over_its_addresses() {
        let sources = |url: &str| {
            let target = Target::new(Kind::Earshot, url.parse().unwrap(), Paths::default());
            let mut sources = Sources::new(&target, &Run::new(128, Vec::new()), 0);
            let mut addresses: Vec<_> = (0..25_000).map(|_| sources.next()).collect();
            addresses.dedup();
            addresses
        };
        let addresses = sources("http://127.0.0.1:8000");
        assert_eq!(addresses.len(), 3);
        assert!(addresses.iter().all(|address| address.is_some_and(|address| address.is_loopback())));
        assert_eq!(sources("http://[::1]:8000"), [None]);
        assert_eq!(sources("http://192.0.2.1:8000"), [None]);
    }
}
