//! Live progress on standard error: a bar on a terminal, or lines on request.

use std::io::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

/// How to show progress.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    /// A bar, if standard error is a terminal
    Bar,
    /// A line for each sample
    Lines,
    /// No progress
    None,
}

/// Progress of a run, one stage at a time.
#[derive(Debug)]
pub(crate) struct RunProgress {
    mode: ProgressMode,
    bar: ProgressBar,
    stage: &'static str,
}

impl RunProgress {
    /// No stage yet.
    pub(crate) fn new(mode: ProgressMode) -> Self {
        Self { mode, bar: ProgressBar::hidden(), stage: "" }
    }

    /// Starts a stage with a number of steps.
    pub(crate) fn begin(&mut self, stage: &'static str, steps: u64) {
        self.bar.finish_and_clear();
        self.stage = stage;
        if self.mode != ProgressMode::Bar {
            return;
        }
        self.bar = ProgressBar::new(steps);
        let template = "{prefix:>10} {bar:30} {pos}/{len} {elapsed} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            self.bar.set_style(style);
        }
        self.bar.set_prefix(stage);
        self.bar.enable_steady_tick(Duration::from_millis(200));
    }

    /// Sets the number of completed steps.
    pub(crate) fn set(&self, steps: u64) {
        self.bar.set_position(steps);
    }

    /// Shows the latest figures.
    pub(crate) fn report(&self, at: f64, summary: &str) {
        match self.mode {
            ProgressMode::Bar => self.bar.set_message(summary.to_owned()),
            ProgressMode::Lines => {
                // A closed standard error does not matter.
                let _ = writeln!(std::io::stderr(), "{at:8.1} s  {:<10}  {summary}", self.stage);
            }
            ProgressMode::None => {}
        }
    }
}

impl Drop for RunProgress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
