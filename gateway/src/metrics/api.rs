//! Requests of the HTTP API: a counter and a histogram of their duration.
//!
//! Labels are bounded: a method is one of a fixed list, a status and an error code come from fixed tables.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// Upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    status: u16,
    error: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

/// Metrics of the HTTP API.
#[derive(Clone, Debug)]
pub struct ApiMetrics {
    requests: Family<RequestLabels, Counter>,
    durations: Family<MethodLabels, Histogram, fn() -> Histogram>,
}

impl Default for ApiMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
        }
    }
}

impl ApiMetrics {
    /// Counts a request with its HTTP status, the code of the API error in its response (0: none), and the time from its
    /// head to its response. `method` must be one of a fixed list.
    pub fn record(&self, method: &'static str, status: u16, error: u32, duration: Duration) {
        self.requests.get_or_create(&RequestLabels { method, status, error }).inc();
        self.durations.get_or_create(&MethodLabels { method }).observe(duration.as_secs_f64());
    }

    /// Registers the metrics.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("api_requests", "Requests to the HTTP API", self.requests.clone());
        let help = "Time from the head of an API request to its response";
        registry.register("api_request_duration_seconds", help, self.durations.clone());
    }
}
