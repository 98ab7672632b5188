//! Why nothing was restored.

use crate::local_file::OpenError;
use crate::repository::RepositoryError;
use crate::verify::VerifyError;
use backup_plan::restore::etcd_version::VersionProblem;
use backup_plan::restore::initial_cluster::ClusterProblem;
use backup_plan::restore::revision::RevisionProblem;
use etcd_file::Failure;
use etcd_file::new_cluster::FactsError;
use std::io;
use std::path::{Path, PathBuf};

/// Why nothing was restored. Nothing was changed, except where the text says so.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// A repository that shows which revisions were seen can't be read.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The source can't be found.
    #[error(transparent)]
    Find(#[from] VerifyError),
    /// The source can't be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The flags do not describe a cluster.
    #[error(transparent)]
    Cluster(#[from] ClusterProblem),
    /// The version of etcd does not fit the data.
    #[error(transparent)]
    Version(#[from] VersionProblem),
    /// There is no such revision.
    #[error(transparent)]
    Revision(#[from] RevisionProblem),
    /// The snapshot has no SHA-256.
    #[error(
        "{path} has no SHA-256 at its end: it is not a snapshot, or it is truncated; for a copy of a member's own database use --skip-hash-check"
    )]
    NoTrailer {
        /// The snapshot.
        path: PathBuf,
    },
    /// The snapshot is damaged.
    #[error("{path} is damaged: {problem}; use another backup")]
    Damaged {
        /// The snapshot.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A directory has no log.
    #[error(
        "{path} has no log of etcd, no file *.wal: if the log is in another directory, give that with --wal-dir, or for --replaces with --replaced-wal-dir"
    )]
    NoLog {
        /// The directory.
        path: PathBuf,
    },
    /// The keys can't be read.
    #[error("the keys of {path} cannot be compared: {problem}")]
    Unreadable {
        /// The file, or the data directory.
        path: PathBuf,
        /// Why.
        problem: String,
    },
    /// A file beside the snapshot is damaged.
    #[error(
        "the backup {path} is damaged: {problem}; use another backup, or restore its snapshot file alone, which has a check of its own"
    )]
    DamagedBackup {
        /// The directory of the backup.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The data of a member was not that of the others.
    #[error(
        "{path} has a CORRUPT alarm of member {}: its data differed from that of the other members; use another backup, or --allow-corrupt-alarm", .members.join(", ")
    )]
    CorruptAlarm {
        /// The snapshot.
        path: PathBuf,
        /// Ids of the members, in hex digits.
        members: Vec<String>,
    },
    /// Something is there already.
    #[error("{path} {what}: give a directory that does not exist, or is empty")]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A member has this directory.
    #[error("etcd runs in {path}: stop this etcd first")]
    EtcdRuns {
        /// The data directory.
        path: PathBuf,
    },
    /// Another process restores there.
    #[error("another restore is at work in {path}: wait until it ends")]
    Busy {
        /// The data directory.
        path: PathBuf,
    },
    /// The snapshot to write is there already.
    #[error("{path} exists: give a file that does not exist")]
    FileExists {
        /// The file.
        path: PathBuf,
    },
    /// The directory of the log is there already.
    #[error("--wal-dir {path} exists: give a directory that does not exist")]
    WalDirExists {
        /// The directory.
        path: PathBuf,
    },
    /// The directory of the log can't be there.
    #[error(
        "--wal-dir {path} is in the data directory: leave it out, or give a directory elsewhere"
    )]
    WalDirInside {
        /// The directory.
        path: PathBuf,
    },
    /// Everything is in its place.
    #[error(
        "{path} is complete, but may not survive a power failure: run `sync`. The last step failed: {source}"
    )]
    NotSynced {
        /// What was made.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A check could not be made.
    #[error("cannot check {path}: {problem}")]
    NotChecked {
        /// The snapshot.
        path: PathBuf,
        /// Why.
        problem: Failure,
    },
    /// The disk is too small.
    #[error(
        "{path}: {free_bytes} bytes are free, but the database needs {needed_bytes}: free some space, or use another disk"
    )]
    InsufficientSpace {
        /// The directory.
        path: PathBuf,
        /// Free bytes.
        free_bytes: u64,
        /// Bytes that are needed.
        needed_bytes: u64,
    },
    /// A raised snapshot is no backup.
    #[error(
        "{path} has backups: write the snapshot to another directory, so that it is never taken for a backup"
    )]
    InRepository {
        /// The repository.
        path: PathBuf,
    },
    /// A restore of several members needs to know that it is the same restore.
    #[error(
        "--bump-revision auto may decide otherwise on each node: use --bump-to-revision with the revision that `restore` printed on the first node"
    )]
    AutoWithId,
    /// The file changed.
    #[error(
        "{path} changed while it was read: restore a snapshot, or a clone of a member's database"
    )]
    Changed {
        /// The snapshot.
        path: PathBuf,
    },
    /// etcd could not replay a log.
    #[error("the log of the member cannot be replayed: {problem}")]
    NotReplayed {
        /// Why.
        problem: String,
    },
    /// Stopped on request.
    #[error("stopped; nothing was restored")]
    Stopped,
    /// The operating system failed.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
}

impl RestoreError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RestoreError {
        let path = path.to_path_buf();
        move |source| RestoreError::Io {
            action,
            path,
            source,
        }
    }

    pub(super) fn damaged(path: &Path, problem: impl ToString) -> RestoreError {
        RestoreError::Damaged {
            path: path.into(),
            problem: problem.to_string(),
        }
    }

    /// A file could not be read to its end.
    pub(super) fn failed(path: &Path, failure: Failure) -> RestoreError {
        match failure {
            Failure::Cancelled => RestoreError::Stopped,
            problem => RestoreError::NotChecked {
                path: path.into(),
                problem,
            },
        }
    }

    pub(super) fn facts(path: &Path) -> impl FnOnce(FactsError) -> RestoreError {
        let path = path.to_path_buf();
        move |error| RestoreError::damaged(&path, error)
    }
}
