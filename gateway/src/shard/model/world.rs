//! One case: the gateway, its clients, and what happens to them, step by step as the seed has it.
//!
//! Owns the order of steps and the moments of truth. Must never let two calls of the broker overlap: it makes them
//! from one place.

use std::sync::Arc;
use std::time::Duration;

use earshot_protocol::ChannelName;
use fastrand::Rng;
use tokio::runtime::Runtime;

use super::client::{Around, Client, Story};
use super::gateway::{Gateway, SHARDS};
use super::rules::{PUBLICATION_BYTES, Rules, Weather};
use super::truth::{Truth, Verdict, payload};
use crate::broker::{AffectedTopics, BrokerMessage, GapCause, Topic};
use crate::node::messages::ChannelGap;
use crate::node::publication::Publication;
use crate::shard::wheel::TICK;

/// Rounds in which everything must have come to rest.
const ROUNDS: usize = 3000;

/// Rounds without anything to do, each a tick, after which it has.
const QUIET: usize = 8;

/// What the broker is in the middle of telling the node.
enum Call {
    None,
    Heard(usize, Vec<Vec<Arc<Publication>>>),
    Lost(Vec<Vec<ChannelGap>>),
}

pub(super) struct World<'a> {
    rules: Rules,
    rng: Rng,
    clock: &'a Runtime,
    gateway: Gateway,
    truth: Truth,
    clients: Vec<Client>,
    call: Call,
    /// The broker hears nothing, and does not know it yet.
    deaf: bool,
    /// Of 256 steps, those that the first shard gets.
    first_shard: u8,
    pub(super) story: Story,
}

impl<'a> World<'a> {
    pub(super) fn new(seed: u64, weather: Weather, clock: &'a Runtime, story: Story) -> Self {
        // The production code's own dice.
        fastrand::seed(seed);
        let mut rng = Rng::with_seed(seed);
        let rules = Rules::draw(&mut rng, weather);
        let names =
            (0..rules.channels).map(|channel| ChannelName::parse(rules.name(channel)).unwrap()).collect();
        let clients = (0..rules.clients).map(|id| Client::new(id, &rules, &mut rng)).collect();
        Self {
            gateway: Gateway::new(&rules),
            truth: Truth::new(names),
            clients,
            call: Call::None,
            deaf: false,
            first_shard: 128,
            rules,
            rng,
            clock,
            story,
        }
    }

    /// The case from its beginning to its end.
    pub(super) fn run(&mut self) -> Verdict {
        self.story.tell(|| format!("{:#?}", self.rules));
        for _ in 0..self.rules.steps {
            self.step()?;
        }
        self.settle()?;
        self.at_rest(false)?;
        // What nothing stands in the way of must come, to everybody.
        for channel in 0..self.rules.channels {
            self.publish(channel, 0);
        }
        self.flush();
        self.settle()?;
        self.at_rest(true)
    }

    fn at_rest(&self, strictly: bool) -> Verdict {
        self.clients.iter().try_for_each(|client| client.at_rest(&self.truth, strictly))
    }

    fn step(&mut self) -> Verdict {
        let idle = |of: u8, rng: &mut Rng| rng.u8(..8) < of;
        match self.rng.u8(..) {
            0..80 if idle(self.rules.idle_clients, &mut self.rng) => {}
            100..150 if idle(self.rules.idle_shards, &mut self.rng) => {}
            150..190 if idle(self.rules.idle_node, &mut self.rng) => {}
            0..80 => return self.client_acts(),
            80..100 => {
                let client = self.rng.usize(..self.clients.len());
                self.clients[client].arrive(&mut self.gateway);
            }
            100..150 => self.shard_turns(),
            150..190 => {
                let shard = self.shard();
                if self.gateway.shards[shard].ask_one() {
                    self.story.tell(|| format!("the node works for shard {shard}"));
                }
                self.truth.learn(&self.gateway.registry);
            }
            190..238 => self.broker_speaks(),
            238..244 => self.time_passes(),
            244..248 => self.first_shard = self.rng.u8(..),
            248.. => self.trouble(),
        }
        Ok(())
    }

    fn shard(&mut self) -> usize {
        usize::from(self.rng.u8(..) > self.first_shard)
    }

    fn client_acts(&mut self) -> Verdict {
        let client = self.rng.usize(..self.clients.len());
        let mut around = Around {
            gateway: &mut self.gateway,
            truth: &self.truth,
            rules: &self.rules,
            rng: &mut self.rng,
            story: &mut self.story,
        };
        self.clients[client].act(&mut around)
    }

    fn shard_turns(&mut self) {
        let id = self.shard();
        let shard = &mut self.gateway.shards[id];
        match self.rng.u8(..16) {
            0..6 => {
                self.story.tell(|| format!("shard {id} takes one delivery"));
                shard.deliver_one();
            }
            6..9 => {
                self.story.tell(|| format!("shard {id} takes all deliveries"));
                shard.deliver_all();
            }
            9 => {
                self.story.tell(|| format!("shard {id} takes all deliveries, having found none"));
                shard.deliver_late();
            }
            10..15 => {
                shard.wake();
            }
            _ => shard.tick(),
        }
    }

    fn broker_speaks(&mut self) {
        match std::mem::replace(&mut self.call, Call::None) {
            Call::None if self.deaf => {
                let channel = self.rng.usize(..self.rules.channels);
                if self.rng.u8(..4) > 0 {
                    let number = self.truth.publish(channel);
                    self.story.tell(|| format!("{number} of channel {channel} goes unheard"));
                } else {
                    self.lose();
                }
            }
            Call::None => {
                let messages = self.rng.usize(1..=self.rules.burst);
                self.call = Call::Heard(messages, vec![Vec::new(); SHARDS]);
            }
            Call::Heard(0, mut batches) => {
                self.story.tell(|| "the node hands over".to_owned());
                self.gateway.registry.step_flush(&mut batches);
            }
            Call::Heard(messages, batches) => {
                self.call = Call::Heard(messages - 1, batches);
                let channel = self.rng.usize(..self.rules.channels);
                let rough = self.rules.weather == Weather::Rough;
                let extra = if rough && self.rng.u8(..30) == 0 { PUBLICATION_BYTES } else { 0 };
                self.publish(channel, extra);
            }
            Call::Lost(gaps) => {
                self.story.tell(|| "the node tells of the loss".to_owned());
                self.gateway.registry.step_send_gaps(gaps);
            }
        }
    }

    fn finish_call(&mut self) {
        while !matches!(self.call, Call::None) {
            self.broker_speaks();
        }
    }

    fn publish(&mut self, channel: usize, extra: usize) {
        let number = self.truth.publish(channel);
        self.story.tell(|| format!("{number} of channel {channel} is heard (padded by {extra})"));
        let data = payload(number, self.rules.padding + extra);
        let message = BrokerMessage { channel: self.truth.names[channel].to_string(), data };
        if let Call::None = self.call {
            self.call = Call::Heard(0, vec![Vec::new(); SHARDS]);
        }
        if let Call::Heard(_, batches) = &mut self.call {
            self.gateway.registry.step_sequence(message, batches);
        }
        self.truth.learn(&self.gateway.registry);
    }

    fn flush(&mut self) {
        if let Call::Heard(_, mut batches) = std::mem::replace(&mut self.call, Call::None) {
            self.gateway.registry.step_flush(&mut batches);
        }
    }

    /// The broker hears again, and knows that it did not.
    fn lose(&mut self) {
        self.deaf = false;
        let names = self.truth.names.iter();
        let topics = if self.rng.bool() {
            AffectedTopics::All
        } else {
            AffectedTopics::Some(names.map(|name| Topic::Channel(name.clone())).collect())
        };
        self.story.tell(|| format!("the broker was deaf: {topics:?}"));
        self.call = Call::Lost(self.gateway.registry.step_start_gap(&topics, GapCause::LinkDown));
        self.truth.learn(&self.gateway.registry);
    }

    fn time_passes(&mut self) {
        // A call takes no time: what is stamped is handed over long before anything can grow old.
        self.finish_call();
        let long = self.rng.u8(..8) == 0;
        let ms = self.rng.u64(10..if long { 20_000 } else { 1000 });
        self.wait(Duration::from_millis(ms));
    }

    fn wait(&mut self, time: Duration) {
        self.story.tell(|| format!("{time:?} pass"));
        self.clock.block_on(tokio::time::advance(time));
        self.gateway.registry.step_expire();
        self.gateway.shards.iter_mut().for_each(super::gateway::ShardSteps::tick);
    }

    fn trouble(&mut self) {
        if self.rules.weather == Weather::Calm {
            return;
        }
        let shard = self.shard();
        match self.rng.u8(..3) {
            0 if self.rules.weather == Weather::Rough && matches!(self.call, Call::None) => {
                self.story.tell(|| "the broker is deaf".to_owned());
                self.deaf = true;
            }
            _ => {
                self.story.tell(|| format!("shard {shard} has used up its notices"));
                self.gateway.shards[shard].use_up_notices();
            }
        }
    }

    /// Everything that is under way comes to its end, and every client comes back.
    fn settle(&mut self) -> Verdict {
        self.story.tell(|| "all comes to rest".to_owned());
        self.finish_call();
        if self.deaf {
            self.lose();
            self.broker_speaks();
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

    fn settle_once(&mut self) -> Verdict<bool> {
        let mut busy = false;
        for client in &mut self.clients {
            let mut around = Around {
                gateway: &mut self.gateway,
                truth: &self.truth,
                rules: &self.rules,
                rng: &mut self.rng,
                story: &mut self.story,
            };
            busy |= client.settle(&mut around)?;
            busy |= client.arrive(&mut self.gateway);
        }
        for shard in &mut self.gateway.shards {
            while shard.ask_one() | shard.deliver_all() | shard.wake() {
                busy = true;
                self.truth.learn(&self.gateway.registry);
            }
        }
        Ok(busy)
    }
}
