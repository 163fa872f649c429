//! What was changed at a Redis that the drill did not start, and how it was before.
//!
//! Owns the commands that make it as it was. Must never forget one before it was carried out.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::Backend;

/// How long all of it may take when the drill is interrupted.
const LIMIT: Duration = Duration::from_secs(10);

type Command = Vec<String>;

/// Shared between the drill and whoever interrupts it.
#[derive(Clone, Debug, Default)]
pub(super) struct Restore(Arc<Mutex<Vec<(Backend, Command)>>>);

impl Restore {
    /// Notes how it was; the last note is carried out first.
    pub(super) fn note(&self, backend: &Backend, command: Command) {
        self.notes().push((backend.clone(), command));
    }

    /// Makes everything as it was.
    pub(super) async fn carry_out(&self) -> Result<(), String> {
        while let Some((backend, command)) = self.last() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            backend.run(&words).await?;
            self.notes().pop();
        }
        Ok(())
    }

    /// The same when the drill has ended before its time.
    pub(super) async fn carry_out_in_time(&self) -> Result<(), String> {
        let done = tokio::time::timeout(LIMIT, Box::pin(self.carry_out())).await;
        done.unwrap_or_else(|_| Err(format!("no answer within {LIMIT:?}")))
    }

    /// The server is gone, and what was changed with it.
    pub(super) fn forget(&self) {
        self.notes().clear();
    }

    fn last(&self) -> Option<(Backend, Command)> {
        self.notes().last().cloned()
    }

    fn notes(&self) -> MutexGuard<'_, Vec<(Backend, Command)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
