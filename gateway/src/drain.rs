//! Graceful shutdown: starts every task of the control plane, signals the shutdown, and waits for the tasks.
//!
//! A shutdown has two signals: *draining* (reject new connections, disconnect clients) and *stop* (end all tasks). Each
//! task decides how it reacts to a signal.

use std::future::Future;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts tasks, signals them to stop, and waits for them. Clones are cheap and share their state.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    draining: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    connections: TaskTracker,
}

impl Drain {
    /// Starts a task on the control plane. The task must end soon after [`Drain::stopped`] resolves.
    #[expect(clippy::disallowed_methods, reason = "only `Drain` starts tasks")]
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        tokio::spawn(self.tasks.track_future(task))
    }

    /// Starts a task that serves a connection or a request. [`Drain::idle`] waits for it.
    pub fn spawn_connection<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.spawn(self.connections.track_future(task))
    }

    /// Resolves when all tasks of [`Drain::spawn_connection`] have ended.
    pub async fn idle(&self) {
        self.connections.close();
        self.connections.wait().await;
    }

    /// Begins the drain: the node is no longer ready and rejects new connections.
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

    /// Signals all tasks to end, and waits for them.
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
