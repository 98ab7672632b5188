//! Delays and log messages for failed watches.

use kube::runtime::utils::Backoff;
use kube::runtime::watcher;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
/// Short, because there is one operator per cluster with few watches.
const LONGEST: Duration = Duration::from_secs(5);

/// Delays between retries of a watch: doubled each time, up to 5 s.
#[derive(Debug, Default)]
pub(crate) struct WatchBackoff(u32);

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let delay = FIRST.saturating_mul(1 << self.0.min(8));
        self.0 = self.0.saturating_add(1);
        Some(delay.min(LONGEST))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.0 = 0;
    }
}

/// The message of a watch error, or `None` if the error is part of normal work.
pub(crate) fn watch_error_message(error: &watcher::Error) -> Option<String> {
    Some(match error {
        // The API server serves a CRD a moment after it was created. If it was deleted, another controller creates it again.
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
            if status.code == 404 =>
        {
            return None;
        }
        watcher::Error::InitialListFailed(error) | watcher::Error::WatchStartFailed(error) => {
            crate::api_error::api_error_message(error)
        }
        // The last known version is too old. The watch lists all objects again, which is normal.
        watcher::Error::WatchError(status) if status.code == 410 => return None,
        watcher::Error::WatchError(status) => status.message.clone(),
        other => other.to_string(),
    })
}

/// Logs a watch error only when it differs from the last one.
#[derive(Debug, Default)]
pub(crate) struct WatchErrorLog(Mutex<String>);

impl WatchErrorLog {
    pub(crate) fn report(&self, error: &watcher::Error) {
        let Some(message) = watch_error_message(error) else {
            return;
        };
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != message {
            tracing::warn!("watch failed: {message}");
            *last = message;
        }
    }

    pub(crate) fn reset(&self) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}
