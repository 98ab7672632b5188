//! Why the keys of a database are not known.

use super::key_state::MAX_KEY_BYTES;
use crate::Failure;
use crate::bolt::{CursorError, OpenError, RewriteError};
use crate::mvcc::{RecordsError, Revision};
use crate::new_cluster::FactsError;
use crate::raft::WalError;

/// Why the keys of a database can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyspaceError {
    /// The file is not a database.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A record can't be read.
    #[error(transparent)]
    Records(#[from] RecordsError),
    /// A small bucket can't be read.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The log can't be read.
    #[error(transparent)]
    Log(#[from] WalError),
    /// A key is longer than can be compared.
    #[error(
        "the record of revision {revision} has a key of {found_bytes} bytes; keys of up to {MAX_KEY_BYTES} bytes can be compared"
    )]
    LongKey {
        /// The revision of the record.
        revision: Revision,
        /// Length of the key, in bytes.
        found_bytes: u64,
    },
    /// The log begins after the end of the database.
    #[error(
        "the log begins with entry {first}, but the database ends with entry {reflected}: a segment of the log is missing"
    )]
    Gap {
        /// Index of the first entry in the log.
        first: u64,
        /// Index of the last entry that the database reflects.
        reflected: u64,
    },
    /// The log ends before the end of the database.
    #[error(
        "the log ends with entry {last}, but the database has entry {reflected}: it is not the log of this database"
    )]
    OtherLog {
        /// Index of the last entry in the log.
        last: u64,
        /// Index of the last entry that the database reflects.
        reflected: u64,
    },
    /// More entries, or more changed keys, than fit in the memory budget.
    #[error(
        "more {what} of the log are not in the database than can be replayed: more than {limit}"
    )]
    TooMuch {
        /// Of what.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl KeyspaceError {
    /// The failure that says nothing about the keys, if it is one.
    ///
    /// # Errors
    /// Any other error, as it is.
    pub fn failure(self) -> Result<Failure, Self> {
        match self {
            KeyspaceError::Records(RecordsError::Cursor(CursorError::Failed(failure)))
            | KeyspaceError::Open(OpenError::Failed(failure)) => Ok(failure),
            error => Err(error),
        }
    }
}

impl From<CursorError> for KeyspaceError {
    fn from(error: CursorError) -> Self {
        KeyspaceError::Records(error.into())
    }
}

impl From<Failure> for KeyspaceError {
    fn from(failure: Failure) -> Self {
        CursorError::Failed(failure).into()
    }
}

impl From<RewriteError> for KeyspaceError {
    fn from(error: RewriteError) -> Self {
        KeyspaceError::Facts(error.into())
    }
}
