//! What the demo says while it runs: one line for each step, with a mark, seconds, and what happened in plain words.

use crate::exit::Failure;
use crate::printer::{Printer, Tone};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::{Duration, Instant};

/// Prints the steps.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    printer: Printer,
}

/// What a step may say before it has ended.
#[derive(Debug)]
pub struct Progress {
    spinner: Option<ProgressBar>,
}

impl Progress {
    /// Replaces what the running step says; several lines are allowed. Shown on a terminal only.
    pub fn say(&self, text: String) {
        if let Some(spinner) = &self.spinner {
            spinner.set_message(text);
        }
    }
}

impl Steps {
    /// Steps on standard error.
    pub fn new(printer: Printer) -> Steps {
        Steps { printer }
    }

    /// Does one step. `work` gives its result and the sentence that says what happened.
    pub fn step<T>(
        &self,
        doing: &str,
        work: impl FnOnce(&Progress) -> Result<(T, String), Failure>,
    ) -> Result<T, Failure> {
        let began = Instant::now();
        let progress = Progress { spinner: self.printer.is_live().then(|| spinner(doing)) };
        let done = work(&progress);
        if let Some(spinner) = &progress.spinner {
            spinner.finish_and_clear();
        }
        let (mark, sentence) = match &done {
            Ok((_, sentence)) => (self.printer.paint(Tone::Good, "✓"), sentence.as_str()),
            Err(_) => (self.printer.paint(Tone::Bad, "✗"), doing),
        };
        let seconds = self.printer.paint(Tone::Faint, &seconds(began.elapsed()));
        self.printer.message(&format!("{mark} {seconds}  {sentence}"));
        done.map(|(result, _)| result)
    }
}

fn seconds(elapsed: Duration) -> String {
    format!("{:6.1} s", elapsed.as_secs_f64())
}

fn spinner(doing: &str) -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} {elapsed:>7}  {msg}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    let spinner = ProgressBar::new_spinner().with_style(style).with_message(doing.to_owned());
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}
