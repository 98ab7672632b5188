//! The progress of a node's backups: which backup is the newest, and when the operator first saw it.

use cluster_api::resources::NodeBackupEntry;
use jiff::Timestamp;

/// Identifies how new a backup is. The name is not enough: when the newest backup is removed, an older one becomes the newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackupMark {
    sequence: i64,
    revision: i64,
    /// By the node's clock.
    finished_at: Timestamp,
}

impl BackupMark {
    pub(crate) fn of(entry: &NodeBackupEntry) -> Self {
        BackupMark {
            sequence: entry.sequence,
            revision: entry.revision,
            finished_at: entry.finished_at.parse().unwrap_or(Timestamp::UNIX_EPOCH),
        }
    }

    fn is_beyond(&self, other: &BackupMark) -> bool {
        self.sequence > other.sequence
            || self.revision > other.revision
            || self.finished_at > other.finished_at
    }

    fn max(&self, other: &BackupMark) -> BackupMark {
        BackupMark {
            sequence: self.sequence.max(other.sequence),
            revision: self.revision.max(other.revision),
            finished_at: self.finished_at.max(other.finished_at),
        }
    }
}

/// The progress of a node's backups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BackupProgress {
    pub(crate) highest: BackupMark,
    /// The mark of the newest backup that exists now.
    pub(crate) shown: BackupMark,
    /// When this backup was first seen.
    pub(crate) at: Timestamp,
}

impl BackupProgress {
    /// Updates the progress with the newest backup, seen at `now`.
    pub(crate) fn update(&mut self, mark: BackupMark, now: Timestamp) {
        if mark.is_beyond(&self.highest) {
            self.highest = self.highest.max(&mark);
            self.at = now;
        } else {
            // The newest backup was removed, and an older one is the newest now. Both times are by the
            // node's clock, so their difference is the difference in age.
            let older = self.shown.finished_at.duration_since(mark.finished_at);
            self.at = self
                .at
                .checked_sub(older)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .min(now);
        }
        self.shown = mark;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(sequence: i64, revision: i64, finished_s: i64) -> BackupMark {
        BackupMark {
            sequence,
            revision,
            finished_at: Timestamp::from_second(finished_s).unwrap(),
        }
    }

    #[test]
    fn a_newest_backup_that_was_removed_makes_none_of_those_before_it_new() {
        let second = |second| Timestamp::from_second(second).unwrap();
        let first = mark(7, 700, 1000);
        let mut progress = BackupProgress {
            highest: first,
            shown: first,
            // The node's clock is an hour behind.
            at: second(4600),
        };
        let next = mark(8, 800, 1300);
        progress.update(next, second(4900));
        assert_eq!(progress.at, second(4900));
        // The newest backup is removed. The backup before it is as old as it was.
        progress.update(first, second(5000));
        assert_eq!(progress.at, second(4600));
        // The removed backup comes back, for example from another disk.
        progress.update(next, second(5100));
        assert_eq!(progress.at, second(4900));
        // On a new disk, sequences begin at 1 again. A later time or a higher revision is enough.
        progress.update(mark(1, 900, 1200), second(5200));
        assert_eq!(progress.at, second(5200));
        progress.update(mark(2, 100, 1500), second(5300));
        assert_eq!(progress.at, second(5300));
    }
}
