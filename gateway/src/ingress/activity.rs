//! The activity of a connection that hyper serves, for its timeouts.
//!
//! A connection is busy while a request is being processed, or while a response body waits for data from the gateway, as
//! an event stream does between two events. While a response waits for the client to read, the connection is not busy:
//! only bytes that the client reads keep it open.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::Response;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::Instant;

/// How often the deadline of a connection is evaluated during the drain.
const DRAIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection may last, from the start of the drain.
#[derive(Clone, Copy, Debug)]
pub struct DrainTimeouts {
    /// An idle connection, or one whose client does not read: from the last progress.
    pub idle: Duration,
    /// A connection with an event stream: streams are closed spread over a window.
    pub streams: Duration,
    /// A connection with a request that is being processed.
    pub requests: Duration,
}

/// The activity of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    started: Instant,
    /// Requests that are being processed.
    requests: AtomicUsize,
    /// Response bodies that wait for data from the gateway.
    waiting: AtomicUsize,
    /// Milliseconds from the start to the last progress.
    progress: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let (requests, waiting, progress) = Default::default();
        Arc::new(Self { started: Instant::now(), requests, waiting, progress })
    }

    /// Records that the client has read data, or has received a response to wait for.
    pub(super) fn record_progress(&self) {
        let millis = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.fetch_max(millis, Ordering::Relaxed);
    }

    /// Counts a request until its response is ready, and tracks the body of the response.
    pub(super) async fn track(
        self: Arc<Self>,
        response: impl Future<Output = Response<Body>>,
    ) -> Response<TrackedBody> {
        let request = InFlight::begin(&self, |activity| &activity.requests);
        let response = response.await;
        drop(request);
        response.map(|body| TrackedBody { body, activity: self, waiting: None })
    }

    /// Resolves when the connection has been idle for this time.
    pub(super) async fn idle_for(&self, time: Duration) {
        loop {
            let now = Instant::now();
            let end = if self.is_busy() { now + time } else { self.last_progress() + time };
            if end <= now {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// Resolves when the time of the connection in the drain has expired. Call it when the drain begins.
    pub(super) async fn drain_expired(&self, limits: DrainTimeouts) {
        let drain_began = Instant::now();
        loop {
            let end = if self.requests.load(Ordering::Relaxed) > 0 {
                drain_began + limits.requests
            } else if self.is_busy() {
                drain_began + limits.streams
            } else {
                (self.last_progress().max(drain_began) + limits.idle).min(drain_began + limits.streams)
            };
            let now = Instant::now();
            if end <= now {
                return;
            }
            tokio::time::sleep_until(end.min(now + DRAIN_POLL_INTERVAL)).await;
        }
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) > 0
    }

    fn last_progress(&self) -> Instant {
        self.started + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }
}

/// Increments a counter until it is dropped; dropping it is progress.
#[derive(Debug)]
struct InFlight {
    activity: Arc<Activity>,
    count: fn(&Activity) -> &AtomicUsize,
}

impl InFlight {
    fn begin(activity: &Arc<Activity>, count: fn(&Activity) -> &AtomicUsize) -> Self {
        count(activity).fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), count }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.activity.record_progress();
        (self.count)(&self.activity).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of a response. hyper polls it when the client has read the data before.
#[derive(Debug)]
pub(super) struct TrackedBody {
    body: Body,
    activity: Arc<Activity>,
    /// Present while the body waits for data from the gateway.
    waiting: Option<InFlight>,
}

impl HttpBody for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.activity.record_progress();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.waiting = match (frame.is_pending(), self.waiting.take()) {
            (true, None) => Some(InFlight::begin(&self.activity, |activity| &activity.waiting)),
            (true, waiting) => waiting,
            (false, _) => None,
        };
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: DrainTimeouts = DrainTimeouts {
        idle: Duration::from_secs(1),
        streams: Duration::from_secs(5),
        requests: Duration::from_secs(20),
    };

    async fn seconds(wait: impl Future<Output = ()>) -> u64 {
        let started = Instant::now();
        wait.await;
        started.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn the_idle_timeout_counts_from_the_last_progress() {
        let activity = Activity::new();
        let idle = Duration::from_secs(10);
        let later = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            activity.record_progress();
            tokio::time::sleep(Duration::from_secs(5)).await;
            let request = InFlight::begin(&activity, |activity| &activity.requests);
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(request);
        };
        let (ended, ()) = tokio::join!(seconds(activity.idle_for(idle)), later);
        assert_eq!(ended, 7 + 5 + 100 + 10);
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_deadline_depends_on_the_activity() {
        let activity = Activity::new();
        assert_eq!(seconds(activity.drain_expired(LIMITS)).await, 1);
        let stream = InFlight::begin(&activity, |activity| &activity.waiting);
        assert_eq!(seconds(activity.drain_expired(LIMITS)).await, 5);
        let request = InFlight::begin(&activity, |activity| &activity.requests);
        assert_eq!(seconds(activity.drain_expired(LIMITS)).await, 20);
        drop((stream, request));
        let reads_slowly = async {
            loop {
                tokio::time::sleep(Duration::from_millis(900)).await;
                activity.record_progress();
            }
        };
        tokio::select! {
            ended = seconds(activity.drain_expired(LIMITS)) => assert_eq!(ended, 5),
            () = reads_slowly => {}
        }
    }
}
