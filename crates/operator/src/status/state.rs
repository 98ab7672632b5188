//! The state of the operator, for its metrics.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The state of a `Backup`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupState {
    /// Whether the operator could apply its specification.
    pub reconciled: bool,
    /// Whether its backups are up to date, or `None` before the first evaluation.
    pub fresh: Option<bool>,
}

/// The state of a control-plane node at the last evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeState {
    /// Whether the node has an etcd member to back up.
    pub applicable: bool,
    /// Whether its newest proven backup is up to date.
    pub fresh: bool,
    /// When the operator first saw this backup, by the operator's clock. `None` without a proven backup.
    pub advanced_at: Option<Timestamp>,
}

/// The state of the operator at one moment.
#[derive(Debug, Clone, Default)]
pub struct OperatorState {
    /// Whether this replica is the active one.
    pub leader: bool,
    /// Whether a user deleted `Backup/default`.
    pub opted_out: bool,
    /// `Backup`s by name.
    pub backups: BTreeMap<String, BackupState>,
    /// Control-plane nodes by name, at the last evaluation. Empty if no node needs backups.
    pub nodes: BTreeMap<String, NodeState>,
    /// Number of `EtcdBackup`s by condition.
    pub requests: BTreeMap<&'static str, u64>,
    /// Whether the backups of a node are copied to its volume, by node. Empty without volumes.
    pub volumes: BTreeMap<String, bool>,
    /// Number of CRDs of another owner that lack what the operator writes.
    pub api_problems: usize,
    /// Whether this replica runs the controller `freshness`.
    pub evaluates: bool,
    /// Time of the last evaluation.
    pub evaluated_at: Option<Timestamp>,
    /// Objects of the cluster that cannot be read: kind and name, and the reason.
    pub unreadable: BTreeMap<String, String>,
    /// Number of requests that the API server refused or did not answer, by controller.
    pub errors: BTreeMap<&'static str, u64>,
}

/// The state that controllers write and metrics read.
#[derive(Debug, Default)]
pub struct SharedState(Mutex<OperatorState>);

impl SharedState {
    fn lock(&self) -> MutexGuard<'_, OperatorState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A copy of the current state.
    #[must_use]
    pub fn snapshot(&self) -> OperatorState {
        self.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut OperatorState)) {
        change(&mut self.lock());
    }

    /// Stores whether an object can be read, and logs each new problem once.
    pub(crate) fn set_readable(&self, kind: &str, name: &str, problem: Option<(String, String)>) {
        let key = format!("{kind}/{name}");
        self.update(|state| match problem {
            Some((_, problem)) => {
                if state.unreadable.insert(key.clone(), problem.clone()).as_ref() != Some(&problem)
                {
                    tracing::error!(
                        "cannot read {key}, so it is ignored: {problem}; look at the object with kubectl get -o yaml"
                    );
                }
            }
            None => drop(state.unreadable.remove(&key)),
        });
    }

    pub(crate) fn count_error(&self, controller: &'static str) {
        self.update(|state| *state.errors.entry(controller).or_default() += 1);
    }
}
