//! What the operator tells of itself and of what it judges, for its metrics.

use jiff::Timestamp;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A `Backup`, as it was last told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BackupTold {
    /// Whether it could be made into what it says.
    pub reconciled: bool,
    /// Whether its backups are new enough; nothing before that was judged.
    pub fresh: Option<bool>,
}

/// A control-plane node, as it was last judged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeTold {
    /// Whether there is something to back up.
    pub applicable: bool,
    /// Whether its newest proven backup is new enough.
    pub fresh: bool,
    /// When that was seen to be a new one.
    pub advanced_at: Option<Timestamp>,
}

/// All of it, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Telling {
    /// Whether this replica works.
    pub leader: bool,
    /// Whether somebody has deleted `Backup/default`.
    pub opted_out: bool,
    /// By name.
    pub backups: BTreeMap<String, BackupTold>,
    /// By name.
    pub nodes: BTreeMap<String, NodeTold>,
    /// `EtcdBackup`s by what came of them, as they are in the cluster.
    pub requests: BTreeMap<&'static str, u64>,
    /// Whether this replica judges how old backups are.
    pub judges: bool,
    /// When it last did.
    pub judged_at: Option<Timestamp>,
    /// Objects of the cluster that can't be read, by kind and name, and why.
    pub unreadable: BTreeMap<String, String>,
    /// Writes that the API server refused or did not answer, by controller.
    pub errors: BTreeMap<&'static str, u64>,
}

/// What controllers write and the metrics read.
#[derive(Debug, Default)]
pub struct Shared(Mutex<Telling>);

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Telling> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As it is now.
    #[must_use]
    pub fn now(&self) -> Telling {
        self.lock().clone()
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut Telling)) {
        change(&mut self.lock());
    }

    /// Remembers whether an object can be read; one that can't be is told once.
    pub(crate) fn readable(&self, kind: &str, name: &str, problem: Option<(String, String)>) {
        let key = format!("{kind}/{name}");
        self.change(|telling| match problem {
            Some((_, problem)) => {
                if telling.unreadable.insert(key.clone(), problem.clone()).as_ref() != Some(&problem)
                {
                    tracing::error!(
                        "{key} can't be read and is left out: {problem}; look at it with kubectl get -o yaml"
                    );
                }
            }
            None => drop(telling.unreadable.remove(&key)),
        });
    }

    pub(crate) fn error(&self, controller: &'static str) {
        self.change(|telling| *telling.errors.entry(controller).or_default() += 1);
    }
}
