//! Why a step on a node failed.

use backup_plan::restore::journal::JournalError;
use std::io;
use std::path::{Path, PathBuf};

/// Why a step on a node failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NodeError {
    /// The journal can't be used.
    #[error("{path} cannot be used: {problem}")]
    Journal {
        /// The journal.
        path: PathBuf,
        /// What is wrong with it.
        problem: JournalError,
    },
    /// Another process works on the node.
    #[error("another cluster-restore is at work on this node: wait until it ends")]
    Busy,
    /// Another process worked on the node.
    #[error(
        "another cluster-restore has changed this node meanwhile: run `etcd-lifeboat cluster-restore` to see what is the case now"
    )]
    Changed,
    /// Two files where one was expected.
    #[error("{one} and {other} both exist: compare them, and remove the one that you do not need")]
    Both {
        /// One of them.
        one: PathBuf,
        /// The other one.
        other: PathBuf,
    },
    /// What should be moved is not there.
    #[error(
        "{path} does not exist, and is not where it should be moved to: it was removed meanwhile"
    )]
    Gone {
        /// Where it was expected.
        path: PathBuf,
    },
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

impl NodeError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> NodeError {
        let path = path.to_path_buf();
        move |source| NodeError::Io {
            action,
            path,
            source,
        }
    }
}
