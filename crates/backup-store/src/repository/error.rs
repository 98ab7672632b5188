//! Why a repository cannot be used.

use std::io;
use std::path::{Path, PathBuf};

/// Why a repository cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RepositoryError {
    /// An operation on a file or directory failed.
    #[error("cannot {what} {path}: {source}")]
    Io {
        /// The operation as a verb, such as `create`.
        what: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The path does not exist, or is not a directory.
    #[error("{root} is not a directory: no backup was made there yet, or the path is wrong")]
    NotADirectory {
        /// The path.
        root: PathBuf,
    },
    /// Another process uses the repository.
    #[error(
        "{path} is in use by another process: only one run at a time can use a repository; try again later"
    )]
    Locked {
        /// The repository.
        path: PathBuf,
    },
    /// No backup has this name.
    #[error("{root} has no backup {name:?}: `etcd-lifeboat list` shows the existing backups")]
    NoBackup {
        /// The repository.
        root: PathBuf,
        /// The requested name.
        name: String,
    },
}

impl RepositoryError {
    pub(crate) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| RepositoryError::Io {
            what,
            path: path.into(),
            source,
        }
    }

    /// Whether an operation failed because the disk is full.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        matches!(self, RepositoryError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull)
    }
}
