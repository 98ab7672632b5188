//! Stops work after a signal.

use backup_store::progress::Monitor;
use backup_store::run::RunError;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;

/// How long a run has to end by itself after a signal. The next run removes what is left.
const STOP_WITHIN: Duration = Duration::from_secs(4);

/// Whether a signal to stop was received.
///
/// Each command that can be the first process of a container needs one: the kernel keeps signals from such a process unless it asks for
/// them, so without it the kubelet would wait for its whole grace period.
#[derive(Clone)]
pub(crate) struct Stop {
    flag: Arc<AtomicBool>,
    notify: Arc<Notify>,
}

impl Stop {
    pub(crate) fn on_signals() -> std::io::Result<Self> {
        let stop = Stop {
            flag: Arc::default(),
            notify: Arc::default(),
        };
        for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
            let mut signals = signal(kind)?;
            let (flag, notify) = (stop.flag.clone(), stop.notify.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    flag.store(true, Ordering::Relaxed);
                    notify.notify_waiters();
                }
            });
        }
        Ok(stop)
    }

    pub(crate) fn wanted(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(crate) async fn wait(&self) {
        let notify = self.notify.notified();
        if !self.wanted() {
            notify.await;
        }
    }

    /// Runs until the end, or until a signal to stop and a moment in which the run can end by itself.
    pub(crate) async fn or_end<T>(
        &self,
        run: impl Future<Output = Result<T, RunError>>,
    ) -> Result<T, RunError> {
        let stopped = async {
            self.wait().await;
            tokio::time::sleep(STOP_WITHIN).await;
        };
        tokio::select! {
            made = run => made,
            () = stopped => Err(RunError::Stopped),
        }
    }

    /// Sleeps, but returns early when a signal to stop is received.
    pub(crate) async fn sleep(&self, duration: Duration) {
        tokio::select! {
            () = tokio::time::sleep(duration) => {}
            () = self.wait() => {}
        }
    }
}

/// Ends work after a signal to stop. Progress goes to the inner monitor.
pub(crate) struct UntilStopped<M>(pub(crate) Stop, pub(crate) M);

impl<M: Monitor> Monitor for UntilStopped<M> {
    fn step(&self, name: &'static str, total_bytes: u64) {
        self.1.step(name, total_bytes);
    }

    fn advance(&self, bytes: u64) -> ControlFlow<()> {
        if self.0.wanted() {
            ControlFlow::Break(())
        } else {
            self.1.advance(bytes)
        }
    }
}
