//! Progress on standard error: a bar on a terminal, periodic lines otherwise.
//!
//! Must never affect the migration.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::time::Instant;

use crate::cli::io::print_message;
use earshot_ops::migrate::{Observer, Stage};

/// Interval between lines without a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// The current stage.
struct ProgressLine {
    stage: Stage,
    done: u64,
    keys: u64,
    last_printed: Instant,
    bar: Option<ProgressBar>,
}

/// Shows the stages of a run.
pub(super) struct MigrationProgress {
    is_terminal: bool,
    line: RefCell<Option<ProgressLine>>,
}

impl MigrationProgress {
    pub(super) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal(), line: RefCell::new(None) }
    }

    /// Ends the current stage: removes the bar or prints the last line.
    pub(super) fn end(&self) {
        let Some(line) = self.line.borrow_mut().take() else { return };
        match line.bar {
            Some(bar) => bar.finish_and_clear(),
            None => print_message(&line.text()),
        }
    }
}

impl fmt::Debug for MigrationProgress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MigrationProgress").finish_non_exhaustive()
    }
}

impl ProgressLine {
    fn text(&self) -> String {
        format!("{}: {} keys of about {}", name(self.stage), self.done, self.keys)
    }
}

impl Observer for MigrationProgress {
    fn begin(&self, stage: Stage, keys: u64) {
        if let Some(line) = self.line.borrow_mut().as_mut().filter(|line| line.stage == stage) {
            // The same stage after a reconnect.
            line.keys = keys.max(line.done);
            return;
        }
        self.end();
        let bar = self.is_terminal.then(|| bar(stage, keys));
        *self.line.borrow_mut() =
            Some(ProgressLine { stage, done: 0, keys, last_printed: Instant::now(), bar });
    }

    fn advance(&self, keys: u64) {
        let mut line = self.line.borrow_mut();
        let Some(line) = line.as_mut() else { return };
        line.done += keys;
        if let Some(bar) = &line.bar {
            // There may be more keys than estimated at the start.
            bar.set_length(line.keys.max(line.done));
            bar.set_position(line.done);
        } else if line.last_printed.elapsed() >= LINE_INTERVAL {
            line.last_printed = Instant::now();
            print_message(&line.text());
        }
    }

    fn message(&self, text: &str) {
        match self.line.borrow().as_ref().and_then(|line| line.bar.as_ref()) {
            Some(bar) => bar.suspend(|| print_message(text)),
            None => print_message(text),
        }
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Preflight => "checking",
        Stage::Move => "moving",
        Stage::Verify => "comparing",
    }
}

fn bar(stage: Stage, keys: u64) -> ProgressBar {
    let bar = ProgressBar::new(keys);
    let speed = |state: &ProgressState, out: &mut dyn fmt::Write| {
        // A bar without a rate is still useful.
        let _ = write!(out, "{:.0}/s", state.per_sec());
    };
    let template = "{prefix:>9} {bar:40} {human_pos}/{human_len} {speed} {eta}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.with_key("speed", speed));
    }
    bar.set_prefix(name(stage));
    bar
}
