//! Ctrl-C: the first one ends the run and reports its result, the second one ends the process.

use std::sync::{Arc, Weak};
use std::thread;

use crate::run::Run;

/// Exit code that shells report for SIGINT.
const INTERRUPTED: i32 = 130;

/// Installs the handler for a run. If that fails, Ctrl-C ends the process immediately.
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
