//! Live progress on standard error: a bar where that is a terminal, lines where they are asked for. Never decides
//! anything.

use std::io::Write as _;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

/// How progress is shown.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Show {
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
    show: Show,
    bar: ProgressBar,
    stage: &'static str,
}

impl Progress {
    /// Nothing yet.
    pub(crate) fn new(show: Show) -> Self {
        Self { show, bar: ProgressBar::hidden(), stage: "" }
    }

    /// Begins a stage of so many steps.
    pub(crate) fn begin(&mut self, stage: &'static str, steps: u64) {
        self.bar.finish_and_clear();
        self.stage = stage;
        if self.show != Show::Bar {
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

    /// The newest numbers, in words.
    pub(crate) fn say(&self, at: f64, words: &str) {
        match self.show {
            Show::Bar => self.bar.set_message(words.to_owned()),
            Show::Lines => {
                // Nobody need read it.
                let _ = writeln!(std::io::stderr(), "{at:8.1} s  {:<10}  {words}", self.stage);
            }
            Show::None => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
