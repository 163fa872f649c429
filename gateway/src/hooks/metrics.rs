//! Counters of hooks.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::breaker::BreakerState;
use super::settings::HookEvent;

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    hook: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HookLabels {
    hook: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source: &'static str,
}

/// Counters of hooks. All labels come from fixed lists.
#[derive(Clone, Debug)]
pub struct HookMetrics {
    calls: Family<CallLabels, Counter>,
    durations: Family<HookLabels, Histogram, fn() -> Histogram>,
    breakers: Family<HookLabels, Gauge>,
    unasked: Family<SourceLabels, Counter>,
}

impl Default for HookMetrics {
    fn default() -> Self {
        Self {
            calls: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            breakers: Family::default(),
            unasked: Family::default(),
        }
    }
}

impl HookMetrics {
    /// Counts a call with its result, and the time until it was known.
    pub(super) fn count(&self, event: HookEvent, result: &'static str, duration: Duration) {
        let hook = event.as_str();
        self.calls.get_or_create(&CallLabels { hook, result }).inc();
        self.durations.get_or_create(&HookLabels { hook }).observe(duration.as_secs_f64());
    }

    /// Counts an answer from the cache.
    pub(super) fn count_cached(&self) {
        self.unasked.get_or_create(&SourceLabels { source: "cache" }).inc();
    }

    /// Counts an answer shared with another client's request.
    pub(super) fn count_shared(&self) {
        self.unasked.get_or_create(&SourceLabels { source: "shared" }).inc();
    }

    /// The state of a breaker.
    pub(super) fn set_breaker(&self, event: HookEvent, state: BreakerState) {
        let value = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.breakers.get_or_create(&HookLabels { hook: event.as_str() }).set(value);
    }

    /// Registers the metrics.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Calls of hooks, by result; each may have caused two requests";
        registry.register("hook_calls", help, self.calls.clone());
        let help = "Time from a call of a hook to its result";
        registry.register("hook_call_duration_seconds", help, self.durations.clone());
        let help = "Circuit breaker of a hook: 0 closed, 1 half open, 2 open";
        registry.register("hook_breaker_state", help, self.breakers.clone());
        let help =
            "Decisions about channels without a request: of the cache, or shared with an equal question";
        registry.register("hook_decisions_reused", help, self.unasked.clone());
    }
}
