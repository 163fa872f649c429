//! Changes to be undone in a Redis server that the drill did not start.
//!
//! Owns the commands that undo them. Must never drop one before it has succeeded.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::Backend;

/// Time limit for all commands after an interruption.
const UNDO_TIMEOUT: Duration = Duration::from_secs(10);

type UndoCommand = Vec<String>;

/// Shared between the drill and its interruption.
#[derive(Clone, Debug, Default)]
pub(super) struct Undo(Arc<Mutex<Vec<(Backend, UndoCommand)>>>);

impl Undo {
    /// Saves a command. The last saved command is run first.
    pub(super) fn push(&self, backend: &Backend, command: UndoCommand) {
        self.commands().push((backend.clone(), command));
    }

    /// Runs all commands.
    pub(super) async fn run_all(&self) -> Result<(), String> {
        while let Some((backend, command)) = self.last() {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            backend.run(&words).await?;
            self.commands().pop();
        }
        Ok(())
    }

    /// Runs all commands within a time limit.
    pub(super) async fn run_all_in_time(&self) -> Result<(), String> {
        let done = tokio::time::timeout(UNDO_TIMEOUT, Box::pin(self.run_all())).await;
        done.unwrap_or_else(|_| Err(format!("no response within {UNDO_TIMEOUT:?}")))
    }

    /// Drops all commands, since the server has ended.
    pub(super) fn clear(&self) {
        self.commands().clear();
    }

    fn last(&self) -> Option<(Backend, UndoCommand)> {
        self.commands().last().cloned()
    }

    fn commands(&self) -> MutexGuard<'_, Vec<(Backend, UndoCommand)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
