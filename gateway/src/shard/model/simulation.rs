//! One case: the gateway, its clients, and the steps that the seed determines.
//!
//! Owns the order of steps. Calls of the broker do not overlap: they are made from one view.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use fastrand::Rng;
use tokio::runtime::Runtime;

use super::client::{Client, Context, Trace};
use super::gateway::{Gateway, SHARDS};
use super::parameters::{PUBLICATION_BYTES, Parameters, Scenario};
use super::truth::{CheckResult, Truth, payload};
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic};
use crate::node::IngestSteps;
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::shard::timer_wheel::TICK;

/// Maximum number of rounds until nothing is in flight.
const ROUNDS: usize = 3000;

/// Rounds, of one tick each, without anything to do after which nothing is in flight.
const QUIET: usize = 8;

/// A call of the broker in progress.
enum Call {
    None,
    Received(usize, Vec<Vec<Arc<Publication>>>),
    Lost(Vec<Vec<ChannelGap>>),
}

pub(super) struct Simulation<'a> {
    parameters: Parameters,
    rng: Rng,
    clock: &'a Runtime,
    gateway: Gateway,
    truth: Truth,
    clients: Vec<Client>,
    call: Call,
    /// The broker receives nothing and does not know it yet.
    link_down: bool,
    /// The number of 256 steps that the first shard gets.
    first_shard: u8,
    pub(super) trace: Trace,
}

impl<'a> Simulation<'a> {
    pub(super) fn new(seed: u64, scenario: Scenario, clock: &'a Runtime, trace: Trace) -> Self {
        // The random generator that the production code uses.
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let parameters = Parameters::draw(&mut rng, scenario);
        let names = (0..parameters.channels)
            .map(|channel| ChannelName::parse(parameters.name(channel)).unwrap())
            .collect();
        let clients = (0..parameters.clients).map(|id| Client::new(id, &parameters, &mut rng)).collect();
        Self {
            gateway: Gateway::new(&parameters),
            truth: Truth::new(names),
            clients,
            call: Call::None,
            link_down: false,
            first_shard: 128,
            parameters,
            rng,
            clock,
            trace,
        }
    }

    /// Runs the case.
    pub(super) fn run(&mut self) -> CheckResult {
        self.trace.record(|| format!("{:#?}", self.parameters));
        for _ in 0..self.parameters.steps {
            self.step()?;
        }
        self.settle()?;
        self.check_quiescent(false)?;
        // Publications that meet no limit and no fault must be delivered to every subscriber.
        for channel in 0..self.parameters.channels {
            self.publish(channel, 0);
        }
        self.flush();
        self.settle()?;
        self.check_quiescent(true)
    }

    fn check_quiescent(&self, strictly: bool) -> CheckResult {
        self.clients.iter().try_for_each(|client| client.check_quiescent(&self.truth, strictly))
    }

    fn step(&mut self) -> CheckResult {
        let idle = |of: u8, rng: &mut Rng| rng.u8(..8) < of;
        match self.rng.u8(..) {
            0..80 if idle(self.parameters.idle_clients, &mut self.rng) => {}
            100..150 if idle(self.parameters.idle_shards, &mut self.rng) => {}
            150..190 if idle(self.parameters.idle_node, &mut self.rng) => {}
            0..80 => return self.step_client(),
            80..100 => {
                let client = self.rng.usize(..self.clients.len());
                self.clients[client].deliver_sent(&mut self.gateway);
            }
            100..150 => self.step_shard(),
            150..190 => {
                let shard = self.shard();
                if self.gateway.shards[shard].forward_request() {
                    self.trace.record(|| format!("the node works for shard {shard}"));
                }
                self.truth.learn(&self.gateway.registry);
            }
            190..238 => self.step_broker(),
            238..244 => self.advance_time(),
            244..248 => self.first_shard = self.rng.u8(..),
            248.. => self.inject_fault(),
        }
        Ok(())
    }

    fn shard(&mut self) -> usize {
        usize::from(self.rng.u8(..) > self.first_shard)
    }

    fn step_client(&mut self) -> CheckResult {
        let client = self.rng.usize(..self.clients.len());
        let mut context = Context {
            gateway: &mut self.gateway,
            truth: &self.truth,
            parameters: &self.parameters,
            rng: &mut self.rng,
            trace: &mut self.trace,
        };
        self.clients[client].act(&mut context)
    }

    fn step_shard(&mut self) {
        let id = self.shard();
        let shard = &mut self.gateway.shards[id];
        match self.rng.u8(..16) {
            0..6 => {
                self.trace.record(|| format!("shard {id} takes one delivery"));
                shard.deliver_one();
            }
            6..9 => {
                self.trace.record(|| format!("shard {id} takes all deliveries"));
                shard.deliver_all();
            }
            9 => {
                self.trace.record(|| format!("shard {id} takes all deliveries, having found none"));
                shard.deliver_after_empty();
            }
            10..15 => {
                shard.wake();
            }
            _ => shard.on_tick(),
        }
    }

    fn step_broker(&mut self) {
        match std::mem::replace(&mut self.call, Call::None) {
            Call::None if self.link_down => {
                let channel = self.rng.usize(..self.parameters.channels);
                if self.rng.u8(..4) > 0 {
                    let number = self.truth.publish(channel);
                    self.trace.record(|| format!("{number} of channel {channel} is lost"));
                } else {
                    self.report_loss();
                }
            }
            Call::None => {
                let messages = self.rng.usize(1..=self.parameters.burst);
                self.call = Call::Received(messages, vec![Vec::new(); SHARDS]);
            }
            Call::Received(0, mut batches) => {
                self.trace.record(|| "the node hands over".to_owned());
                self.gateway.registry.step_flush(&mut batches);
            }
            Call::Received(messages, batches) => {
                self.call = Call::Received(messages - 1, batches);
                let channel = self.rng.usize(..self.parameters.channels);
                let faulty = self.parameters.scenario == Scenario::Faulty;
                let extra = if faulty && self.rng.u8(..30) == 0 { PUBLICATION_BYTES } else { 0 };
                self.publish(channel, extra);
            }
            Call::Lost(gaps) => {
                self.trace.record(|| "the node reports the loss".to_owned());
                self.gateway.registry.step_send_gaps(gaps);
            }
        }
    }

    fn finish_call(&mut self) {
        while !matches!(self.call, Call::None) {
            self.step_broker();
        }
    }

    fn publish(&mut self, channel: usize, extra: usize) {
        let number = self.truth.publish(channel);
        self.trace.record(|| format!("{number} of channel {channel} is received (padded by {extra})"));
        let data = payload(number, self.parameters.padding + extra);
        let message = BrokerMessage { channel: self.truth.names[channel].to_string(), data };
        if let Call::None = self.call {
            self.call = Call::Received(0, vec![Vec::new(); SHARDS]);
        }
        if let Call::Received(_, batches) = &mut self.call {
            self.gateway.registry.step_sequence(message, batches);
        }
        self.truth.learn(&self.gateway.registry);
    }

    fn flush(&mut self) {
        if let Call::Received(_, mut batches) = std::mem::replace(&mut self.call, Call::None) {
            self.gateway.registry.step_flush(&mut batches);
        }
    }

    /// The broker receives again and reports the loss.
    fn report_loss(&mut self) {
        self.link_down = false;
        let names = self.truth.names.iter();
        let topics = if self.rng.bool() {
            AffectedTopics::All
        } else {
            AffectedTopics::Some(names.map(|name| Topic::Channel(name.clone())).collect())
        };
        self.trace.record(|| format!("the link was down: {topics:?}"));
        self.call = Call::Lost(self.gateway.registry.step_start_gap(&topics, GapCause::LinkDown));
        self.truth.learn(&self.gateway.registry);
    }

    fn advance_time(&mut self) {
        // A call takes no time, so publications do not expire between stamping and handover.
        self.finish_call();
        let long = self.rng.u8(..8) == 0;
        let ms = self.rng.u64(10..if long { 20_000 } else { 1000 });
        self.wait(Duration::from_millis(ms));
    }

    fn wait(&mut self, time: Duration) {
        self.trace.record(|| format!("{time:?} pass"));
        self.clock.block_on(tokio::time::advance(time));
        self.gateway.registry.step_expire();
        self.gateway.shards.iter_mut().for_each(super::gateway::ShardSteps::on_tick);
    }

    fn inject_fault(&mut self) {
        if self.parameters.scenario == Scenario::Unlimited {
            return;
        }
        let shard = self.shard();
        match self.rng.u8(..3) {
            0 if self.parameters.scenario == Scenario::Faulty && matches!(self.call, Call::None) => {
                self.trace.record(|| "the link is down".to_owned());
                self.link_down = true;
            }
            _ => {
                self.trace.record(|| format!("shard {shard} has used up its notices"));
                self.gateway.shards[shard].use_up_resubscribes();
            }
        }
    }

    /// Completes everything in flight; every client reconnects.
    fn settle(&mut self) -> CheckResult {
        self.trace.record(|| "all comes to rest".to_owned());
        self.finish_call();
        if self.link_down {
            self.report_loss();
            self.step_broker();
        }
        let mut quiet = 0;
        for _ in 0..ROUNDS {
            quiet = if self.settle_once()? { 0 } else { quiet + 1 };
            self.wait(TICK);
            if quiet == QUIET {
                return Ok(());
            }
        }
        Err("it never comes to rest".to_owned())
    }

    fn settle_once(&mut self) -> CheckResult<bool> {
        let mut busy = false;
        for client in &mut self.clients {
            let mut context = Context {
                gateway: &mut self.gateway,
                truth: &self.truth,
                parameters: &self.parameters,
                rng: &mut self.rng,
                trace: &mut self.trace,
            };
            busy |= client.settle(&mut context)?;
            busy |= client.deliver_sent(&mut self.gateway);
        }
        for shard in &mut self.gateway.shards {
            while shard.forward_request() | shard.deliver_all() | shard.wake() {
                busy = true;
                self.truth.learn(&self.gateway.registry);
            }
        }
        Ok(busy)
    }
}
