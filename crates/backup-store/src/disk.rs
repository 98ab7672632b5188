//! Work on a disk that may hang. It runs on its own threads, and waiting for it has a time limit. So the code that reads
//! from etcd, answers health checks or handles signals never waits for a disk.
//!
//! A thread that is stuck in a system call cannot be ended. As long as one is stuck, no other work starts: it would only get
//! stuck as well.

use crate::progress::{Monitor, SharedMonitor};
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A disk without any progress for this long hangs.
pub(crate) const HANGS_AFTER: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The disk does not respond.
#[derive(Debug, Clone, thiserror::Error)]
#[error(
    "the backup disk does not respond: no progress for {} s while {what}; check the disk and the kernel log (dmesg)", .for_at_least.as_secs()
)]
pub struct DiskHangs {
    /// The work that waits for the disk.
    pub what: &'static str,
    /// Time without progress.
    pub for_at_least: Duration,
}

/// Runs work on the disk of a repository, and detects when the disk hangs.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    stuck: Arc<Mutex<Option<Stuck>>>,
}

#[derive(Debug)]
struct Stuck {
    what: &'static str,
    since: Instant,
    over: Arc<AtomicBool>,
}

/// Work in progress.
pub(crate) struct Working<T> {
    task: tokio::task::JoinHandle<T>,
    what: &'static str,
    over: Arc<AtomicBool>,
}

/// Marks work as ended, even if it panics.
struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Counts progress, and stops the work after its caller has stopped waiting.
struct Pulse {
    monitor: SharedMonitor,
    beats: AtomicU64,
    given_up: AtomicBool,
}

impl Monitor for Pulse {
    fn step(&self, name: &'static str, total_bytes: u64) {
        self.beats.fetch_add(1, Ordering::Relaxed);
        self.monitor.step(name, total_bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        self.beats.fetch_add(1, Ordering::Relaxed);
        if self.given_up.load(Ordering::Relaxed) {
            return ControlFlow::Break(());
        }
        self.monitor.advance(bytes)
    }
}

impl Disk {
    /// Runs short work, and stops waiting for it after 30 s.
    ///
    /// # Errors
    /// The disk hangs, or it has not recovered from an earlier hang.
    pub async fn run<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DiskHangs> {
        let mut working = self.start(what, work)?;
        match tokio::time::timeout(HANGS_AFTER, &mut working.task).await {
            Ok(ended) => Ok(finished(ended)),
            Err(_) => Err(self.hangs(&working, HANGS_AFTER)),
        }
    }

    /// Runs long work that reports progress, and stops waiting after 30 s without progress.
    pub(crate) async fn run_watched<T: Send + 'static>(
        &self,
        what: &'static str,
        monitor: &SharedMonitor,
        work: impl FnOnce(&SharedMonitor) -> T + Send + 'static,
    ) -> Result<T, DiskHangs> {
        let pulse = Arc::new(Pulse {
            monitor: monitor.clone(),
            beats: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
        });
        let shared: SharedMonitor = pulse.clone();
        let mut working = self.start(what, move || work(&shared))?;
        let mut last = (0, Instant::now());
        loop {
            if let Ok(ended) = tokio::time::timeout(LOOK_EVERY, &mut working.task).await {
                return Ok(finished(ended));
            }
            let beats = pulse.beats.load(Ordering::Relaxed);
            if beats != last.0 {
                last = (beats, Instant::now());
            }
            if last.1.elapsed() >= HANGS_AFTER {
                pulse.given_up.store(true, Ordering::Relaxed);
                return Err(self.hangs(&working, HANGS_AFTER));
            }
        }
    }

    /// Starts work on its own thread.
    pub(crate) fn start<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<Working<T>, DiskHangs> {
        let mut stuck = self.stuck.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = stuck.as_ref() {
            if !before.over.load(Ordering::Relaxed) {
                return Err(DiskHangs {
                    what: before.what,
                    for_at_least: before.since.elapsed(),
                });
            }
            *stuck = None;
        }
        let over = Arc::new(AtomicBool::new(false));
        let guard = Over(over.clone());
        let task = tokio::task::spawn_blocking(move || {
            let _guard = guard;
            work()
        });
        Ok(Working { task, what, over })
    }

    /// Stops waiting for work that has made no progress for this long.
    pub(crate) fn hangs<T>(&self, working: &Working<T>, for_at_least: Duration) -> DiskHangs {
        let since = Instant::now();
        *self.stuck.lock().unwrap_or_else(PoisonError::into_inner) = Some(Stuck {
            what: working.what,
            since: since.checked_sub(for_at_least).unwrap_or(since),
            over: working.over.clone(),
        });
        DiskHangs {
            what: working.what,
            for_at_least,
        }
    }

    /// Waits for the end of started work, at most 30 s.
    pub(crate) async fn end<T>(&self, mut working: Working<T>) -> Result<T, DiskHangs> {
        match tokio::time::timeout(HANGS_AFTER, &mut working.task).await {
            Ok(ended) => Ok(finished(ended)),
            Err(_) => Err(self.hangs(&working, HANGS_AFTER)),
        }
    }
}

fn finished<T>(ended: Result<T, tokio::task::JoinError>) -> T {
    match ended {
        Ok(value) => value,
        // The task is never cancelled, so this is a panic. In a release build a panic has already ended the process.
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[tokio::test]
    async fn work_that_hangs_is_given_up_and_nothing_more_is_begun_until_it_is_over() {
        let disk = Disk::default();
        assert_eq!(disk.run("a look", || 7).await.unwrap(), 7);
        let (let_go, waits) = channel::<()>();
        let working = disk.start("writing a file", move || waits.recv()).unwrap();
        // As `run` does after its time limit.
        let message = disk.hangs(&working, HANGS_AFTER).to_string();
        assert!(
            message.contains("no progress for 30 s while writing a file"),
            "{message}"
        );
        let refused = disk.run("another write", || ()).await.unwrap_err();
        assert_eq!(refused.what, "writing a file");
        let_go.send(()).unwrap();
        working.task.await.unwrap().unwrap();
        disk.run("another write", || ()).await.unwrap();
    }
}
