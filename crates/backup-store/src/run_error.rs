//! Why a run made no backup.

use crate::disk::DiskHangs;
use crate::member::MemberError;
use crate::repository::RepositoryError;
use etcd_file::Failure;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Why a run made no backup.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The member can't be spoken to, or did not answer.
    #[error(transparent)]
    Member(#[from] MemberError),
    /// The repository can't be used.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
    /// The member has no vote yet, and may lag far behind.
    #[error("member {id:x} is a learner: backups are taken from voting members only")]
    Learner {
        /// Which one.
        id: u64,
    },
    /// The stream ended, and is not whole.
    #[error("the member ended the stream after {received_bytes} bytes, {problem}")]
    Cut {
        /// What came.
        received_bytes: u64,
        /// What is missing.
        problem: String,
    },
    /// The stream goes on, and would for ever.
    #[error(
        "the stream is too slow: {received_bytes} bytes in {} s, of which the disk of the backups took {} s; look at that disk, or else at the member's", .took.as_secs(), .waited_for_disk.as_secs()
    )]
    TooSlow {
        /// What came.
        received_bytes: u64,
        /// In which time.
        took: Duration,
        /// How much of that the disk was waited for.
        waited_for_disk: Duration,
    },
    /// The stream's own SHA-256 is not that of its data.
    #[error(
        "the stream's SHA-256 is {expected}, that of what came is {found}: it was changed on its way"
    )]
    Trailer {
        /// What the trailer says.
        expected: String,
        /// What the data gives.
        found: String,
    },
    /// The snapshot is whole, and what it holds is damaged: so is the member's database.
    #[error(
        "the member's own database is damaged ({errors} errors; replace this member, and keep its older backups): {first}"
    )]
    Damaged {
        /// How many errors there are.
        errors: u64,
        /// The first of them.
        first: String,
    },
    /// The snapshot misses what the cluster had agreed on.
    #[error(
        "the snapshot ends at revision {found}, but the cluster was at {agreed} before it was taken: the member lags"
    )]
    Behind {
        /// What the snapshot has.
        found: i64,
        /// What the cluster had.
        agreed: i64,
    },
    /// Less room than the run and the reserve need, and nothing that may go.
    #[error(
        "the disk is short: {} are free, the run needs {} and {} are to stay free; free some, keep fewer backups, or lower --min-free",
        mib(*.free_bytes), mib(*.needed_bytes), mib(*.reserve_bytes)
    )]
    InsufficientSpace {
        /// What is free.
        free_bytes: u64,
        /// What the run needs.
        needed_bytes: u64,
        /// What is to stay free.
        reserve_bytes: u64,
    },
    /// Room was made, and it has not come.
    #[error(
        "the disk is short: {} are free, {} are wanted. {removed} was removed to free {}, and the space has not come: another process may hold its files open (an export, another backup tool), or something else has taken it. No other backup is given up for it within the hour", mib(*.free_bytes), mib(*.wanted_bytes), mib(*.expected_bytes)
    )]
    SpaceAwaited {
        /// What was removed.
        removed: String,
        /// What that should have brought.
        expected_bytes: u64,
        /// What is free.
        free_bytes: u64,
        /// What is to be free.
        wanted_bytes: u64,
    },
    /// The disk does not hold what was written to it.
    #[error(
        "the disk of the backups does not hold what was written: {path} differs at {places}; the member's own data is not in doubt. Look at this disk, or keep backups on another one"
    )]
    DiskCorruption {
        /// In which file.
        path: PathBuf,
        /// Where: offsets in bytes.
        places: String,
    },
    /// The disk does not answer.
    #[error(transparent)]
    DiskHangs(#[from] DiskHangs),
    /// A file of the backup can't be written.
    #[error("{path}: {source}")]
    Write {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The snapshot can't be read back.
    #[error("checking the snapshot: {0}")]
    Check(#[from] Failure),
    /// The data differs from the member's own.
    #[error(
        "HashKV of the snapshot is {found:08x}, the member's is {expected:08x} at revision {revision}"
    )]
    Differs {
        /// What the snapshot gives.
        found: u32,
        /// What the member says.
        expected: u32,
        /// At which revision.
        revision: i64,
    },
    /// Somebody wanted an end.
    #[error("stopped")]
    Stopped,
}

/// For people, who would have to count digits otherwise.
pub(crate) fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

impl RunError {
    /// All reasons.
    pub const REASONS: [&'static str; 13] = [
        "member",
        "locked",
        "repository",
        "learner",
        "stream",
        "damaged",
        "behind",
        "insufficient-space",
        "disk-corruption",
        "disk-hangs",
        "write",
        "check",
        "stopped",
    ];

    /// Whether the same would come of it again soon, at the same cost to the member.
    #[must_use]
    pub fn waits_for_the_next_run(&self) -> bool {
        matches!(self, RunError::Damaged { .. } | RunError::Differs { .. })
    }

    /// What it is, in a word that stays the same; one of [`RunError::REASONS`].
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            RunError::Member(_) => "member",
            RunError::Repository(error) if error.is_disk_full() => "insufficient-space",
            RunError::Repository(RepositoryError::Locked { .. }) => "locked",
            RunError::Repository(_) => "repository",
            RunError::Learner { .. } => "learner",
            RunError::Cut { .. } | RunError::TooSlow { .. } | RunError::Trailer { .. } => "stream",
            RunError::Damaged { .. } | RunError::Differs { .. } => "damaged",
            RunError::Behind { .. } => "behind",
            RunError::InsufficientSpace { .. } | RunError::SpaceAwaited { .. } => {
                "insufficient-space"
            }
            RunError::DiskCorruption { .. } => "disk-corruption",
            RunError::DiskHangs(_) => "disk-hangs",
            RunError::Write { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                "insufficient-space"
            }
            RunError::Write { .. } => "write",
            RunError::Check(_) => "check",
            RunError::Stopped => "stopped",
        }
    }
}

pub(crate) fn write_error(path: &Path) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Write {
        path: path.into(),
        source,
    }
}
