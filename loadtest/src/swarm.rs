//! The threads that carry the subscribers: one current-thread runtime each, so that thousands of connections share a
//! core without sharing anything else. Never publishes.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tokio::runtime;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use crate::client::{Client, ClientError, ClientPlan};
use crate::resources::{CpuClock, CpuShare};
use crate::tally::{Run, Subscriber, Tally};

/// Connections that a worker opens at once. More would overflow the listener's backlog and measure its retries.
const OPENING_AT_ONCE: usize = 128;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Measuring,
    Over,
}

/// All subscribers of a run.
#[derive(Debug)]
pub(crate) struct Swarm {
    workers: Vec<thread::JoinHandle<io::Result<Option<CpuShare>>>>,
    tallies: Vec<Arc<Mutex<Tally>>>,
    phase: watch::Sender<Phase>,
    ready: mpsc::Receiver<Result<(), ClientError>>,
    size: usize,
}

/// What a swarm heard, and what it cost.
#[derive(Debug)]
pub(crate) struct Heard {
    /// The accounts of all subscribers.
    pub(crate) tally: Tally,
    /// The busiest worker while messages were published.
    pub(crate) cpu: Option<CpuShare>,
}

impl Swarm {
    /// Starts to open the subscribers: pairs of the channel's index and the plan.
    pub(crate) fn start(plans: Vec<(u32, ClientPlan)>, run: &Arc<Run>, threads: usize) -> io::Result<Self> {
        let (phase, watching) = watch::channel(Phase::Opening);
        let (telling, ready) = mpsc::channel(1024);
        let size = plans.len();
        let mut swarm = Self { workers: Vec::new(), tallies: Vec::new(), phase, ready, size };
        for share in deal(plans, threads) {
            let tally = Arc::new(Mutex::new(Tally::default()));
            swarm.tallies.push(Arc::clone(&tally));
            let worker =
                Worker { run: Arc::clone(run), tally, ready: telling.clone(), phase: watching.clone() };
            let thread = thread::Builder::new().name("subscribers".to_owned());
            swarm.workers.push(thread.spawn(move || worker.work(share))?);
        }
        Ok(swarm)
    }

    /// Waits until everyone is subscribed, or somebody could not; `opened` is called for each.
    pub(crate) fn wait_until_open(&mut self, mut opened: impl FnMut()) -> Result<(), ClientError> {
        for _ in 0..self.size {
            let Some(outcome) = self.ready.blocking_recv() else {
                return Err(ClientError::Io(io::Error::other("a worker has ended")));
            };
            outcome?;
            opened();
        }
        Ok(())
    }

    /// Publishing begins.
    pub(crate) fn measure(&self) {
        self.phase.send_replace(Phase::Measuring);
    }

    /// Closes all connections and adds up what they heard.
    pub(crate) fn finish(self) -> io::Result<Heard> {
        self.phase.send_replace(Phase::Over);
        let mut heard = Heard { tally: Tally::default(), cpu: None };
        for worker in self.workers {
            let share = worker.join().map_err(|_| io::Error::other("a worker has panicked"))??;
            heard.cpu = heard.cpu.max_with(share);
        }
        for tally in &self.tallies {
            heard.tally.add(&tally.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(heard)
    }
}

/// The worse of two measurements, where there are any.
trait MaxWith {
    fn max_with(self, other: Self) -> Self;
}

impl MaxWith for Option<CpuShare> {
    fn max_with(self, other: Self) -> Self {
        match (self, other) {
            (Some(one), Some(other)) => Some(one.worst(other)),
            (one, other) => one.or(other),
        }
    }
}

/// Splits the plans evenly.
fn deal(plans: Vec<(u32, ClientPlan)>, threads: usize) -> Vec<Vec<(u32, ClientPlan)>> {
    let threads = threads.clamp(1, plans.len().max(1));
    let mut shares = vec![Vec::new(); threads];
    for (index, plan) in plans.into_iter().enumerate() {
        shares[index % threads].push(plan);
    }
    shares
}

struct Worker {
    run: Arc<Run>,
    tally: Arc<Mutex<Tally>>,
    ready: mpsc::Sender<Result<(), ClientError>>,
    phase: watch::Receiver<Phase>,
}

impl Worker {
    fn work(mut self, plans: Vec<(u32, ClientPlan)>) -> io::Result<Option<CpuShare>> {
        runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
            let gate = Arc::new(Semaphore::new(OPENING_AT_ONCE));
            let mut clients = JoinSet::new();
            for (channel, plan) in plans {
                let subscriber =
                    Subscriber::new(Arc::clone(&self.run), Arc::clone(&self.tally), channel, plan.transport);
                clients.spawn(live(plan, subscriber, Arc::clone(&gate), self.ready.clone()));
            }
            // A swarm that is gone ends its workers, too.
            let _ = self.phase.wait_for(|phase| *phase != Phase::Opening).await;
            let clock = CpuClock::start();
            let _ = self.phase.wait_for(|phase| *phase == Phase::Over).await;
            let share = clock.share();
            clients.shutdown().await;
            Ok(share)
        })
    }
}

/// One subscriber from its first packet to its last.
async fn live(
    plan: ClientPlan,
    subscriber: Subscriber,
    gate: Arc<Semaphore>,
    ready: mpsc::Sender<Result<(), ClientError>>,
) {
    let permit = gate.acquire().await;
    let opened = Box::pin(Client::open(&plan, &subscriber)).await;
    drop(permit);
    let (client, outcome) = match opened {
        Ok(client) => (Some(client), Ok(())),
        Err(error) => (None, Err(error)),
    };
    // Nobody listens any more when another one has failed.
    let _ = ready.send(outcome).await;
    drop(ready);
    if let Some(client) = client {
        let end = client.listen(&subscriber).await;
        subscriber.ended(&end);
    }
}
