//! Why a run made no backup.

use crate::disk::DiskHangs;
use crate::member::MemberError;
use crate::repository::RepositoryError;
use crate::size::mib;
use backup_plan::reason::Reason;
use etcd_file::Failure;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The member cannot be reached, or did not answer.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The repository cannot be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The member is a learner: it has no vote yet and may lag far behind.
    #[error("member {id:x} is a learner: backups are only taken from voting members")]
    Learner {
        /// The member's id.
        id: u64,
    },
    /// The snapshot stream ended too early.
    #[error("the member ended the snapshot stream after {received_bytes} bytes: {problem}")]
    Cut {
        /// Bytes received.
        received_bytes: u64,
        /// How the received data is incomplete.
        problem: String,
    },
    /// The snapshot stream is too slow.
    #[error(
        "the snapshot stream is too slow: {received_bytes} bytes in {} s, including {} s of waiting for the backup disk; check the backup disk, and then the member's disk", .took.as_secs(), .waited_for_disk.as_secs()
    )]
    TooSlow {
        /// Bytes received.
        received_bytes: u64,
        /// Time since the start of the stream.
        took: Duration,
        /// Time spent waiting for the disk.
        waited_for_disk: Duration,
    },
    /// The SHA-256 at the end of the stream does not match the data.
    #[error(
        "the snapshot was changed in transit: the member sent SHA-256 {expected}, the received data has {found}"
    )]
    Trailer {
        /// The SHA-256 from the member.
        expected: String,
        /// The SHA-256 of the received data.
        found: String,
    },
    /// The snapshot is complete but its content is damaged, and so is the member's database.
    #[error(
        "the member's own database is damaged ({errors} errors; replace this member, but keep its older backups): {first}"
    )]
    Damaged {
        /// Number of errors.
        errors: u64,
        /// The first error.
        first: String,
    },
    /// The snapshot is older than what the cluster had agreed on.
    #[error(
        "the snapshot ends at revision {found}, but the cluster was at revision {agreed} before the snapshot was taken: the member lags behind; check its disk and its network"
    )]
    Behind {
        /// Revision of the snapshot.
        found: i64,
        /// Revision of the cluster.
        agreed: i64,
    },
    /// Not enough space for the run and the reserve, and not enough backups may be removed.
    #[error(
        "not enough space on the backup disk: {} are free, the run needs {}, and {} must stay free; free some space, keep fewer backups, or lower --min-free",
        mib(*.free_bytes), mib(*.needed_bytes), mib(*.reserve_bytes)
    )]
    InsufficientSpace {
        /// Free bytes.
        free_bytes: u64,
        /// Bytes that the run needs.
        needed_bytes: u64,
        /// Bytes that must stay free.
        reserve_bytes: u64,
    },
    /// A backup was removed, but its space is not free yet.
    #[error(
        "not enough space on the backup disk: {} are free, {} are needed. {removed} was removed to free {}, but this space is still not free: another process may hold its files open (an export, another backup tool), or other files use the space. No other backup is removed for this run or within an hour", mib(*.free_bytes), mib(*.wanted_bytes), mib(*.expected_bytes)
    )]
    SpaceAwaited {
        /// The removed backup.
        removed: String,
        /// Bytes that its removal should have freed.
        expected_bytes: u64,
        /// Free bytes.
        free_bytes: u64,
        /// Bytes that must be free.
        wanted_bytes: u64,
    },
    /// The disk returned other data than was written.
    #[error(
        "the backup disk returned other data than was written: {path} differs at {places}. The member's own data is not affected. Check this disk, or store backups on another disk"
    )]
    DiskCorruption {
        /// The file.
        path: PathBuf,
        /// Offsets of the differences, in bytes.
        places: String,
    },
    /// The disk does not respond.
    #[error(transparent)]
    DiskHangs(#[from] DiskHangs),
    /// A file of the backup cannot be written or read back.
    #[error("cannot write or read back {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The snapshot cannot be checked.
    #[error("cannot check the snapshot: {0}")]
    Check(#[from] Failure),
    /// The snapshot differs from the member's data.
    #[error(
        "the snapshot differs from the member's data at revision {revision}: HashKV of the snapshot is {found:08x}, of the member {expected:08x}"
    )]
    Differs {
        /// HashKV of the snapshot.
        found: u32,
        /// HashKV of the member.
        expected: u32,
        /// The revision of both hashes.
        revision: i64,
    },
    /// The run was stopped on request.
    #[error("the run was stopped")]
    Stopped,
}

impl RunError {
    /// Whether an immediate retry would fail in the same way and only cost the member time.
    #[must_use]
    pub fn waits_for_the_next_run(&self) -> bool {
        matches!(self, RunError::Damaged { .. } | RunError::Differs { .. })
    }

    /// The reason as one word.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match self {
            RunError::Member(_) => Reason::Member,
            RunError::Repository(error) if error.is_disk_full() => Reason::InsufficientSpace,
            RunError::Repository(RepositoryError::Locked { .. }) => Reason::Locked,
            RunError::Repository(_) => Reason::Repository,
            RunError::Learner { .. } => Reason::Learner,
            RunError::Cut { .. } | RunError::TooSlow { .. } | RunError::Trailer { .. } => {
                Reason::Stream
            }
            RunError::Damaged { .. } | RunError::Differs { .. } => Reason::Damaged,
            RunError::Behind { .. } => Reason::Behind,
            RunError::InsufficientSpace { .. } | RunError::SpaceAwaited { .. } => {
                Reason::InsufficientSpace
            }
            RunError::DiskCorruption { .. } => Reason::DiskCorruption,
            RunError::DiskHangs(_) => Reason::DiskHangs,
            RunError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Reason::InsufficientSpace
            }
            RunError::Write { .. } => Reason::Write,
            RunError::Check(_) => Reason::Check,
            RunError::Stopped => Reason::Stopped,
        }
    }
}

pub(crate) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Write {
        path: path.into(),
        source,
    }
}
