//! Ctrl-C: the first one ends the run and its result is told, the second one ends the process. Never cleans up.

use std::sync::{Arc, Weak};
use std::thread;

use crate::run::Run;

/// What a shell reports for a process that was interrupted.
const INTERRUPTED: i32 = 130;

/// Listens on behalf of a run. Where that cannot be done, Ctrl-C ends the process as it does any other.
pub(crate) fn install_handler(run: &Arc<Run>) {
    let run = Arc::downgrade(run);
    let thread = thread::Builder::new().name("signals".to_owned());
    drop(thread.spawn(move || {
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            runtime.block_on(wait(&run));
        }
    }));
}

async fn wait(run: &Weak<Run>) {
    let mut interrupted = false;
    while tokio::signal::ctrl_c().await.is_ok() {
        match run.upgrade() {
            Some(run) if !interrupted => run.interrupt(),
            _ => std::process::exit(INTERRUPTED),
        }
        interrupted = true;
    }
}
