//! Progress of long work.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Receives the progress of long work, for example a progress bar.
pub trait Monitor {
    /// A step of `total_bytes` starts.
    fn step(&self, name: &'static str, total_bytes: u64);

    /// `bytes` more of the step are done. Returns whether to continue.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
}

/// A monitor that can be used from any thread.
pub type SharedMonitor = Arc<dyn Monitor + Send + Sync>;

/// A monitor that ignores all progress.
pub struct Silent;

impl Monitor for Silent {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Limits the speed of work by delaying its progress reports.
pub struct Limited {
    monitor: SharedMonitor,
    max_bytes_per_s: Option<u64>,
    since: Instant,
    bytes: AtomicU64,
}

impl Limited {
    /// Reports to `monitor`, and limits the work to `max_bytes_per_s`, if given.
    #[must_use]
    pub fn new(monitor: SharedMonitor, max_bytes_per_s: Option<u64>) -> Self {
        Limited {
            monitor,
            max_bytes_per_s,
            since: Instant::now(),
            bytes: AtomicU64::new(0),
        }
    }
}

impl Monitor for Limited {
    fn step(&self, name: &'static str, total_bytes: u64) {
        self.monitor.step(name, total_bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        if let Some(limit) = self.max_bytes_per_s {
            let done = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
            let due = Duration::from_secs_f64(done as f64 / limit.max(1) as f64);
            // Sleeps only briefly each time, so that a request to stop is noticed.
            while let Some(rest) = due.checked_sub(self.since.elapsed())
                && self.monitor.advance(0).is_continue()
                && !rest.is_zero()
            {
                std::thread::sleep(rest.min(Duration::from_millis(100)));
            }
        }
        self.monitor.advance(bytes)
    }
}
