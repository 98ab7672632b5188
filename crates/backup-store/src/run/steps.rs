//! How long each step of a run took.

use std::collections::BTreeMap;
use std::time::Instant;

/// How long each step took.
#[derive(Clone)]
pub(super) struct Steps {
    since: Instant,
    pub(super) took_ms: BTreeMap<String, u64>,
}

impl Default for Steps {
    fn default() -> Self {
        Steps {
            since: Instant::now(),
            took_ms: BTreeMap::new(),
        }
    }
}

impl Steps {
    pub(super) fn end(&mut self, step: &str) {
        let took_ms = self
            .since
            .elapsed()
            .as_millis()
            .try_into()
            .unwrap_or(u64::MAX);
        self.took_ms.insert(step.into(), took_ms);
        self.since = Instant::now();
    }
}
