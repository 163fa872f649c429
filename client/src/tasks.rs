//! Background tasks of a tool, and how they stop.
//!
//! Owns the set of running tasks and the signal to stop. Must never decide what a task does.

use std::future::Future;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Starts tasks, signals them to stop, and waits for them. Clones share the same set of tasks.
#[derive(Clone, Debug, Default)]
pub struct Tasks {
    stop: CancellationToken,
    tracker: TaskTracker,
}

impl Tasks {
    /// Starts a task. It should watch [`Tasks::stopped`] and end soon after.
    #[expect(clippy::disallowed_methods, reason = "the one place in this crate that starts tasks")]
    pub fn spawn<F>(&self, task: F)
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        drop(tokio::spawn(self.tracker.track_future(task)));
    }

    /// Signals all tasks to stop and waits until the last one has ended.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }

    /// Resolves when tasks must end.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }
}

/// Runs the tasks of an HTTP/2 connection until they are stopped.
impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        let tasks = self.clone();
        self.spawn(async move {
            tokio::select! {
                _ = task => {}
                () = tasks.stopped() => {}
            }
        });
    }
}
