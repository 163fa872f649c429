//! The progress bar, on standard error and only where that is a terminal. Never decides anything.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// One bar for one stage of a run; it disappears with its owner.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Begins a stage of so many steps.
    pub(crate) fn new(stage: &'static str, steps: u64) -> Self {
        let bar = ProgressBar::new(steps);
        let template = "{prefix:>10} {bar:40} {pos}/{len} {elapsed} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_prefix(stage);
        bar.enable_steady_tick(Duration::from_millis(200));
        Self { bar }
    }

    /// One step more.
    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    /// Where it stands: steps done, and deliveries so far.
    pub(crate) fn set(&self, steps: u64, deliveries: u64) {
        self.bar.set_position(steps);
        self.bar.set_message(format!("{deliveries} delivered"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
