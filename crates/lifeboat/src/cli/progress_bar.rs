//! A progress bar on a terminal.

use backup_store::progress::Monitor;
use indicatif::{ProgressBar, ProgressStyle};
use std::ops::ControlFlow;

/// A progress bar on standard error. It prints nothing if standard error is not a terminal.
#[derive(Clone)]
pub(crate) struct Bar(ProgressBar);

impl Bar {
    pub(crate) fn new() -> Self {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:10} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        Bar(bar)
    }
}

impl Bar {
    /// Prints a line above the bar.
    pub(crate) fn print(&self, line: &str) {
        self.0.suspend(|| eprintln!("{line}"));
    }

    pub(crate) fn finish(&self) {
        self.0.finish_and_clear();
    }
}

impl Monitor for Bar {
    fn step(&self, name: &'static str, total_bytes: u64) {
        self.0.reset();
        self.0.set_length(total_bytes);
        self.0.set_message(name);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.0.inc(bytes);
        ControlFlow::Continue(())
    }
}
