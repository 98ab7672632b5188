//! The wish to end, from a signal.

use backup_store::progress::Monitor;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// The wish to end.
#[derive(Clone)]
pub(super) struct Stop {
    flag: Arc<AtomicBool>,
    told: Arc<Notify>,
}

impl Stop {
    pub(super) fn on_signals() -> std::io::Result<Self> {
        let stop = Stop {
            flag: Arc::default(),
            told: Arc::default(),
        };
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind)?;
            let (flag, told) = (stop.flag.clone(), stop.told.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    flag.store(true, Ordering::Relaxed);
                    told.notify_waiters();
                }
            });
        }
        Ok(stop)
    }

    pub(super) fn wanted(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(super) async fn wait(&self) {
        let told = self.told.notified();
        if !self.wanted() {
            told.await;
        }
    }

    /// Sleeps, but not beyond the wish to end.
    pub(super) async fn sleep(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.wait() => {}
        }
    }
}

/// Ends a run when the process is to end.
pub(super) struct UntilStopped(pub(super) Stop);

impl Monitor for UntilStopped {
    fn step(&self, _: &'static str, _: u64) {}

    fn advance(&self, _: u64) -> ControlFlow<()> {
        if self.0.wanted() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
