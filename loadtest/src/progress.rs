//! Live progress on standard error: a bar where that is a terminal, lines where they are asked for. Never decides
//! anything.

use std::io::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ProgressMode {
    /// A bar, where standard error is a terminal
    Bar,
    /// A line for each sample
    Lines,
    /// Not at all
    None,
}

/// What is shown of a run, one stage after the other.
#[derive(Debug)]
pub(crate) struct Progress {
    mode: ProgressMode,
    bar: ProgressBar,
    stage: &'static str,
}

impl Progress {
    /// Nothing yet.
    pub(crate) fn new(mode: ProgressMode) -> Self {
        Self { mode, bar: ProgressBar::hidden(), stage: "" }
    }

    /// Begins a stage of so many steps.
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

    /// How many steps are done.
    pub(crate) fn set(&self, steps: u64) {
        self.bar.set_position(steps);
    }

    /// The newest numbers, in summary.
    pub(crate) fn report(&self, at: f64, summary: &str) {
        match self.mode {
            ProgressMode::Bar => self.bar.set_message(summary.to_owned()),
            ProgressMode::Lines => {
                // Nobody need read it.
                let _ = writeln!(std::io::stderr(), "{at:8.1} s  {:<10}  {summary}", self.stage);
            }
            ProgressMode::None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
