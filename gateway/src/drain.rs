//! How the gateway stops: every task of the control plane is started here, told here to stop, and waited for here.
//!
//! Owns the two signals of a shutdown (*draining*: refuse newcomers, let the present ones go; *stop*: end now) and
//! the set of running tasks. Must never decide what a task does on its way out.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts tasks, tells them to stop, waits for them. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    work: TaskTracker,
}

impl Drain {
    /// Starts a task on the control plane. It should watch [`Drain::stopped`] and end soon after.
    #[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tasks.track_future(task))
    }

    /// Starts a task that serves somebody, and ends by itself when that one has been served: [`Drain::idle`] waits for
    /// it.
    pub fn spawn_work<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(self.work.track_future(task))
    }

    /// Resolves when nobody is being served any more.
    pub async fn idle(&self) {
        self.work.close();
        self.work.wait().await;
    }

    /// Begins the drain: readiness goes false, newcomers are refused.
    pub fn begin(&self) {
        self.draining.cancel();
    }

    /// Whether the drain has begun.
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Resolves when the drain begins.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Tells every task to end, and waits until the last one has.
    pub async fn stop(&self) {
        self.begin();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Resolves when tasks must end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}
