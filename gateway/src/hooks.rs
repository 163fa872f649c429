//! Hooks: requests to the backend of the application, which decides what a client may do or answers its calls.
//!
//! The requests and answers have the shape of Centrifugo's proxies. Must never decide a permission: an answer is an
//! input of [`crate::auth::Authorizer`].
//!
//! - [`Hooks`]: sends questions, with a cache of decisions and one request for equal questions.
//! - [`HookRequest`], [`HookQuestion`]: the questions; [`HookOutcome`], [`HookReply`]: the answers.
//! - [`HookSettings`], [`HookLimits`]: URLs, forwarded fields, bounds.
//! - `client`: sends requests: `pool`, `breaker`, retries; `protocol`: bodies; `cache`: decisions; `metrics`.

mod breaker;
mod cache;
mod client;
mod error;
mod metrics;
mod pool;
mod protocol;
mod question;
mod settings;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::drain::Drain;
use cache::{DecisionCache, DecisionKey, Flight};
use client::HookClient;

pub use metrics::HookMetrics;
pub use question::{
    ChannelAnswers, ChannelQuestion, HookDisconnect, HookFailure, HookOutcome, HookQuestion, HookReply,
    HookRequest, HookedClient,
};
pub use settings::{HookEvent, HookLimits, HookSettings, HookSigner, HookUrls};

/// How long the questions of one connection are collected for one request: a client sends its commands together.
const BATCH_WINDOW: Duration = Duration::from_millis(2);

/// Asks the hooks of a configuration.
#[derive(Debug)]
pub struct Hooks {
    client: Arc<HookClient>,
    decisions: Arc<Mutex<DecisionCache>>,
    /// The questions that wait for others of the same connection, by its id.
    batches: Arc<Mutex<HashMap<String, Batch>>>,
    drain: Drain,
}

/// A question that is being asked.
type Asked = (ChannelQuestion, Flight);

/// Questions of one connection.
#[derive(Debug)]
struct Batch {
    client: HookedClient,
    asked: Vec<Asked>,
}

impl Hooks {
    /// Asks with these settings and this TLS configuration.
    pub fn new(settings: HookSettings, tls: Arc<rustls::ClientConfig>, drain: Drain) -> Arc<Self> {
        let decisions = Arc::new(Mutex::new(DecisionCache::new(settings.limits.cache)));
        Arc::new(Self {
            client: Arc::new(HookClient::new(settings, tls)),
            decisions,
            batches: Arc::default(),
            drain,
        })
    }

    /// Whether an event has a hook.
    pub fn has(&self, event: HookEvent) -> bool {
        self.settings().urls.of(event).is_some()
    }

    /// The settings.
    pub fn settings(&self) -> &HookSettings {
        self.client.settings()
    }

    /// Counters of the requests.
    pub fn metrics(&self) -> &HookMetrics {
        self.client.metrics()
    }

    /// Asks a question.
    pub async fn ask(&self, request: HookRequest) -> HookOutcome {
        let HookRequest { client, question } = request;
        match question {
            HookQuestion::Connect { token } => HookOutcome::Login(self.client.connect(&client, &token).await),
            HookQuestion::Subscribe(channels) => {
                HookOutcome::Channels(self.may_subscribe(&client, channels).await)
            }
            HookQuestion::Publish { channel, data } => {
                HookOutcome::Publish(self.client.publish(&client, &channel, &data).await)
            }
            HookQuestion::Rpc { method, data } => {
                HookOutcome::Rpc(self.client.rpc(&client, &method, &data).await)
            }
        }
    }

    /// The answers for the channels that a client requests, with at most one request; commands of one connection that
    /// arrive within [`BATCH_WINDOW`] share it. Equal questions share an answer: from the cache, or from the request
    /// that is already in flight.
    async fn may_subscribe(&self, client: &HookedClient, questions: Vec<ChannelQuestion>) -> ChannelAnswers {
        let mut answers = ChannelAnswers::default();
        let (mut waiting, mut asked) = (Vec::new(), Vec::new());
        let metrics = self.metrics();
        {
            let mut decisions = lock(&self.decisions);
            for question in questions {
                let key = DecisionKey::new(client, &question);
                let channel = question.channel.clone();
                if let Some(answer) = decisions.find(&key, Instant::now()) {
                    metrics.count_cached();
                    answers.push(channel, answer);
                } else if let Some(answer) = decisions.waiting(&key) {
                    metrics.count_shared();
                    waiting.push((channel, answer));
                } else {
                    let (flight, answer) = decisions.begin(key);
                    waiting.push((channel, answer));
                    asked.push((question, flight));
                }
            }
        }
        if !asked.is_empty() {
            self.ask_together(Batch { client: client.clone(), asked });
        }
        for (channel, mut answer) in waiting {
            let answer = answer.wait_for(Option::is_some).await.ok().and_then(|answer| answer.clone());
            answers.push(channel, answer.unwrap_or(HookReply::Unavailable));
        }
        answers
    }

    fn spawn(&self, batch: Batch) {
        let (backend, decisions) = (Arc::clone(&self.client), Arc::clone(&self.decisions));
        self.drain.spawn(ask(backend, decisions, batch, self.drain.clone()));
    }

    /// Asks questions together with those that the same connection asks now. In a task of its own: others may wait for
    /// the answer when this client is gone.
    fn ask_together(&self, batch: Batch) {
        let id = batch.client.id.clone();
        if id.is_empty() {
            // All channels of a connect command or of an event stream: no others follow.
            return self.spawn(batch);
        }
        let mut batches = lock(&self.batches);
        match batches.get_mut(&id) {
            Some(waiting) if Arc::ptr_eq(&waiting.client.identity, &batch.client.identity) => {
                waiting.asked.extend(batch.asked);
                return;
            }
            // The connection has another login now: its questions must not mix.
            Some(_) => {
                drop(batches);
                return self.spawn(batch);
            }
            None => batches.insert(id.clone(), batch),
        };
        drop(batches);
        let (backend, decisions) = (Arc::clone(&self.client), Arc::clone(&self.decisions));
        let (batches, drain) = (Arc::clone(&self.batches), self.drain.clone());
        self.drain.spawn(async move {
            tokio::time::sleep(BATCH_WINDOW).await;
            let batch = lock(&batches).remove(&id);
            if let Some(batch) = batch {
                ask(backend, decisions, batch, drain).await;
            }
        });
    }
}

/// Asks the backend, and keeps the answers.
async fn ask(backend: Arc<HookClient>, decisions: Arc<Mutex<DecisionCache>>, batch: Batch, drain: Drain) {
    let Batch { client, asked } = batch;
    let (questions, flights): (Vec<_>, Vec<_>) = asked.into_iter().unzip();
    let answers = tokio::select! {
        answers = backend.subscribe(&client, &questions) => answers,
        () = drain.stopped() => vec![HookReply::Unavailable; questions.len()],
    };
    let mut decisions = lock(&decisions);
    for (flight, answer) in flights.into_iter().zip(answers) {
        decisions.finish(flight, answer, &client.identity, Instant::now());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether bytes are one JSON value.
fn is_json(data: &Bytes) -> bool {
    serde_json::from_slice::<&serde_json::value::RawValue>(data).is_ok()
}

#[cfg(test)]
mod tests;
