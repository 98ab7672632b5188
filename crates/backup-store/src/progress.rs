//! Who hears how far long work is.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Listens to long work: a progress bar, a counter, a test.
pub trait Monitor {
    /// A step starts that will take `total_bytes`.
    fn step(&self, name: &'static str, total_bytes: u64);

    /// So many more bytes of the step are done; says whether to go on.
    fn advance(&self, bytes: u64) -> ControlFlow<()>;
}

/// Listens to work from whatever thread it is on.
pub type SharedMonitor = Arc<dyn Monitor + Send + Sync>;

/// Nobody listens.
pub struct Silent;

impl Monitor for Silent {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        ControlFlow::Continue(())
    }
}

/// Slows work down to a limit of bytes a second, by its reports of progress.
pub struct Limited {
    monitor: SharedMonitor,
    max_bytes_per_s: Option<u64>,
    since: Instant,
    bytes: AtomicU64,
}

impl Limited {
    /// Reports to `monitor`, and keeps to so many bytes a second, if there is a limit.
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
            // In short sleeps, so that the wish to end is heard.
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
