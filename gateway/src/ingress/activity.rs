//! What happens on one connection that hyper carries, as far as its time-outs need to know.
//!
//! Owns the difference between a connection on which something is under way and one that only exists. Must never look at
//! a request.
//!
//! A connection is busy while a request is being answered, or while an answer waits for the gateway, as an event stream
//! does between two events. While an answer waits for its client it is not busy: then only bytes that the client takes
//! keep the connection.

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

/// How often a connection that is to end is looked at.
const END_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long a connection may last once the gateway drains, from the beginning of the drain.
#[derive(Clone, Copy, Debug)]
pub struct EndLimits {
    /// Without anything under way, or when its client takes no more: from the last progress.
    pub idle: Duration,
    /// With an event stream: those are told to leave over a window.
    pub streams: Duration,
    /// With a request that is being answered.
    pub requests: Duration,
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Activity {
    began: Instant,
    /// Requests that are being answered.
    requests: AtomicUsize,
    /// Answers that wait for the gateway.
    waiting: AtomicUsize,
    /// Milliseconds from the beginning to the last progress.
    progress: AtomicU64,
}

impl Activity {
    pub(super) fn new() -> Arc<Self> {
        let (requests, waiting, progress) = Default::default();
        Arc::new(Self { began: Instant::now(), requests, waiting, progress })
    }

    /// The client has taken something, or has been given something to wait for.
    pub(super) fn progressed(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.progress.fetch_max(millis, Ordering::Relaxed);
    }

    /// Answers a request, and watches the answer.
    pub(super) async fn watch(
        self: Arc<Self>,
        answer: impl Future<Output = Response<Body>>,
    ) -> Response<WatchedBody> {
        let request = Counted::begin(&self, |activity| &activity.requests);
        let response = answer.await;
        drop(request);
        response.map(|body| WatchedBody { body, activity: self, waits: None })
    }

    /// Resolves when nothing has happened for so long.
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

    /// Resolves when the connection has had its time, now that the gateway drains.
    pub(super) async fn must_end(&self, limits: EndLimits) {
        let began = Instant::now();
        loop {
            let end = if self.requests.load(Ordering::Relaxed) > 0 {
                began + limits.requests
            } else if self.is_busy() {
                began + limits.streams
            } else {
                (self.last_progress().max(began) + limits.idle).min(began + limits.streams)
            };
            let now = Instant::now();
            if end <= now {
                return;
            }
            tokio::time::sleep_until(end.min(now + END_POLL_INTERVAL)).await;
        }
    }

    fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) + self.waiting.load(Ordering::Relaxed) > 0
    }

    fn last_progress(&self) -> Instant {
        self.began + Duration::from_millis(self.progress.load(Ordering::Relaxed))
    }
}

/// Counts as one of something until it is dropped, which is progress.
#[derive(Debug)]
struct Counted {
    activity: Arc<Activity>,
    count: fn(&Activity) -> &AtomicUsize,
}

impl Counted {
    fn begin(activity: &Arc<Activity>, count: fn(&Activity) -> &AtomicUsize) -> Self {
        count(activity).fetch_add(1, Ordering::Relaxed);
        Self { activity: Arc::clone(activity), count }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.activity.progressed();
        (self.count)(&self.activity).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer, which hyper asks for more when its client has taken what there was.
#[derive(Debug)]
pub(super) struct WatchedBody {
    body: Body,
    activity: Arc<Activity>,
    /// Held while the body has nothing for its client.
    waits: Option<Counted>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.activity.progressed();
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.waits = match (frame.is_pending(), self.waits.take()) {
            (true, None) => Some(Counted::begin(&self.activity, |activity| &activity.waiting)),
            (true, waits) => waits,
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

    const LIMITS: EndLimits = EndLimits {
        idle: Duration::from_secs(1),
        streams: Duration::from_secs(5),
        requests: Duration::from_secs(20),
    };

    async fn seconds(wait: impl Future<Output = ()>) -> u64 {
        let began = Instant::now();
        wait.await;
        began.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn time_out_counts_from_the_last_progress() {
        let activity = Activity::new();
        let idle = Duration::from_secs(10);
        let later = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            activity.progressed();
            tokio::time::sleep(Duration::from_secs(5)).await;
            let request = Counted::begin(&activity, |activity| &activity.requests);
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(request);
        };
        let (ended, ()) = tokio::join!(seconds(activity.idle_for(idle)), later);
        assert_eq!(ended, 7 + 5 + 100 + 10);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_decides_how_long_a_connection_may_last() {
        let activity = Activity::new();
        assert_eq!(seconds(activity.must_end(LIMITS)).await, 1);
        let stream = Counted::begin(&activity, |activity| &activity.waiting);
        assert_eq!(seconds(activity.must_end(LIMITS)).await, 5);
        let request = Counted::begin(&activity, |activity| &activity.requests);
        assert_eq!(seconds(activity.must_end(LIMITS)).await, 20);
        drop((stream, request));
        let takes_a_byte_a_moment = async {
            loop {
                tokio::time::sleep(Duration::from_millis(900)).await;
                activity.progressed();
            }
        };
        tokio::select! {
            ended = seconds(activity.must_end(LIMITS)) => assert_eq!(ended, 5),
            () = takes_a_byte_a_moment => {}
        }
    }
}
