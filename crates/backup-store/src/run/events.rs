//! What happens during a run, for the log, events and metrics.

use backup_plan::retention::Removal;

/// An event during a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunEvent {
    /// Files left over from an earlier run were removed.
    Swept(String),
    /// Files left over from an earlier run cannot be removed.
    SweepFailed {
        /// Their name in the repository.
        name: String,
        /// Why they cannot be removed.
        problem: String,
    },
    /// A proven backup was removed to free space for this run.
    GivenUp(Removal),
    /// Retention removed a backup.
    Removed(Removal),
    /// Retention could not remove a backup. The new backup is complete.
    PruneFailed(String),
    /// The cluster id differs from that of the previous backup.
    ClusterChanged {
        /// The cluster id of the previous backup.
        old_id: String,
        /// The cluster id of this backup.
        new_id: String,
    },
    /// The revision is lower than in the previous backup of the same member.
    RevisionFell {
        /// The revision of the previous backup.
        before: i64,
        /// The revision of this backup.
        now: i64,
    },
}

impl RunEvent {
    /// Whether an administrator should look at this event.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        !matches!(self, RunEvent::Swept(_) | RunEvent::Removed(_))
    }
}

impl std::fmt::Display for RunEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RunEvent::Swept(name) => write!(f, "removed {name}, left over from an earlier run"),
            RunEvent::SweepFailed { name, problem } => write!(
                f,
                "cannot remove {name}, left over from an earlier run: {problem}; remove it by hand. Backups continue"
            ),
            RunEvent::GivenUp(Removal { name, reason, .. }) => {
                write!(f, "removed backup {name} to free space: {reason}")
            }
            RunEvent::Removed(Removal { name, reason, .. }) => {
                write!(f, "removed backup {name}: {reason}")
            }
            RunEvent::PruneFailed(problem) => write!(
                f,
                "the backup was made, but older backups could not be removed: {problem}"
            ),
            RunEvent::ClusterChanged { old_id, new_id } => write!(
                f,
                "the cluster id has changed from {old_id} to {new_id}: this is another cluster than before. Backups of the old cluster stay until you remove them"
            ),
            RunEvent::RevisionFell { before, now } => write!(
                f,
                "the revision of this member has fallen from {before} to {now}: its data directory was emptied, or older data was restored. Run `etcd-lifeboat cluster-restore` on this node to see what to do. The backups from before stay until you remove them"
            ),
        }
    }
}
